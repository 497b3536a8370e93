"""Turns a page into the Kafka records of the tickets topic: key, value, headers, tombstones. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from producer.dates import utc
from producer.model import Headers, Record, Version

_ZENDESK_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

# Headers that say the same in every record, and so are one object in all of them.
_SPECVERSION = ("ce_specversion", b"1.0")
_UPSERTED = ("ce_type", b"com.zendesk.ticket.upserted.v1")
_DELETED = ("ce_type", b"com.zendesk.ticket.deleted.v1")
_JSON = ("content-type", b"application/json")


class Records(Collection[Record]):
    """The records of one page, in the order of its versions; a deleted ticket's event is followed by its tombstone.

    Everything in them follows from the API's answer and the page's place in the history, so a page that is fetched again
    after a crash gives the same records. Headers are CloudEvents 1.0 in binary mode, then `zendesk-page`.

    A record is made when its turn comes and is gone once it is in its batch: a page's worth of them, each with its dozen
    objects, is never in memory (docs/performance.md).
    """

    def __init__(
        self, versions: Sequence[Version], *, account: str, generation: int, seq: int, tombstones: bool
    ) -> None:
        self._versions = versions
        self._tombstones = tombstones
        self._source = ("ce_source", f"https://{account}.zendesk.com/api/v2/incremental/tickets".encode())
        self._page = f"{generation}/{seq}"
        self._count = len(versions) + (sum(version.deleted for version in versions) if tombstones else 0)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Record]:
        index = 0
        for version in self._versions:
            for tombstone in (False, True) if version.deleted and self._tombstones else (False,):
                place = f"{self._page}/{index}/{self._count}".encode()
                yield _record(version, tombstone, self._source, place)
                index += 1

    def __contains__(self, record: object) -> bool:
        return any(record == each for each in self)


def _record(version: Version, tombstone: bool, source: tuple[str, bytes], page: bytes) -> Record:
    key = b"%d" % version.id
    identity = f"{version.id}:{version.stamp}:{version.digest}"
    headers: Headers = [
        _SPECVERSION,
        ("ce_id", (identity + ":tombstone" if tombstone else identity).encode()),
        source,
        _DELETED if version.deleted else _UPSERTED,
        ("ce_subject", key),
        ("ce_time", event_time(version).encode()),
        _JSON,
        ("ce_sequence", b"%017d" % version.stamp),
        ("zendesk-page", page),
    ]
    return Record(key, None if tombstone else version.value, headers)


def event_time(version: Version) -> str:
    """RFC 3339: the ticket's `updated_at` where it looks as Zendesk writes it, else its stamp. Never foreign text."""
    if version.updated_at is not None and _ZENDESK_TIME.fullmatch(version.updated_at):
        return version.updated_at
    return utc(version.stamp)
