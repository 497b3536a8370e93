"""Turns what cannot be published into the records of the dead-letter topic. Pure.

A letter tells in its headers what it is, why it is here, and where to fetch it again; its value is the ticket's exact bytes
as far as the topic takes them. It repeats nothing foreign in a header: ids, stamps and hashes are numbers and hexadecimal digits.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from producer.dates import utc
from producer.model import Headers, Poison, Record, Version
from producer.records import JSON, SPECVERSION, event_time, source_header

Letter = tuple[Version, Poison]
"""A version that cannot be published, and why."""

RESOLVED = "zendesk-dead-letter-resolved"
"""Header of a record without a value that settles an earlier one with the same `ce_id`, and says how."""

_IDENTITY = re.compile(rb"(\d{1,19}|unknown):(\d{1,18}):([0-9a-f]{16})")

_TYPE = ("ce_type", b"com.zendesk.ticket.dead-letter.v1")
_RESOLVED_TYPE = ("ce_type", b"com.zendesk.ticket.dead-letter-resolved.v1")
_BYTES = ("content-type", b"application/octet-stream")


class Letters(Collection[Record]):
    """The dead letters of one page, in its order, as records. `number` is that of the first one, counting from 1 in each
    generation.

    `takes` says whether the topic takes a value, of which else comes the head, `head` bytes of it.
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
    ) -> None:
        self._letters = letters
        self._account = account
        self._page = f"{generation}/{seq}"
        self._generation = generation
        self._number = number
        self._takes = takes
        self._head = head

    def __len__(self) -> int:
        return len(self._letters)

    def __iter__(self) -> Iterator[Record]:
        for index, (version, poison) in enumerate(self._letters):
            place = f"{self._page}/{index}/{len(self)}".encode()
            number = f"{self._generation}/{self._number + index}".encode()
            value, how = version.value, b"whole"
            if not self._takes(value):
                value, how = value[: self._head], b"head"
            headers = [
                *_about(version, self._account, _TYPE),
                JSON if how == b"whole" and poison.reason == "too_large" else _BYTES,
                ("zendesk-page", place),
                ("zendesk-dead-letter-number", number),
                ("zendesk-dead-letter-reason", poison.reason.encode()),
                ("zendesk-dead-letter-detail", poison.detail.encode("ascii", "backslashreplace")[:500]),
                ("zendesk-dead-letter-size", b"%d" % len(version.value)),
                ("zendesk-dead-letter-sha256", hashlib.sha256(version.value).hexdigest().encode()),
                ("zendesk-dead-letter-value", how),
                ("zendesk-dead-letter-fetch", fetch(version, self._account).encode()),
            ]
            yield Record(_key(version), value, headers)

    def __contains__(self, record: object) -> bool:
        return any(record == each for each in self)


def identity_of(headers: Mapping[str, bytes], account: str) -> tuple[str, int | None, int, str] | None:
    """(`ce_id`, ticket id if it has one, stamp, H) of a record of the account in the dead-letter topic; None: it is not ours."""
    found = _IDENTITY.fullmatch(headers.get("ce_id", b""))
    if found is None or headers.get("ce_source") != source_header(account)[1]:
        return None
    id_, stamp, digest = (part.decode() for part in found.groups())
    return found[0].decode(), None if id_ == "unknown" else int(id_), int(stamp), digest


def identity(version: Version) -> str:
    """`ce_id`: as in the tickets topic; where there is no id it begins with `unknown`."""
    return f"{version.id if version.id >= 0 else 'unknown'}:{version.stamp}:{version.digest}"


def fetch(version: Version, account: str) -> str:
    """The request that shows the version again, as long as it is the ticket's newest."""
    return f"https://{account}.zendesk.com/api/v2/incremental/tickets?start_time={version.stamp}"


def resolved(settled: str, account: str, how: str) -> Record:
    """The record that settles the letter with the identity `settled`; `how`: "published", "superseded"."""
    id_, stamp, _ = settled.split(":")
    headers: Headers = [
        SPECVERSION,
        ("ce_id", settled.encode()),
        source_header(account),
        _RESOLVED_TYPE,
        ("ce_time", utc(int(stamp)).encode()),
        (RESOLVED, how.encode()),
    ]
    return Record(id_.encode() if id_.isdigit() else None, b"", headers)


def _key(version: Version) -> bytes | None:
    return b"%d" % version.id if version.id >= 0 else None


def _about(version: Version, account: str, kind: tuple[str, bytes]) -> Headers:
    key = _key(version)
    return [
        SPECVERSION,
        ("ce_id", identity(version).encode()),
        source_header(account),
        kind,
        *([] if key is None else [("ce_subject", key)]),
        ("ce_time", event_time(version).encode()),
        ("ce_sequence", b"%017d" % version.stamp),
    ]
