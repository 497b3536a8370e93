"""What `kafka/transactions.py` assumes of aiokafka, and what it makes of answers that get lost on the way."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from producer.errors import SessionOver
from producer.events import Retrying
from producer.kafka import connection, failures
from producer.kafka.connection import client_options, disconnect
from producer.kafka.failures import within
from producer.kafka.topics import open_admin, plans
from producer.kafka.transactions import TransactionalProducer
from producer.model import Record
from producer.sandbox.broker import Cluster
from producer.sandbox.zendesk import Account, Clock, Simulator
from producer.settings import Settings, load_settings
from producer.streams import TICKETS
from tests.conftest import joined, open_connections, peer, until
from tests.proxy import ADD_PARTITIONS_TO_TXN, END_TXN, METADATA, PRODUCE, Proxy
from tests.reader import Reader, faults
from tests.test_service import Run, history, once

ACCOUNT = ("zendesk.subdomain=acme", "zendesk.access_token=example", "zendesk.start_time=0")


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """Between every client and the broker."""
    async with Proxy() as between:
        yield between


@pytest.fixture
async def broker(proxy: Proxy) -> AsyncIterator[Cluster]:
    """A broker that is reached through the proxy only."""
    cluster = Cluster(advertised_port=proxy.port)
    await asyncio.to_thread(cluster.start)
    proxy.upstream = int(cluster.bootstrap_servers.rpartition(":")[2])
    try:
        yield cluster
    finally:
        await asyncio.to_thread(cluster.stop)


@pytest.fixture
def overrides(broker: Cluster, proxy: Proxy, zendesk: Simulator, names: dict[str, str]) -> list[str]:
    """Settings of a service that reaches its broker through the proxy."""
    return [*joined(broker, zendesk, names), f"kafka.bootstrap_servers=127.0.0.1:{proxy.port}"]


@pytest.fixture
def reader(proxy: Proxy, names: dict[str, str]) -> Reader:
    """An independent reader; the proxy has nothing to lose any more when it reads."""
    return Reader(f"127.0.0.1:{proxy.port}", names["tickets"], names["checkpoints"])


@pytest.fixture
async def topic(settings: Settings) -> str:
    """The tickets topic, empty."""
    async with open_admin(settings.kafka) as admin:
        await admin.create(plans(settings, TICKETS), 1)
    return settings.topics.tickets


def record(number: int) -> Record:
    """A record that the reader can read."""
    return Record(b"%d" % number, b"{}", [("ce_id", b"%d:0:0" % number)])


async def send(producer: TransactionalProducer, topic: str, partition: int, number: int) -> None:
    await (await producer.send_to(topic, partition, record(number)))


async def opened(settings: Settings, topic: str) -> TransactionalProducer:
    producer = TransactionalProducer(client_options(settings.kafka), "zendesk-producer.test")
    await producer.start()
    await producer.warm(topic)
    return producer


async def keys(reader: Reader) -> list[int]:
    """Keys of all committed records. Read in a thread: the proxy must go on meanwhile."""
    return sorted(int(message.key or 0) for message in await asyncio.to_thread(reader.messages))


@pytest.mark.parametrize(("lost", "committed"), [("lose_answer", True), ("lose_request", False)])
async def test_an_end_of_transaction_without_an_answer_is_asked_for_once_and_decided_by_the_next_fence(
    lost: str, committed: bool, proxy: Proxy, settings: Settings, topic: str, reader: Reader
) -> None:
    first = await opened(settings, topic)
    await first.begin()
    await send(first, topic, 0, 1)
    setattr(proxy, lost, END_TXN)
    with pytest.raises(SessionOver):
        async with within(10, "commit"):
            await first.commit()
    await first.aclose()
    assert proxy.seen[END_TXN] == 1
    second = await opened(settings, topic)
    await second.aclose()
    assert await keys(reader) == [1] * committed


async def test_an_end_of_transaction_that_comes_late_touches_no_later_page(
    proxy: Proxy, settings: Settings, topic: str, reader: Reader
) -> None:
    first = await opened(settings, topic)
    await first.begin()
    await send(first, topic, 0, 1)
    proxy.lose_request = END_TXN
    with pytest.raises(SessionOver):
        async with within(10, "commit"):
            await first.commit()
    await first.aclose()
    second = await opened(settings, topic)
    await second.begin()
    await send(second, topic, 0, 2)
    await proxy.deliver_late()
    await send(second, topic, 1, 3)
    await second.aclose()  # page 2 and 3 is never committed
    await (await opened(settings, topic)).aclose()
    assert await keys(reader) == []


async def test_the_oracle_sees_a_page_torn_by_a_late_end_of_transaction(
    proxy: Proxy, settings: Settings, topic: str, reader: Reader
) -> None:
    """The control: aiokafka alone asks again, and the first request ends a later transaction (KAFKA-17754)."""
    options = client_options(settings.kafka)
    careless = AIOKafkaProducer(**options, transactional_id="zendesk-producer.test")
    await careless.start()

    async def append(partition: int, number: int) -> None:
        await careless.send_and_wait(topic, b"{}", b"%d" % number, partition, headers=record(number).headers)

    await careless.begin_transaction()
    await append(0, 1)
    proxy.lose_request = END_TXN
    await careless.commit_transaction()
    await careless.begin_transaction()
    await append(0, 2)
    await proxy.deliver_late()
    await careless.stop()
    await (await opened(settings, topic)).aclose()
    assert await keys(reader) == [1, 2]  # 2 was never committed


@pytest.mark.parametrize("lost", [PRODUCE, ADD_PARTITIONS_TO_TXN])
async def test_after_an_append_without_an_answer_this_transaction_is_finished_and_no_other_begun(
    lost: int, proxy: Proxy, settings: Settings, topic: str, reader: Reader
) -> None:
    producer = await opened(settings, topic)
    await producer.begin()
    proxy.lose_answer = lost
    async with within(20, "append"):
        await send(producer, topic, 0, 1)
        await producer.commit()
    assert producer.worn
    await producer.aclose()
    assert await keys(reader) == [1]


async def test_a_producer_without_a_setback_is_not_worn(settings: Settings, topic: str) -> None:
    producer = await opened(settings, topic)
    await producer.begin()
    await send(producer, topic, 0, 1)
    await producer.commit()
    assert not producer.worn
    await producer.aclose()


async def test_closing_asks_nobody_and_leaves_nothing_running(broker: Cluster, settings: Settings, topic: str) -> None:
    before = asyncio.all_tasks()
    producer = await opened(settings, topic)
    await producer.begin()
    await asyncio.to_thread(broker.freeze)
    try:
        future = await producer.send_to(topic, 0, record(1))
        began = time.monotonic()
        await producer.aclose()
        assert time.monotonic() - began < 2
        assert [task for task in asyncio.all_tasks() - before if "aiokafka" in repr(task)] == []
        assert not future.done() or future.exception()
    finally:
        await asyncio.to_thread(broker.thaw)


async def test_a_network_that_is_cut_again_and_again_loses_and_repeats_nothing(
    proxy: Proxy, overrides: list[str], zendesk: Simulator, account: Account, clock: Clock, reader: Reader
) -> None:
    dice = random.Random(11)
    history(account, clock.now(), tickets=600)
    settings = load_settings(overrides=[*overrides, "zendesk.page_size=20", "zendesk.requests_per_minute=1200"])
    run = Run(settings)
    lost: list[dict[str, Any]] = [
        {"lose_answer": END_TXN},
        {"lose_request": END_TXN},
        {"lose_answer": PRODUCE},
        {"lose_request": PRODUCE},
        {"lose_answer": ADD_PARTITIONS_TO_TXN},
        {"lose_request": ADD_PARTITIONS_TO_TXN},
    ] * 2
    dice.shuffle(lost)
    for each in lost:
        asked = len(zendesk.journal)
        await until(lambda asked=asked: len(zendesk.journal) > asked, what="another request")  # type: ignore[misc]
        for name, key in each.items():
            setattr(proxy, name, key)
        await until(lambda: proxy.lose_answer is None and proxy.lose_request is None, what="the loss")
        proxy.cut()
    await run.end()
    assert run.told(Retrying) > 0
    await once(load_settings(overrides=overrides))
    assert faults(await asyncio.to_thread(reader.messages), account.versions()) == []


@pytest.mark.parametrize("ours", [True, False])
async def test_a_consumer_that_trips_over_a_task_of_its_own_leaves_no_connection_open(
    ours: bool, kafka: Cluster
) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap_servers)
    await consumer.start()
    await consumer.topics()
    connections = list(consumer._client._conns.values())
    assert connections
    assert consumer._fetcher is not None
    consumer._fetcher._pending_tasks.add(asyncio.create_task(asyncio.sleep(60)))  # it gets no time to begin
    if ours:
        await disconnect(consumer)
    else:  # the control: aiokafka by itself
        with pytest.raises(asyncio.CancelledError):
            await consumer.stop()
    left = [connection for connection in connections if connection.connected()]
    await consumer._client.close()
    assert (left == []) == ours


@pytest.mark.parametrize("ours", [True, False])
async def test_an_attempt_to_connect_that_is_cut_short_leaves_no_connection_open(
    ours: bool, kafka: Cluster, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = failures._end_bootstrap
    if not ours:  # the control: aiokafka by itself
        monkeypatch.setattr(failures, "_end_bootstrap", lambda error: None)
    proxy.upstream, proxy.held = int(kafka.bootstrap_servers.rpartition(":")[2]), (METADATA,)
    settings = load_settings(overrides=[*ACCOUNT, f"kafka.bootstrap_servers=127.0.0.1:{proxy.port}"])
    ends: list[BaseException] = []  # as long as somebody has the error, its connection is no garbage

    async def connect() -> None:
        try:
            async with open_admin(settings.kafka):
                pass
        except BaseException as error:
            ends.append(error)
            raise

    connecting = asyncio.create_task(connect())
    await until(lambda: proxy.seen[METADATA] > 0)
    connecting.cancel()
    await asyncio.wait([connecting])
    await asyncio.sleep(0)  # a transport closes its socket in the loop's next round
    left = connections_to(proxy.port)
    close(ends[0])
    assert (left == []) == ours


@pytest.mark.parametrize("ours", [True, False])
async def test_a_producer_that_is_closed_while_a_task_of_its_own_connects_leaves_no_connection_open(
    ours: bool, kafka: Cluster, settings_of_kafka: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not ours:  # the control: connections as aiokafka keeps them
        monkeypatch.setattr(connection, "_Ended", dict)
    producer = TransactionalProducer(client_options(settings_of_kafka.kafka), "late")
    async with within(10, "connect"):
        await producer.start()
    client = producer._producer.client
    connecting = asyncio.create_task(client._get_conn(client.get_random_node(), group="of its own"))
    await asyncio.sleep(0)  # it begins
    await producer.aclose()
    await connecting
    await asyncio.sleep(0)  # a transport closes its socket in the loop's next round
    left = connections_to(int(kafka.bootstrap_servers.rpartition(":")[2]))
    await client.close()
    assert (left == []) == ours


@pytest.fixture
def settings_of_kafka(kafka: Cluster) -> Settings:
    """Settings that name the broker."""
    return load_settings(overrides=[*ACCOUNT, f"kafka.bootstrap_servers={kafka.bootstrap_servers}"])


def connections_to(port: int) -> list[asyncio.Transport]:
    """The client's sides of this loop's connections to a port of loopback."""
    return [each for each in open_connections() if (peer(each) or (None, None))[1] == port]
