"""Wraps one aiokafka producer so that what it cannot promise is never relied on.

What the two ways to deliver have in common: `send` hands back the acknowledgements, and whoever commits has awaited
every one of them; a request that may have changed something and got no answer marks the producer `worn`, and it is not
used for another page; `aclose` never asks the broker for anything, since aiokafka may wait for ever in nearly every call.

It reaches into private parts of aiokafka; tests/test_transactions.py and tests/test_delivery.py hold them to what is
assumed here.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

from aiokafka import AIOKafkaProducer
from aiokafka.structs import RecordMetadata

from producer.kafka.batches import BATCH_BYTES, Batch, into_batches
from producer.kafka.connection import cut_off
from producer.model import Record

_FAREWELL = 0.5

Sent = asyncio.Future[RecordMetadata]
"""The acknowledgement of a batch."""


class OutcomeUnknown(Exception):
    """No answer to a request that must not be repeated. Not a KafkaError on purpose: aiokafka tries again after those."""


def _looked_at(future: asyncio.Future[Any] | None) -> None:
    """Keep asyncio from reporting a failure that nobody awaits any more because an earlier one ended the session."""
    if future is not None and future.done() and not future.cancelled():
        future.exception()


class Producer(ABC):
    """What a session needs of either way to deliver. Never reused after an error.

    `transactional`: Kafka keeps older instances from committing, and writes a marker behind each page in each partition.
    `caveat`: what a person must be told of this way to deliver, known after `start`. `worn`: see above.
    """

    transactional: ClassVar[bool]

    def __init__(self, options: dict[str, Any], **more: Any) -> None:
        self.worn = False
        self.caveat = ""
        self._use(options, **more)

    def _use(self, options: dict[str, Any], **more: Any) -> None:
        self._producer = AIOKafkaProducer(
            **options,
            **more,
            compression_type="zstd",
            max_batch_size=BATCH_BYTES,
            max_request_size=2**31 - 1,  # per record; what is too large for the topic, the broker says
        )
        self._send = self._producer.client.send
        self._producer.client.send = self._watched_send  # type: ignore[method-assign]

    @abstractmethod
    async def start(self) -> None:
        """Connect, once nobody who had the lock before can commit any more, as far as Kafka can see to that."""

    async def warm(self, *topics: str) -> None:
        """Learn the topics' partitions beforehand: `send_batch` must not wait for them while a page is under way."""
        for topic in topics:
            await self._producer.client._wait_on_metadata(topic)

    @abstractmethod
    async def begin(self) -> None:
        """Begin a page."""

    async def send(
        self, topic: str, records: Iterable[Record], partitions: int, most: int = BATCH_BYTES
    ) -> list[tuple[Batch, Sent]]:
        """Hand over records in batches of `most` bytes; each comes with a future of its base offset, -1 for "written before"."""
        batches = into_batches(records, partitions, most, transactional=self.transactional)
        return [(batch, await self._send_batch(topic, batch)) for batch in batches]

    async def send_to(self, topic: str, partition: int, record: Record) -> Sent:
        """Hand over one record for a partition that its key does not decide."""
        batch = Batch(partition, transactional=self.transactional)
        batch.add(record)
        return await self._send_batch(topic, batch)

    async def _send_batch(self, topic: str, batch: Batch) -> Sent:
        batch.builder.close()
        future: Sent = await self._producer.send_batch(batch.builder, topic, partition=batch.partition)
        future.add_done_callback(_looked_at)
        return future

    @abstractmethod
    async def commit(self) -> None:
        """End a page. Only after every one of its futures was awaited: aiokafka itself does not look at them."""

    async def aclose(self) -> None:
        """Drop every connection and task, at once. What is under way may still reach the broker."""
        sender, client = self._producer._sender.sender_task, self._producer.client
        tasks = [task for task in (sender, client._sync_task) if task is not None]
        for task in tasks:
            task.cancel()
        cut_off(client)
        if tasks:
            await asyncio.wait(tasks, timeout=_FAREWELL)
        accumulator = self._producer._message_accumulator
        unsent = [batch for batches in accumulator._batches.values() for batch in batches]
        waiters = [batch._drain_waiter for batch in (*unsent, *accumulator._pending_batches)]
        transactions = self._producer._txn_manager
        for future in (*tasks, *waiters, transactions and transactions._transaction_waiter):
            _looked_at(future)
        client._sync_task = None
        self._producer._closed = True

    async def _watched_send(self, node_id: Any, request: Any, **kwargs: Any) -> Any:
        try:
            return await self._send(node_id, request, **kwargs)  # type: ignore[no-untyped-call]
        except Exception as error:
            self._unanswered(request, error)
            raise

    @abstractmethod
    def _unanswered(self, request: Any, error: Exception) -> None:
        """A request got no answer. Raises OutcomeUnknown where aiokafka must not ask again."""
