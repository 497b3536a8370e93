"""Understands a record of a stream's topic by its headers. Pure."""

from __future__ import annotations

import hashlib
import re

from aiokafka.structs import ConsumerRecord

from producer.dates import seconds
from producer.streams import Stream
from producer.verify.store import Record
from producer.zendesk.rows import read_row

_CE_ID = re.compile(rb"(\d{1,19}):(-?\d{1,18}):([0-9a-f]{16})(:tombstone)?")
_PAGE = re.compile(rb"(\d{1,18})/(\d{1,18})/(\d{1,18})/(\d{1,18})")


def understand(
    record: ConsumerRecord[bytes, bytes], partition: int, source: bytes, stream: Stream, *, keyed: bool = False
) -> Record | None:
    """A row for the store; None when the record is not one of ours.

    Ours have the headers `ce_id` and `zendesk-page` of the message contract, and a `ce_source` that begins with `source`.
    Altered: the value's SHA-256 is not the H of `ce_id`, a tombstone has a value, or the key is not that of the row. Where
    field rules apply, H is `keyed` and says nothing of the value, which may lack the id of an event's ticket, too.
    """
    headers = dict(record.headers)
    identity = _CE_ID.fullmatch(headers.get("ce_id") or b"")
    page = _PAGE.fullmatch(headers.get("zendesk-page") or b"")
    if identity is None or page is None or not (headers.get("ce_source") or b"").startswith(source):
        return None
    id_, stamp, digest, tombstone = identity.groups()
    generation, seq, index, count = map(int, page.groups())
    claimed, value = bytes.fromhex(digest.decode()), record.value
    if tombstone is not None:
        altered = value is not None
    else:
        altered = value is None or not (keyed or hashlib.sha256(value).digest()[:8] == claimed)
    return (
        int(id_),
        int(stamp),
        claimed,
        tombstone is not None,
        generation,
        seq,
        index,
        count,
        partition,
        record.offset,
        record.timestamp,
        altered or not (record.key == _key(record.value, id_, stream) or (keyed and stream.events)),
        seconds((headers.get("ce_time") or b"").decode("ascii", "replace")),
    )


def _key(value: bytes | None, id_: bytes, stream: Stream) -> bytes:
    """The key that a row's record must have: its id; of an event, which says nothing without its ticket, the ticket's."""
    about = read_row(value, stream.name).about if stream.events and value is not None else None
    return id_ if about is None else b"%d" % about
