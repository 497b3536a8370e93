"""Turns what cannot be published into the records of the dead-letter topic. Pure.

A letter tells in its headers what it is, why it is here, and where to fetch it again; its value is the ticket's exact bytes
as far as the topic takes them. It repeats nothing foreign in a header: ids, stamps and hashes are numbers and hexadecimal digits.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from producer.dates import utc
from producer.model import Headers, Poison, Record, Version
from producer.records import JSON, SPECVERSION, event_time
from producer.streams import TICKETS


class Letter(NamedTuple):
    """A version that cannot be published, and why; where it was found, below `/api/v2/incremental`; and what may be shown of
    its value: all of it, what field rules leave, or nothing (None)."""

    version: Version
    poison: Poison
    source: str
    shown: bytes | None


class Identity(NamedTuple):
    """What a record of the dead-letter topic is about: `text` is its `ce_id`, `id` None where there is none, `source` as
    of a Letter."""

    text: str
    id: int | None
    stamp: int
    digest: str
    source: str


RESOLVED = "zendesk-dead-letter-resolved"
"""Header of a record without a value that settles an earlier one with the same `ce_id`, and says how."""

_IDENTITY = re.compile(rb"(\d{1,19}|unknown):(\d{1,10}):([0-9a-f]{16})")
_SOURCE = re.compile(rb"[a-z_]{1,30}(\?include=[a-z_]{1,30})?")

_TYPE = ("ce_type", b"com.zendesk.dead-letter.v1")
_RESOLVED_TYPE = ("ce_type", b"com.zendesk.dead-letter-resolved.v1")
_BYTES = ("content-type", b"application/octet-stream")


class Letters(Collection[Record]):
    """The dead letters of one page, in its order, as records. `number` is that of the first one, counting from 1 in each
    generation.

    `takes` says whether the topic takes a value, of which else comes the head, `head` bytes of it. With a `key` the hash is
    an HMAC: what field rules leave out is not to be found by trying.
    """

    def __init__(
        self,
        letters: Sequence[Letter],
        *,
        account: str,
        generation: int,
        seq: int,
        number: int,
        takes: Callable[[bytes], bool],
        head: int,
        key: bytes | None = None,
    ) -> None:
        self._letters = letters
        self._key = key
        self._account = account
        self._page = f"{generation}/{seq}"
        self._generation = generation
        self._number = number
        self._takes = takes
        self._head = head

    def __len__(self) -> int:
        return len(self._letters)

    def __iter__(self) -> Iterator[Record]:
        for index, (version, poison, source, shown) in enumerate(self._letters):
            place = f"{self._page}/{index}/{len(self)}".encode()
            number = f"{self._generation}/{self._number + index}".encode()
            value, how = (b"", b"none") if shown is None else (shown, b"whole")
            if not self._takes(value):
                value, how = value[: self._head], b"head"
            headers = [
                *_about(version, self._account, source, _TYPE),
                JSON if how == b"whole" and poison.reason == "too_large" else _BYTES,
                ("zendesk-page", place),
                ("zendesk-dead-letter-number", number),
                ("zendesk-dead-letter-reason", poison.reason.encode()),
                ("zendesk-dead-letter-detail", poison.detail.encode("ascii", "backslashreplace")[:500]),
                ("zendesk-dead-letter-size", b"%d" % len(version.value)),
                self._hash(version.value),
                ("zendesk-dead-letter-value", how),
                ("zendesk-dead-letter-fetch", fetch(version, self._account, source).encode()),
            ]
            yield Record(version.key, value, headers)

    def __contains__(self, record: object) -> bool:
        return any(record == each for each in self)

    def _hash(self, value: bytes) -> tuple[str, bytes]:
        if self._key is None:
            return "zendesk-dead-letter-sha256", hashlib.sha256(value).hexdigest().encode()
        return "zendesk-dead-letter-hmac-sha256", hmac.digest(self._key, value, "sha256").hex().encode()


def identity_of(headers: Mapping[str, bytes | None], account: str) -> Identity | None:
    """What a record in the dead-letter topic is about; None: it is none of the account's."""
    found = _IDENTITY.fullmatch(headers.get("ce_id") or b"")
    base, source = _source(account, "").encode(), headers.get("ce_source") or b""
    if found is None or not source.startswith(base) or not _SOURCE.fullmatch(source[len(base) :]):
        return None
    id_, stamp, digest = (part.decode() for part in found.groups())
    return Identity(
        found[0].decode(), None if id_ == "unknown" else int(id_), int(stamp), digest, source[len(base) :].decode()
    )


def identity(version: Version) -> str:
    """`ce_id`: as in the tickets topic; where there is no id it begins with `unknown`."""
    return f"{version.id if version.id >= 0 else 'unknown'}:{version.stamp}:{version.digest}"


def fetch(version: Version, account: str, source: str) -> str:
    """The request that shows the version again, as long as it is the newest one. Without a stamp no export does."""
    if version.stamp == 0 and version.id >= 0:
        return f"https://{account}.zendesk.com/api/v2/{source.rpartition('=')[2]}/{version.id}"
    return f"{_source(account, source)}{'&' if '?' in source else '?'}start_time={version.stamp}"


def resolved(settled: str, account: str, how: str) -> Record:
    """The record that settles the letter of a ticket with the identity `settled`; `how`: "published", "superseded"."""
    id_, stamp, _ = settled.split(":")
    headers: Headers = [
        SPECVERSION,
        ("ce_id", settled.encode()),
        ("ce_source", _source(account, TICKETS.name).encode()),
        _RESOLVED_TYPE,
        ("ce_time", utc(int(stamp)).encode()),
        (RESOLVED, how.encode()),
    ]
    return Record(id_.encode() if id_.isdigit() else None, b"", headers)


def _source(account: str, source: str) -> str:
    return f"https://{account}.zendesk.com/api/v2/incremental/{source}"


def _about(version: Version, account: str, source: str, kind: tuple[str, bytes]) -> Headers:
    return [
        SPECVERSION,
        ("ce_id", identity(version).encode()),
        ("ce_source", _source(account, source).encode()),
        kind,
        *([] if version.id < 0 else [("ce_subject", b"%d" % version.id)]),
        ("ce_time", event_time(version).encode()),
        ("ce_sequence", b"%017d" % version.stamp),
    ]
