"""Takes an answer of the export apart: the envelope, and each ticket's exact bytes with the few fields we must know."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime

import msgspec

from producer.errors import BadAnswer
from producer.model import Version


class _Envelope(msgspec.Struct):
    """The answer's own fields. `count` and `next_page` are not read: one is the array's length, the other not ours to follow."""

    tickets: list[msgspec.Raw]
    end_of_stream: bool | None = None
    end_time: int | None = None


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
    """An answer, taken apart: its rows in order, and what the API says of the stream."""

    rows: list[Version]
    end_time: int | None
    ended: bool


def slice_page(body: bytes | bytearray) -> Slice:
    """Cut an answer of the time-based export into rows.

    Each row's bytes are a copy, so that the answer itself can be freed. `ended` is the API's `end_of_stream`; where it is
    missing, an answer without rows and without `end_time` means that there is no more.

    Raises:
        BadAnswer: the answer, or one ticket in it, is not what the API promises. Nothing of it may be used then.
    """
    try:
        envelope = _envelope.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadAnswer(f"the page cannot be read: {_diagnose(body, error)}") from None
    ended = envelope.end_of_stream
    if ended is None:
        if envelope.tickets or envelope.end_time is not None:
            raise BadAnswer("the page does not say end_of_stream")
        ended = True
    return Slice([_row(index, raw) for index, raw in enumerate(envelope.tickets)], envelope.end_time, ended)


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
