"""Turns a page into the Kafka records of the tickets topic: key, value, headers, tombstones. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from producer.dates import utc
from producer.model import Headers, Record, Version

_ZENDESK_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_UPSERTED = b"com.zendesk.ticket.upserted.v1"
_DELETED = b"com.zendesk.ticket.deleted.v1"


def to_records(
    versions: Iterable[Version], *, account: str, generation: int, seq: int, tombstones: bool
) -> list[Record]:
    """The records of one page, in the order of its versions; a deleted ticket's event is followed by its tombstone.

    Everything in them follows from the API's answer and the page's place in the history, so a page that is fetched again
    after a crash gives the same records. Headers are CloudEvents 1.0 in binary mode, then `zendesk-page`.
    """
    source = f"https://{account}.zendesk.com/api/v2/incremental/tickets".encode()
    planned: list[tuple[Version, bool]] = []
    for version in versions:
        planned.append((version, False))
        if version.deleted and tombstones:
            planned.append((version, True))
    return [
        _record(version, tombstone, source, f"{generation}/{seq}/{index}/{len(planned)}".encode())
        for index, (version, tombstone) in enumerate(planned)
    ]


def _record(version: Version, tombstone: bool, source: bytes, page: bytes) -> Record:
    key = b"%d" % version.id
    identity = f"{version.id}:{version.stamp}:{version.digest}"
    headers: Headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", (identity + ":tombstone" if tombstone else identity).encode()),
        ("ce_source", source),
        ("ce_type", _DELETED if version.deleted else _UPSERTED),
        ("ce_subject", key),
        ("ce_time", event_time(version).encode()),
        ("content-type", b"application/json"),
        ("ce_sequence", b"%017d" % version.stamp),
        ("zendesk-page", page),
    ]
    return Record(key, None if tombstone else version.value, headers)


def event_time(version: Version) -> str:
    """RFC 3339: the ticket's `updated_at` where it looks as Zendesk writes it, else its stamp. Never foreign text."""
    if version.updated_at is not None and _ZENDESK_TIME.fullmatch(version.updated_at):
        return version.updated_at
    return utc(version.stamp)
