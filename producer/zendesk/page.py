"""Takes an answer of an export apart, the envelope and its rows, and makes the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

from producer.errors import BadAnswer
from producer.json_spans import NotJson, elements, members
from producer.model import Page, Position, Version
from producer.zendesk.boundary import Sifted
from producer.zendesk.client import Answer
from producer.zendesk.rows import read_row

_HEADLESS = ("no_id", "no_stamp")


class _Envelope(msgspec.Struct):
    """The answer's own fields, of both exports. What nothing hangs on may be of any type."""

    tickets: list[msgspec.Raw]
    count: Any = None
    end_of_stream: bool | None = None
    end_time: int | None = None
    next_page: Any = None
    after_cursor: str | None = None
    after_url: Any = None


_envelope = msgspec.json.Decoder(_Envelope)


@dataclass(frozen=True, slots=True)
class Slice:
    """An answer, taken apart: its rows in order, and what the API says of the stream (None: nothing).

    `end_time` is of the time-based export, `cursor` of the cursor export; `next_host` is the host of the link to what comes
    next, of either.
    """

    rows: list[Version]
    count: int | None
    ended: bool | None
    end_time: int | None
    cursor: str | None
    next_host: str | None


def slice_page(body: bytes | bytearray) -> Slice:
    """Cut an answer of an export into rows.

    Each row's bytes are a copy, so that the answer itself can be freed. A row that cannot be published is a row all the same.

    Raises:
        BadAnswer: the answer is not what the API promises. Nothing of it may be used then.
    """
    try:
        envelope = _envelope.decode(body)
        values = [bytes(raw) for raw in envelope.tickets]
    except msgspec.ValidationError as error:
        raise BadAnswer(f"the page cannot be read: {error}; it begins {bytes(body[:80])!r}") from None
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        envelope, values = _cut(bytes(body), error)
    rows = [read_row(value) for value in values]
    if len(rows) > 1 and all(row.poison is not None and row.poison.reason in _HEADLESS for row in rows):
        # No content that anybody wrote does that: the API itself has changed, or it is not the API that answers.
        raise BadAnswer(f"no ticket of {len(rows):,} has an id and a stamp; the page begins {bytes(body[:80])!r}")
    return Slice(
        rows,
        envelope.count if type(envelope.count) is int else None,
        envelope.end_of_stream,
        envelope.end_time,
        envelope.after_cursor,
        _host(envelope.next_page or envelope.after_url),
    )


def _cut(body: bytes, error: Exception) -> tuple[_Envelope, list[bytes]]:
    """Envelope and rows of an answer that msgspec refuses, which one row in it is enough for: cut by its brackets alone."""
    try:
        start, end = next(member.value for member in members(body, 0) if member.key == "tickets")
        rows = [body[begin:stop] for begin, stop in elements(body, start)]
        return _envelope.decode(body[:start] + b"[]" + body[end:]), rows
    except (NotJson, StopIteration, msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise BadAnswer(f"the page cannot be read: {error}; it begins {body[:80]!r}") from None


def _host(url: Any) -> str | None:
    try:
        return urlsplit(url).hostname if isinstance(url, str) else None
    except ValueError:
        return None


def empty_page(answer: Answer, position: Position, *, caught_up: bool) -> Page:
    """The page of an answer that showed no row."""
    return Page((), position, caught_up, size=len(answer.body or b""), server_time=answer.server_time)


def page_of(answer: Answer, cut: Slice, sifted: Sifted, before: Position, after: Position, caught_up: bool) -> Page:
    """The page that an answer comes to, on the way from one position to the next."""
    return Page(
        sifted.fresh,
        after,
        caught_up,
        rows=len(cut.rows),
        size=len(answer.body or b""),
        repeated=sifted.repeated,
        stale=sifted.stale,
        late=sum(row.stamped and row.stamp < before.end_time for row in sifted.fresh),
        unstamped=sum(not row.stamped and row.poison is None for row in cut.rows),
        server_time=answer.server_time,
    )
