"""Wraps one aiokafka producer so that what it cannot promise is never relied on.

aiokafka 0.14 commits a transaction although some of its records failed, retries an EndTxn whose answer was lost (so that
the late one may end a later transaction), and may wait for ever in nearly every call. Hence:

- `send` hands back the futures, and whoever commits has awaited every one of them;
- an EndTxn that got no answer kills the producer at once instead of being retried: what became of it, only the next
  session knows, since its `start` fences this one first;
- a Produce or AddPartitionsToTxn that got no answer marks the producer `worn`: the transaction may finish (idempotence
  covers it), but there must be no other one after it;
- `aclose` never asks the broker for anything.

It reaches into private parts of aiokafka; tests/test_transactions.py holds them to what is assumed here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import AddPartitionsToTxnRequest, EndTxnRequest
from aiokafka.structs import RecordMetadata

from producer.kafka.batches import BATCH_BYTES, Batch, into_batches
from producer.model import Record

TRANSACTION_TIMEOUT_MS = 60_000
"""How long a transaction of a killed instance may hold back the topic's readers."""

_FAREWELL = 0.5

Sent = asyncio.Future[RecordMetadata]
"""The acknowledgement of a batch."""


class _OutcomeUnknown(Exception):
    """No answer to an EndTxn. Not a KafkaError on purpose: those aiokafka swallows and tries again."""


def _looked_at(future: asyncio.Future[Any] | None) -> None:
    """Keep asyncio from reporting a failure that nobody awaits any more because an earlier one ended the session."""
    if future is not None and future.done() and not future.cancelled():
        future.exception()


class TransactionalProducer:
    """One epoch of one transactional id. Never reused after an error."""

    def __init__(self, options: dict[str, Any], transactional_id: str) -> None:
        self.worn = False
        self._producer = AIOKafkaProducer(
            **options,
            client_id=transactional_id,
            transactional_id=transactional_id,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            compression_type="zstd",
            max_batch_size=BATCH_BYTES,
            max_request_size=2**31 - 1,  # per record; what is too large for the topic, the broker says
        )
        self._send = self._producer.client.send
        self._producer.client.send = self._watched_send  # type: ignore[method-assign]

    async def start(self) -> None:
        """Fence every older producer of the id and wait until its last transaction is decided. No deadline of its own."""
        await self._producer.start()

    async def warm(self, *topics: str) -> None:
        """Learn the topics' partitions before a transaction begins: `send_batch` must not wait for them inside one."""
        for topic in topics:
            await self._producer.client._wait_on_metadata(topic)

    async def begin(self) -> None:
        """Begin a transaction; the broker hears of it with the first record."""
        await self._producer.begin_transaction()

    async def send(
        self, topic: str, records: Iterable[Record], partitions: int, most: int = BATCH_BYTES
    ) -> list[tuple[Batch, Sent]]:
        """Hand over records in batches of `most` bytes; each comes with a future of its base offset, -1 for "written before"."""
        batches = into_batches(records, partitions, most)
        return [(batch, await self._send_batch(topic, batch)) for batch in batches]

    async def send_to(self, topic: str, partition: int, record: Record) -> Sent:
        """Hand over one record for a partition that its key does not decide."""
        batch = Batch(partition)
        batch.add(record)
        return await self._send_batch(topic, batch)

    async def _send_batch(self, topic: str, batch: Batch) -> Sent:
        batch.builder.close()
        future: Sent = await self._producer.send_batch(batch.builder, topic, partition=batch.partition)
        future.add_done_callback(_looked_at)
        return future

    async def commit(self) -> None:
        """Commit. Only after every future of the transaction was awaited: aiokafka itself does not look at them."""
        await self._producer.commit_transaction()

    async def aclose(self) -> None:
        """Drop every connection and task, at once. An open transaction is ended by the next session, or by the broker."""
        sender, client = self._producer._sender.sender_task, self._producer.client
        tasks = [task for task in (sender, client._sync_task) if task is not None]
        for task in tasks:
            task.cancel()
        for connection in list(client._conns.values()):
            connection.close()
        if tasks:
            await asyncio.wait(tasks, timeout=_FAREWELL)
        accumulator = self._producer._message_accumulator
        unsent = [batch for batches in accumulator._batches.values() for batch in batches]
        waiters = [batch._drain_waiter for batch in (*unsent, *accumulator._pending_batches)]
        for future in (*tasks, *waiters, self._producer._txn_manager._transaction_waiter):
            _looked_at(future)
        client._sync_task = None
        self._producer._closed = True

    async def _watched_send(self, node_id: Any, request: Any, **kwargs: Any) -> Any:
        try:
            return await self._send(node_id, request, **kwargs)  # type: ignore[no-untyped-call]
        except Exception as error:
            if isinstance(request, EndTxnRequest):
                raise _OutcomeUnknown("no answer to the end of the transaction") from error
            if isinstance(request, ProduceRequest | AddPartitionsToTxnRequest):
                self.worn = True
            raise
