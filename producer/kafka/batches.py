"""Puts the records of a page into batches per partition, as a Java producer with the default partitioner would place them."""

from __future__ import annotations

from collections.abc import Iterable

from aiokafka.partitioner import murmur2
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatch

from producer.model import Record

BATCH_BYTES = 1_000_000
"""Uncompressed size of a batch, below the 1,048,588 bytes that brokers accept by default."""


class Batch:
    """A batch for one partition, of `most` bytes before compression. `records` are in it."""

    __slots__ = ("builder", "partition", "records")

    def __init__(self, partition: int, most: int = BATCH_BYTES, *, transactional: bool = True) -> None:
        self.partition = partition
        self.builder = BatchBuilder(most, DefaultRecordBatch.CODEC_ZSTD, is_transactional=int(transactional))
        self.records = 0

    def add(self, record: Record) -> bool:
        """Take a record, or answer False: it is full. An empty batch takes a record of any size."""
        # aiokafka says by this None alone that it did not take it: who does not look loses the record in silence.
        taken = self.builder.append(key=record.key, value=record.value, timestamp=None, headers=record.headers)
        if taken is None:
            return False
        self.records += 1
        return True

    @property
    def size(self) -> int:
        """Bytes as the broker counts them, compressed. Nothing more can be added then."""
        return len(self.builder._build())


def size_alone(record: Record) -> int:
    """Bytes, compressed, of a batch with this record alone: the smallest that it can be in."""
    batch = Batch(0)
    batch.add(record)
    return batch.size


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key: murmur2, positive, modulo. The same as the Java client's default."""
    return int(murmur2(key) & 0x7FFFFFFF) % partitions


def into_batches(
    records: Iterable[Record], partitions: int, most: int = BATCH_BYTES, *, transactional: bool = True
) -> list[Batch]:
    """Batches of `most` bytes with all of the records, in their order within each partition."""
    batches: list[Batch] = []
    filling: dict[int, Batch] = {}
    for record in records:
        partition = partition_of(record.key or b"", partitions)
        batch = filling.get(partition)
        if batch is None or not batch.add(record):
            batch = filling[partition] = Batch(partition, most, transactional=transactional)
            batches.append(batch)
            taken = batch.add(record)
            assert taken, "an empty batch takes any record"
    return batches
