"""Reads a row of an export: its exact bytes, the few fields that we must know, and whether anybody could use it."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from producer.dates import seconds
from producer.json_spans import NotJson, members
from producer.model import Poison, Version

_LATEST = 2**33
"""Unix seconds, in the year 2242: beyond lie milliseconds and nonsense."""

_LARGEST_ID = 2**63 - 1


class _Head(msgspec.Struct):
    """The fields of a ticket that we must understand; everything else passes through untouched."""

    id: int
    generated_timestamp: int | None = None
    updated_at: str | None = None
    status: str | None = None


_head = msgspec.json.Decoder(_Head)
_whole = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_row(value: bytes) -> Version:
    """The version that a row is. One that cannot be published says why (`poison`), and is known by what can be read of it."""
    try:
        if not value.isascii():
            value.decode()  # msgspec passes invalid UTF-8 inside strings it only slices; no consumer could read it
        head = _head.decode(value)
        if not 0 <= head.id <= _LARGEST_ID:
            return _odd_row(value)
        stamp = head.generated_timestamp
        stamped = stamp is not None
        if stamp is None:
            stamp = seconds(head.updated_at)
        if stamp is None or not 0 <= stamp < _LATEST:
            return _odd_row(value)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return _odd_row(value)
    digest = hashlib.sha256(value).hexdigest()[:16]
    return Version(head.id, stamp, digest, value, head.status == "deleted", head.updated_at, stamped)


def _odd_row(value: bytes) -> Version:
    """The same of a row that is not what the API promises, taken apart field by field.

    Only an id, a stamp and JSON that strict parsers take are needed to publish it; fields of another type than usual are not
    ours to judge. Without an id it is known by its bytes: the id is made from them, and is below 0.
    """
    fields = _fields(value)
    id_, stamp, updated_at = fields.get("id"), fields.get("generated_timestamp"), fields.get("updated_at")
    updated_at = updated_at if isinstance(updated_at, str) else None
    stamped = type(stamp) is int and 0 <= stamp < _LATEST
    if not stamped:
        stamp = seconds(updated_at) if stamp is None else None
    poison = None
    if type(id_) is not int or not 0 <= id_ <= _LARGEST_ID:
        id_, poison = None, Poison("no_id", "it has no id that is an integer of at most 63 bits")
    elif (trouble := _trouble(value)) is not None:
        poison = Poison("unparsable", trouble)
    elif stamp is None or not 0 <= stamp < _LATEST:
        poison = Poison("no_stamp", "it has no generated_timestamp and no updated_at that is a time")
    hashed = hashlib.sha256(value).hexdigest()
    return Version(
        -1 - int(hashed[:15], 16) if id_ is None else id_,
        stamp if stamp is not None and 0 <= stamp < _LATEST else 0,
        hashed[:16],
        value,
        fields.get("status") == "deleted",
        updated_at,
        stamped,
        poison,
    )


def _fields(value: bytes) -> dict[str, Any]:
    """The fields of the head, of any type, as far as they can be read; the last of several with one name, as parsers do."""
    found: dict[str, Any] = {}
    try:
        for member in members(value, 0):
            if member.key in _Head.__struct_fields__:
                start, end = member.value
                try:
                    found[member.key] = msgspec.json.decode(value[start:end])
                except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
                    found.pop(member.key, None)
    except NotJson:
        pass
    return found


def _trouble(value: bytes) -> str | None:
    """What a strict parser has against the value; None: nothing."""
    try:
        value.decode()
        _whole.decode(value)
    except UnicodeDecodeError as error:
        return f"byte {error.start} is not UTF-8"
    except RecursionError:
        return "it is nested too deep, over about 1,000 levels"
    except msgspec.MsgspecError as error:
        return f"it is not JSON that every parser takes: {error}"
    return None
