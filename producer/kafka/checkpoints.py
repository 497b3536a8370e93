"""Reads committed checkpoints: the newest one of a key, up to the high watermark or as far as it is visible now.

The newest is the one that is furthest on. Transactions make that the last one; without them (`kafka.delivery:
at_least_once`) an instance that has slept may append an older one behind it.

Also tells where partitions end, which is how anyone knows that a topic is still the one it was.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from producer.kafka.connection import disconnect
from producer.kafka.failures import ASK, within
from producer.model import Checkpoint

_FIRST_LOOK = 200
"""Records from the end that are looked at first; usually our newest checkpoint is among them."""


def checkpoint_key(account: str, stream: str) -> bytes:
    """The key of an account's checkpoints."""
    return f"{account}/{stream}".encode()


class _Place(msgspec.Struct):
    """Of a checkpoint, what tells which of two is further on."""

    generation: int
    seq: int


def place(checkpoint: Checkpoint | _Place) -> tuple[int, int]:
    """How far on a checkpoint is."""
    return checkpoint.generation, checkpoint.seq


class Found(NamedTuple):
    """The newest checkpoint of a key, and whether it is the key's last record too: that is the one that compaction keeps."""

    checkpoint: Checkpoint
    last: bool


class CheckpointReader:
    """Reads the checkpoint topic `read_committed`. Fetches only while it is asked for something. Use `open_reader`."""

    def __init__(self, options: dict[str, Any], topic: str) -> None:
        self._topic = topic
        # Two, because the isolation level decides which end a broker names: of what is written, or of what is decided.
        self._ends = AIOKafkaConsumer(**options, enable_auto_commit=False, isolation_level="read_uncommitted")
        self._consumer = AIOKafkaConsumer(
            **options,
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="none",
            fetch_max_wait_ms=100,  # a fetch that waits blocks the connection for the next question
        )

    async def start(self) -> None:
        """Connect."""
        await self._ends.start()
        await self._consumer.start()

    async def close(self) -> None:
        """Disconnect."""
        for consumer in (self._ends, self._consumer):
            await disconnect(consumer)

    async def high_watermarks(self, topic: str, partitions: int) -> tuple[int, ...]:
        """Where each partition of any topic ends, committed or not."""
        asked = [TopicPartition(topic, partition) for partition in range(partitions)]
        ends = await self._ends.end_offsets(asked)
        return tuple(ends[partition] for partition in asked)

    async def stable_end(self, partition: int) -> int:
        """The last stable offset: where what is visible now ends."""
        asked = TopicPartition(self._topic, partition)
        return int((await self._consumer.end_offsets([asked]))[asked])

    async def newest(self, partition: int, key: bytes, end: int, held: Checkpoint | None = None) -> Checkpoint | None:
        """The newest committed checkpoint of the key before offset `end`; None when there is none.

        With the high watermark as `end` it waits until every transaction before it is decided, for as long as it takes:
        another writer's open transaction hides newer checkpoints of ours (README, "Non-obvious"). Looks near the end
        first and ever further back, until it finds one, and none that is behind `held`.

        Raises:
            Misconfigured: the record cannot be read.
        """
        asked = TopicPartition(self._topic, partition)
        begin = int((await self._consumer.beginning_offsets([asked]))[asked])
        look = _FIRST_LOOK
        while True:
            start = max(begin, end - look)
            found = await self.newest_between(partition, key, start, end)
            if start <= begin or (found is not None and (held is None or place(found.checkpoint) >= place(held))):
                return None if found is None else found.checkpoint
            look *= 8

    async def newest_anywhere(self, key: bytes, ends: Sequence[int]) -> tuple[int, Checkpoint] | None:
        """As `newest`, in the first partition that has one, and that partition. `ends` are the high watermarks."""
        for partition, end in enumerate(ends):
            if (found := await self.newest(partition, key, end)) is not None:
                return partition, found
        return None

    async def newest_between(self, partition: int, key: bytes, start: int, end: int) -> Found | None:
        """The newest committed checkpoint of the key with an offset from `start` to before `end`."""
        if start >= end:
            return None
        asked = TopicPartition(self._topic, partition)
        value: bytes | None = None
        last = True
        furthest: tuple[int, int] | None = None  # None as well where a record cannot be read: the next one counts then
        self._consumer.assign([asked])
        try:
            self._consumer.seek(asked, start)
            # The position passes the marker of a last transaction only with another call (aiokafka issue 911): hence a
            # loop on the position, not on records.
            while await self._consumer.position(asked) < end:
                fetched: Sequence[Any] = (await self._consumer.getmany(asked, timeout_ms=100)).get(asked, ())
                for record in fetched:
                    if record.key == key and record.offset < end:
                        at = _place_of(record.value)
                        last = at is None or furthest is None or at >= furthest
                        if last:
                            value, furthest = record.value, at
        finally:
            self._consumer.unsubscribe()
        return None if value is None else Found(Checkpoint.from_bytes(value), last)


def _place_of(value: bytes | None) -> tuple[int, int] | None:
    try:
        return place(msgspec.json.decode(value or b"", type=_Place))
    except msgspec.DecodeError:
        return None


@asynccontextmanager
async def open_reader(options: dict[str, Any], topic: str) -> AsyncIterator[CheckpointReader]:
    """A connected reader of the checkpoint topic.

    Raises:
        SessionOver, Refused: as from `within`.
    """
    reader = CheckpointReader(options, topic)
    try:
        async with within(ASK, "connect"):
            await reader.start()
        yield reader
    finally:
        await reader.close()
