"""Turns the records of a page into batches per partition, as a Java producer with the default partitioner would place them."""

from __future__ import annotations

from collections.abc import Iterable

from aiokafka.partitioner import murmur2

from producer.model import Record

BATCH_BYTES = 1_000_000
"""Uncompressed size of a batch, below the 1,048,588 bytes that brokers accept by default."""

_OVERHEAD = 64  # upper bound of a record's framing, less its headers' own

Batch = list[Record]


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key: murmur2, positive, modulo. The same as the Java client's default."""
    return int(murmur2(key) & 0x7FFFFFFF) % partitions


def batches_by_partition(records: Iterable[Record], partitions: int) -> dict[int, list[Batch]]:
    """Records grouped by partition, in their order, cut into batches of at most BATCH_BYTES (or of one larger record)."""
    placed: dict[int, list[Batch]] = {}
    filled: dict[int, int] = {}
    for record in records:
        partition = partition_of(record.key, partitions)
        size = record_size(record)
        if partition not in placed:
            placed[partition], filled[partition] = [[]], 0
        elif filled[partition] + size > BATCH_BYTES:
            placed[partition].append([])
            filled[partition] = 0
        placed[partition][-1].append(record)
        filled[partition] += size
    return placed


def record_size(record: Record) -> int:
    """An upper bound of the bytes that a record takes in a batch."""
    headers = sum(len(name) + len(value) + 10 for name, value in record.headers)
    return _OVERHEAD + len(record.key) + len(record.value or b"") + headers
