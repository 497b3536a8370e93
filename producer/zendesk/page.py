"""Takes an answer of an export apart, the envelope and its rows, and makes the page."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import msgspec

from producer.errors import BadAnswer
from producer.json_spans import Member, NotJson, elements, members
from producer.model import Page, Position, Sideload, Version
from producer.streams import TICKETS, Stream
from producer.zendesk.boundary import Sifted
from producer.zendesk.client import Answer
from producer.zendesk.rows import read_row, read_sideload

_HEADLESS = ("no_id", "no_stamp")


_MISSING = msgspec.Raw(b"null")


@lru_cache
def _envelope(stream: str, sideloads: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
    """Reads an answer's own fields, of both exports. What nothing hangs on may be of any type."""
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = [
        ("rows", list[msgspec.Raw]),
        ("count", Any, None),
        ("end_of_stream", bool | None, None),
        ("end_time", int | None, None),
        ("next_page", Any, None),
        ("after_cursor", str | None, None),
        ("after_url", Any, None),
        *((name, msgspec.Raw, _MISSING) for name in sideloads),
    ]
    return msgspec.json.Decoder(msgspec.defstruct("Envelope", fields, rename={"rows": stream}))


@dataclass(frozen=True, slots=True)
class Format:
    """What answers are made of: rows of `stream`, and `beside` them the arrays that were asked for.

    `key`: fields are left out or hashed before anything leaves the process, so digests are keyed with it, and no error quotes
    an answer.
    """

    stream: Stream = TICKETS
    beside: tuple[str, ...] = ()
    key: bytes | None = field(default=None, repr=False)

    def begins(self, body: bytes | bytearray) -> str:
        """How an answer begins, for an error's text."""
        return f"it begins {bytes(body[:80])!r}" if self.key is None else "what it begins with is not shown"


PLAIN = Format()
"""Tickets, and nothing beside them."""


@dataclass(frozen=True, slots=True)
class Slice:
    """An answer, taken apart: its rows in order, and what the API says of the stream (None: nothing).

    `end_time` is of the time-based export, `cursor` of the cursor export; `next_host` is the host of the link to what comes
    next, of either. `beside` are the records of the arrays that were asked for beside the rows; `lacking` the names of those
    that are not there.
    """

    rows: list[Version]
    count: int | None
    ended: bool | None
    end_time: int | None
    cursor: str | None
    next_host: str | None
    beside: tuple[Sideload, ...] = ()
    lacking: tuple[str, ...] = ()


def slice_page(body: bytes | bytearray, format: Format = PLAIN) -> Slice:
    """Cut an answer of an export into rows.

    Each row's bytes are a copy, so that the answer itself can be freed. A row that cannot be published is a row all the same.

    Raises:
        BadAnswer: the answer is not what the API promises. Nothing of it may be used then.
    """
    try:
        envelope = _envelope(format.stream.name, format.beside).decode(body)
        values = [bytes(raw) for raw in envelope.rows]
    except msgspec.ValidationError as error:
        raise BadAnswer(f"the page cannot be read: {error}; {format.begins(body)}") from None
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        envelope, values = _cut(bytes(body), format, error)
    rows = [read_row(value, format.stream.name, format.key) for value in values]
    if len(rows) > 1 and all(row.poison is not None and row.poison.reason in _HEADLESS for row in rows):
        # No content that anybody wrote does that: the API itself has changed, or it is not the API that answers.
        raise BadAnswer(f"none of {len(rows):,} rows has an id and a stamp; {format.begins(body)}")
    beside = {name: _elements(bytes(getattr(envelope, name))) for name in format.beside}
    return Slice(
        rows,
        envelope.count if type(envelope.count) is int else None,
        envelope.end_of_stream,
        envelope.end_time,
        envelope.after_cursor,
        _host(envelope.next_page or envelope.after_url),
        tuple(read_sideload(name, value, format.key) for name, values in beside.items() for value in values or ()),
        tuple(name for name, values in beside.items() if values is None),
    )


def _elements(array: bytes) -> list[bytes] | None:
    """The elements of an array; None: it is none."""
    try:
        return [array[begin:end] for begin, end in elements(array, 0)]
    except NotJson:
        return None


def _cut(body: bytes, format: Format, error: Exception) -> tuple[Any, list[bytes]]:
    """Envelope and rows of an answer that msgspec refuses, which one row in it is enough for: cut by its brackets alone."""
    stream = format.stream.name
    try:
        arrays = [member for member in members(body, 0) if member.key in (stream, *format.beside)]
        values = {member.key: body[slice(*member.value)] for member in arrays}
        array = values.pop(stream)
        rows = [array[begin:end] for begin, end in elements(array, 0)]
        envelope = _envelope(stream, format.beside).decode(_emptied(body, arrays))
        for name, value in values.items():
            setattr(envelope, str(name), value)
        return envelope, rows
    except (NotJson, KeyError, msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise BadAnswer(f"the page cannot be read: {error}; {format.begins(body)}") from None


def _emptied(body: bytes, arrays: list[Member]) -> bytes:
    """The text with empty arrays in the place of these members' values."""
    pieces, at = [], 0
    for member in arrays:
        pieces += [body[at : member.value[0]], b"[]"]
        at = member.value[1]
    return b"".join([*pieces, body[at:]])


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
        beside=cut.beside,
    )
