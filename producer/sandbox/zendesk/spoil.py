"""Good pages made bad: what a client must refuse, see through, or handle ticket by ticket."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
import orjson

from producer.dates import utc
from producer.sandbox.zendesk.cursor_export import CursorPage
from producer.sandbox.zendesk.export import TimePage
from producer.sandbox.zendesk.page import Page

if TYPE_CHECKING:
    from producer.sandbox.zendesk.faults import Fault  # which in turn asks here what is known

NESTING: Final = 10_000
_DAY: Final = 86_400
_ELSEWHERE: Final = "https://elsewhere.example/api/v2/incremental/tickets?start_time=1"


def _without_key(page: Page, fault: Fault) -> bytes:
    envelope = orjson.loads(page.to_bytes())
    envelope.pop(fault.key, None)
    return orjson.dumps(envelope)


def _foreign_next_page(page: Page, _: Fault) -> bytes:
    return page.to_bytes(**{"after_url" if isinstance(page, CursorPage) else "next_page": _ELSEWHERE})


def _not_a_list(page: Page, _: Fault) -> bytes:
    return orjson.dumps({**orjson.loads(page.to_bytes()), page.name: {"count": len(page.rows)}})


def _placeholders(page: Page, _: Fault) -> bytes:
    """Every scalar replaced by the name of its type, as in the example body of Zendesk's API collection."""
    return orjson.dumps(_placeholder(orjson.loads(page.to_bytes())))


def _placeholder(value: Any) -> Any:
    match value:
        case dict():
            return {key: _placeholder(inner) for key, inner in value.items()}
        case list():
            return [_placeholder(inner) for inner in value]
        case bool():
            return "<boolean>"
        case int() | float():
            return "<integer>"
        case _:
            return "<string>"


def _in_one_row(edit: Callable[[bytes, str], bytes]) -> Callable[[Page, Fault], bytes]:
    """Spoil the row in the middle of the page, which `edit` gets with the page's name; an empty page stays as it is."""

    def spoiled(page: Page, _: Fault) -> bytes:
        middle = len(page.rows) // 2
        rows = [edit(row, page.name) if n == middle else row for n, row in enumerate(page.rows)]
        return replace(page, rows=rows).to_bytes()

    return spoiled


# Where a row has its stamp and its id. A ticket's stamp is its last key; an event's id comes behind its children's.
_DATED: Final = re.compile(rb',"updated_at":"[^"]*"')
_STAMPS: Final = {
    "tickets": re.compile(rb',"generated_timestamp":\d+(?=}$)'),
    "users": _DATED,
    "organizations": _DATED,
    "ticket_events": re.compile(rb',"timestamp":\d+'),
}
_ID: Final = re.compile(rb'(?<=[{,])"id":\d+,')
_IDS: Final = {"ticket_events": re.compile(rb'(?<=[{,])"id":\d+,(?="ticket_id")')}


def _without_id(row: bytes, name: str) -> bytes:
    return _IDS.get(name, _ID).sub(b"", row, count=1)


def _without_stamp(row: bytes, name: str) -> bytes:
    return _STAMPS[name].sub(b"", row, count=1)


def _restamped(row: bytes, name: str, stamp: int) -> bytes:
    """The row with this stamp in the place of its own."""

    def other(found: re.Match[bytes]) -> bytes:
        key, _, value = found[0].partition(b":")
        return key + b":" + (b'"%b"' % utc(stamp).encode() if value.startswith(b'"') else b"%d" % stamp)

    return _STAMPS[name].sub(other, row, count=1)


def _other_bytes(page: Page, _: Fault) -> bytes:
    return replace(page, rows=[_rewritten(row) for row in page.rows]).to_bytes()


_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_elements: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode


def _rewritten(value: msgspec.Raw | bytes) -> bytes:
    """The same JSON value with the keys of every object backwards and with white space; scalars keep their characters."""
    raw = bytes(value).strip()
    if raw.startswith(b"{"):
        members = [msgspec.json.encode(key) + b" : " + _rewritten(inner) for key, inner in _members(raw).items()]
        return b"{ " + b",\n".join(reversed(members)) + b" }"
    if raw.startswith(b"["):
        return b"[ " + b", ".join(map(_rewritten, _elements(raw))) + b" ]"
    return raw


def _shuffled(page: Page, _: Fault) -> bytes:
    """The rows in descending order, and the envelope of the right one."""
    return replace(page, rows=page.rows[::-1]).to_bytes()


def _duplicate_ids(page: Page, _: Fault) -> bytes:
    return replace(page, rows=[row for row in page.rows for _ in range(2)]).to_bytes()


def _before_start_time(page: Page, _: Fault) -> bytes:
    """The first row is a day older than what was asked for."""
    first = [_restamped(row, page.name, page.since - _DAY) for row in page.rows[:1]]
    return replace(page, rows=first + page.rows[1:]).to_bytes()


def _null_end_time(page: TimePage, _: Fault) -> bytes:
    return page.to_bytes(end_time=None)


def _nothing_yet(page: TimePage, _: Fault) -> bytes:
    """No row, and yet not the end of the stream."""
    return replace(page, rows=[], beside=_emptied(page), end_of_stream=False).to_bytes()


def _wrong_count(page: TimePage, fault: Fault) -> bytes:
    return page.to_bytes(count=len(page.rows) + fault.by)


def _future_end_time(page: TimePage, _: Fault) -> bytes:
    """A day later than the right one; an empty page has none."""
    return replace(page, end_time=None if page.end_time is None else page.end_time + _DAY).to_bytes()


def _end_time_backwards(page: TimePage, _: Fault) -> bytes:
    return replace(page, end_time=page.since - _DAY).to_bytes()


def _null_cursor(page: CursorPage, _: Fault) -> bytes:
    return replace(page, after_cursor=None).to_bytes()


def _empty_midstream(page: CursorPage, _: Fault) -> bytes:
    """No row, not the end of the stream, and no way on but the cursor that one came by."""
    return replace(page, rows=[], beside=_emptied(page), end_of_stream=False, after_cursor=page.cursor).to_bytes()


def _emptied(page: Page) -> dict[str, list[bytes]]:
    return {name: [] for name in page.beside}


_BOTH: Final[dict[str, Callable[[Page, Fault], bytes]]] = {
    "missing_key": _without_key,
    "foreign_next_page": _foreign_next_page,
    "tickets_not_a_list": _not_a_list,
    "placeholders": _placeholders,
    "ticket_without_id": _in_one_row(_without_id),
    "ticket_without_generated_timestamp": _in_one_row(_without_stamp),
    "deep_nesting": _in_one_row(lambda row, _: b'{"nested":' + b"[" * NESTING + b"]" * NESTING + b"," + row[1:]),
    "lone_surrogate": _in_one_row(lambda row, _: b'{"nickname":"\\ud83d",' + row[1:]),
    "other_bytes": _other_bytes,
    "shuffled": _shuffled,
    "duplicate_ids": _duplicate_ids,
    "before_start_time": _before_start_time,
}
_BY_TIME: Final[dict[str, Callable[[TimePage, Fault], bytes]]] = {
    "null_end_time": _null_end_time,
    "nothing_yet": _nothing_yet,
    "wrong_count": _wrong_count,
    "future_end_time": _future_end_time,
    "end_time_backwards": _end_time_backwards,
}
_BY_CURSOR: Final[dict[str, Callable[[CursorPage, Fault], bytes]]] = {
    "null_cursor": _null_cursor,
    "empty_midstream": _empty_midstream,
}
_SAME_PAGE: Final = "same_page"

FAULTS: Final = frozenset({*_BOTH, *_BY_TIME, *_BY_CURSOR, _SAME_PAGE})
"""Faults that make another body of a page, of whatever stream; their names speak of tickets. Spoiled rows are not in
the ground truth."""


def fits(fault: Fault, page: Page) -> bool:
    """Whether one of `FAULTS` has something to spoil on a page of this export."""
    if fault.name == "missing_key":
        return fault.key == page.name or fault.key in page.beside or fault.key in page.envelope()
    return fault.name not in (_BY_CURSOR if isinstance(page, TimePage) else _BY_TIME)


class Spoiler:
    """Spoils the pages of one server, and remembers the first of each export that met `same_page`."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, type[Page]], bytes] = {}

    def spoil(self, page: Page, fault: Fault) -> bytes:
        """The body that the fault makes of the page; the page's own for a fault that is not one of `FAULTS`."""
        name = fault.name
        if name == _SAME_PAGE:
            return self._first.setdefault((page.name, type(page)), page.to_bytes())
        if isinstance(page, TimePage) and name in _BY_TIME:
            return _BY_TIME[name](page, fault)
        if isinstance(page, CursorPage) and name in _BY_CURSOR:
            return _BY_CURSOR[name](page, fault)
        return _BOTH[name](page, fault) if name in _BOTH else page.to_bytes()
