"""Seconds with up to 100,000 tickets of 2 KB: how the service gets past them, and in how much memory.

Exit code 1 when a goal is missed. Run as `python -m tests.bench.pinned`; with `serve SHAPE` it is the far end.
"""

from __future__ import annotations

import asyncio
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from confluent_kafka import Consumer

from producer.sandbox.broker import Cluster, provision
from tests.bench.measure import measure
from tests.bench.parts import environment, serving, until_input_ends

TICKET_BYTES = 2_000
SHAPES = {
    "too large": (100_000, 300.0),
    "stuck": (100_000, 300.0),
    "taken whole": (31_000, 100.0 + 3 * 62),
}
"""Tickets in the second, and the most MB that the service may take. One page with all of it, which is over the cap; the
first thousand of it again and again; one page with all of it, of 62 MB, just below the cap."""

CHECKPOINT_BYTES = 512 * 1024
NOW = 1_800_000_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run came to."""

    shape: str
    seconds: float
    peak: float
    checkpoint: int
    tickets: int

    @property
    def met(self) -> bool:
        """Whether it is within the goals. A peak that cannot be told is not."""
        tickets, peak = SHAPES[self.shape]
        return self.peak <= peak and self.checkpoint <= CHECKPOINT_BYTES and self.tickets == tickets + 2


def main() -> int:
    """All shapes. Answers the exit code."""
    kafka, costs = provision(), {}
    with Cluster(provision=kafka) as cluster:
        for number, shape in enumerate(SHAPES):
            print(f"{SHAPES[shape][0]:,} tickets of {TICKET_BYTES:,} bytes: {shape}.", file=sys.stderr, flush=True)
            with serving("tests.bench.pinned", "serve", shape) as url:
                costs[shape] = run(number, url, cluster.bootstrap_servers)
        # Read at the end: what we take ourselves hides what a child takes.
        outcomes = [_outcome(shape, *costs[shape], number, cluster) for number, shape in enumerate(SHAPES)]
    print("| a second | seconds | peak RSS | at most | largest checkpoint (goal 512 KB) | tickets | met |")
    print("|---|---|---|---|---|---|---|")
    for outcome in outcomes:
        print(
            f"| {outcome.shape} | {outcome.seconds:.0f} | {outcome.peak:.0f} MB | {SHAPES[outcome.shape][1]:.0f} MB | "
            f"{outcome.checkpoint / 1024:.1f} KB | {outcome.tickets:,} | {'yes' if outcome.met else 'NO'} |"
        )
    return 0 if all(outcome.met for outcome in outcomes) else 1


def run(number: int, url: str, servers: str) -> tuple[float, float]:
    """The service from the start of the history to its end, into topics of its own: seconds, and peak RSS in MB."""
    settings = environment(servers, url, 0, f"{number}")
    began = time.monotonic()
    cost = measure(["-m", "producer", "run", "--once", "--give-up-after", "120"], settings, seconds=900)
    return time.monotonic() - began, cost.peak


def _outcome(shape: str, seconds: float, peak: float, number: int, cluster: Cluster) -> Outcome:
    seen = [key for key, _ in _read(cluster.bootstrap_servers, f"tickets.{number}")]
    checkpoint = max(size for _, size in _read(cluster.bootstrap_servers, f"checkpoints.{number}"))
    return Outcome(shape, seconds, peak, checkpoint, len(seen) if len(set(seen)) == len(seen) else -1)


def _read(servers: str, topic: str) -> Iterator[tuple[bytes, int]]:
    """Key and size of every committed record."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": f"{topic} {random.random()}",
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    consumer.subscribe([topic])
    partitions, ended = len(consumer.list_topics(topic, timeout=10).topics[topic].partitions), set[int]()
    try:
        while len(ended) < partitions:
            message = consumer.poll(30)
            if message is None:
                raise RuntimeError(f"{topic} cannot be read to its end")
            if message.error():
                ended.add(message.partition() or 0)
            else:
                yield message.key() or b"", len(message.value() or b"")
    finally:
        consumer.close()


async def serve(shape: str) -> None:
    """One crowded second between two quiet ones, until standard input ends."""
    from producer.sandbox.zendesk import Account, Clock, Limits, Rules, Simulator  # not in the process that measures

    account, dice, tickets = Account(), random.Random(1), SHAPES[shape][0]
    account.put(NOW - 1_001, id=1)
    for id_ in range(2, tickets + 2):
        head = b'{"id":%d,"status":"open","updated_at":"2027-01-15T07:43:20Z","description":"' % id_
        tail = b'","generated_timestamp":%d}' % (NOW - 1_000)
        text = dice.randbytes(math.ceil((TICKET_BYTES - len(head) - len(tail)) / 2)).hex().encode()
        account.put(NOW - 1_000, id=id_, raw=head + text + tail)
    account.put(NOW - 999, id=tickets + 2)
    rules = Rules(stuck=shape == "stuck")
    async with Simulator(account, clock=Clock(NOW), limits=Limits.unlimited(), rules=rules) as server:
        await until_input_ends(server.base_url)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve(sys.argv[2]))
    else:
        sys.exit(main())
