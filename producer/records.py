"""Turns a page into the Kafka records of its stream's topic: key, value, headers, tombstones. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from producer.dates import utc
from producer.model import Headers, Record, Version
from producer.streams import TICKETS, Stream
from producer.system_updates import is_system_update, zendesk_time

# Headers that say the same in every record, and so are one object in all of them.
SPECVERSION = ("ce_specversion", b"1.0")
JSON = ("content-type", b"application/json")
_SYSTEM_UPDATE = ("zendesk-system-update", b"true")


class Records(Collection[Record]):
    """The records of one page, in the order of its versions; a deleted ticket's event is followed by its tombstone.

    Everything in them follows from the API's answer and the page's place in the history, so a page that is fetched again
    after a crash gives the same records. Headers are CloudEvents 1.0 in binary mode, then `zendesk-page`, and, with
    `mark_system_updates`, `zendesk-system-update` where it is one.

    A record is made when its turn comes and is gone once it is in its batch: a page's worth of them, each with its dozen
    objects, is never in memory (docs/performance.md).
    """

    def __init__(
        self,
        versions: Sequence[Version],
        *,
        account: str,
        generation: int,
        seq: int,
        tombstones: bool,
        mark_system_updates: bool = False,
        stream: Stream = TICKETS,
    ) -> None:
        self._versions = versions
        self._tombstones = tombstones
        self._mark = mark_system_updates
        self._source = source_header(account, stream)
        self._upserted = type_header(stream, "upserted")
        self._deleted = type_header(stream, "deleted")
        self._page = f"{generation}/{seq}"
        self._count = len(versions) + (sum(version.deleted for version in versions) if tombstones else 0)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Record]:
        index = 0
        for version in self._versions:
            for tombstone in (False, True) if version.deleted and self._tombstones else (False,):
                yield self._record(version, tombstone, f"{self._page}/{index}/{self._count}".encode())
                index += 1

    def __contains__(self, record: object) -> bool:
        return any(record == each for each in self)

    def _record(self, version: Version, tombstone: bool, page: bytes) -> Record:
        key = b"%d" % (version.id if version.about is None else version.about)
        identity = f"{version.id}:{version.stamp}:{version.digest}"
        headers: Headers = [
            SPECVERSION,
            ("ce_id", (identity + ":tombstone" if tombstone else identity).encode()),
            self._source,
            self._deleted if version.deleted else self._upserted,
            ("ce_subject", b"%d" % version.id),
            ("ce_time", event_time(version).encode()),
            JSON,
            ("ce_sequence", b"%017d" % version.stamp),
            ("zendesk-page", page),
        ]
        if self._mark and is_system_update(version):
            headers.append(_SYSTEM_UPDATE)
        return Record(key, None if tombstone else version.value, headers)


def source_header(account: str, stream: Stream) -> tuple[str, bytes]:
    """`ce_source`: the export that the rows come from."""
    return "ce_source", f"https://{account}.zendesk.com/api/v2/{stream.path}".encode()


def type_header(stream: Stream, what: str) -> tuple[str, bytes]:
    """`ce_type` of what has become of a row."""
    return "ce_type", f"com.zendesk.{stream.record}.{what}.v1".encode()


def event_time(version: Version) -> str:
    """RFC 3339: the ticket's `updated_at` where it looks as Zendesk writes it, else its stamp. Never foreign text."""
    return zendesk_time(version.updated_at) or utc(version.stamp)
