"""What tests share: a real broker, a pretend Zendesk, settings that join the two, and a reader that is not ours."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from typing import Any

import pytest

from producer.events import Event, Noticed
from producer.sandbox.broker import Cluster
from producer.sandbox.zendesk import Account, Clock, Limits, Simulator
from producer.settings import Settings, load_settings
from producer.zendesk import late_rows
from tests.reader import Reader

_numbers = count(1)
_FAREWELL = 10.0
"""Seconds in which connections that were closed must have ended."""

# Whoever runs the tests may have settings of their own; tests and the processes that they start see none of them.
for _name in [name for name in os.environ if name.startswith("PRODUCER_")]:
    del os.environ[_name]
os.environ["PRODUCER_CONFIG"] = os.devnull


@pytest.fixture(autouse=True)
async def every_connection_ends_with_its_test() -> AsyncIterator[None]:
    """Waits until no connection is left, and fails the test that leaves one.

    A TLS connection is closed only when its far end has said good-bye too. A loop that ends before makes a
    ResourceWarning of it, raised whenever the garbage is collected: in some other test. Autouse: set up before, thus
    ended after, every fixture that connects or serves.
    """
    yield
    deadline = time.monotonic() + _FAREWELL
    while left := open_connections():
        assert time.monotonic() < deadline, f"still open after the test, to {list(map(peer, left))}"
        await asyncio.sleep(0.005)


def open_connections() -> list[asyncio.Transport]:
    """Those of the running loop."""
    transports = asyncio.get_running_loop()._transports  # type: ignore[attr-defined]
    return [each for each in list(transports.values()) if each.get_extra_info("socket").fileno() != -1]


def peer(connection: asyncio.Transport) -> Any:
    """The address of its far end; None where that is gone."""
    return connection.get_extra_info("peername")


@pytest.fixture(scope="session")
def kafka() -> Iterator[Cluster]:
    """A broker for all tests that do not break it; topics keep them apart."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def names() -> dict[str, str]:
    """Topics of this test alone."""
    number = next(_numbers)
    topics = ("tickets", "checkpoints", "dead_letters", "users", "organizations", "ticket_events")
    beside = (f"sideloads.{name}" for name in ("users", "groups", "organizations"))
    return {name: f"{name}.{number}" for name in (*topics, *beside)}


@pytest.fixture
def clock() -> Clock:
    """Zendesk's clock."""
    return Clock(start=time.time())


@pytest.fixture
def account() -> Account:
    """An account without tickets."""
    return Account(subdomain="acme", seed=1)


@pytest.fixture
async def zendesk(account: Account, clock: Clock) -> AsyncIterator[Simulator]:
    """The far end of `account`, without limits."""
    async with Simulator(account, clock=clock, limits=Limits.unlimited()) as server:
        yield server


@pytest.fixture
def overrides(kafka: Cluster, zendesk: Simulator, names: dict[str, str]) -> list[str]:
    """The settings that join broker and simulator, as `--set` takes them."""
    return joined(kafka, zendesk, names)


@pytest.fixture
def settings(overrides: list[str]) -> Settings:
    """The same, loaded."""
    return load_settings(overrides=overrides)


@pytest.fixture
def reader(kafka: Cluster, names: dict[str, str]) -> Reader:
    """An independent reader of the test's topics."""
    return Reader(kafka.bootstrap_servers, names["tickets"], names["checkpoints"], names["dead_letters"])


@pytest.fixture
def looking_back_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever caught up, a look back for late rows is due."""
    monkeypatch.setattr(late_rows, "EVERY", 0)
    monkeypatch.setattr(late_rows, "PAUSE", 0)


def joined(kafka: Cluster, zendesk: Simulator, names: dict[str, str]) -> list[str]:
    """Settings for a service between these two that loses no time."""
    return [
        "zendesk.subdomain=acme",
        f"zendesk.base_url={zendesk.base_url}",
        "zendesk.access_token=example",
        "zendesk.start_time=0",
        "zendesk.requests_per_minute=60000",
        "zendesk.poll_interval=0.05",
        "kafka.standby_seconds=1",
        f"kafka.bootstrap_servers={kafka.bootstrap_servers}",
        "http.enabled=false",
        *(f"topics.{name}={topic}" for name, topic in names.items()),
    ]


async def until(condition: Callable[[], bool], seconds: float = 30, what: str = "the condition") -> None:
    """Wait for a condition, not for luck."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not hold within {seconds} s"
        await asyncio.sleep(0.01)


def said(events: list[Event]) -> list[str]:
    """The kinds of oddities that a person was told of."""
    return [event.kind for event in events if isinstance(event, Noticed) and not event.again]
