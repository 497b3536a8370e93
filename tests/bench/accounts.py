"""What an account costs beside others in one process: 50 of them, backfilling at the API's pace, then idle.

Boots Kafka, serves the accounts, and lets the service live with one of them and with all: a first life that creates the
topics, backfills and polls, and a second one that starts on what is there. Then another client's reader looks at what the
topics hold. Exit code 1 when a goal is missed. Run as `python -m tests.bench.accounts`; with `serve` it is the far end.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import yaml

from producer.sandbox.broker import Cluster, provision
from producer.sandbox.broker.provision import say_to_stderr as say
from tests.bench.figures import Figure, table
from tests.bench.measure import cost
from tests.bench.parts import serving, until_input_ends
from tests.reader import Reader, faults

if TYPE_CHECKING:
    from producer.sandbox.zendesk import Account

ACCOUNTS = 50

TICKETS = 6_000
"""Of each account: half a minute of the API's ten pages a minute."""

IDLE = 60
"""Seconds of polls that are counted: six of each account."""

_PROC = Path("/proc")

PATIENCE = 180
"""Seconds that anything may take."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What the process has used: `cpu` seconds since its start, and its resident set in MB, `at` seconds from its start."""

    at: float
    cpu: float
    resident: float


@dataclass(frozen=True, slots=True)
class Life:
    """One process with so many `accounts`, at four moments: sessions open, caught up, after some idle polls, and at its end,
    where `resident` is the most that it ever was."""

    accounts: int
    opened: Moment
    caught_up: Moment
    polled: Moment
    end: Moment

    @property
    def ticket(self) -> float:
        """Seconds of CPU per ticket of the backfill."""
        return (self.caught_up.cpu - self.opened.cpu) / (self.accounts * TICKETS)

    @property
    def idle(self) -> float:
        """Seconds of CPU that an account takes in a minute of idle polls."""
        return (self.polled.cpu - self.caught_up.cpu) / (self.polled.at - self.caught_up.at) * 60 / self.accounts


class Service:
    """`zendesk-producer run` with several accounts: what it says of each, and what it takes."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._began = time.monotonic()
        self._process = process
        self._log = log

    def when(self, accounts: int, message: str) -> Moment:
        """Wait until the service has said this of so many accounts.

        Raises:
            RuntimeError: it has ended, or does not say it.
        """
        while len(said := self._said(message)) < accounts:
            if self._process.poll() is not None or self._seconds() > PATIENCE:
                raise RuntimeError(
                    f"{message!r} was said of {len(said)} accounts only:\n{self._log.read_text()[-3000:]}"
                )
            time.sleep(0.1)
        return self.now()

    def now(self) -> Moment:
        """What it has taken until now."""
        fields = (_PROC / str(self._process.pid) / "stat").read_text().rpartition(")")[2].split()
        ticks, pages = int(fields[11]) + int(fields[12]), int(fields[21])
        return Moment(self._seconds(), ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGESIZE") / 1e6)

    def end(self) -> Moment:
        """Ask it to end, and wait.

        Raises:
            RuntimeError: it ended otherwise.
        """
        self._process.send_signal(signal.SIGTERM)
        _, status, used = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._process.returncode != 0:
            raise RuntimeError(f"the service ended with {self._process.returncode}:\n{self._log.read_text()[-3000:]}")
        taken = cost(used)
        return Moment(self._seconds(), taken.cpu, taken.peak)

    def _said(self, message: str) -> set[str]:
        whole_lines = self._log.read_bytes().rpartition(b"\n")[0].splitlines()
        return {line["account"] for line in map(orjson.loads, whole_lines) if line["message"] == message}

    def _seconds(self) -> float:
        return time.monotonic() - self._began


@contextmanager
def running(urls: Sequence[str], servers: str, folder: Path) -> Iterator[Service]:
    """The service with an account for each URL, while inside."""
    settings = {
        "zendesk": {"access_token": "example", "start_time": 0},
        "accounts": [{"subdomain": f"account-{number}", "base_url": url} for number, url in enumerate(urls)],
        "kafka": {"bootstrap_servers": servers},
        "topics": {name: f"{len(urls)}.{name}.{{subdomain}}" for name in ("tickets", "dead_letters")}
        | {"checkpoints": f"{len(urls)}.checkpoints"},
        "http": {"port": 0},
    }
    config, log = folder / "settings.yaml", folder / "log"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PRODUCER_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "producer", "--config", str(config), "run"],
            env=inherited,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield Service(process, log)
    finally:
        process.kill()
        process.wait()


def live(urls: Sequence[str], servers: str, *, idle: float) -> Life:
    """One life, from its start to its end, with so many seconds of idle polls."""
    accounts = len(urls)
    with tempfile.TemporaryDirectory() as folder, running(urls, servers, Path(folder)) as service:
        opened = service.when(accounts, "session opened")
        caught_up = service.when(accounts, "caught up")
        time.sleep(idle)
        polled = service.now()
        return Life(accounts, opened, caught_up, polled, service.end())


def figures(alone: tuple[Life, Life], together: tuple[Life, Life]) -> list[Figure]:
    """Of one account and of many, each with the life that creates its topics and the one that starts on them."""
    (one, one_again), (many, many_again) = alone, together
    more = many.accounts - one.accounts
    return [
        Figure(
            "RSS per further account, polling", [(many_again.end.resident - one_again.end.resident) / more], "MB", 1.0
        ),
        Figure("peak RSS per account, all backfilling", [many.end.resident / many.accounts], "MB", 20, digits=1),
        Figure("RSS of all, after that", [many.polled.resident], "MB", 300, digits=0),
        Figure(
            "CPU of the start per further account",
            [(many_again.opened.cpu - one_again.opened.cpu) / more * 1000],
            "ms",
            35,
            digits=0,
        ),
        Figure("CPU of polling per account and minute", [many.idle * 1000], "ms", 30, digits=0),
        Figure("CPU per ticket of a backfill, all / one", [many.ticket / one.ticket], goal=1.8),
        Figure("CPU per ticket of a backfill, one account", [one.ticket * 1e6], "µs", digits=0),
        Figure("CPU of the start, one account", [one_again.opened.cpu * 1000], "ms", digits=0),
        Figure("RSS of one account, polling", [one_again.end.resident], "MB", digits=0),
        Figure("peak RSS of one account, backfilling", [one.end.resident], "MB", digits=0),
        Figure("start to the last session open, all", [many_again.opened.at], "s", digits=1),
    ]


def oddities(servers: str, accounts: int, now: int) -> list[str]:
    """What is wrong with the topics, by a reader that is not ours."""
    found = []
    for number in range(accounts):
        topics = (
            f"{accounts}.{name}"
            for name in (f"tickets.account-{number}", "checkpoints", f"dead_letters.account-{number}")
        )
        reader = Reader(servers, *topics)
        wrong = faults(reader.messages(), history(number, now).versions(), reader.letters())
        found += [f"account-{number}: {fault}" for fault in wrong]
    return found


def main() -> int:
    """All of it. Answers the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.accounts", description=__doc__)
    parser.add_argument("--accounts", type=int, default=ACCOUNTS, help=f"in one process (default: {ACCOUNTS})")
    accounts: int = parser.parse_args().accounts
    if accounts < 2:
        parser.error("--accounts: at least 2")
    kafka, now = provision(), int(time.time())
    with serving("tests.bench.accounts", "serve", f"{accounts}", f"{now}") as line, Cluster(provision=kafka) as cluster:
        lives = []
        for number in (1, accounts):
            say(
                f"The service with {number} account{'s'[: number > 1]}: created, caught up, polling; and started again."
            )
            first, second = (live(line.split()[:number], cluster.bootstrap_servers, idle=idle) for idle in (IDLE, 0))
            lives.append((first, second))
        say("The topics, by another client.")
        wrong = oddities(cluster.bootstrap_servers, accounts, now)
    lines = figures(*lives)
    parts = kafka.description, f"Python {platform.python_version()}", f"aiokafka {version('aiokafka')}"
    print(f"{time.strftime('%Y-%m-%d')}: {', '.join(parts)}; {accounts} accounts with {TICKETS:,} tickets each\n")
    print(table(lines))
    print(
        "\n".join(
            ["", *wrong[:20]]
            if wrong
            else ["", "In the topics: every account's tickets, each once, and nobody else's."]
        )
    )
    return 0 if all(line.met for line in lines) and not wrong else 1


def history(number: int, now: int) -> Account:
    """The account of this number, as it is at every call."""
    from producer.sandbox.zendesk import Account  # not before the process has measured

    return Account.generate(TICKETS, number, until=now - 120, span=90 * 86_400, subdomain=f"account-{number}")


async def serve(accounts: int, now: int) -> None:
    """So many accounts, each on a port of its own, until standard input ends."""
    from producer.sandbox.zendesk import Clock, Limits, Simulator

    async with AsyncExitStack() as around:
        servers = [
            await around.enter_async_context(Simulator(history(number, now), clock=Clock(now), limits=Limits()))
            for number in range(accounts)
        ]
        await until_input_ends(" ".join(server.base_url for server in servers))


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve(int(sys.argv[2]), int(sys.argv[3])))
    else:
        sys.exit(main())
