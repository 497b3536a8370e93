"""Runs service and yardstick under equal conditions, and looks at what each run has left in its topics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.bench.figures import Round
from tests.bench.measure import Cost, measure
from tests.bench.pages import TICKETS, start_time
from tests.bench.parts import environment
from tests.reader import Reader

PARTITIONS = 12

Program = Literal["service", "yardstick"]


@dataclass
class Lab:
    """The broker at `servers`, the pages at `url`, and topics of its own for every run."""

    servers: str
    url: str
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def help(self) -> Cost:
        """`zendesk-producer --help`."""
        return measure(["-m", "producer", "--help"], environment(self.servers, self.url, 0))

    def round(self, number: int, pages: int) -> Round:
        """Service and yardstick over one page and over `pages`, in turns; every other round the yardstick comes first."""
        order: tuple[Program, ...] = ("yardstick", "service") if number % 2 else ("service", "yardstick")
        costs = {(program, size): self.run(program, size) for size in (1, pages) for program in order}
        return Round(
            pages,
            service_start=costs["service", 1],
            service=costs["service", pages],
            yardstick_start=costs["yardstick", 1],
            yardstick=costs["yardstick", pages],
        )

    def run(self, program: Program, pages: int) -> Cost:
        """One run over the last so many pages, into new topics of the service's kind.

        Raises:
            RuntimeError: it failed, or the topics do not hold these pages.
        """
        number, start = next(self._numbers), start_time(pages)
        tickets, checkpoints, dead_letters = f"tickets.{number}", f"checkpoints.{number}", f"dead_letters.{number}"
        settings = environment(self.servers, self.url, start, f"{number}")
        measure(["-m", "producer", "topics", "create"], settings)
        if program == "service":
            arguments = ["producer", "run", "--once", "--give-up-after", "60"]
        else:
            arguments = ["tests.bench.yardstick", self.url, f"{start}", self.servers, tickets, checkpoints]
        cost = measure(["-m", *arguments], settings)
        self._check(tickets, checkpoints, pages)
        # So that every run meets the same broker: clients ask for the metadata of all topics now and then.
        admin = AdminClient({"bootstrap.servers": self.servers, "log_level": 4})
        for deleted in admin.delete_topics([tickets, checkpoints, dead_letters]).values():
            deleted.result()
        return cost

    def _check(self, tickets: str, checkpoints: str, pages: int) -> None:
        """That a `read_committed` reader gets the pages and their checkpoints: nobody is quick by doing less.

        Every page has tickets for every partition, so it leaves there, beside its records, a marker of its transaction.
        """
        read = Reader(self.servers, tickets, checkpoints).checkpoints()
        seqs = [checkpoint["seq"] for checkpoint in read if checkpoint["seq"]]
        if seqs != list(range(1, pages + 1)):
            raise RuntimeError(f"{checkpoints}: the checkpoints of {pages} pages expected, not those of {seqs}")
        expected, deadline = pages * (TICKETS + PARTITIONS), time.monotonic() + 10
        while (ended := self._stable_ends(tickets)) != expected:  # the last markers come a moment after the answer
            if time.monotonic() > deadline:
                raise RuntimeError(f"{tickets}: {expected:,} records and markers expected, not {ended:,}")
            time.sleep(0.05)

    def _stable_ends(self, topic: str) -> int:
        """The sum of the last stable offsets of all partitions."""
        consumer = Consumer(
            {"bootstrap.servers": self.servers, "group.id": "bench", "isolation.level": "read_committed"}
        )
        try:
            partitions = (TopicPartition(topic, partition) for partition in range(PARTITIONS))
            return sum(consumer.get_watermark_offsets(partition, timeout=10)[1] for partition in partitions)
        finally:
            consumer.close()
