"""Tickets that are hard to forward: each makes the raw body of a good one, as an account renders it, into a bad one.

account.rewrite(account.put(stamp), HOSTILE["nul"])

The account's page then holds exactly these bytes, and the ground truth lists them under the id and stamp that the
account knows, whatever the body says.
"""

import re
from collections.abc import Callable
from hashlib import shake_256
from typing import Final

Edit = Callable[[bytes], bytes]

_ID: Final = re.compile(rb'(?<=[{,])"id":(\d+)')
_SUBJECT: Final = re.compile(rb'"subject":(?:null|"(?:[^"\\]|\\.)*")')
_TAGS: Final = re.compile(rb'"tags":\[[^\]]*\]')
_STAMP: Final = re.compile(rb'"generated_timestamp":(\d+)(?=}$)')


def _replace(pattern: re.Pattern[bytes], make: Callable[[re.Match[bytes]], bytes]) -> Edit:
    """The first place that matches is another; a ticket without such a place is none that an account renders."""

    def edit(ticket: bytes) -> bytes:
        changed, count = pattern.subn(make, ticket, count=1)
        if not count:
            raise ValueError(f"no {pattern.pattern!r} in the ticket, which begins {ticket[:40]!r}")
        return changed

    return edit


def _first(member: bytes) -> Edit:
    """One more member, before all others."""
    return lambda ticket: b"{" + member + b"," + ticket[1:]


def _last(member: bytes) -> Edit:
    """One more member, behind all others."""
    return lambda ticket: ticket[:-1] + b"," + member + b"}"


def _subject(value: bytes) -> Edit:
    """Another subject: the inside of a JSON string."""
    return _replace(_SUBJECT, lambda _: b'"subject":"' + value + b'"')


def _id(value: bytes) -> Edit:
    return _replace(_ID, lambda _: b'"id":' + value)


def _then(*edits: Edit) -> Edit:
    def edit(ticket: bytes) -> bytes:
        for each in edits:
            ticket = each(ticket)
        return ticket

    return edit


def _nested(levels: int) -> Edit:
    return _first(b'"nested":' + b"[" * levels + b"]" * levels)


def _id_twice(ticket: bytes) -> bytes:
    return _replace(_ID, lambda found: found[0] + b"," + found[0])(ticket)


def _incompressible(ticket: bytes) -> bytes:
    """3 MB that shrink to half at best: hexadecimal digits of a hash of the ticket."""
    return _first(b'"incompressible":"' + shake_256(ticket).hexdigest(1_500_000).encode() + b'"')(ticket)


_ESCAPE: Final = rb"\u001b[2J\u001b]0;owned\u0007\u001b[31m"

HOSTILE: Final[dict[str, Edit]] = {
    # Strings that no terminal, header or log may get as they are.
    "nul": _subject(rb"before\u0000after"),
    "ansi": _then(_subject(_ESCAPE), _replace(_TAGS, lambda _: b'"tags":["' + _ESCAPE + b'","vip"]')),
    "bidi": _subject("\u202eexe.gnp\u202c \u2066hidden\u2069".encode()),
    "lone_surrogate": _subject(rb"half of a smile: \ud83d"),
    "utf8_noncharacters": _subject("\ufdd0\ufffe\uffff\U0010ffff".encode()),
    "invalid_utf8": _subject(b"\xff\xfe \xc3("),
    # Numbers that few parsers keep.
    "number_1e400": _first(b'"number":1e400'),
    "huge_integer_field": _first(b'"number":1' + b"0" * 5_000),
    # Keys.
    "duplicate_keys_same_id": _id_twice,
    "duplicate_keys_other_id": _first(b'"id":999999999'),
    "duplicate_keys_subject": _last(b'"subject":"the second subject"'),
    "escaped_keys": _then(
        _replace(_ID, lambda found: rb'"i\u0064":' + found[1]),
        _replace(_STAMP, lambda found: rb'"gener\u0061ted_timestamp":' + found[1]),
    ),
    # Ids and stamps.
    "id_beyond_64_bits": _id(b"36893488147419103232"),
    "id_as_string": _replace(_ID, lambda found: b'"id":"' + found[1] + b'"'),
    "id_missing": _replace(re.compile(_ID.pattern + rb","), lambda _: b""),
    "id_float": _replace(_ID, lambda found: found[0] + b".0"),
    "id_negative": _replace(_ID, lambda found: b'"id":-' + found[1]),
    "stamp_as_string": _replace(_STAMP, lambda found: b'"generated_timestamp":"' + found[1] + b'"'),
    # Sizes.
    "huge_tags": _replace(_TAGS, lambda _: b'"tags":[' + b",".join(b'"tag_%06d"' % n for n in range(154_000)) + b"]"),
    "huge_string_incompressible": _incompressible,
    # Nesting, in levels below the ticket itself.
    "nesting_900": _nested(900),
    "nesting_1100": _nested(1_100),
    "deep_nesting": _nested(10_000),
    # No ticket at all.
    "not_an_object_number": lambda _: b"17",
    "not_an_object_null": lambda _: b"null",
    "not_an_object_string": lambda _: b'"a ticket"',
    "not_an_object_array": lambda _: b'[{"id":1}]',
    "empty_object": lambda _: b"{}",
    "bom": lambda ticket: b"\xef\xbb\xbf" + ticket,
}
"""All of them, by name. With some of them, a whole page is no JSON to a strict parser."""
