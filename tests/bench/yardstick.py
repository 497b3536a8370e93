"""The yardstick: the least that gets the same pages into the same topics in transactions, with the same libraries.

One request, one page, one transaction with a checkpoint in it; nothing is looked at twice, retried, told, remembered or
recovered, and no acknowledgement is awaited before the commit. Shares no code with the service.
Run as `python -m tests.bench.yardstick BASE_URL START_TIME BOOTSTRAP_SERVERS TICKETS_TOPIC CHECKPOINTS_TOPIC`.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import aiohttp
import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2
from aiokafka.producer.message_accumulator import BatchBuilder


class Envelope(msgspec.Struct):
    """A page."""

    tickets: list[msgspec.Raw]
    end_of_stream: bool
    end_time: int


class Head(msgspec.Struct):
    """What must be known of a ticket to publish it."""

    id: int
    generated_timestamp: int


async def publish(base_url: str, position: int, servers: str, tickets: str, checkpoints: str) -> None:
    """Publish every page from `position` (Unix seconds) to the end of the stream."""
    pages, heads = msgspec.json.Decoder(Envelope), msgspec.json.Decoder(Head)
    producer = AIOKafkaProducer(
        bootstrap_servers=servers, transactional_id=tickets, compression_type="zstd", max_batch_size=1_000_000
    )
    async with aiohttp.ClientSession(base_url, headers={"Accept-Encoding": "gzip"}) as session, producer:
        partitions = len(await producer.partitions_for(tickets))
        await producer.partitions_for(checkpoints)
        seq, ended = 0, False
        while not ended:
            query = {"start_time": position, "per_page": 1_000}
            async with session.get("/api/v2/incremental/tickets", params=query) as response:
                page = pages.decode(await response.read())
            async with producer.transaction():
                batches: dict[int, BatchBuilder] = {}
                for raw in page.tickets:
                    key = b"%d" % heads.decode(raw).id
                    partition = (murmur2(key) & 0x7FFFFFFF) % partitions
                    batch = batches.get(partition) or batches.setdefault(partition, producer.create_batch())
                    if batch.append(key=key, value=bytes(raw), timestamp=None) is None:  # full
                        await producer.send_batch(batch, tickets, partition=partition)
                        batches[partition] = batch = producer.create_batch()
                        batch.append(key=key, value=bytes(raw), timestamp=None)
                for partition, batch in batches.items():
                    await producer.send_batch(batch, tickets, partition=partition)
                seq, position, ended = seq + 1, page.end_time, page.end_of_stream
                checkpoint = producer.create_batch()
                value = msgspec.json.encode({"seq": seq, "end_time": position})
                checkpoint.append(key=b"acme/tickets", value=value, timestamp=None)
                await producer.send_batch(checkpoint, checkpoints, partition=0)


if __name__ == "__main__":
    signal.alarm(120)  # should whoever started it be gone, and the broker too
    base_url, start, *rest = sys.argv[1:]
    asyncio.run(publish(base_url, int(start), *rest))
