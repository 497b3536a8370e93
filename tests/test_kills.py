"""Exactly once across any crash: the service as a process of its own, killed and frozen, and the broker killed under it."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from producer.sandbox.broker import Cluster
from producer.sandbox.zendesk import HOSTILE, Account, Clock, Fault, Limits, Rules, Scenario, Simulator
from producer.settings import load_settings
from tests.conftest import joined, until
from tests.reader import Reader, faults
from tests.test_service import configure
from tests.test_verify import judged

PAGE = 100


def start(overrides: list[str], log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """`zendesk-producer run` as a process of its own."""
    settings = [word for override in overrides for word in ("--set", override)]
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "producer", *settings, "run", *arguments], stdout=output, stderr=output
        )


@contextmanager
def running(overrides: list[str], log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """The same, gone at the end whatever happens."""
    process = start(overrides, log, *arguments)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def complete(overrides: list[str], log: Path) -> None:
    """One run that ends by itself, caught up."""
    with running(overrides, log, "--once", "--give-up-after", "60") as process:
        code = await asyncio.to_thread(process.wait, 120)
    assert code == 0, log.read_text()[-3000:]


async def more_requests(zendesk: Simulator, number: int) -> None:
    """Wait until the pretend Zendesk was asked so many times more."""
    asked = len(zendesk.journal) + number
    await until(lambda: len(zendesk.journal) >= asked, 60, "requests")


async def no_more_requests(zendesk: Simulator) -> None:
    """Wait until it has not been asked for a second: a service with a backlog then waits for its broker."""
    asked, since = len(zendesk.journal), time.monotonic()

    def quiet() -> bool:
        nonlocal asked, since
        if len(zendesk.journal) != asked:
            asked, since = len(zendesk.journal), time.monotonic()
        return time.monotonic() - since > 1

    await until(quiet, 60, "silence")


def backfill(account: Account, now: float, pages: int) -> None:
    """So many pages, most of them cut in the middle of a second, all older than two minutes."""
    begin = int(now) - 120 - pages * PAGE // 7
    for number in range(pages * PAGE):
        account.put(begin + number // 7, id=number + 1, description="x" * 200)


def life_goes_on(zendesk: Simulator, dice: random.Random, clock: Clock) -> None:
    """New, changed and deleted tickets, in a second that is about to become visible."""
    zendesk.changes.make(create=dice.randrange(9), update=dice.randrange(30), delete=1, system_update=dice.randrange(3))
    clock.advance(20)


@pytest.fixture
def clock() -> Clock:
    """A clock that only the test moves: what is visible when depends on the seed alone."""
    return Clock.manual(1_800_000_000)


async def test_sigkill_at_50_random_moments_of_a_backfill_loses_and_repeats_nothing(
    overrides: list[str], zendesk: Simulator, account: Account, clock: Clock, reader: Reader, tmp_path: Path
) -> None:
    dice = random.Random(50)
    log = tmp_path / "log"
    backfill(account, clock.now(), 30)
    paced = [*overrides, f"zendesk.page_size={PAGE}", "zendesk.requests_per_minute=1800"]
    for _ in range(50):
        with running(paced, log) as process:
            # Counted from the first request of this life, so that most kills fall between a page and its commit.
            await more_requests(zendesk, 1)
            await asyncio.sleep(dice.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
        life_goes_on(zendesk, dice, clock)
    clock.advance(300)
    await complete(overrides, log)
    messages = reader.messages()
    assert faults(messages, account.versions()) == []
    assert len(messages) > 30 * PAGE


BY_TIME, BY_CURSOR = "zendesk.export=time", "zendesk.export=cursor"
HARD: dict[str, tuple[Rules, tuple[Fault, ...], tuple[str, ...]]] = {
    "extended pages": (Rules(), (), (BY_TIME,)),
    "seconds that are never left": (Rules(stuck=True), (), (BY_TIME,)),
    "seconds too large for an answer": (Rules(), (), ("zendesk.max_response_bytes=160KiB",)),
    "by cursor": (Rules(), (), (BY_CURSOR,)),
    "cursors that expire": (Rules(stuck=True, cursors_expire_seconds=10), (), (BY_CURSOR,)),
    "from one export to the other": (Rules(), (), (BY_CURSOR, BY_TIME)),
    "the same, with seconds that are never left": (
        Rules(stuck=True),
        (),
        (BY_CURSOR, BY_TIME),
    ),
    "shrinking pages": (Rules(), (Fault("upstream_timeout", per_page_above=5, probability=0.4),), (BY_TIME,)),
}


@pytest.mark.parametrize("name", HARD)
async def test_sigkill_at_random_moments_of_the_hard_scenes_loses_and_repeats_nothing(
    name: str, kafka: Cluster, names: dict[str, str], account: Account, clock: Clock, reader: Reader, tmp_path: Path
) -> None:
    """Each with late rows, and with lives that take turns where there is more than one way to be set."""
    rules, script, ways = HARD[name]
    dice, log = random.Random(name), tmp_path / "log"
    crowds(account, clock.now(), dice)
    async with Simulator(
        account, clock=clock, limits=Limits.unlimited(), rules=rules, scenario=Scenario(list(script))
    ) as zendesk:
        paced = [*joined(kafka, zendesk, names), "zendesk.page_size=20", "zendesk.requests_per_minute=1800"]
        for life in range(8):
            with running([*paced, ways[life % len(ways)]], log) as process:
                await more_requests(zendesk, 1)
                await asyncio.sleep(dice.uniform(0, 0.25))
                process.send_signal(signal.SIGKILL)
            late = int(clock.now()) - dice.randrange(62, 90)
            account.put(late, visible_at=clock.now() + dice.randrange(5, 200))
            life_goes_on(zendesk, dice, clock)
        for _ in range(2):  # so that the last late row is looked for as well
            clock.advance(300)
            await complete([*paced, *ways[:1]], log)
    messages = reader.messages()
    assert faults(messages, account.versions()) == []
    assert len(messages) >= len(account)


def crowds(account: Account, now: float, dice: random.Random) -> None:
    """A history up to now in which some seconds have more tickets than a page of 20, or an answer of 160 KiB, takes."""
    second = int(now) - 400
    while second < now - 62:
        for _ in range(dice.choice((1, 2, 3, 50, 70)) if second % 40 == 0 else dice.randrange(3)):
            account.put(second, description="x" * 500)
        second += 1


async def test_sigkill_at_random_moments_over_deletions_dead_letters_sideloads_and_two_streams_loses_and_repeats_nothing(
    kafka: Cluster, names: dict[str, str], account: Account, clock: Clock, reader: Reader, tmp_path: Path
) -> None:
    dice, log = random.Random(9), tmp_path / "log"
    users(account, clock.now(), dice)
    crowds(account, clock.now(), dice)
    async with Simulator(account, clock=clock, limits=Limits.unlimited()) as zendesk:
        overrides = [
            *joined(kafka, zendesk, names),
            "zendesk.streams=tickets,users",
            "zendesk.include=users,groups",
            "zendesk.page_size=20",
            "zendesk.requests_per_minute=3600",
        ]
        for life in range(12):
            with running(overrides, log) as process:
                await more_requests(zendesk, 2)
                await asyncio.sleep(dice.uniform(0, 0.3))
                process.send_signal(signal.SIGKILL)
            if life == 0:
                await asyncio.to_thread(
                    configure, kafka.bootstrap_servers, names["tickets"], "max.message.bytes", "1100000"
                )
            poison(account, clock.now(), dice, life)
            account.users.update(dice.randrange(1, 60), clock.now(), name=f"Name {life}")
            life_goes_on(zendesk, dice, clock)
        for _ in range(2):
            clock.advance(300)
            await complete(overrides, log)
        settings = load_settings(overrides=overrides)
        assert [(await judged(settings, stream=stream)).summary for stream in ("tickets", "users")] == [
            "verdict: clean"
        ] * 2
    messages, letters = reader.messages(), reader.letters()
    assert faults(messages, account.versions(), letters) == []
    assert {letter.headers["zendesk-dead-letter-reason"] for letter in letters} == {"unparsable", "too_large"}
    assert any(message.value is None for message in messages)
    assert faults(reader.read(names["users"]), account.users.versions()) == []
    beside = {int(message.key or 0) for message in reader.read(names["sideloads.users"])}
    assert {json.loads(message.value)["requester_id"] for message in messages if message.value} <= beside


def users(account: Account, now: float, dice: random.Random) -> None:
    """Some that are listed, so that there is a stream of them."""
    for number in range(60):
        account.users.put(int(now) - 400 + dice.randrange(300), id=number + 1)


def poison(account: Account, now: float, dice: random.Random, life: int) -> None:
    """A ticket that no consumer could read, and now and then one that is too large for its topic."""
    hostile = account.put(int(now) - dice.randrange(62, 70))
    account.rewrite(hostile, HOSTILE[dice.choice(("lone_surrogate", "deep_nesting", "invalid_utf8"))])
    if life % 4 == 1:
        account.rewrite(account.put(int(now) - 61), HOSTILE["huge_string_incompressible"])


async def test_a_frozen_instance_that_wakes_up_beside_its_successor_publishes_nothing(
    overrides: list[str], zendesk: Simulator, account: Account, clock: Clock, reader: Reader, tmp_path: Path
) -> None:
    dice = random.Random(7)
    backfill(account, clock.now(), 30)
    paced = [*overrides, f"zendesk.page_size={PAGE}", "zendesk.requests_per_minute=1200"]
    for round_ in range(4):
        with running(paced, tmp_path / "frozen") as first:
            await more_requests(zendesk, 2)
            await asyncio.sleep(dice.uniform(0, 0.1))
            first.send_signal(signal.SIGSTOP)
            with running(paced, tmp_path / "second") as second:
                await more_requests(zendesk, 3)
                first.send_signal(signal.SIGCONT)
                await more_requests(zendesk, 3)
                if round_ % 2:
                    second.send_signal(signal.SIGKILL)
        life_goes_on(zendesk, dice, clock)
    clock.advance(300)
    await complete(overrides, tmp_path / "last")
    assert faults(reader.messages(), account.versions()) == []


async def test_a_broker_killed_and_started_again_loses_and_repeats_nothing(
    zendesk: Simulator, account: Account, clock: Clock, names: dict[str, str], tmp_path: Path
) -> None:
    dice = random.Random(3)
    backfill(account, clock.now(), 30)
    with Cluster() as kafka:
        overrides = joined(kafka, zendesk, names)
        paced = [*overrides, f"zendesk.page_size={PAGE}", "zendesk.requests_per_minute=600"]
        with running(paced, tmp_path / "log") as process:
            for _ in range(3):
                await more_requests(zendesk, 4)
                await asyncio.sleep(dice.uniform(0, 0.3))
                await asyncio.to_thread(kafka.kill)
                await asyncio.to_thread(kafka.restart)
            assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 15) == 0
        clock.advance(300)
        await complete(overrides, tmp_path / "log")
        reader = Reader(kafka.bootstrap_servers, names["tickets"], names["checkpoints"])
        assert faults(reader.messages(), account.versions()) == []


@pytest.mark.parametrize(("signals", "code"), [([signal.SIGTERM], 0), ([signal.SIGTERM, signal.SIGINT], 130)])
async def test_a_service_whose_broker_is_frozen_ends_within_ten_seconds_and_at_a_second_signal_at_once(
    signals: list[signal.Signals],
    code: int,
    zendesk: Simulator,
    account: Account,
    clock: Clock,
    names: dict[str, str],
    tmp_path: Path,
) -> None:
    backfill(account, clock.now(), 30)
    with Cluster() as kafka:
        overrides = joined(kafka, zendesk, names)
        paced = [*overrides, f"zendesk.page_size={PAGE}", "zendesk.requests_per_minute=600"]
        with running(paced, tmp_path / "log") as process:
            await more_requests(zendesk, 4)
            await asyncio.to_thread(kafka.freeze)
            try:
                # Between two pages, with nothing under way, it would end at once and never see a second signal.
                await no_more_requests(zendesk)
                for number in signals:
                    began = time.monotonic()
                    process.send_signal(number)
                    await asyncio.sleep(0.5)  # so that the second is not merged into the first
                assert await asyncio.to_thread(process.wait, 15) == code
                assert time.monotonic() - began < (10.5 if code == 0 else 2)
            finally:
                await asyncio.to_thread(kafka.thaw)
        assert b"position" in (tmp_path / "log").read_bytes().splitlines()[-1]
        clock.advance(300)
        await complete(overrides, tmp_path / "log")
        reader = Reader(kafka.bootstrap_servers, names["tickets"], names["checkpoints"])
        assert faults(reader.messages(), account.versions()) == []
