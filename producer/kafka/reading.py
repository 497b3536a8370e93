"""Reads a topic as a `read_committed` consumer does, from given offsets up to others or as far as transactions let it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord

from producer.errors import SessionOver
from producer.kafka.connection import disconnect
from producer.kafka.failures import ASK, within

ConsumerRecords = Sequence[ConsumerRecord[bytes, bytes]]

_AT_ONCE = 100
"""Records in memory at a time: with values of at most some 1.5 MB each, the limit of a ticket."""


class TopicReader:
    """A topic, to be read more than once. Use `open_topic`."""

    def __init__(self, consumer: AIOKafkaConsumer, topic: str) -> None:
        self._consumer = consumer
        self._topic = topic

    async def read(
        self,
        spans: Mapping[int, tuple[int, int]],
        take: Callable[[int, ConsumerRecords], None],
        patience: float,
    ) -> dict[int, int]:
        """Hand over the committed records of each partition, from an offset to before another one.

        Waits at open transactions until they are decided. When nothing has moved for `patience` seconds, it ends and
        answers, by partition, where the last stable offset stays below the end: nobody can read on from there.

        Raises:
            SessionOver: Kafka failed.
            Refused: no right to read the topic.
        """
        ends = {TopicPartition(self._topic, p): end for p, (start, end) in spans.items() if start < end}
        if not ends:
            return {}  # aiokafka's `stop` hangs when nothing is assigned while a fetch is under way
        self._consumer.assign(list(ends))
        for asked in ends:
            self._consumer.seek(asked, spans[asked.partition][0])
        moved, positions = time.monotonic(), dict.fromkeys(ends, -1)
        while positions:
            async with within(ASK, f"read topic {self._topic}"):
                fetched: Mapping[Any, ConsumerRecords] = await self._consumer.getmany(
                    *positions, timeout_ms=200, max_records=_AT_ONCE
                )
                for asked, records in fetched.items():
                    if records[-1].offset >= ends[asked]:
                        records = [record for record in records if record.offset < ends[asked]]
                    take(asked.partition, records)
                # The position passes the marker of a last transaction only with another call (aiokafka issue 911): hence
                # a loop on positions, not on records.
                before, positions = positions, {asked: await self._consumer.position(asked) for asked in positions}
                if positions != before:
                    moved = time.monotonic()
                for asked in [asked for asked, position in positions.items() if position >= ends[asked]]:
                    del positions[asked]
                    self._consumer.pause(asked)
                if positions and time.monotonic() - moved > patience:
                    stable: dict[Any, int] = await self._consumer.end_offsets(list(positions))
                    if any(stable[asked] >= ends[asked] for asked in positions):
                        raise SessionOver(f"Kafka: topic {self._topic} could not be read for {patience:g} s")
                    return {asked.partition: end for asked, end in stable.items()}
        return {}

    async def ends(self, partitions: int) -> dict[int, int]:
        """Where each partition ends, as far as transactions are decided."""
        asked = [TopicPartition(self._topic, partition) for partition in range(partitions)]
        async with within(ASK, f"ask where topic {self._topic} ends"):
            ends = await self._consumer.end_offsets(asked)
        return {each.partition: int(ends[each]) for each in asked}


@asynccontextmanager
async def open_topic(options: dict[str, Any], topic: str) -> AsyncIterator[TopicReader]:
    """A reader of the topic that commits nothing and belongs to no group."""
    consumer = AIOKafkaConsumer(
        **options,
        enable_auto_commit=False,
        isolation_level="read_committed",
        auto_offset_reset="earliest",  # the first offset asked for may have been deleted
    )
    try:
        async with within(ASK, "connect"):
            await consumer.start()
        yield TopicReader(consumer, topic)
    finally:
        await disconnect(consumer)
