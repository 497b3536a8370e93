"""Walks the service through an account of ten million small tickets, with a stop and a kill, and counts what is there.

Boots Kafka, serves the account, and lets the service live three times: until SIGTERM at a third, until SIGKILL at two
thirds, and with --once to the end. Then a `read_committed` reader looks for each ticket: once, and with its bytes.
Exit code 1 when one is missing, repeated or altered, or when a goal of the table is missed.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from threading import Timer

import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from producer.sandbox.broker import Cluster, provision
from producer.sandbox.broker.provision import say_to_stderr as say
from producer.settings import TopicsSettings
from tests.bench.figures import Figure, table
from tests.bench.lab import PARTITIONS
from tests.bench.measure import Cost, cost, measure
from tests.bench.parts import environment
from tests.bench.small_tickets import Account, serving
from tests.reader import place

_DISK = 150
"""Bytes of Kafka's data per ticket, at most."""


@dataclass(frozen=True, slots=True)
class Life:
    """One process of the service: what it took, how many `tickets` it committed in how many `seconds` from its start to
    its end, and its resident set in MB at a tenth of them."""

    cost: Cost
    tickets: int
    seconds: float
    early: float


def live(arguments: Sequence[str], settings: Mapping[str, str], tickets: int, end: signal.Signals | None) -> Life:
    """Run the service until it has committed so many tickets; then send it the signal, or (None) let it end by itself.

    Raises:
        RuntimeError: it ended otherwise.
    """
    started, committed, early = time.monotonic(), 0, 0.0
    with subprocess.Popen(
        [sys.executable, "-m", "producer", "run", *arguments], env=settings, stdout=subprocess.PIPE
    ) as process:
        deadline = Timer(300 + tickets / 1000, process.kill)
        deadline.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                event = orjson.loads(line)
                if event["message"] == "page committed":
                    before, committed = committed, committed + event["records"]
                    if before < tickets // 10 <= committed:
                        early = _resident(process.pid)
                    if before < tickets <= committed and end is not None:
                        process.send_signal(end)
                elif event["message"] == "backfilling":
                    names = ("position", "share", "eta_seconds", "eta_range", "sure")
                    said = ", ".join(f"{name} {event[name]}" for name in names)
                    say(f"  after {time.monotonic() - started:.0f} s: {said}")
                elif event["level"] in ("warning", "error"):
                    say(f"  {line.decode().rstrip()}")
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            process.kill()
            raise
        finally:
            deadline.cancel()
    if process.returncode != (-signal.SIGKILL if end == signal.SIGKILL else 0) or committed < tickets:
        raise RuntimeError(f"the service ended with {process.returncode} after {committed:,} of {tickets:,} tickets")
    return Life(cost(used), committed, time.monotonic() - started, early)


def _resident(pid: int) -> float:
    """Its resident set, in MB."""
    listed = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
    return int(listed) * 1024 / 1e6


def faults(servers: str, topic: str, account: Account) -> list[str]:
    """What is wrong with the topic: tickets that are missing, repeated, altered, or none of the account's."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "bench",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
        }
    )
    seen = bytearray(account.tickets)
    repeated = altered = foreign = 0
    try:
        # A read_committed reader is told the end when it is at the last stable offset, which may still move: the last
        # markers come a moment after the answer to the commit.
        ends = _high_watermarks(servers, topic)
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in ends])
        moved = time.monotonic()
        while ends:
            if time.monotonic() > moved + 90:  # longer than an abandoned transaction can hold readers back
                raise RuntimeError(f"{topic}: nothing more to read before {ends}")
            for message in consumer.consume(10_000, timeout=1):
                moved = time.monotonic()
                error = message.error()
                if error is not None:
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise RuntimeError(f"{topic}: {error}")
                    partition, offset = place(message)
                    if offset >= ends[partition]:
                        del ends[partition]
                    continue
                row = int(message.key() or b"0") - 1
                if not 0 <= row < account.tickets:
                    foreign += 1
                    continue
                repeated += seen[row]
                seen[row] = 1
                altered += message.value() != account.ticket(row)
    finally:
        consumer.close()
    found = {"missing": seen.count(0), "repeated": repeated, "altered": altered, "foreign": foreign}
    return [f"{count:,} {name}" for name, count in found.items() if count]


def _high_watermarks(servers: str, topic: str) -> dict[int, int]:
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "bench", "isolation.level": "read_uncommitted"})
    try:
        partitions = (TopicPartition(topic, partition) for partition in range(PARTITIONS))
        return {each.partition: consumer.get_watermark_offsets(each, timeout=10)[1] for each in partitions}
    finally:
        consumer.close()


def figures(lives: Sequence[Life]) -> list[Figure]:
    """The figures of the lives, those with a goal first."""
    return [
        Figure("peak RSS", [life.cost.peak for life in lives], "MB", 100, largest=True, digits=0),
        Figure("peak RSS / RSS at a tenth", [life.cost.peak / life.early for life in lives], goal=1.1, largest=True),
        Figure("RSS at a tenth", [life.early for life in lives], "MB", digits=0),
        Figure("tickets per second", [life.tickets / life.seconds for life in lives], digits=0),
        Figure("CPU per ticket", [life.cost.cpu / life.tickets * 1e6 for life in lives], "µs", digits=1),
    ]


def main() -> int:
    """All of it. Answers the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.backfill", description=__doc__)
    parser.add_argument("--tickets", type=int, default=10_000_000, help="in the account (default: 10000000)")
    tickets: int = parser.parse_args().tickets
    if tickets < 100_000:
        parser.error("--tickets: at least 100000, so that a tenth of a life is some pages")
    folder, needed = tempfile.gettempdir(), tickets * _DISK
    free = shutil.disk_usage(folder).free
    say(f"{free / 1e9:.1f} GB are free in {folder}; the topic takes at most {needed / 1e9:.1f} GB, until this ends.")
    if free < needed:
        parser.error(f"{folder}: too little space; TMPDIR may name another place")
    kafka, topic = provision(), TopicsSettings().tickets
    account = Account.until(time.time() - 600, tickets)
    with serving(account) as url, Cluster(provision=kafka) as cluster:
        settings = environment(cluster.bootstrap_servers, url, account.start)
        measure(["-m", "producer", "topics", "create"], settings)
        third = tickets // 3
        say(f"The service, until SIGTERM at {third:,} tickets.")
        lives = [live([], settings, third, signal.SIGTERM)]
        say(f"Again, from {lives[0].tickets:,} until SIGKILL at {2 * third:,}.")
        lives.append(live([], settings, 2 * third - lives[0].tickets, signal.SIGKILL))
        told = sum(life.tickets for life in lives)
        say(f"Again, from {told:,} or a page further, to the end.")
        lives.append(live(["--once", "--give-up-after", "60"], settings, tickets - told - 1000, None))
        say("Reading the topic.")
        found = faults(cluster.bootstrap_servers, topic, account)
        size = sum(file.stat().st_size for file in cluster.data_dir.rglob(f"{topic}-*/*.log"))
    print(
        f"{time.strftime('%Y-%m-%d')}: {tickets:,} tickets; {kafka.description}, Python {platform.python_version()}, "
        f"aiokafka {version('aiokafka')}\n\n{table(figures(lives))}\n\n"
        f"In the topic ({size / 1e9:.2f} GB): {', '.join(found) or f'{tickets:,} tickets, each once and with its bytes'}."
    )
    return 0 if not found and all(figure.met for figure in figures(lives)) else 1


if __name__ == "__main__":
    sys.exit(main())
