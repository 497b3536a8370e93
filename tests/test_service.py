"""The main job in one process: pages to transactions, idle polls, setbacks, standing by."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

import pytest
from confluent_kafka import admin as confluent_admin

from producer import retry, service
from producer.errors import Blocked, Misconfigured, Unpublishable
from producer.events import Committed, Event, Opened, Retrying, StandingBy, Stopped
from producer.sandbox.broker import Cluster
from producer.sandbox.zendesk import Account, Clock, Fault, Limits, Scenario, Simulator
from producer.settings import Settings, load_settings
from producer.stop import Stop
from tests.conftest import joined, until
from tests.reader import Reader, faults


class Run:
    """A service as a task, and what it told."""

    def __init__(
        self, settings: Settings, instance: str = "one", *, once: bool = False, give_up_after: float = 60
    ) -> None:
        self.events: list[Event] = []
        self.stop = Stop()
        self.task = asyncio.create_task(
            service.run(
                settings, self.stop, self.events.append, instance=instance, once=once, give_up_after=give_up_after
            )
        )

    def told(self, kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in self.events)

    async def end(self) -> None:
        self.stop.set()
        await self.task


async def once(settings: Settings) -> list[Event]:
    run = Run(settings, once=True)
    await run.task
    return run.events


def history(account: Account, now: float, tickets: int = 40, per_second: int = 7) -> None:
    """Tickets that share seconds, and end two minutes ago."""
    begin = int(now) - 120 - tickets // per_second
    for number in range(tickets):
        account.put(begin + number // per_second, id=number + 1)


async def test_a_backfill_publishes_every_version_once(
    settings: Settings, zendesk: Simulator, account: Account, clock: Clock, reader: Reader, overrides: list[str]
) -> None:
    history(account, clock.now())
    await once(load_settings(overrides=[*overrides, "zendesk.page_size=5"]))
    messages = reader.messages()
    assert len(messages) == 40
    assert faults(messages, account.versions()) == []


async def test_a_second_run_finds_nothing_to_publish(
    settings: Settings, zendesk: Simulator, account: Account, clock: Clock, reader: Reader
) -> None:
    history(account, clock.now())
    await once(settings)
    events = await once(settings)
    assert not [event for event in events if isinstance(event, Committed)]
    assert faults(reader.messages(), account.versions()) == []


async def test_idle_polls_write_nothing(
    settings: Settings, zendesk: Simulator, account: Account, clock: Clock, reader: Reader
) -> None:
    history(account, clock.now())
    run = Run(settings)
    await until(lambda: len(zendesk.journal) > 8)
    await run.end()
    assert run.told(Committed) == 1
    assert len(reader.checkpoints()) == 2  # the one of the first start, and the page's


async def test_a_deleted_ticket_is_an_event_and_a_tombstone_behind_it(
    settings: Settings, zendesk: Simulator, account: Account, clock: Clock, reader: Reader
) -> None:
    ticket = account.put(int(clock.now()) - 300)
    account.delete(ticket, int(clock.now()) - 200)
    await once(settings)
    event, tombstone = reader.messages()
    assert event.headers["ce_type"] == "com.zendesk.ticket.deleted.v1"
    assert event.value is not None
    assert tombstone.value is None
    assert tombstone.headers["ce_id"] == event.headers["ce_id"] + ":tombstone"
    assert (event.page[2:], tombstone.page[2:]) == ((0, 2), (1, 2))


async def test_without_tombstones_a_deleted_ticket_is_an_event_only(
    overrides: list[str], zendesk: Simulator, account: Account, clock: Clock, reader: Reader
) -> None:
    account.delete(account.put(int(clock.now()) - 300), int(clock.now()) - 200)
    await once(load_settings(overrides=[*overrides, "tickets.tombstones=false"]))
    assert [message.value is None for message in reader.messages()] == [False]


async def test_the_first_start_commits_its_position_before_any_ticket(
    settings: Settings, zendesk: Simulator, account: Account, clock: Clock, reader: Reader
) -> None:
    history(account, clock.now())
    await once(settings)
    first, *_ = reader.checkpoints()
    assert (first["seq"], first["generation"], first["end_time"], first["boundary"]) == (0, 1, 0, {})
    assert set(first["tickets"]["ends"]) == {0}


async def test_without_a_start_time_and_a_checkpoint_nothing_is_guessed(overrides: list[str]) -> None:
    settings = load_settings(overrides=[each for each in overrides if "start_time" not in each])
    with pytest.raises(Misconfigured, match=r"zendesk\.start_time is not set"):
        await once(settings)


async def test_until_the_first_page_a_changed_start_time_is_taken(
    settings: Settings, overrides: list[str], zendesk: Simulator, account: Account, clock: Clock, reader: Reader
) -> None:
    await once(settings)
    history(account, clock.now())
    later = int(clock.now()) - 122
    await once(load_settings(overrides=[*overrides, f"zendesk.start_time={later}"]))
    stamps = {message.identity[1] for message in reader.messages()}
    assert stamps
    assert min(stamps) >= later
    assert reader.checkpoints()[-1]["from"] == later


async def test_two_instances_never_publish_a_ticket_twice(
    settings: Settings, zendesk: Simulator, account: Account, clock: Clock, reader: Reader
) -> None:
    history(account, clock.now())
    first = Run(settings, "first")
    await until(lambda: first.told(Committed) > 0)
    second = Run(settings, "second")
    await until(lambda: first.told(StandingBy) > 0 and second.told(StandingBy) > 0, 30, "each stood by once")
    for ticket in range(1, 20):
        account.update(ticket, int(clock.now()) - 65)
    await until(lambda: first.told(Committed) + second.told(Committed) > 1)
    await first.end()
    await second.end()
    assert faults(reader.messages(), account.versions()) == []


async def test_asked_to_stop_the_service_ends_within_a_moment_and_tells_where_it_was(
    settings: Settings, zendesk: Simulator, account: Account, clock: Clock
) -> None:
    history(account, clock.now())
    run = Run(settings)
    await until(lambda: run.told(Opened) > 0)
    began = time.monotonic()
    await run.end()
    assert time.monotonic() - began < 5
    last = run.events[-1]
    assert isinstance(last, Stopped)
    assert last.error is None
    assert last.checkpoint is not None


NO_PAGES = [
    "html_page",
    "placeholders",
    "redirect",
    "tickets_not_a_list",
]


@pytest.mark.parametrize("fault", NO_PAGES)
async def test_a_page_that_cannot_be_passed_stops_the_account_loudly_and_loses_and_repeats_nothing(
    fault: str,
    overrides: list[str],
    account: Account,
    clock: Clock,
    kafka: Cluster,
    names: dict[str, str],
    reader: Reader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry.Setbacks, "BLOCKED", (0.05, 0.1))
    history(account, clock.now())
    scenario = Scenario([Fault(fault, requests=(3, 4, 5))])
    async with Simulator(account, clock=clock, limits=Limits.unlimited(), scenario=scenario) as zendesk:
        settings = load_settings(overrides=[*joined(kafka, zendesk, names), "zendesk.page_size=10"])
        events = await once(settings)
    blocked = [event for event in events if isinstance(event, Retrying) and event.what == "account"]
    assert len(blocked) == 3
    assert all(isinstance(event.error, Blocked) for event in blocked)
    assert faults(reader.messages(), account.versions()) == []


async def test_with_on_poison_stop_a_ticket_that_kafka_cannot_take_stops_the_account_until_the_topic_takes_it(
    overrides: list[str],
    account: Account,
    clock: Clock,
    kafka: Cluster,
    names: dict[str, str],
    reader: Reader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry.Setbacks, "BLOCKED", (0.05, 0.1))
    settings = load_settings(overrides=[*overrides, "tickets.on_poison=stop"])
    await once(settings)  # creates the topics, which take 8 MiB; 24 MB of hexadecimal noise are 12 MB compressed
    account.put(int(clock.now()) - 300, id=1)
    account.put(int(clock.now()) - 299, id=2, description=secrets.token_hex(12_000_000))
    account.put(int(clock.now()) - 298, id=3)
    run = Run(settings)
    await until(lambda: run.told(Retrying) > 1, 60)
    told = next(event.error for event in run.events if isinstance(event, Retrying))
    assert isinstance(told, Unpublishable)
    assert "number 2 of tickets, stamped" in str(told)
    assert f"raise max.message.bytes of topic {names['tickets']}" in told.hint
    await asyncio.to_thread(raise_limit, kafka.bootstrap_servers, names["tickets"], 30_000_000)
    await until(lambda: run.told(Committed) > 0, 60)
    await run.end()
    assert faults(reader.messages(), account.versions()) == []


def raise_limit(servers: str, topic: str, size: int) -> None:
    """What the error asks the cluster's owner to do."""
    configure(servers, topic, "max.message.bytes", str(size))


def configure(servers: str, topic: str, name: str, value: str) -> None:
    """Change a topic's configuration, as the cluster's owner."""
    admin: Any = confluent_admin
    entry = admin.ConfigEntry(name, value, incremental_operation=admin.AlterConfigOpType.SET)
    resource = admin.ConfigResource(admin.ResourceType.TOPIC, topic, incremental_configs=[entry])
    client = admin.AdminClient({"bootstrap.servers": servers})
    client.incremental_alter_configs([resource])[resource].result(10)
