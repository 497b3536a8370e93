"""What a session may go on from: checkpoints and topics that are not what they were, at the start and while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from confluent_kafka import Producer
from confluent_kafka import admin as confluent_admin
from confluent_kafka.admin import AdminClient

from producer.errors import Misconfigured
from producer.events import CaughtUp, Committed, Noticed, Opened
from producer.kafka import connection as connection_module
from producer.kafka import session as session_module
from producer.kafka import transactions as transactions_module
from producer.kafka.batches import partition_of
from producer.kafka.topics import open_admin, plans
from producer.model import Checkpoint
from producer.sandbox.broker import Cluster
from producer.sandbox.zendesk import Account, Clock, Simulator
from producer.settings import Settings, load_settings
from producer.streams import TICKETS
from tests.conftest import joined, until
from tests.reader import Reader, faults
from tests.test_checkpoint_command import command
from tests.test_service import Run, history, once

topics: Any = confluent_admin  # re-exports NewTopic and NewPartitions in a way that type checkers do not follow


class Owner:
    """The cluster's owner, who does to topics what we never would."""

    def __init__(self, servers: str) -> None:
        self._admin = AdminClient({"bootstrap.servers": servers})
        self._servers = servers

    async def delete(self, topic: str, *, gone: bool = True) -> None:
        await asyncio.to_thread(self._admin.delete_topics([topic])[topic].result, 10)
        if gone:
            await until(lambda: self.partitions(topic) == 0, what="the deletion")

    async def create(self, topic: str, partitions: int = 12, **config: str) -> None:
        settings = {name.replace("_", "."): value for name, value in config.items()}
        wanted = topics.NewTopic(topic, partitions, 1, config=settings)
        await asyncio.to_thread(self._admin.create_topics([wanted])[topic].result, 10)
        await until(lambda: self.partitions(topic) == partitions, what="the creation")

    async def recreate(self, topic: str, partitions: int = 12) -> None:
        await self.delete(topic)
        await self.create(topic, partitions)

    async def add_partitions(self, topic: str, total: int) -> None:
        await asyncio.to_thread(self._admin.create_partitions([topics.NewPartitions(topic, total)])[topic].result, 10)
        await until(lambda: self.partitions(topic) == total, what="the partitions")

    def partitions(self, topic: str) -> int:
        known = self._admin.list_topics(timeout=10).topics
        return len(known[topic].partitions) if topic in known else 0

    async def append(self, topic: str, partition: int, key: bytes, value: bytes) -> None:
        producer = Producer({"bootstrap.servers": self._servers})
        producer.produce(topic, value, key, partition)
        assert await asyncio.to_thread(producer.flush, 10) == 0


@pytest.fixture
def owner(kafka: Cluster) -> Owner:
    """Of the tests' broker."""
    return Owner(kafka.bootstrap_servers)


async def published(settings: Settings, account: Account, clock: Clock) -> None:
    """A history of 40 tickets, all published."""
    history(account, clock.now())
    await once(settings)


async def refused(settings: Settings) -> Misconfigured:
    with pytest.raises(Misconfigured) as caught:
        await once(settings)
    return caught.value


async def goes_on_once_set(
    position: int, settings: Settings, overrides: list[str], account: Account, clock: Clock, reader: Reader
) -> None:
    """`checkpoint set` behind all 40 is the way out: what changes afterwards is published, and nothing else."""
    moved = await command(overrides, "checkpoint", "set", "--start-time", str(position), "--yes")
    assert moved.returncode == 0, moved.stderr
    account.update(1, int(clock.now()) - 65)
    await once(settings)
    assert len(reader.messages()) == 41


# At the start


async def test_a_tickets_topic_with_another_name_is_refused(
    settings: Settings, overrides: list[str], account: Account, clock: Clock, owner: Owner, names: dict[str, str]
) -> None:
    await published(settings, account, clock)
    renamed = load_settings(overrides=[*overrides, f"topics.tickets={names['tickets']}.new"])
    assert names["checkpoints"] in str(await refused(renamed))
    await owner.create(f"{names['tickets']}.new")
    error = await refused(renamed)
    assert f"topics.tickets was {names['tickets']}" in str(error)
    assert "checkpoint set" in error.hint


async def test_a_tickets_topic_with_more_partitions_is_refused_and_set_is_the_way_out(
    settings: Settings,
    overrides: list[str],
    account: Account,
    clock: Clock,
    owner: Owner,
    reader: Reader,
    names: dict[str, str],
) -> None:
    await published(settings, account, clock)
    await owner.add_partitions(names["tickets"], 13)
    error = await refused(settings)
    assert f"partitions of {names['tickets']} was 12 when the checkpoint was written and is 13 now" in str(error)
    await goes_on_once_set(reader.checkpoints()[-1]["end_time"] + 1, settings, overrides, account, clock, reader)
    assert reader.checkpoints()[-1]["tickets"]["partitions"] == 13


async def test_a_tickets_topic_that_was_created_anew_is_refused(
    settings: Settings, account: Account, clock: Clock, owner: Owner, reader: Reader, names: dict[str, str]
) -> None:
    await published(settings, account, clock)
    await owner.recreate(names["tickets"])
    assert "was created anew or truncated" in str(await refused(settings))
    assert reader.messages() == []


async def test_a_tickets_topic_that_is_gone_is_refused_and_not_created(
    settings: Settings, account: Account, clock: Clock, owner: Owner, names: dict[str, str]
) -> None:
    await published(settings, account, clock)
    await owner.delete(names["tickets"])
    assert f"topic {names['tickets']} does not exist" in str(await refused(settings))
    assert owner.partitions(names["tickets"]) == 0


@pytest.mark.parametrize(
    ("moves", "expected"), [(True, "in partition {before} of {topic}"), (False, "partitions of {topic} was 12")]
)
async def test_a_checkpoint_topic_with_more_partitions_is_refused_wherever_the_checkpoint_belongs_now(
    moves: bool,
    expected: str,
    overrides: list[str],
    account: Account,
    clock: Clock,
    owner: Owner,
    names: dict[str, str],
) -> None:
    candidates = [f"acme-{number}" for number in range(1000)]
    subdomain = next(
        name for name in candidates if (partition_of(name.encode(), 12) != partition_of(name.encode(), 13)) == moves
    )
    settings = load_settings(overrides=[*overrides, f"zendesk.subdomain={subdomain}"])
    await published(settings, account, clock)
    await owner.add_partitions(names["checkpoints"], 13)
    before = partition_of(subdomain.encode(), 12)
    assert expected.format(before=before, topic=names["checkpoints"]) in str(await refused(settings))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda checkpoint: b"\x00garbage", "cannot be read"),
        (lambda checkpoint: orjson.dumps({**checkpoint, "end_time": "soon"}), "cannot be read"),
        (lambda checkpoint: orjson.dumps({**checkpoint, "min_reader": 2}), "needs a reader of format 2"),
        (lambda checkpoint: orjson.dumps({**checkpoint, "cursor": "MTU3NjYxMzUzOS4wfHw0Njc="}), "cannot be read"),
    ],
)
async def test_a_checkpoint_that_cannot_be_used_is_refused_and_set_is_the_way_out(
    spoil: Callable[[dict[str, Any]], bytes],
    expected: str,
    settings: Settings,
    overrides: list[str],
    account: Account,
    clock: Clock,
    owner: Owner,
    reader: Reader,
    names: dict[str, str],
) -> None:
    await published(settings, account, clock)
    written = reader.checkpoints()[-1]
    await owner.append(names["checkpoints"], partition_of(b"acme", 12), b"acme/tickets", spoil(written))
    assert expected in str(await refused(settings))
    await goes_on_once_set(written["end_time"] + 1, settings, overrides, account, clock, reader)


async def test_a_checkpoint_of_another_account_is_no_checkpoint_of_ours(
    settings: Settings, overrides: list[str], account: Account, clock: Clock
) -> None:
    await published(settings, account, clock)
    other = load_settings(overrides=[*overrides, "zendesk.subdomain=other"])
    assert "no checkpoint of other/tickets" in str(await refused(other))


async def test_topics_are_created_as_the_promise_needs_them(
    settings: Settings, zendesk: Simulator, owner: Owner, names: dict[str, str]
) -> None:
    await once(settings)
    async with open_admin(settings.kafka) as admin:
        configs = await admin.configs(*names.values())
    for plan in plans(settings, TICKETS):
        assert owner.partitions(plan.name) == plan.partitions
        assert plan.configs.items() <= configs[plan.name].items()


async def test_topics_are_not_created_where_that_is_not_allowed(
    overrides: list[str], owner: Owner, names: dict[str, str]
) -> None:
    error = await refused(load_settings(overrides=[*overrides, "kafka.create_topics=false"]))
    assert "does not exist, and kafka.create_topics is off" in str(error)
    assert owner.partitions(names["tickets"]) == 0


async def test_a_checkpoint_topic_that_deletes_by_age_is_refused(
    settings: Settings, owner: Owner, names: dict[str, str]
) -> None:
    await owner.create(names["checkpoints"], cleanup_policy="delete")
    await owner.create(names["tickets"], cleanup_policy="compact", max_message_bytes="8388608")
    assert f"topic {names['checkpoints']} has cleanup.policy=delete" in str(await refused(settings))


async def test_a_topic_that_refuses_full_batches_is_refused(
    settings: Settings, owner: Owner, names: dict[str, str]
) -> None:
    await owner.create(names["checkpoints"], cleanup_policy="compact")
    await owner.create(names["tickets"], cleanup_policy="compact", max_message_bytes="500000")
    assert "max.message.bytes=500000: full batches would be refused" in str(await refused(settings))


async def test_a_topic_that_no_append_can_reach_is_refused(
    settings: Settings, owner: Owner, names: dict[str, str]
) -> None:
    await owner.create(names["checkpoints"], cleanup_policy="compact")
    await owner.create(names["tickets"], cleanup_policy="compact", max_message_bytes="8388608", min_insync_replicas="2")
    assert "min.insync.replicas=2 and replication factor 1: no append can succeed" in str(await refused(settings))


async def test_a_topic_that_keeps_the_promise_less_well_is_warned_about(
    settings: Settings, zendesk: Simulator, owner: Owner, names: dict[str, str]
) -> None:
    await owner.create(names["checkpoints"], cleanup_policy="compact")
    await owner.create(names["tickets"], cleanup_policy="delete")
    told = [event.text for event in await once(settings) if isinstance(event, Noticed)]
    assert any("cleanup.policy=delete: tickets that nobody changes disappear" in text for text in told)
    assert any("a larger record goes to the dead letters" in text for text in told)


# While it runs


async def ended(run: Run) -> Misconfigured:
    """How a service ends that finds its topics replaced."""
    with pytest.raises(Misconfigured) as caught:
        await asyncio.wait_for(run.task, 120)
    return caught.value


def committed(run: Run) -> Checkpoint:
    """The last checkpoint that the service knows to be committed."""
    return [event.checkpoint for event in run.events if isinstance(event, Committed | Opened)][-1]


@pytest.fixture(scope="module")
def auto_creating() -> Iterator[Cluster]:
    """A broker that creates a topic, with one partition, whenever a client names one that does not exist."""
    with Cluster(properties={"auto.create.topics.enable": "true"}) as cluster:
        yield cluster


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines of seconds: a topic that is gone is often noticed only by them."""
    monkeypatch.setattr(connection_module, "REQUEST_TIMEOUT_MS", 2000)
    monkeypatch.setattr(session_module, "COMMIT", 5.0)
    # What the service leaves open when it ends holds back the test's reader so long.
    monkeypatch.setattr(transactions_module, "TRANSACTION_TIMEOUT_MS", 3000)


@pytest.mark.parametrize("idle", [True, False])
@pytest.mark.parametrize("how", ["deleted", "recreated", "auto-created"])
@pytest.mark.parametrize("what", ["tickets", "checkpoints"])
async def test_a_topic_replaced_while_we_run_ends_the_service_and_nothing_is_published_twice(
    what: str,
    how: str,
    idle: bool,
    zendesk: Simulator,
    account: Account,
    clock: Clock,
    names: dict[str, str],
    impatient: None,
    request: pytest.FixtureRequest,
) -> None:
    kafka: Cluster = request.getfixturevalue("auto_creating" if how == "auto-created" else "kafka")
    owner = Owner(kafka.bootstrap_servers)
    reader = Reader(kafka.bootstrap_servers, names["tickets"], names["checkpoints"])
    pace = [] if idle else ["zendesk.page_size=10", "zendesk.requests_per_minute=600"]
    history(account, clock.now(), tickets=40 if idle else 4000)
    run = Run(load_settings(overrides=[*joined(kafka, zendesk, names), *pace]))
    await until(lambda: run.told(CaughtUp) > 1 if idle else run.told(Committed) > 3, what="the moment")
    if how == "recreated":
        await owner.recreate(names[what])
    else:
        await owner.delete(names[what], gone=how == "deleted")
    if idle:
        account.update(1, int(clock.now()) - 62)
    error = await ended(run)
    assert names[what] in str(error)
    assert "checkpoint set" in error.hint
    if what == "checkpoints":
        end_time = committed(run).end_time
        assert end_time is not None
        passed = [version for version in account.versions() if version.generated_timestamp < end_time]
        assert [fault for fault in faults(reader.messages(), passed) if "never offered" not in fault] == []
    elif how != "deleted":
        assert reader.messages() == []  # what was appended to the new one is not committed


@pytest.mark.parametrize("tickets", [0, 40])
@pytest.mark.parametrize("left", ["nothing", "an older checkpoint"])
async def test_a_checkpoint_topic_that_has_lost_what_we_committed_ends_the_service(
    tickets: int,
    left: str,
    settings: Settings,
    overrides: list[str],
    zendesk: Simulator,
    account: Account,
    clock: Clock,
    owner: Owner,
    reader: Reader,
    names: dict[str, str],
    impatient: None,
) -> None:
    await once(settings)
    older = orjson.dumps(reader.checkpoints()[-1])
    history(account, clock.now(), tickets=max(tickets, 1))
    run = Run(settings)
    await until(lambda: run.told(CaughtUp) > 1)
    await owner.recreate(names["checkpoints"])
    if left != "nothing":
        await owner.append(names["checkpoints"], partition_of(b"acme", 12), b"acme/tickets", older)
    error = await ended(run)
    assert "has lost" in str(error)
    assert "checkpoint set" in error.hint
    assert len(reader.messages()) == max(tickets, 1)
