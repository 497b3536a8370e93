"""Reads JSON paths: which fields of which records a rule is for. Pure.

Paths are a part of JSONPath (RFC 9535):

| written | selects |
|---|---|
| `$.subject`, `$.via.source.from`, `$['a b']`, `$["a b"]` | a member by name, as often as it is repeated |
| `$.tags[*]`, `$.via.*` | every element of a list, every member of an object |
| `$.custom_fields[?@.id==360001].value` | elements (or members) that are objects with such a member |
| `$..email`, `$..from.address` | members of that name at any depth; behind `..` come names only |

`$.` at the beginning may be left out. Behind `==` stands a whole number, a string in quotes, `true`, `false` or `null`; numbers
are equal by value: `@.id==360001` selects 360001 and 360001.0, and not "360001". Places in lists (`[0]`), slices, unions,
functions and other comparisons are not understood. Names and strings are compared when the escapes in them are decoded.

A path that begins with one of `KINDS` (`$.users[*].email`) begins at each record of that kind; one that begins with `..` holds
for records of every kind (`$.tickets[*]..email` is for tickets alone); any other begins at each ticket.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson

KINDS = (
    "tickets",
    "users",
    "groups",
    "organizations",
    "brands",
    "ticket_forms",
    "custom_statuses",
    "sharing_agreements",
    "metric_events",
    "ticket_events",
)
"""Of records, as the API names the lists in which they come."""

_UNDERSTOOD = (
    "understood are $.name, $['a name'], $.list[*], $.object.*, $.list[?@.id==1].name, $..name and $.users[*].name"
)


@dataclass(frozen=True, slots=True)
class Name:
    """A member by its name."""

    name: str


@dataclass(frozen=True, slots=True)
class Deep:
    """A member by its name, at any depth."""

    name: str


@dataclass(frozen=True, slots=True)
class Every:
    """Every element or member."""


@dataclass(frozen=True, slots=True)
class Where:
    """Every element or member that is an object with a member `name` equal to `literal`, which is JSON."""

    name: str
    literal: bytes


Segment = Name | Deep | Every | Where


@dataclass(frozen=True, slots=True)
class Path:
    """A path as it was written, the kind of records that it is for (None: every kind), and its segments from there."""

    text: str
    kind: str | None = field(repr=False)
    segments: tuple[Segment, ...] = field(repr=False)

    def __str__(self) -> str:
        return self.text


_NAME = "[A-Za-z_\x80-\ud7ff\ue000-\U0010ffff][0-9A-Za-z_\x80-\ud7ff\ue000-\U0010ffff]*"
_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_segment = re.compile(
    rf"""
      \.(?P<name>{_NAME})
    | \[\ *(?P<quoted>{_QUOTED})\ *\]
    | \.\.(?:(?P<deep>{_NAME})|\[\ *(?P<deep_quoted>{_QUOTED})\ *\])
    | (?P<every>\.\*|\[\ *\*\ *\])
    | \[\ *\?\ *(?P<round>\()?\ *@(?:\.(?P<of>{_NAME})|\[\ *(?P<of_quoted>{_QUOTED})\ *\])
      \ *==\ *(?P<literal>-?(?:0|[1-9][0-9]*)|true|false|null|{_QUOTED})\ *(?(round)\))\ *\]
    """,
    re.VERBOSE | re.DOTALL,
)


def parse_path(text: str) -> Path:
    """Read a path. Raises ValueError with words for a person on anything else."""
    segments = tuple(_segments(text))
    first = segments[0]
    if isinstance(first, Deep):
        return Path(text, None, segments)
    if isinstance(first, Name) and first.name in KINDS:
        if segments[1:2] != (Every(),) or not segments[2:]:
            raise ValueError(
                f"{first.name} is a list of records, of which a path names a field; try $.{first.name}[*].name"
            )
        return Path(text, first.name, segments[2:])
    return Path(text, "tickets", segments)


def _segments(text: str) -> Iterator[Segment]:
    rest = text.removeprefix("$") if text.startswith(("$", "[")) else f".{text}"
    if rest in ("", ".") or (rest.startswith("..") and not text.startswith("$")):
        raise ValueError(f"a path to a field is expected; {_UNDERSTOOD}")
    deep = False
    while rest:
        found = _segment.match(rest)
        if found is None:
            raise ValueError(f"cannot be read from {rest!r} on; {_UNDERSTOOD}")
        segment = _one(found)
        if deep and not isinstance(segment, Name):
            raise ValueError(f"behind '..' come names only, not {rest!r}; {_UNDERSTOOD}")
        yield segment
        deep = deep or isinstance(segment, Deep)
        rest = rest[found.end() :]


def _one(found: re.Match[str]) -> Segment:
    if found["every"]:
        return Every()
    if found["literal"]:
        literal = found["literal"]
        name = found["of"] or _unquoted(found["of_quoted"])
        return Where(name, orjson.dumps(_unquoted(literal)) if literal[0] in "'\"" else literal.encode())
    if found["deep"] or found["deep_quoted"]:
        return Deep(found["deep"] or _unquoted(found["deep_quoted"]))
    return Name(found["name"] or _unquoted(found["quoted"]))


def _unquoted(quoted: str) -> str:
    inside = quoted[1:-1]
    if quoted[0] == "'":
        inside = re.sub(r"\\.|\"", lambda one: {"\\'": "'", '"': '\\"'}.get(one[0], one[0]), inside, flags=re.DOTALL)
    try:
        text: str = orjson.loads(f'"{inside}"')
    except ValueError:
        raise ValueError(
            f"{quoted!r} is no text in quotes: something in it is none of JSON's characters or escapes"
        ) from None
    return text
