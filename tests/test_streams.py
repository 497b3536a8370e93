"""The other incremental exports: users, organizations and ticket events, each published as tickets are."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from producer import services
from producer.errors import Misconfigured, Stopping
from producer.events import Committed, Event, Waiting
from producer.sandbox.broker import Cluster
from producer.sandbox.zendesk import Account, Clock, Limits, Rules, Simulator
from producer.settings import Settings, load_settings
from producer.stop import Stop
from producer.streams import STREAMS, Stream
from producer.zendesk import turns
from producer.zendesk.budget import Budget
from tests.conftest import joined, until
from tests.reader import Reader, faults

ALL = "zendesk.streams=tickets,users,organizations,ticket_events"
PAGE = "zendesk.page_size=10"


@pytest.fixture
def clock() -> Clock:
    """A clock that only the test moves."""
    return Clock.manual(1_700_000_000)


@pytest.fixture
def account() -> Account:
    """One that keeps the events of its tickets."""
    return Account(subdomain="acme", seed=1, keep_events=True)


class Told:
    """What every service told, by stream."""

    def __init__(self) -> None:
        self.events: dict[str, list[Event]] = {}

    def __call__(self, settings: Settings, stream: Stream) -> Any:
        return self.events.setdefault(stream.name, []).append

    def committed(self, stream: str) -> int:
        """How many pages."""
        return sum(isinstance(event, Committed) for event in self.events.get(stream, []))


async def all_once(settings: Settings) -> Told:
    told = Told()
    await services.run_all([settings], Stop(), told, instance="one", once=True, give_up_after=60)
    return told


def crowd(account: Account, now: float, rows: int = 35, per_second: int = 4) -> None:
    """Rows of every stream, some sharing their second, none younger than two minutes."""
    for number in range(rows):
        at = int(now) - 500 + number // per_second
        account.users.put(at, id=number + 1)
        account.organizations.put(at, id=number + 1)
        account.update(account.put(at - 1, id=number + 1), at)
    account.users.delete(7, now - 130)
    account.organizations.delete(8, now - 130)


@pytest.mark.parametrize("rules", [Rules(), Rules(stuck=True)], ids=["pages", "seconds that are never left"])
async def test_every_version_of_every_stream_is_in_its_topic_once(
    rules: Rules, account: Account, clock: Clock, kafka: Cluster, names: dict[str, str], reader: Reader
) -> None:
    crowd(account, clock.now())
    async with Simulator(account, clock=clock, limits=Limits.unlimited(), rules=rules) as zendesk:
        settings = load_settings(overrides=[*joined(kafka, zendesk, names), ALL, PAGE])
        await all_once(settings)
        await all_once(settings)  # the boundaries are shown again, in another life
    for stream in STREAMS:
        messages = reader.read(names[stream])
        truth = list(account.streams[stream].versions())
        assert len({message.identity for message in messages}) == sum(version.current for version in truth)
        assert faults(messages, truth, keyed_by_id=stream != "ticket_events") == [], stream
        tombstones = [message for message in messages if message.value is None]
        assert len(tombstones) == {"users": 1, "organizations": 1}.get(stream, 0)
    keys = {f"{checkpoint['account']}/{checkpoint['stream']}" for checkpoint in reader.checkpoints()}
    assert keys == {f"acme/{stream}" for stream in STREAMS}


async def test_the_events_of_a_ticket_are_in_one_partition_and_in_order(
    overrides: list[str], zendesk: Simulator, account: Account, clock: Clock, names: dict[str, str], reader: Reader
) -> None:
    for change in range(12):
        for ticket in (1, 2, 3):
            account.put(int(clock.now()) - 1_000 + change * 20, id=ticket)
            account.update(ticket, clock.now() - 1_000 + change * 20 + 5)
    await all_once(load_settings(overrides=[*overrides, "zendesk.streams=ticket_events", PAGE]))
    messages = reader.read(names["ticket_events"])
    of_ticket: dict[bytes | None, list[tuple[int, int]]] = {}
    for message in messages:
        of_ticket.setdefault(message.key, []).append((message.partition, message.identity[1]))
    assert set(of_ticket) == {b"1", b"2", b"3"}
    for places in of_ticket.values():
        assert len({partition for partition, _ in places}) == 1
        assert [stamp for _, stamp in places] == sorted(stamp for _, stamp in places)


async def test_users_are_read_by_cursor_as_well(
    overrides: list[str], zendesk: Simulator, account: Account, clock: Clock, names: dict[str, str], reader: Reader
) -> None:
    crowd(account, clock.now())
    await all_once(load_settings(overrides=[*overrides, "zendesk.streams=users", "zendesk.export=cursor", PAGE]))
    assert faults(reader.read(names["users"]), account.users.versions()) == []
    assert {served.path for served in zendesk.journal} == {"/api/v2/incremental/users/cursor"}


async def test_a_stream_that_only_a_person_can_mend_ends_alone_and_is_named(
    overrides: list[str], zendesk: Simulator, account: Account, clock: Clock, names: dict[str, str], reader: Reader
) -> None:
    crowd(account, clock.now())
    await all_once(load_settings(overrides=[*overrides, "zendesk.streams=users"]))
    # Another name for the checkpoints: the users' topic holds records that none of them covers.
    both = [*overrides, "zendesk.streams=tickets,users", f"topics.checkpoints=other.{names['checkpoints']}"]
    settings = load_settings(overrides=both)
    told, stop = Told(), Stop()
    running = asyncio.create_task(services.run_all([settings], stop, told, instance="one"))
    await until(lambda: told.committed("tickets") > 0)
    account.update(1, clock.now())
    clock.advance(100)
    await until(lambda: told.committed("tickets") > 1)
    assert not running.done()
    stop.set()
    with pytest.raises(Misconfigured, match=r"acme/users: topic .* holds records, but"):
        await running


# The budget that they share


async def test_while_several_streams_wait_tickets_get_every_other_turn_and_none_starves() -> None:
    stop = Stop()
    budget = Budget(60_000, stop, lambda _: None)
    taken: list[str] = []

    async def ask(stream: str) -> None:
        while len(taken) < 60:
            await budget.turn(stream)
            taken.append(stream)

    await asyncio.gather(*(ask(stream) for stream in STREAMS))
    counted = Counter(taken[4:])
    assert 26 <= counted["tickets"] <= 32
    assert min(counted[stream] for stream in STREAMS if stream != "tickets") >= 8


async def test_whoever_gives_up_waiting_takes_nobodys_turn() -> None:
    budget = Budget(6_000, Stop(), lambda _: None)
    await budget.turn("tickets")
    waiting = [asyncio.create_task(budget.turn(stream)) for stream in ("tickets", "users", "organizations")]
    await asyncio.sleep(0)
    waiting[1].cancel()
    await asyncio.wait_for(asyncio.gather(waiting[0], waiting[2]), 5)
    await asyncio.wait_for(budget.turn("users"), 5)


async def test_a_stream_that_waits_for_another_ones_turn_says_so_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 0.01)
    told: list[Event] = []
    stop = Stop()
    budget = Budget(60_000, stop, lambda _: None)
    budget.hear({"Retry-After": "3600"})
    waiting = [asyncio.create_task(budget.turn("tickets")), asyncio.create_task(budget.turn("users", told.append))]
    await until(lambda: told.count(Waiting("another stream's turn", 0.01)) > 3)
    stop.set()
    outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
    assert all(isinstance(outcome, Stopping) for outcome in outcomes), outcomes


async def test_all_streams_together_keep_within_the_accounts_limit(
    kafka: Cluster, names: dict[str, str], account: Account, clock: Clock
) -> None:
    crowd(account, clock.now(), rows=60)
    running = Clock(start=clock.now(), speed=60)
    async with Simulator(account, clock=running, limits=Limits(exports_per_minute=30)) as zendesk:
        pace = "zendesk.requests_per_minute=1500"  # 25 a minute of a clock that runs sixty times as fast
        told = await all_once(load_settings(overrides=[*joined(kafka, zendesk, names), ALL, PAGE, pace]))
        assert {served.status for served in zendesk.journal} == {200}
        asked = Counter(served.path.rpartition("/")[2] for served in zendesk.journal)
    assert min(asked[stream] for stream in STREAMS) > 3
    waited = [event for events in told.events.values() for event in events if isinstance(event, Waiting)]
    assert waited
