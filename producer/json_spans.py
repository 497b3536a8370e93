"""Finds where JSON values begin and end in exact bytes: by strings and brackets alone, at any depth, in linear time.

For what parsers refuse (a million levels, lone surrogates, bytes that are no UTF-8) and for cutting fields out of a text
without touching the rest. A span is a pair of offsets, (first byte, one behind the last). What a scalar looks like is not
checked: any run of bytes without white space, quotes, brackets, commas and colons is one. Of a container that is passed
over, only the brackets and strings are looked at; of one whose elements or members are listed, the commas and colons too.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import orjson

CLOSING = {ord("["): ord("]"), ord("{"): ord("}")}
"""The byte that ends a container, by the one that begins it."""

_COMMA = ord(",")

_CLOSERS = bytes.maketrans(b"[{", b"]}")

# Python before 3.11.5 goes on at the wrong place when the last round of a possessive group fails half-way (gh-106052). So the
# groups below cannot fail once they have begun; `_UNCLOSED` ends at its quote or, without one, with the text.
SPACE = rb"[ \t\n\r]*+"
STRING = rb'"[^"\\]*+(?:\\.?+[^"\\]*+)*+"'
_UNCLOSED = STRING + rb"?+"
OTHER = rb'[^"\[\]{}]*+'
"""Parts of regular expressions (with re.DOTALL): white space, a string, and what is neither string nor bracket."""

_space = re.compile(SPACE)
_scalar = re.compile(STRING + rb'|[^ \t\n\r,:\[\]{}"]++', re.DOTALL)
_key = re.compile(SPACE + rb"(" + STRING + rb")" + SPACE + rb":" + SPACE, re.DOTALL)
_delimiter = re.compile(SPACE + rb"([,\]}])")
# From anywhere outside a string to behind the next brackets of one kind, or to the end of the text: always matches.
_brackets = re.compile(OTHER + rb"(?:" + _UNCLOSED + OTHER + rb")*+(?:([\[{]++)|([\]}]++)|\Z)", re.DOTALL)


class NotJson(ValueError):
    """Strings or brackets do not balance, or something else stands where a value, a key, a colon or a comma belongs.

    `offset`: the byte at which that shows. The message quotes nothing of the text.
    """

    def __init__(self, what: str, offset: int) -> None:
        super().__init__(f"{what} at byte {offset}")
        self.offset = offset


class Member(NamedTuple):
    """A member of an object: its key in plain (None: it is no Unicode text), the spans of key and value, and its comma.

    The span of the key has its quotes in it. `comma` is the offset of the comma behind the member; the last one has none.
    """

    key: str | None
    name: tuple[int, int]
    value: tuple[int, int]
    comma: int | None


def elements(text: bytes, start: int) -> list[tuple[int, int]]:
    """The spans of the elements of the array at `start`, in order. Raises NotJson, also if no array begins."""
    found: list[tuple[int, int]] = []
    at = _inside(text, start, "[")
    while at is not None:
        begin = after_space(text, at)
        end = value_end(text, begin)
        found.append((begin, end))
        at = _behind_comma(text, end, "]")
    return found


def members(text: bytes, start: int) -> list[Member]:
    """The members of the object at `start`, in order, a repeated key each time. Raises NotJson, also if no object begins."""
    found: list[Member] = []
    at = _inside(text, start, "{")
    while at is not None:
        name, begin = key(text, at)
        end = value_end(text, begin)
        at = _behind_comma(text, end, "}")
        found.append(Member(decoded(text[slice(*name)]), name, (begin, end), None if at is None else at - 1))
    return found


def _inside(text: bytes, start: int, bracket: str) -> int | None:
    start = after_space(text, start)
    if text[start : start + 1] != bracket.encode():
        raise NotJson(f"no {bracket}", start)
    return first_child(text, start)


def _behind_comma(text: bytes, end: int, closing: str) -> int | None:
    at = delimiter(text, end, ord(closing))
    return at + 1 if text[at] == _COMMA else None


def value_end(text: bytes, start: int) -> int:
    """The offset behind the value that begins at `start`. Raises NotJson if none begins or ends."""
    if text[start : start + 1] in (b"[", b"{"):
        return _container_end(text, start)
    match = _scalar.match(text, start)
    if match is None:
        raise NotJson("no value, or a string without an end,", start)
    return match.end()


def _container_end(text: bytes, start: int) -> int:
    waiting = bytearray()  # the closing brackets that are due, the next one last
    for match in _brackets.finditer(text, start):
        opened, closed = match.groups()
        if opened:
            waiting += opened.translate(_CLOSERS)
        elif closed:
            due = waiting[: -len(closed) - 1 : -1]
            if not closed.startswith(due):
                wrong = next(i for i, (one, other) in enumerate(zip(closed, due, strict=False)) if one != other)
                raise NotJson("the wrong closing bracket", match.start(2) + wrong)
            del waiting[-len(due) :]
            if not waiting:
                return match.start(2) + len(due)
    raise NotJson("a bracket is not closed, or a string is not; the text ends", len(text))


# Steps for those who walk through a text by themselves


def first_child(text: bytes, start: int) -> int | None:
    """Where the first element or member of the container at `start` begins; None if it has none, or is no container."""
    closing = CLOSING.get(text[start]) if start < len(text) else None
    if closing is None:
        return None
    at = after_space(text, start + 1)
    return None if text[at : at + 1] == bytes([closing]) else at


def after_space(text: bytes, at: int) -> int:
    """The first offset from `at` on that is no white space."""
    match = _space.match(text, at)
    assert match is not None
    return match.end()


def key(text: bytes, at: int) -> tuple[tuple[int, int], int]:
    """The span of the key that comes at `at`, and where its value begins. Raises NotJson if there is none."""
    match = _key.match(text, at)
    if match is None:
        raise NotJson("no key with a colon", after_space(text, at))
    return match.span(1), match.end()


def delimiter(text: bytes, at: int, closing: int) -> int:
    """The offset of what comes at `at`, behind a value: a comma, or the byte `closing`. Raises NotJson on anything else."""
    match = _delimiter.match(text, at)
    if match is None or text[match.end() - 1] not in (_COMMA, closing):
        raise NotJson("neither a comma nor the closing bracket", after_space(text, at))
    return match.end() - 1


def decoded(string: bytes) -> str | None:
    """The text of a string, given with its quotes; None if it is no Unicode text."""
    if b"\\" not in string and string.isascii():
        return string[1:-1].decode()
    try:
        text: str = orjson.loads(string)
    except ValueError:
        return None
    return text
