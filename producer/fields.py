"""Field rules: which fields of a record are left out and which are hashed, applied to its exact bytes. Pure.

Paths are those of producer/json_paths.py.

Copies are covered: a rule on a name in `COPIES` at the beginning of a ticket's path (or directly behind a `..` there) is also
one on the copy. Not covered, each needs a path of its own:

- the requester's address and name: `$.via.source.from`, `$.via.source.to` (`address`, `name`, `original_recipients`,
  `email_ccs`), `$.recipient`, and `$.users[*]` where users are sideloaded;
- the subject of another ticket in `$.via.source.from.subject` (follow-ups, merged tickets);
- the options chosen in custom fields, which Zendesk also sets as `$.tags`;
- what people repeat in other texts: `$.description` is the first comment, `$.satisfaction_rating.comment` another;
- the subject and the fields in the events of `ticket_events`.
"""

from __future__ import annotations

import hmac
from array import array
from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from enum import IntEnum
from typing import NamedTuple

import msgspec

from producer.json_paths import KINDS, Deep, Every, Name, Path, Segment, Where
from producer.json_spans import (
    CLOSING,
    NotJson,
    after_space,
    decoded,
    delimiter,
    first_child,
    key,
    members,
    value_end,
)

COPIES = {"subject": "raw_subject", "raw_subject": "subject", "custom_fields": "fields", "fields": "custom_fields"}
"""Members of a ticket that hold the same, by each other's name."""

# --- what is looked for, level by level ------------------------------------------------------------------------------


class _Action(IntEnum):
    """What is done with a value; of two, the higher one."""

    HASH = 1
    DROP = 2


class _State(NamedTuple):
    """A rule on its way down: the segments that are still to follow, and what is done at their end."""

    segments: tuple[Segment, ...]
    action: _Action


class _Target(NamedTuple):
    """What is done with a value (None: nothing), or what is looked for inside it (None: nothing)."""

    action: _Action | None
    inside: _Level | None


class _Levels:
    """Every level of a set of rules, each made once; by number, so that a million open containers cost little."""

    def __init__(self) -> None:
        self._all: dict[frozenset[_State], _Level] = {}
        self.numbered: list[_Level] = []

    def of(self, states: frozenset[_State]) -> _Level:
        level = self._all.get(states)
        if level is None:
            level = self._all[states] = _Level(states, len(self.numbered), self)
            self.numbered.append(level)
        return level


class _Level:
    """What is looked for among the children of one container."""

    def __init__(self, states: frozenset[_State], number: int, levels: _Levels) -> None:
        self.number = number
        heads = [state.segments[0] for state in states]
        self.names = frozenset(head.name for head in heads if isinstance(head, Name | Deep))
        self.filters = frozenset(head for head in heads if isinstance(head, Where))
        self._states = states
        self._levels = levels
        self._targets: dict[str | None, _Target] = {}

    def target(self, name: str | None, holding: frozenset[Where]) -> _Target:
        """Of a member of that name, or of an element (None), for which those filters hold."""
        if holding:
            return self._follow(name, holding)
        name = name if name in self.names else None
        if name not in self._targets:
            self._targets[name] = self._follow(name, holding)
        return self._targets[name]

    def _follow(self, name: str | None, holding: frozenset[Where]) -> _Target:
        actions: list[_Action] = []
        inside: set[_State] = set()
        for state in self._states:
            head, rest = state.segments[0], state.segments[1:]
            if isinstance(head, Deep):
                inside.add(state)
            if isinstance(head, Every) or head in holding or (isinstance(head, Name | Deep) and head.name == name):
                if rest:
                    inside.add(_State(rest, state.action))
                else:
                    actions.append(state.action)
        if actions:
            return _Target(max(actions), None)
        return _Target(None, self._levels.of(frozenset(inside)) if inside else None)


# --- rules -----------------------------------------------------------------------------------------------------------

_BRACE = ord("}")
_NUMERIC = b"-0123456789"
_NO_TEXT = "a string that has to be compared is no Unicode text"


class RecordRules:
    """The rules for records of one kind, made by `Rules.of`."""

    def __init__(self, states: frozenset[_State], secret: bytes) -> None:
        self._levels = _Levels()
        self._root = self._levels.of(states)
        self._secret = secret

    def apply(self, value: bytes) -> bytes:
        """The record with its rules applied. Every byte outside the fields that a rule touches stays as it is.

        What is dropped goes with one comma. What is hashed becomes the string `hmac-sha256:` and 64 hexadecimal digits: the
        HMAC of a string's text in UTF-8, however it is escaped, or of any other value's canonical JSON (keys sorted, of a
        repeated key the last value, fractions as they are written, no white space); of the exact bytes of a value that no
        parser takes. So the text "5" and the number 5 have one hash. null stays null: that nothing is there can be seen.
        A value that is to be dropped and hashed is dropped; what lies inside a value that is dropped or hashed goes with it.

        Raises:
            NotJson: what its fields are cannot be told for certain: it is no object, its brackets do not balance, a comma or
                colon is missing, or a key that has to be compared is no Unicode text, so that parsers may disagree about it.
                Nothing of the record may be published then.
        """
        parts: list[bytes] = []
        at = 0
        for start, end, text in self._edits(value):
            parts += value[at:start], text
            at = end
        return b"".join((*parts, value[at:])) if parts else value

    def _edits(self, text: bytes) -> Iterator[tuple[int, int, bytes]]:
        """The spans to replace, in order, and what by."""
        begin = after_space(text, 0)
        if text[begin : begin + 1] != b"{":
            raise NotJson("no object, which a record is, begins", begin)
        child = first_child(text, begin)
        if child is None:
            return _nothing_behind(text, value_end(text, begin))
        level, closing, at = self._root, _BRACE, child
        around = array("L")  # level and closing bracket of each container around this one
        kept = False  # whether this container has a child before `at` that stays
        while True:
            start, begin, target = _child(text, at, level, closing)
            child = first_child(text, begin) if target.inside else None
            if target.inside and child is not None:
                around.append(level.number << 8 | closing)
                level, closing, at, kept = target.inside, CLOSING[text[begin]], child, False
                continue
            end = value_end(text, begin)
            if target.action is not _Action.DROP:
                kept = True
                if target.action is _Action.HASH and text[begin:end] != b"null":
                    yield begin, end, self._hashed(text[begin:end])
            elif kept:
                yield at - 1, end, b""  # with the comma before it
            else:
                stop = delimiter(text, end, closing)
                yield start, end if text[stop] == closing else stop + 1, b""
            while text[stop := delimiter(text, end, closing)] == closing:
                end, kept = stop + 1, True
                if not around:
                    return _nothing_behind(text, end)
                frame = around.pop()
                level, closing = self._levels.numbered[frame >> 8], frame & 255
            at = stop + 1

    def _hashed(self, value: bytes) -> bytes:
        return b'"hmac-sha256:%b"' % hmac.digest(self._secret, _canonical(value), "sha256").hex().encode()


def _nothing_behind(text: bytes, end: int) -> None:
    if (at := after_space(text, end)) < len(text):
        raise NotJson("something behind the value", at)


def _child(text: bytes, at: int, level: _Level, closing: int) -> tuple[int, int, _Target]:
    """Where the child that comes at `at` begins, and its value, and what is to be done with it."""
    if closing == _BRACE:
        (start, stop), begin = key(text, at)
        name = decoded(text[start:stop])
        if name is None and level.names:
            raise NotJson(_NO_TEXT, start)
    else:
        start = begin = after_space(text, at)
        name = None
    return start, begin, level.target(name, _holding(text, begin, level.filters))


def _holding(text: bytes, begin: int, filters: frozenset[Where]) -> frozenset[Where]:
    """Which of the filters hold for the value at `begin`."""
    if not filters or text[begin : begin + 1] != b"{":
        return frozenset()
    holding: set[Where] = set()
    for member in members(text, begin):
        if member.key is None:
            raise NotJson(_NO_TEXT, member.name[0])
        holding.update(one for one in filters if one.name == member.key and _equal(text, member.value, one.literal))
    return frozenset(holding)


def _equal(text: bytes, span: tuple[int, int], literal: bytes) -> bool:
    """Whether the value of that span is the literal, as JSON: strings by their text, numbers by their value."""
    value = text[slice(*span)]
    if value == literal:
        return True
    if value[:1] == literal[:1] == b'"':
        plain = decoded(value)
        if plain is None:
            raise NotJson(_NO_TEXT, span[0])
        return plain == decoded(literal)
    if literal[0] in _NUMERIC and value[0] in _NUMERIC:
        try:
            return Decimal(value.decode()) == Decimal(literal.decode())
        except (InvalidOperation, UnicodeDecodeError):
            return False  # no number
    return False


# As in producer/zendesk/boundary.py: integers exactly, other numbers as the text that they were.
_decoder = msgspec.json.Decoder(float_hook=lambda text: msgspec.Raw(text.encode()))
_encoder = msgspec.json.Encoder(order="sorted")


def _canonical(value: bytes) -> bytes:
    try:
        content = _decoder.decode(value)
        return content.encode() if isinstance(content, str) else _encoder.encode(content)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return value


class Rules:
    """All field rules, and the key of the hashes, which no text shows."""

    def __init__(self, drop: Iterable[Path], hash: Iterable[Path], key: bytes | None) -> None:
        """Raises ValueError if something is to be hashed without a key."""
        self._paths = [(path, _Action.DROP) for path in drop] + [(path, _Action.HASH) for path in hash]
        if not key and any(action is _Action.HASH for _, action in self._paths):
            raise ValueError("a key is needed to hash fields")
        self._key = key or b""
        self._made: dict[str, RecordRules | None] = {}

    def of(self, kind: str) -> RecordRules | None:
        """The rules for records of a kind; None: there are none. Raises ValueError on what is not one of `KINDS`."""
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is no kind of record that field rules know")
        if kind not in self._made:
            states = frozenset(
                _State(segments, action)
                for path, action in self._paths
                if path.kind in (None, kind)
                for segments in (_with_copy(path.segments) if kind == "tickets" else [path.segments])
            )
            self._made[kind] = RecordRules(states, self._key) if states else None
        return self._made[kind]


def _with_copy(segments: tuple[Segment, ...]) -> Iterator[tuple[Segment, ...]]:
    yield segments
    first = segments[0]
    if isinstance(first, Name | Deep) and first.name in COPIES:
        yield type(first)(COPIES[first.name]), *segments[1:]


def identity(key: bytes, value: bytes) -> str:
    """H of a record to which rules apply: 16 hexadecimal digits of the HMAC-SHA256 of its original bytes.

    Under a plain hash, which anybody can compute, a short value that was dropped could be found by trying.
    """
    return hmac.digest(key, value, "sha256").hex()[:16]
