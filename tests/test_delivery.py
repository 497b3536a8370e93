"""`kafka.delivery: at_least_once`: nothing lost, at most a page repeated per crash, and what two instances may do."""

from __future__ import annotations

import asyncio
import hashlib
import random
import signal
import socket
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from producer.errors import Misconfigured, SessionOver
from producer.events import CaughtUp, Committed, Noticed, Opened, Retrying, StandingBy, Started
from producer.kafka import acknowledgements
from producer.kafka import checkpoints as checkpoints_module
from producer.kafka import session as session_module
from producer.kafka.batches import partition_of
from producer.kafka.session import Session
from producer.model import Checkpoint, Record
from producer.sandbox.broker import Cluster
from producer.sandbox.zendesk import Account, Clock, Limits, Offered, Simulator
from producer.settings import Settings, load_settings
from producer.verify.judge import key_faults, page_faults, without_repeats
from producer.verify.report import Verdict
from tests.conftest import joined, until
from tests.proxy import (
    ADD_OFFSETS_TO_TXN,
    ADD_PARTITIONS_TO_TXN,
    END_TXN,
    FIND_COORDINATOR,
    INIT_PRODUCER_ID,
    PRODUCE,
    Proxy,
)
from tests.reader import Message, Reader, faults
from tests.test_checkpoint_command import command
from tests.test_kills import PAGE, backfill, complete, life_goes_on, more_requests, running
from tests.test_recovery import Owner
from tests.test_service import Run, configure, history, once
from tests.test_verify import judged
from tests.test_verify_judge import RETENTION, event

AT_LEAST_ONCE, EXACTLY_ONCE = "kafka.delivery=at_least_once", "kafka.delivery=exactly_once"
TRANSACTIONS = (ADD_PARTITIONS_TO_TXN, ADD_OFFSETS_TO_TXN, END_TXN)


def losses(messages: list[Message], truth: Iterable[Offered]) -> list[str]:
    """What even this way to deliver forbids: versions missing, and such as the API never showed."""
    offered = {(each.id, each.generated_timestamp, each.sha256[:16]): each.current for each in truth}
    seen = {message.identity for message in messages}
    altered = [
        f"{message.identity} is altered"
        for message in messages
        if message.value is not None and hashlib.sha256(message.value).hexdigest()[:16] != message.identity[2]
    ]
    missing = [f"{version} is missing" for version, current in offered.items() if current and version not in seen]
    return [*altered, *missing, *(f"{version} was never offered" for version in seen if version not in offered)]


def repeats(messages: list[Message]) -> int:
    """How many events are there again."""
    times = Counter(message.identity for message in messages if message.value is not None)
    return sum(times.values()) - len(times)


def disorder(messages: list[Message]) -> list[str]:
    """Versions that came for the first time behind a newer one of their ticket."""
    found, seen, newest = [], set(), dict[int, int]()
    for message in messages:
        id_, stamp, _ = message.identity
        if message.identity not in seen and stamp < newest.get(id_, 0):
            found.append(f"ticket {id_}: {stamp} behind {newest[id_]}")
        seen.add(message.identity)
        newest[id_] = max(stamp, newest.get(id_, 0))
    return found


def notices(run_or_events: Any) -> list[str]:
    """What was said of the way to deliver, at warning level."""
    return [it.text for it in run_or_events if isinstance(it, Noticed) and it.kind == "delivery" and not it.again]


@pytest.fixture
def overrides(kafka: Cluster, zendesk: Simulator, names: dict[str, str]) -> list[str]:
    """Small pages that cut seconds, at a pace that leaves time between them."""
    return [
        *joined(kafka, zendesk, names),
        AT_LEAST_ONCE,
        "zendesk.page_size=10",
        "zendesk.requests_per_minute=1200",
    ]


# --- the setting


def test_exactly_once_is_the_default_and_nothing_else_is_taken_for_a_way_to_deliver(overrides: list[str]) -> None:
    assert load_settings(overrides=overrides).kafka.delivery == "at_least_once"
    assert load_settings(overrides=overrides[: overrides.index(AT_LEAST_ONCE)]).kafka.delivery == "exactly_once"
    with pytest.raises(Misconfigured, match=r"kafka\.delivery"):
        load_settings(overrides=[*overrides, "kafka.delivery=at_most_once"])


async def test_it_is_said_at_the_start_once_as_a_warning_and_by_check(
    settings: Settings, overrides: list[str], zendesk: Simulator, account: Account, clock: Clock
) -> None:
    history(account, clock.now())
    run = Run(settings)
    await until(lambda: run.told(CaughtUp) > 0)
    await run.end()
    (started,) = [event for event in run.events if isinstance(event, Started)]
    assert started.summary["delivery"] == "at_least_once"
    assert notices(run.events) == [acknowledgements.CAVEAT]
    found = (await command(overrides, "check")).stdout
    assert [line.split(maxsplit=2) for line in found.splitlines() if "delivery" in line] == [
        ["warning", "delivery", acknowledgements.CAVEAT]
    ]
    plain = await once(load_settings(overrides=[*overrides, EXACTLY_ONCE]))
    assert notices(plain) == []


# --- one instance


async def test_without_a_crash_every_version_is_there_once_without_a_transaction(
    settings: Settings, zendesk: Simulator, account: Account, clock: Clock, reader: Reader
) -> None:
    history(account, clock.now())
    await once(settings)
    messages = reader.messages()
    assert faults(messages, account.versions()) == []
    in_partition = Counter(message.partition for message in messages)
    offsets = {(message.partition, message.offset) for message in messages}
    assert offsets == {(partition, offset) for partition, many in in_partition.items() for offset in range(many)}


class CrashesBeforeTheCheckpoint(Session):
    """The real session, which crashes once when a page is acknowledged and its checkpoint not yet sent."""

    crashes = 1

    async def _append(self, records: Mapping[str, Collection[Record]], successor: Checkpoint) -> tuple[int, ...]:
        ends = await super()._append(records, successor)
        if records and type(self).crashes:
            type(self).crashes -= 1
            raise SessionOver("crashed between the two")
        return ends


class ChecksInBeforehand(Session):
    """Wrong: the checkpoint first, then the page, and a crash between the two."""

    crashes = 1

    async def commit(self, records: Mapping[str, Collection[Record]], successor: Checkpoint) -> Checkpoint:
        committed = await super().commit({}, successor)
        if records and type(self).crashes:
            type(self).crashes -= 1
            raise SessionOver("crashed between the two")
        await self._append(records, successor)
        return committed


@pytest.mark.parametrize(("session", "wrong"), [(CrashesBeforeTheCheckpoint, False), (ChecksInBeforehand, True)])
async def test_a_crash_between_page_and_checkpoint_repeats_the_page_and_a_checkpoint_before_its_page_is_caught(
    session: Any,
    wrong: bool,
    settings: Settings,
    overrides: list[str],
    account: Account,
    clock: Clock,
    reader: Reader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history(account, clock.now())
    monkeypatch.setattr(session_module, "Session", session)
    monkeypatch.setattr(session, "crashes", 1)
    events = await once(settings)
    assert any(isinstance(event, Retrying) for event in events)
    messages = reader.messages()
    lost = losses(messages, account.versions())
    assert any("missing" in loss for loss in lost) if wrong else lost == [], lost
    if wrong:
        return
    assert (len(messages), repeats(messages), disorder(messages)) == (50, 10, [])
    again = [message.page for message in messages if message.page[1] == 1]
    assert Counter(again) == {(1, 1, index, 10): 2 for index in range(10)}
    told = await command(overrides, "verify")
    assert told.returncode == 0, told.stdout
    assert told.stdout.splitlines()[-1] == "verdict: clean; 10 appended again, as at_least_once allows"
    strict = await judged(load_settings(overrides=[*overrides, EXACTLY_ONCE]))
    assert "10 duplicated" in strict.faults


KILLS = 6


@pytest.mark.parametrize("delivery", [AT_LEAST_ONCE, EXACTLY_ONCE])
async def test_sigkill_at_random_moments_loses_nothing_and_repeats_at_most_a_page_each_or_nothing(
    delivery: str, kafka: Cluster, names: dict[str, str], account: Account, reader: Reader, tmp_path: Path
) -> None:
    dice, clock = random.Random(12), Clock.manual(1_800_000_000)
    backfill(account, clock.now(), 12)
    async with Simulator(account, clock=clock, limits=Limits.unlimited()) as zendesk:
        overrides = [*joined(kafka, zendesk, names), delivery, f"zendesk.page_size={PAGE}"]
        paced = [*overrides, "zendesk.requests_per_minute=1800"]
        for _ in range(KILLS):
            with running(paced, tmp_path / "log") as process:
                await more_requests(zendesk, 1)
                await asyncio.sleep(dice.uniform(0, 0.1))
                process.send_signal(signal.SIGKILL)
            life_goes_on(zendesk, dice, clock)
        clock.advance(300)
        await complete(overrides, tmp_path / "log")
        messages, settings = reader.messages(), load_settings(overrides=overrides)
        print(f"{delivery}: {KILLS} kills, {len(messages)} messages, {repeats(messages)} repeats")
        verdict = await judged(settings)
    assert losses(messages, account.versions()) == []
    assert disorder(messages) == []
    assert repeats(messages) <= (KILLS * PAGE if delivery == AT_LEAST_ONCE else 0)
    if delivery == EXACTLY_ONCE:
        assert faults(messages, account.versions()) == []
    assert verdict.clean, verdict.details()
    assert b"delivery" in (tmp_path / "log").read_bytes()


# --- two instances at a time


class Sleeper(Session):
    """The real session; the one of the instance "first" falls asleep once with a page in hand, behind its last look."""

    asleep: asyncio.Event
    awake: asyncio.Event
    in_hand: tuple[int, ...]

    async def _append(self, records: Mapping[str, Collection[Record]], successor: Checkpoint) -> tuple[int, ...]:
        if self.checkpoint.instance == "first" and successor.seq == 3 and not self.asleep.is_set():
            type(self).in_hand = tuple(int(record.key or 0) for record in records[successor.tickets_topic])
            self.asleep.set()
            await self.awake.wait()
        return await super()._append(records, successor)


def published(run: Run) -> int:
    return sum(len(event.shipment.published) for event in run.events if isinstance(event, Committed))


@pytest.mark.parametrize("delivery", [AT_LEAST_ONCE, EXACTLY_ONCE])
async def test_an_instance_that_slept_appends_what_it_had_in_hand_and_stands_by_and_its_successor_goes_on(
    delivery: str,
    overrides: list[str],
    account: Account,
    clock: Clock,
    zendesk: Simulator,
    reader: Reader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = load_settings(overrides=[*overrides, delivery])
    history(account, clock.now(), tickets=100)
    monkeypatch.setattr(Sleeper, "asleep", asyncio.Event(), raising=False)
    monkeypatch.setattr(Sleeper, "awake", asyncio.Event(), raising=False)
    monkeypatch.setattr(session_module, "Session", Sleeper)
    first = Run(load_settings(overrides=[*overrides, delivery, "kafka.standby_seconds=60"]), "first")
    await asyncio.wait_for(Sleeper.asleep.wait(), 30)
    account.update(Sleeper.in_hand[0], int(clock.now()) - 100)
    second = Run(settings, "second")
    await until(lambda: second.told(CaughtUp) > 1)
    Sleeper.awake.set()
    await until(lambda: first.told(StandingBy) > 0)
    seen = published(second)
    account.update(1, int(clock.now()) - 65)
    # Not just a commit: the checkpoint of the one that slept makes the second write its own again.
    await until(lambda: published(second) > seen)
    assert (second.told(StandingBy), second.told(Opened)) == (0, 1)
    await second.end()
    await first.end()
    assert reader.checkpoints()[-1]["instance"] == "second"
    messages = reader.messages()
    assert losses(messages, account.versions()) == []
    if delivery == EXACTLY_ONCE:
        assert faults(messages, account.versions()) == []
    else:  # one ticket in its old version, behind the new one, and the others of the page again
        assert [fault.partition(":")[0] for fault in disorder(messages)] == [f"ticket {Sleeper.in_hand[0]}"]
        assert repeats(messages) == len(Sleeper.in_hand) - 1
        assert (await judged(settings)).faults == ["1 out of order"]
    third = await once(settings)
    assert [event for event in third if isinstance(event, Committed)] == []


async def test_a_frozen_process_that_wakes_up_beside_its_successor_loses_nothing(
    kafka: Cluster, names: dict[str, str], account: Account, reader: Reader, tmp_path: Path
) -> None:
    dice, clock = random.Random(7), Clock.manual(1_800_000_000)
    backfill(account, clock.now(), 20)
    async with Simulator(account, clock=clock, limits=Limits.unlimited()) as zendesk:
        overrides = [*joined(kafka, zendesk, names), AT_LEAST_ONCE, f"zendesk.page_size={PAGE}"]
        paced = [*overrides, "zendesk.requests_per_minute=1200"]
        with running(paced, tmp_path / "frozen") as first:
            await more_requests(zendesk, 2)
            await asyncio.sleep(dice.uniform(0, 0.1))
            first.send_signal(signal.SIGSTOP)
            with running(paced, tmp_path / "second") as second:
                await more_requests(zendesk, 3)
                first.send_signal(signal.SIGCONT)
                await until(lambda: b"standing by" in (tmp_path / "frozen").read_bytes())
                assert (first.poll(), second.poll()) == (None, None)
        life_goes_on(zendesk, dice, clock)
        clock.advance(300)
        await complete(overrides, tmp_path / "last")
    messages = reader.messages()
    print(f"one sleeper, {len(messages)} messages, {repeats(messages)} repeats, out of order: {disorder(messages)}")
    assert losses(messages, account.versions()) == []
    assert repeats(messages) <= 2 * PAGE


@pytest.mark.parametrize("poll_interval", [0.05, 2], ids=["seen alone", "seen together with our own last one"])
async def test_an_older_checkpoint_behind_the_newest_takes_nobody_back(
    poll_interval: float,
    settings: Settings,
    overrides: list[str],
    kafka: Cluster,
    zendesk: Simulator,
    account: Account,
    clock: Clock,
    reader: Reader,
    names: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither a living instance nor a new one, whichever way it delivers. The control: to take the last one repeats."""
    history(account, clock.now())
    run = Run(load_settings(overrides=[*overrides, f"zendesk.poll_interval={poll_interval}"]))
    await until(lambda: run.told(CaughtUp) > 0)
    older = orjson.dumps({**reader.checkpoints()[2], "instance": "sleeper"})
    owner, partition = Owner(kafka.bootstrap_servers), partition_of(b"acme", 12)

    async def wake() -> None:
        await owner.append(names["checkpoints"], partition, b"acme/tickets", older)

    written = run.told(Committed)
    await wake()
    await until(lambda: run.told(Committed) > written)  # the newest once more, so that it is the last one again
    await run.end()
    assert reader.checkpoints()[-1]["instance"] == "one"
    assert (run.told(Opened), run.told(Retrying), run.told(StandingBy)) == (1, 0, 0)
    for delivery in (AT_LEAST_ONCE, EXACTLY_ONCE):
        await wake()
        events = await once(load_settings(overrides=[*overrides, delivery]))
        assert [event for event in events if isinstance(event, Committed)] == []
    assert faults(reader.messages(), account.versions()) == []
    await wake()
    monkeypatch.setattr(checkpoints_module, "_place_of", lambda value: None)
    assert [event for event in await once(settings) if isinstance(event, Committed)] != []


# --- from one way to the other


async def test_at_least_once_fences_an_instance_that_delivers_exactly_once(
    settings: Settings,
    overrides: list[str],
    account: Account,
    clock: Clock,
    reader: Reader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history(account, clock.now(), tickets=100)
    monkeypatch.setattr(Sleeper, "asleep", asyncio.Event(), raising=False)
    monkeypatch.setattr(Sleeper, "awake", asyncio.Event(), raising=False)
    monkeypatch.setattr(session_module, "Session", Sleeper)
    first = Run(load_settings(overrides=[*overrides, EXACTLY_ONCE, "kafka.standby_seconds=60"]), "first")
    await asyncio.wait_for(Sleeper.asleep.wait(), 30)
    events = await once(settings)
    assert notices(events) == [acknowledgements.CAVEAT]
    Sleeper.awake.set()
    await until(lambda: first.told(StandingBy) > 0)
    await first.end()
    assert faults(reader.messages(), account.versions()) == []


async def test_an_instance_that_delivers_at_least_once_stands_by_for_one_that_delivers_exactly_once(
    settings: Settings, overrides: list[str], account: Account, clock: Clock, reader: Reader, zendesk: Simulator
) -> None:
    history(account, clock.now(), tickets=300)
    slower = [
        *overrides,
        "zendesk.requests_per_minute=240",
    ]  # so that a look at the checkpoint comes between its writes
    first = Run(load_settings(overrides=[*slower, "kafka.standby_seconds=60"]), "first")
    await until(lambda: first.told(Committed) > 3)
    second = Run(load_settings(overrides=[*overrides, EXACTLY_ONCE, "kafka.standby_seconds=0.5"]), "second")
    await until(lambda: first.told(StandingBy) > 0)
    before = first.told(Committed)
    await until(lambda: second.told(Committed) > 3)
    assert first.told(Committed) == before
    await second.end()
    await first.end()
    await once(settings)
    messages = reader.messages()
    assert losses(messages, account.versions()) == []
    assert repeats(messages) <= 10


async def test_a_moved_checkpoint_is_taken_up_by_a_living_service(
    settings: Settings, overrides: list[str], account: Account, clock: Clock, zendesk: Simulator, reader: Reader
) -> None:
    history(account, clock.now(), tickets=400)
    run = Run(settings)
    await until(lambda: run.told(Committed) > 3)
    moved = await command(overrides, "checkpoint", "set", "--start-time", "0", "--yes")
    assert moved.returncode == 0, moved.stderr

    def generations() -> list[int]:
        return [event.checkpoint.generation for event in run.events if isinstance(event, Committed)]

    await until(lambda: generations()[-1] > 1)
    await run.end()
    assert sorted(generations()) == generations()


# --- brokers that lack something


@pytest.fixture(scope="module")
def lacking() -> Iterator[tuple[Cluster, int]]:
    """A broker that sends its clients to a port where nobody listens but a test's proxy."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Cluster(advertised_port=port) as cluster:
        yield cluster, port


LACKING: dict[str, dict[str, Collection[int]]] = {
    "transactions are not listed, and refused": {"unlisted": TRANSACTIONS, "unsupported": (FIND_COORDINATOR,)},
    "transactions are not listed, but their ids are given out": {"unlisted": TRANSACTIONS},
    "nor are numbers for producers": {"unlisted": (INIT_PRODUCER_ID, *TRANSACTIONS)},
    "everything is listed, and the connection ends": {"ignored": (FIND_COORDINATOR,)},
}


def through(proxy: Proxy, lacking: tuple[Cluster, int], how: Mapping[str, Collection[int]]) -> Proxy:
    cluster, proxy.port = lacking
    proxy.upstream = int(cluster.bootstrap_servers.rpartition(":")[2])
    for name, keys in how.items():
        setattr(proxy, name, keys)
    return proxy


def reader_through(proxy: Proxy, names: dict[str, str]) -> Reader:
    """An independent reader; the broker lacks nothing any more when it reads."""
    proxy.unlisted = proxy.unsupported = proxy.ignored = ()
    return Reader(f"127.0.0.1:{proxy.port}", names["tickets"], names["checkpoints"], names["dead_letters"])


@pytest.mark.parametrize("what", LACKING)
async def test_a_broker_without_transactions_is_published_to_at_least_once_and_refused_otherwise(
    what: str,
    lacking: tuple[Cluster, int],
    overrides: list[str],
    account: Account,
    clock: Clock,
    names: dict[str, str],
    zendesk: Simulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(acknowledgements, "FENCE", 1.0)
    history(account, clock.now())
    async with through(Proxy(), lacking, LACKING[what]) as proxy:
        here = [*overrides, f"kafka.bootstrap_servers=127.0.0.1:{proxy.port}"]
        (notice,) = notices(await once(load_settings(overrides=here)))
        assert "could not be fenced" in notice
        assert ("no idempotent producers either" in notice) == ("numbers" in what)
        assert [proxy.seen[key] for key in TRANSACTIONS] == [0, 0, 0]
        if "ends" not in what:  # which may be an accident: that is tried again
            with pytest.raises(Misconfigured, match="no transactions") as refused:
                await once(load_settings(overrides=[*here, EXACTLY_ONCE]))
            assert "kafka.delivery: at_least_once" in refused.value.hint
        messages = await asyncio.to_thread(reader_through(proxy, names).messages)
    assert faults(messages, account.versions()) == []


async def test_commands_that_write_do_not_hang_at_a_broker_without_transactions(
    lacking: tuple[Cluster, int],
    overrides: list[str],
    account: Account,
    clock: Clock,
    names: dict[str, str],
    zendesk: Simulator,
) -> None:
    async with through(Proxy(), lacking, LACKING["nor are numbers for producers"]) as proxy:
        server = f"127.0.0.1:{proxy.port}"
        here = [*overrides, f"kafka.bootstrap_servers={server}"]
        await once(load_settings(overrides=here))  # creates the topics
        await asyncio.to_thread(configure, server, names["tickets"], "max.message.bytes", "2000000")
        account.put(int(clock.now()) - 300, id=1, description=random.Random(1).randbytes(2_500_000).hex())
        account.put(int(clock.now()) - 299, id=2)
        events = await once(load_settings(overrides=here))
        assert sum(len(event.shipment.letters) for event in events if isinstance(event, Committed)) == 1
        await asyncio.to_thread(configure, server, names["tickets"], "max.message.bytes", "8388608")
        retried = await command(here, "dead-letters", "retry", "--all", "--yes", "--requests-per-minute", "60000")
        assert retried.returncode == 0, retried.stdout + retried.stderr
        moved = await command(here, "checkpoint", "set", "--start-time", "0", "--yes")
        assert moved.returncode == 0, moved.stderr
        reader = reader_through(proxy, names)
        messages = await asyncio.to_thread(reader.messages)
        checkpoints = await asyncio.to_thread(reader.checkpoints)
    assert sorted(message.identity[0] for message in messages) == [1, 2]
    assert checkpoints[-1]["end_time"] == 0


@pytest.mark.parametrize("numbered", [True, False])
async def test_a_lost_answer_ends_the_session_and_only_producers_without_numbers_repeat_the_page(
    numbered: bool,
    lacking: tuple[Cluster, int],
    overrides: list[str],
    account: Account,
    clock: Clock,
    names: dict[str, str],
    zendesk: Simulator,
) -> None:
    history(account, clock.now())
    how = LACKING["transactions are not listed, and refused" if numbered else "nor are numbers for producers"]
    async with through(Proxy(), lacking, how) as proxy:
        run = Run(load_settings(overrides=[*overrides, f"kafka.bootstrap_servers=127.0.0.1:{proxy.port}"]))
        await until(lambda: run.told(Committed) > 1)
        proxy.lose_answer = PRODUCE
        await until(lambda: run.told(Opened) > 1)
        await until(lambda: run.told(CaughtUp) > 0)
        await run.end()
        messages = await asyncio.to_thread(reader_through(proxy, names).messages)
    assert losses(messages, account.versions()) == []
    assert disorder(messages) == []
    assert repeats(messages) == 0 if numbered else 0 < repeats(messages) <= 10
    assert run.told(Retrying) == 1


# --- what `verify` makes of it


def test_a_page_that_was_published_again_is_no_torn_page_and_a_torn_one_is_still_found() -> None:
    def page(seq: int, count: int, *indexes: int, content: str = "a", time: int = 0) -> list[Any]:
        when = int(RETENTION.now) - 1000 + time
        return [event(1, content, id=index, page=(seq, index, count), time=when) for index in indexes]

    def torn(*records: Any) -> list[str]:
        in_order = sorted(records, key=lambda it: (it.generation, it.seq, it.page_index, it.partition, it.offset))
        told = page_faults(without_repeats(in_order), RETENTION, from_the_start=True)
        return [fault.word for fault in told]

    cut, whole = page(1, 3, 0, 2), page(1, 3, 0, 1, 2, time=1)
    assert torn(*cut, *whole) == []
    assert torn(*page(1, 3, 0, 1, 2, content="b"), *whole) == []  # tickets changed between the attempts
    assert torn(*page(1, 4, 0, 3), *whole) == []  # and their number did
    assert torn(*cut, *page(1, 3, 2, time=1)) == ["gaps"]
    assert torn(*page(1, 4, 0, 3), *page(1, 3, 0, 1, time=1)) == ["gaps"]
    assert torn(*cut, *whole, *page(3, 1, 0, time=2)) == ["gaps"]


def test_a_repeat_is_not_out_of_order_and_an_old_version_that_is_new_to_the_topic_is() -> None:
    def words(*stamps: int) -> list[str]:
        return [fault.word for fault in key_faults([event(stamp) for stamp in stamps], repeated=True)]

    assert words(1, 2, 3) == []
    assert words(1, 2, 1, 2) == ["duplicated", "duplicated"]
    assert words(2, 1) == ["out_of_order"]
    assert words(2, 1, 2, 1) == ["out_of_order", "duplicated", "duplicated"]


def test_repeats_alone_are_clean_only_where_they_are_allowed() -> None:
    for delivery, clean in (("at_least_once", True), ("exactly_once", False)):
        verdict = Verdict(account="acme", topic="tickets", delivery=delivery)  # type: ignore[arg-type]  # one of the two
        assert verdict.clean
        verdict.count("duplicated", "ticket 1")
        assert verdict.clean == clean
        verdict.count("missing", "ticket 2")
        assert not verdict.clean
