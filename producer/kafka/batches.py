"""Puts the records of a page into batches per partition, as a Java producer with the default partitioner would place them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aiokafka.partitioner import murmur2
from aiokafka.producer.message_accumulator import BatchBuilder

from producer.model import Record

BATCH_BYTES = 1_000_000
"""Uncompressed size of a batch, below the 1,048,588 bytes that brokers accept by default."""


class Batch:
    """A batch for one partition. `records` are in it; `largest` is the key of the largest one and its size in bytes."""

    __slots__ = ("builder", "largest", "partition", "records")

    def __init__(self, partition: int, builder: BatchBuilder) -> None:
        self.partition = partition
        self.builder = builder
        self.records = 0
        self.largest = (b"", 0)

    def add(self, record: Record) -> bool:
        """Take a record, or answer False: it is full. An empty batch takes a record of any size."""
        # aiokafka says by this None alone that it did not take it: who does not look loses the record in silence.
        taken = self.builder.append(key=record.key, value=record.value, timestamp=None, headers=record.headers)
        if taken is None:
            return False
        self.records += 1
        if taken.size > self.largest[1]:
            self.largest = record.key, taken.size
        return True


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key: murmur2, positive, modulo. The same as the Java client's default."""
    return int(murmur2(key) & 0x7FFFFFFF) % partitions


def into_batches(records: Iterable[Record], partitions: int, new: Callable[[], BatchBuilder]) -> list[Batch]:
    """Batches with all of the records, in their order within each partition. `new` makes an empty builder."""
    batches: list[Batch] = []
    filling: dict[int, Batch] = {}
    for record in records:
        partition = partition_of(record.key, partitions)
        batch = filling.get(partition)
        if batch is None or not batch.add(record):
            batch = filling[partition] = Batch(partition, new())
            batches.append(batch)
            taken = batch.add(record)
            assert taken, "an empty batch takes any record"
    return batches
