"""Understands a record of the tickets topic by its headers. Pure."""

from __future__ import annotations

import hashlib
import re

from aiokafka.structs import ConsumerRecord

from producer.dates import seconds
from producer.verify.store import Record

_CE_ID = re.compile(rb"(\d{1,19}):(-?\d{1,18}):([0-9a-f]{16})(:tombstone)?")
_PAGE = re.compile(rb"(\d{1,18})/(\d{1,18})/(\d{1,18})/(\d{1,18})")


def understand(
    record: ConsumerRecord[bytes, bytes], partition: int, source: bytes, *, keyed: bool = False
) -> Record | None:
    """A row for the store; None when the record is not one of ours.

    Ours have the headers `ce_id` and `zendesk-page` of the message contract, and a `ce_source` that begins with `source`.
    Altered: the value's SHA-256 is not the H of `ce_id`, a tombstone has a value, or the key is not the id. Where field
    rules apply, H is `keyed` and says nothing of the value.
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
        altered or record.key != id_,
        seconds((headers.get("ce_time") or b"").decode("ascii", "replace")),
    )
