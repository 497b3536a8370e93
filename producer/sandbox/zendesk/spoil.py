"""Good pages made bad: what a client must refuse, see through, or handle ticket by ticket."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
import orjson

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


def _tickets_not_a_list(page: Page, _: Fault) -> bytes:
    return orjson.dumps({**orjson.loads(page.to_bytes()), "tickets": {"count": len(page.tickets)}})


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


def _in_one_ticket(edit: Callable[[bytes], bytes]) -> Callable[[Page, Fault], bytes]:
    """Spoil the ticket in the middle of the page; an empty page stays as it is."""

    def spoiled(page: Page, _: Fault) -> bytes:
        middle = len(page.tickets) // 2
        tickets = [edit(ticket) if n == middle else ticket for n, ticket in enumerate(page.tickets)]
        return replace(page, tickets=tickets).to_bytes()

    return spoiled


def _other_bytes(page: Page, _: Fault) -> bytes:
    return replace(page, tickets=[_rewritten(ticket) for ticket in page.tickets]).to_bytes()


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
    return replace(page, tickets=page.tickets[::-1]).to_bytes()


def _duplicate_ids(page: Page, _: Fault) -> bytes:
    return replace(page, tickets=[ticket for ticket in page.tickets for _ in range(2)]).to_bytes()


def _before_start_time(page: Page, _: Fault) -> bytes:
    """The first ticket is a day older than what was asked for."""
    stamp = b'"generated_timestamp":%d' % (page.since - _DAY)
    first = [re.sub(rb'"generated_timestamp":\d+(?=}$)', stamp, ticket) for ticket in page.tickets[:1]]
    return replace(page, tickets=first + page.tickets[1:]).to_bytes()


def _null_end_time(page: TimePage, _: Fault) -> bytes:
    return page.to_bytes(end_time=None)


def _nothing_yet(page: TimePage, _: Fault) -> bytes:
    """No ticket, and yet not the end of the stream."""
    return replace(page, tickets=[], end_of_stream=False).to_bytes()


def _wrong_count(page: TimePage, fault: Fault) -> bytes:
    return page.to_bytes(count=len(page.tickets) + fault.by)


def _future_end_time(page: TimePage, _: Fault) -> bytes:
    """A day later than the right one; an empty page has none."""
    return replace(page, end_time=None if page.end_time is None else page.end_time + _DAY).to_bytes()


def _end_time_backwards(page: TimePage, _: Fault) -> bytes:
    return replace(page, end_time=page.since - _DAY).to_bytes()


def _null_cursor(page: CursorPage, _: Fault) -> bytes:
    return replace(page, after_cursor=None).to_bytes()


def _empty_midstream(page: CursorPage, _: Fault) -> bytes:
    """No ticket, not the end of the stream, and no way on but the cursor that one came by."""
    return replace(page, tickets=[], end_of_stream=False, after_cursor=page.cursor).to_bytes()


_BOTH: Final[dict[str, Callable[[Page, Fault], bytes]]] = {
    "missing_key": _without_key,
    "foreign_next_page": _foreign_next_page,
    "tickets_not_a_list": _tickets_not_a_list,
    "placeholders": _placeholders,
    "ticket_without_id": _in_one_ticket(lambda ticket: re.sub(rb'(?<=,)"id":\d+,', b"", ticket, count=1)),
    "ticket_without_generated_timestamp": _in_one_ticket(
        lambda ticket: re.sub(rb',"generated_timestamp":\d+(?=}$)', b"", ticket)
    ),
    "deep_nesting": _in_one_ticket(lambda ticket: b'{"nested":' + b"[" * NESTING + b"]" * NESTING + b"," + ticket[1:]),
    "lone_surrogate": _in_one_ticket(lambda ticket: b'{"nickname":"\\ud83d",' + ticket[1:]),
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
"""Faults that make another body of a page. Spoiled tickets are not in the ground truth."""


def fits(fault: Fault, page: Page) -> bool:
    """Whether one of `FAULTS` has something to spoil on a page of this export."""
    if fault.name == "missing_key":
        return fault.key == "tickets" or fault.key in page.envelope()
    return fault.name not in (_BY_CURSOR if isinstance(page, TimePage) else _BY_TIME)


class Spoiler:
    """Spoils the pages of one server, and remembers the first of each export that met `same_page`."""

    def __init__(self) -> None:
        self._first: dict[type[Page], bytes] = {}

    def spoil(self, page: Page, fault: Fault) -> bytes:
        """The body that the fault makes of the page; the page's own for a fault that is not one of `FAULTS`."""
        name = fault.name
        if name == _SAME_PAGE:
            return self._first.setdefault(type(page), page.to_bytes())
        if isinstance(page, TimePage) and name in _BY_TIME:
            return _BY_TIME[name](page, fault)
        if isinstance(page, CursorPage) and name in _BY_CURSOR:
            return _BY_CURSOR[name](page, fault)
        return _BOTH[name](page, fault) if name in _BOTH else page.to_bytes()
