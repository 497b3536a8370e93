"""Takes an answer of an export apart: the envelope, and each ticket's exact bytes with the few fields we must know; and makes the page."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec

from producer.errors import BadAnswer
from producer.model import Page, Position, Version
from producer.zendesk.boundary import Sifted
from producer.zendesk.client import Answer


class _Envelope(msgspec.Struct):
    """The answer's own fields, of both exports. What nothing hangs on may be of any type."""

    tickets: list[msgspec.Raw]
    count: Any = None
    end_of_stream: bool | None = None
    end_time: int | None = None
    next_page: Any = None
    after_cursor: str | None = None
    after_url: Any = None


class _Head(msgspec.Struct):
    """The fields of a ticket that we must understand; everything else passes through untouched."""

    id: int
    generated_timestamp: int | None = None
    updated_at: str | None = None
    status: str | None = None


_LATEST = 2**33
"""Unix seconds, in the year 2242: beyond lie milliseconds and nonsense."""

_envelope = msgspec.json.Decoder(_Envelope)
_head = msgspec.json.Decoder(_Head)

_LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]"
)


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

    Each row's bytes are a copy, so that the answer itself can be freed.

    Raises:
        BadAnswer: the answer, or one ticket in it, is not what the API promises. Nothing of it may be used then.
    """
    try:
        envelope = _envelope.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadAnswer(f"the page cannot be read: {_diagnose(body, error)}") from None
    return Slice(
        [_row(index, raw) for index, raw in enumerate(envelope.tickets)],
        envelope.count if type(envelope.count) is int else None,
        envelope.end_of_stream,
        envelope.end_time,
        envelope.after_cursor,
        _host(envelope.next_page or envelope.after_url),
    )


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
        unstamped=sum(not row.stamped for row in cut.rows),
        server_time=answer.server_time,
    )


def _row(index: int, raw: msgspec.Raw) -> Version:
    value = bytes(raw)
    try:
        if not value.isascii():
            value.decode()  # msgspec passes invalid UTF-8 inside strings it only slices; no consumer could read it
        head = _head.decode(value)
        stamp = head.generated_timestamp
        stamped = stamp is not None
        if stamp is None:
            if head.updated_at is None:
                raise ValueError("neither generated_timestamp nor updated_at")
            stamp = int(datetime.fromisoformat(head.updated_at).timestamp())
        if not 0 <= stamp < _LATEST:
            raise ValueError(f"its stamp {stamp} is no time in Unix seconds")
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise BadAnswer(
            f"the ticket at index {index} of the page cannot be used: {error}; it begins {value[:80]!r}"
        ) from None
    digest = hashlib.sha256(value).hexdigest()[:16]
    return Version(head.id, stamp, digest, value, head.status == "deleted", head.updated_at, stamped)


def _diagnose(body: bytes | bytearray, error: Exception) -> str:
    """What is wrong with a page, in words: msgspec's own are about bytes and, for a lone surrogate, misleading."""
    text = str(error)
    start = bytes(body[:80])
    if isinstance(error, msgspec.ValidationError):
        return f"{text}; it begins {start!r}"
    if isinstance(error, RecursionError):
        return "a ticket is nested too deep (over about 1,000 levels)"
    if _LONE_SURROGATE.search(body):
        return f"a string holds a lone surrogate, which is no Unicode text ({text})"
    return f"{text}; it begins {start!r}"
