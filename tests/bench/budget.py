"""Does the service use its budget of requests, and never more than it? With a backlog, pages that take the API 1.5 s, a
SIGKILL in the middle, and time running fast. Exit code 1 when a goal is missed.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from producer.sandbox.broker import Cluster
from producer.sandbox.zendesk import Account, Clock, Limits, Simulator
from tests.bench.__main__ import say
from tests.bench.figures import Figure, table
from tests.bench.parts import environment

PAGE_SECONDS = 1.5
"""Of the API's time: how long it takes it to build a page."""

PAGE = 100
"""Tickets: at ten times the speed there is a tenth of the time to publish them."""

TICKETS = 60_000
"""More than any case can read."""

SECONDS = 80
"""Of ours, for each case: more than a minute, so that those on our own clock see two windows."""

LEFT_TO_OTHERS = 0.2

_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Case:
    """A service that may have `budget` of the `allowed` export requests a minute.

    All goes `fast` times as fast as in production. Either the API's clock does: then the limit holds, but no header tells
    it, since durations in whole seconds of ours are too coarse for such minutes. Or, with `auto`, the clock is ours, and
    there are so many times as many requests to a minute.
    """

    name: str
    fast: int
    allowed: int
    budget: float
    auto: bool = False
    neighbour: int = 0


CASES = (
    Case("10 a minute", fast=10, allowed=10, budget=10),
    Case("30 a minute", fast=6, allowed=30, budget=30),
    Case("auto", fast=6, allowed=180, budget=144, auto=True),
    Case("auto with a neighbour", fast=6, allowed=180, budget=144, auto=True, neighbour=96),
)


async def run(case: Case, kafka: Cluster) -> list[Figure]:
    """Two lives of a service, each of half of SECONDS from its first request on.

    Raises:
        RuntimeError: it ended by itself, asked for nothing, or ran out of backlog.
    """
    clock = Clock(time.time() // 60 * 60, 1 if case.auto else case.fast)
    account = Account.generate(TICKETS, 1, until=clock.now() - 120, span=90 * 86_400, burst_every=0)
    limits = Limits(case.allowed, 10 * case.allowed, 2026 if case.auto else 2024, case.neighbour)
    page_seconds = PAGE_SECONDS / (case.fast if case.auto else 1)
    lives: list[list[float]] = []
    async with Simulator(account, clock=clock, limits=limits, page_seconds=page_seconds) as zendesk:
        settings = _environment(case, zendesk.base_url, kafka.bootstrap_servers)
        for _ in range(2):
            asked = len(zendesk.journal)
            with _service(settings) as must_run:
                await _until(lambda: len(zendesk.journal) > asked, must_run)  # noqa: B023  # of this round only
                enough = time.monotonic() + SECONDS / 2
                await _until(lambda: time.monotonic() > enough, must_run)  # noqa: B023
            lives.append([served.at for served in zendesk.journal[asked:]])
    if any(served.end_of_stream for served in zendesk.journal):
        raise RuntimeError(f"{case.name}: the backlog was too small")
    refused = sum(served.status == 429 for served in zendesk.journal)
    intervals, spent = sum(len(life) - 1 for life in lives), sum(life[-1] - life[0] for life in lives)
    unused = 100 - 100 * intervals * 60 / spent / case.budget
    pause = lives[1][0] - lives[0][-1]
    return [
        Figure(f"{case.name}: budget not used", [unused], "%", None if case.neighbour else 2.0, digits=1),
        Figure(f"{case.name}: most requests in a minute", [_most([*lives[0], *lives[1]])], goal=case.budget, digits=0),
        Figure(f"{case.name}: answers 429", [refused], goal=0, digits=0),
        Figure(f"{case.name}: without requests by the restart", [pause], "s", digits=0),
    ]


def _most(moments: list[float]) -> int:
    """In any minute, wherever it begins."""
    return max(bisect_left(moments, begin + 60) - number for number, begin in enumerate(moments))


def _environment(case: Case, url: str, servers: str) -> dict[str, str]:
    pace = "auto" if case.auto else f"{case.budget * case.fast}"
    topics = f"{next(_numbers)}"
    return environment(
        servers, url, 0, topics, page_size=f"{PAGE}", requests_per_minute=pace, left_to_others=f"{LEFT_TO_OTHERS}"
    )


@contextmanager
def _service(settings: Mapping[str, str]) -> Iterator[Callable[[], None]]:
    """`zendesk-producer run` while inside, killed at the end; gives what raises when it does not run any more."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "producer", "run"],
                env=settings,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

        def must_run() -> None:
            if process.poll() is not None:
                raise RuntimeError(f"the service has ended with {process.returncode}:\n{log.read_text()[-3000:]}")

        try:
            yield must_run
        finally:
            process.kill()
            process.wait()


async def _until(condition: Callable[[], bool], must_run: Callable[[], None]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        must_run()
        if time.monotonic() > deadline:
            raise RuntimeError("the service has not asked for anything")
        await asyncio.sleep(0.05)


async def main() -> int:
    """All cases, side by side. Answers the exit code."""
    with Cluster() as kafka:
        say(f"{len(CASES)} services, {SECONDS} seconds each, not counting their starts.")
        figures = [figure for found in await asyncio.gather(*(run(case, kafka) for case in CASES)) for figure in found]
    print(f"{time.strftime('%Y-%m-%d')}\n\n{table(figures)}")
    return 0 if all(figure.met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
