"""Reads a row of an export: its exact bytes, the few fields that we must know, and whether anybody could use it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeGuard

import msgspec

from producer.dates import seconds
from producer.fields import identity
from producer.json_spans import NotJson, members
from producer.model import Poison, Sideload, Version

_LATEST = 2**33
"""Unix seconds, in the year 2242: beyond lie milliseconds and nonsense."""

_LARGEST_ID = 2**63 - 1


# The fields of a row that we must understand, by what they mean; everything else passes through untouched. `state` tells
# whether it is deleted, `about` which ticket it belongs to.


class _Ticket(msgspec.Struct):
    id: int
    stamp: int | None = msgspec.field(name="generated_timestamp", default=None)
    updated_at: str | None = None
    state: str | None = msgspec.field(name="status", default=None)
    about: ClassVar[int | None] = None


class _User(msgspec.Struct):
    id: int
    updated_at: str | None = None
    state: bool | None = msgspec.field(name="active", default=None)
    stamp: ClassVar[int | None] = None
    about: ClassVar[int | None] = None


class _Organization(msgspec.Struct):
    id: int
    updated_at: str | None = None
    state: str | None = msgspec.field(name="deleted_at", default=None)
    stamp: ClassVar[int | None] = None
    about: ClassVar[int | None] = None


class _TicketEvent(msgspec.Struct):
    id: int
    stamp: int | None = msgspec.field(name="timestamp", default=None)
    updated_at: str | None = msgspec.field(name="created_at", default=None)
    about: int | None = msgspec.field(name="ticket_id", default=None)
    state: ClassVar[None] = None


class _Beside(msgspec.Struct):
    id: int
    updated_at: Any = None


class _Kind:
    """How the rows of a stream are read. `gone`: whether a `state` says deleted; `dated`: the export goes by `updated_at`."""

    def __init__(self, head: type[msgspec.Struct], gone: Callable[[Any], bool], *, dated: bool = False) -> None:
        self.decode: Callable[[bytes], Any] = msgspec.json.Decoder(head).decode
        self.meanings = dict(zip(head.__struct_encode_fields__, head.__struct_fields__, strict=True))
        self.gone = gone
        self.dated = dated


_KINDS: Mapping[str, _Kind] = {
    "tickets": _Kind(_Ticket, lambda status: bool(status == "deleted")),
    "users": _Kind(_User, lambda active: active is False, dated=True),
    "organizations": _Kind(_Organization, lambda deleted_at: deleted_at is not None, dated=True),
    "ticket_events": _Kind(_TicketEvent, lambda _: False),
}
_beside = msgspec.json.Decoder(_Beside)
_whole = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_row(value: bytes, stream: str = "tickets", key: bytes | None = None) -> Version:
    """The version that a row of the stream is. With a `key`, its digest is an HMAC (`producer.fields.identity`).

    One that cannot be published says why (`poison`), and is known by what can be read of it.
    """
    kind = _KINDS[stream]
    try:
        if not value.isascii():
            value.decode()  # msgspec passes invalid UTF-8 inside strings it only slices; no consumer could read it
        head = kind.decode(value)
        stamp = seconds(head.updated_at) if head.stamp is None else head.stamp
        if not 0 <= head.id <= _LARGEST_ID or stamp is None or not 0 <= stamp < _LATEST:
            return _odd_row(value, kind, key)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return _odd_row(value, kind, key)
    digest = _digest(value, key)
    stamped = kind.dated or head.stamp is not None
    return Version(head.id, stamp, digest, value, kind.gone(head.state), head.updated_at, stamped, None, head.about)


def _odd_row(value: bytes, kind: _Kind, key: bytes | None) -> Version:
    """A row that is not what the API promises, taken apart field by field.

    Only an id, a stamp and JSON that strict parsers take are needed to publish it; fields of another type than usual are not
    ours to judge. Without an id it is known by its bytes: the id is made from them, and is below 0.
    """
    fields = _fields(value, kind.meanings)
    id_, stamp, updated_at, about = (fields.get(name) for name in ("id", "stamp", "updated_at", "about"))
    updated_at = updated_at if isinstance(updated_at, str) else None
    stamped = kind.dated or type(stamp) is int
    stamp = stamp if type(stamp) is int else seconds(updated_at) if stamp is None else None
    if stamp is None or not 0 <= stamp < _LATEST:
        stamp, stamped = None, False
    digest = _digest(value, key)
    poison = _NO_ID if not _is_id(id_) else _trouble(value) or (None if stamp is not None else _NO_STAMP)
    return Version(
        id_ if _is_id(id_) else _own_id(digest),
        stamp or 0,
        digest,
        value,
        kind.gone(fields.get("state")),
        updated_at,
        stamped,
        poison,
        about if _is_id(about) else None,
    )


def read_sideload(array: str, value: bytes, key: bytes | None = None) -> Sideload:
    """The record of an array beside the rows. As of a row, it says why where it cannot be published."""
    digest = _digest(value, key)
    try:
        value.decode()
        head = _beside.decode(value)
        if 0 <= head.id <= _LARGEST_ID:
            updated_at = head.updated_at if isinstance(head.updated_at, str) else None
            return Sideload(array, head.id, digest, value, updated_at)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        pass
    id_ = _fields(value, {"id": "id"}).get("id")
    if _is_id(id_) and (trouble := _trouble(value)) is not None:
        return Sideload(array, id_, digest, value, None, trouble)
    return Sideload(array, _own_id(digest), digest, value, None, _NO_ID)


_NO_ID = Poison("no_id", "it has no id that is an integer of at most 63 bits")
_NO_STAMP = Poison("no_stamp", "it has neither a stamp nor an updated_at that is a time")


def _digest(value: bytes, key: bytes | None) -> str:
    return hashlib.sha256(value).hexdigest()[:16] if key is None else identity(key, value)


def _own_id(digest: str) -> int:
    return -1 - int(digest[:15], 16)


def _is_id(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= _LARGEST_ID


def _fields(value: bytes, meanings: Mapping[str, str]) -> dict[str, Any]:
    """The fields of these names, by what they mean, of any type, as far as they can be read; the last of several with one
    name, as parsers do."""
    found: dict[str, Any] = {}
    try:
        for member in members(value, 0):
            if (meaning := meanings.get(member.key or "")) is not None:
                found.pop(meaning, None)
                with contextlib.suppress(msgspec.MsgspecError, RecursionError, ValueError):
                    found[meaning] = msgspec.json.decode(value[slice(*member.value)])
    except NotJson:
        pass
    return found


def _trouble(value: bytes) -> Poison | None:
    """What a strict parser has against the value; None: nothing."""
    try:
        value.decode()
        _whole.decode(value)
    except UnicodeDecodeError as error:
        return Poison("unparsable", f"byte {error.start} is not UTF-8")
    except RecursionError:
        return Poison("unparsable", "it is nested too deep, over about 1,000 levels")
    except msgspec.MsgspecError as error:
        return Poison("unparsable", f"it is not JSON that every parser takes: {error}")
    return None
