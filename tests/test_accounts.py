"""Several accounts in one process: what happens to one of them disturbs no other, and is said of that one alone."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import yaml

import producer.kafka.session as session_module
from producer import retry, services
from producer.errors import Final, Refused, Unavailable
from producer.events import CaughtUp, Committed, Event, Observer, Opened, Retrying
from producer.observers.board import Board
from producer.sandbox.broker import Cluster
from producer.sandbox.zendesk import Account, Clock, Credentials, Fault, Limits, OAuth, Scenario, Simulator
from producer.service import run
from producer.settings import Settings, load_accounts
from producer.stop import Stop
from producer.streams import Stream
from producer.zendesk import client
from tests.conftest import until
from tests.reader import Reader, faults
from tests.test_cli import free_port
from tests.test_service import history

OTHERS = ("beta", "gamma")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long before trying again."""
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(retry.Setbacks, "REOPEN", (0.05, 0.2))


@pytest.fixture
def clock() -> Clock:
    """A clock that only the test moves."""
    return Clock.manual(1_800_000_000)


class House:
    """Accounts, each at a far end of its own, and the file of settings that has them all. Use the fixture `house`."""

    def __init__(
        self, around: AsyncExitStack, kafka: Cluster, names: Mapping[str, str], clock: Clock, folder: Path
    ) -> None:
        self.far_ends: dict[str, Simulator] = {}
        self._around = around
        self._servers = kafka.bootstrap_servers
        self._names = names
        self.clock = clock
        self._folder = folder
        self._own: dict[str, dict[str, Any]] = {}

    async def add(self, subdomain: str, own: Mapping[str, Any] | None = None, **far_end: Any) -> Account:
        """An account with a short history, whose entry has the settings `own` as well."""
        account = Account(subdomain=subdomain, seed=len(self._own))
        history(account, self.clock.now())
        server = Simulator(account, clock=self.clock, **{"limits": Limits.unlimited(), **far_end})
        self.far_ends[subdomain] = await self._around.enter_async_context(server)
        self._own[subdomain] = {"subdomain": subdomain, "base_url": server.base_url, "start_time": 0, **(own or {})}
        return account

    def config(self, **http: Any) -> Path:
        """The file. `http`: settings of that group."""
        apart = ("tickets", "dead_letters", "users")
        topics = {name: f"{self._names[name]}.{{subdomain}}" for name in apart}
        settings = {
            "zendesk": {
                "access_token": "example",
                "requests_per_minute": 60_000,
                "poll_interval": 0.05,
                "page_size": 10,
            },
            "accounts": [
                {name: value for name, value in own.items() if value is not None} for own in self._own.values()
            ],
            "kafka": {"bootstrap_servers": self._servers, "standby_seconds": 1},
            "topics": {**topics, "checkpoints": self._names["checkpoints"]},
            "http": {"enabled": bool(http), **http},
        }
        file = self._folder / "settings.yaml"
        file.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return file

    def settings(self, *overrides: str) -> tuple[Settings, ...]:
        """Those of each account."""
        return load_accounts(self.config(), overrides)

    def topic(self, name: str, subdomain: str = "") -> str:
        """A topic of an account, or one that they share."""
        return f"{self._names[name]}.{subdomain}".removesuffix(".")

    def reader(self, subdomain: str) -> Reader:
        """Of the account's topics."""
        tickets, letters = (self.topic(name, subdomain) for name in ("tickets", "dead_letters"))
        return Reader(self._servers, tickets, self.topic("checkpoints"), letters)

    def faults(self, subdomain: str) -> list[str]:
        """What the promise forbids, in the account's topics."""
        reader = self.reader(subdomain)
        return faults(reader.messages(), self.far_ends[subdomain].account.versions(), reader.letters())

    def current(self, subdomain: str) -> set[tuple[int, int]]:
        """Id and stamp of each ticket of the account."""
        versions = self.far_ends[subdomain].account.versions()
        return {(version.id, version.generated_timestamp) for version in versions if version.current}

    def something_new(self) -> None:
        """In every account."""
        for server in self.far_ends.values():
            server.account.update(1, self.clock.now())
        self.clock.advance(100)


@pytest.fixture
async def house(kafka: Cluster, names: dict[str, str], clock: Clock, tmp_path: Path) -> AsyncIterator[House]:
    async with AsyncExitStack() as around:
        yield House(around, kafka, names, clock, tmp_path)


class Running:
    """All services as one task, what each told, and what the board shows."""

    def __init__(
        self, accounts: tuple[Settings, ...], *, once: bool = False, give_up_after: float | None = None
    ) -> None:
        self.events: dict[str, list[Event]] = {}
        self.later = 0.0
        """Seconds by which the board's clock is ahead: who has waited so long is not ready any more."""
        self.board = Board(monotonic=lambda: time.monotonic() + self.later)
        self.stop = Stop()
        self._observers: dict[tuple[str, str], Observer] = {
            (settings.zendesk.subdomain, stream): self.board.watch(settings, stream)
            for settings in accounts
            for stream in settings.zendesk.streams
        }
        self.task = asyncio.create_task(
            services.run_all(accounts, self.stop, self._watch, instance="one", once=once, give_up_after=give_up_after)
        )

    def _watch(self, settings: Settings, stream: Stream) -> Observer:
        shown = self._observers[settings.zendesk.subdomain, stream.name]
        told = self.events.setdefault(settings.zendesk.subdomain, [])

        def tell(event: Event) -> None:
            told.append(event)
            shown(event)

        return tell

    def told(self, subdomain: str, kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in self.events.get(subdomain, ()))

    def published(self, subdomain: str) -> set[tuple[int, int]]:
        """Id and stamp of each version."""
        committed = (event for event in self.events.get(subdomain, ()) if isinstance(event, Committed))
        return {(version.id, version.stamp) for event in committed for version in event.shipment.published}

    async def publishes_all(self, house: House, *subdomains: str) -> None:
        """Wait for that, of these accounts."""
        await until(lambda: all(self.published(name) >= house.current(name) for name in subdomains))

    def states(self) -> dict[str, str]:
        """The state of each account."""
        return {each["account"]: each["state"] for each in self.board.snapshot()["services"]}

    async def end(self) -> None:
        self.stop.set()
        await self.task


# --- each its own topics


async def test_every_version_of_every_account_is_in_its_topic_once_and_in_no_other(house: House) -> None:
    for subdomain in ("acme", *OTHERS):
        await house.add(subdomain)
    for _ in range(2):  # the boundaries are shown again, in another life
        await Running(house.settings(), once=True, give_up_after=60).task
    for subdomain in ("acme", *OTHERS):
        assert house.faults(subdomain) == []
        sources = {message.headers["ce_source"] for message in house.reader(subdomain).messages()}
        assert sources == {f"https://{subdomain}.zendesk.com/api/v2/incremental/tickets"}
    keys = {checkpoint["account"] for checkpoint in house.reader("acme").checkpoints()}
    assert keys == {"acme", *OTHERS}


@pytest.mark.parametrize("wrong", [False, True])
async def test_each_account_has_a_lock_of_its_own(wrong: bool, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: with one for all of them each would take it from the others."""
    if wrong:
        monkeypatch.setattr(session_module, "transactional_id", lambda settings, _: settings.topics.checkpoints)
    for subdomain in ("acme", *OTHERS):
        await house.add(subdomain)
    running = Running(house.settings())
    await running.publishes_all(house, "acme", *OTHERS)
    house.something_new()
    await running.publishes_all(house, "acme", *OTHERS)
    sessions = sum(running.told(name, Opened) for name in ("acme", *OTHERS))
    await running.end()
    assert sessions > 3 if wrong else sessions == 3


# --- one in trouble


def served(*faults: Fault) -> dict[str, Any]:
    return {"scenario": Scenario(faults)}


TROUBLES: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "refused": ({"credentials": Credentials(access_token="another")}, {}, "stopped", "401"),
    "without a help desk": (served(Fault("no_help_desk")), {}, "stopped", "No help desk"),
    "forbidden": (served(Fault("forbidden")), {}, "stopped", "403"),
    "without a start": ({}, {"start_time": None}, "stopped", r"start_time"),
    "without its certificates": ({}, {"ca_file": __file__}, "stopped", r"ca_file"),
    "away": (served(Fault("maintenance")), {}, "retrying", "503"),
    "resetting": (served(Fault("reset_before_headers")), {}, "retrying", ""),
    "talking HTML": (served(Fault("html_page")), {}, "blocked", ""),
    "stalled": (served(Fault("stalled_body", seconds=600)), {}, "starting", ""),
    "slow": (served(Fault("slow_first_byte", seconds=600)), {}, "starting", ""),
    "throttled for an hour": (served(Fault("too_many_requests", retry_after=3600)), {}, "retrying", "429"),
    "swollen": (served(Fault("gzip_bomb")), {"max_response_bytes": "1MiB"}, "blocked", ""),
}
"""Options of its far end, settings of its own, the state that it is to come to, and what is said of it."""


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_an_account_in_trouble_disturbs_no_other_and_is_the_one_that_is_named(trouble: str, house: House) -> None:
    far_end, own, state, reason = TROUBLES[trouble]
    await house.add("acme", own, **far_end)
    for subdomain in OTHERS:
        await house.add(subdomain)
    running = Running(house.settings())
    await until(lambda: running.states()["acme"] == state)
    await running.publishes_all(house, *OTHERS)
    for _ in range(3):
        house.something_new()
        await running.publishes_all(house, *OTHERS)
    running.later = 100.0
    polls = {name: running.told(name, CaughtUp) for name in OTHERS}
    await until(lambda: all(running.told(name, CaughtUp) > polls[name] for name in OTHERS))
    assert not running.task.done()
    assert {name: running.states()[name] for name in OTHERS} == dict.fromkeys(OTHERS, "caught_up")
    assert {reason.partition(": ")[0] for reason in running.board.ready().reasons} == {"acme/tickets"}
    assert running.board.alive()
    running.stop.set()
    if state == "stopped":
        with pytest.raises(Final, match=rf"acme/tickets: .*{reason}"):
            await running.task
    else:
        await asyncio.wait_for(running.task, 10)
    for subdomain in OTHERS:
        assert (running.told(subdomain, Opened), running.told(subdomain, Retrying)) == (1, 0)
        assert house.faults(subdomain) == []


@pytest.mark.parametrize("wrong", [False, True])
async def test_what_a_stalled_account_occupies_is_no_others(
    wrong: bool, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: with one connection for all accounts, which is what a pool with a small limit comes to."""
    if wrong:
        monkeypatch.setattr(services, "open_pool", narrow)
    await house.add("acme", **served(Fault("stalled_body", seconds=600)))
    await house.add("beta")
    running = Running(house.settings())
    await until(lambda: len(house.far_ends["acme"].journal) > 0 and running.told("beta", Opened) > 0)
    polls = running.told("beta", CaughtUp)
    with pytest.raises(AssertionError, match="more polls did not hold") if wrong else nullcontext():
        await until(lambda: running.told("beta", CaughtUp) > polls + 1, 2 if wrong else 30, "more polls")
    await running.end()


@asynccontextmanager
async def narrow(_: Sequence[Settings]) -> AsyncIterator[client.Pool]:
    connector = aiohttp.TCPConnector(limit=1, force_close=True)  # one that is kept alive does not count
    async with connector:
        yield client.Pool(connector)


async def test_each_account_keeps_to_a_budget_of_its_own(house: House) -> None:
    running_clock = Clock(start=1_800_000_000, speed=60)
    house.clock = running_clock
    limits = Limits(exports_per_minute=30)
    for subdomain, pace in (("acme", 1500), ("beta", 1500), ("gamma", 600)):  # 25 and 10 a minute of that clock
        await house.add(subdomain, {"requests_per_minute": pace, "poll_interval": 0.001}, limits=limits)
    running = Running(house.settings())
    await until(lambda: len(house.far_ends["acme"].journal) >= 20)
    began = {name: len(server.journal) for name, server in house.far_ends.items()}
    await until(lambda: len(house.far_ends["acme"].journal) >= 100)
    asked = {name: len(server.journal) - began[name] for name, server in house.far_ends.items()}
    await running.end()
    statuses = {served.status for server in house.far_ends.values() for served in server.journal}
    assert statuses == {200}
    assert asked["beta"] == pytest.approx(asked["acme"], rel=0.2)
    assert asked["gamma"] == pytest.approx(asked["acme"] * 0.4, rel=0.3)


# --- how all of it ends


async def test_with_once_it_ends_when_all_have_ended_and_names_each_that_failed(house: House) -> None:
    await house.add("acme", **served(Fault("maintenance")))
    await house.add("beta")
    await house.add("gamma", credentials=Credentials(access_token="another"))
    running = Running(house.settings(), once=True, give_up_after=1)
    with pytest.raises(Refused) as caught:
        await running.task
    first, second = str(caught.value).splitlines()[1:]
    assert str(caught.value).startswith("2 of 3 services have failed:")
    assert sorted((first.split()[0], second.split()[0])) == ["acme/tickets:", "gamma/tickets:"]
    assert caught.value.exit_code == 77
    assert house.faults("beta") == []


async def test_an_account_that_is_away_ends_with_once_as_unavailable_and_is_named(house: House) -> None:
    await house.add("acme", **served(Fault("maintenance")))
    await house.add("beta")
    with pytest.raises(Unavailable, match=r"^acme/tickets: no progress for 1 s"):
        await Running(house.settings(), once=True, give_up_after=1).task
    assert house.faults("beta") == []


async def test_a_bug_in_one_account_ends_the_process_with_its_traceback_once_the_others_have_ended(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    for subdomain in ("acme", *OTHERS):
        await house.add(subdomain)

    async def broken(settings: Settings, *arguments: Any, **options: Any) -> None:
        if settings.zendesk.subdomain == "acme":
            raise ZeroDivisionError
        await run(settings, *arguments, **options)

    monkeypatch.setattr("producer.services.run", broken)
    with pytest.raises(ZeroDivisionError) as caught:
        await Running(house.settings(), once=True, give_up_after=60).task
    assert caught.value.__notes__ == ["this has ended acme/tickets"]
    assert all(house.faults(name) == [] for name in OTHERS)


@pytest.mark.parametrize("wrong", [False, True])
async def test_one_that_is_refused_does_not_end_the_others(
    wrong: bool, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: services in a task group, which ends all of them with the first."""
    if wrong:
        monkeypatch.setattr(services, "asyncio", SimpleNamespace(gather=in_a_task_group))
    await house.add("acme", credentials=Credentials(access_token="another"))
    await house.add("beta")
    running = Running(house.settings())
    await until(lambda: running.states()["acme"] == "stopped")
    if wrong:
        await asyncio.wait({running.task}, timeout=10)
        assert running.task.done()
        assert running.task.exception() is not None
        return
    house.something_new()
    await running.publishes_all(house, "beta")
    running.stop.set()
    with pytest.raises(Refused, match=r"^acme/tickets: "):
        await running.task


async def in_a_task_group(*services: Any, return_exceptions: bool) -> list[Any]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in services]
    return [task.result() for task in tasks]


# --- as a process


@contextmanager
def process(config: Path, *words: str, secrets: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """`zendesk-producer --config … words`, gone at the end whatever happens. Its log is beside the file of settings."""
    environment = {**os.environ, **({} if secrets is None else {"PRODUCER_SECRETS_DIR": str(secrets)})}
    with config.with_name("log").open("a") as output:
        running = subprocess.Popen(
            [sys.executable, "-m", "producer", "--config", str(config), *words],
            env=environment,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield running
        finally:
            running.kill()
            running.communicate()


def lines(config: Path) -> list[dict[str, Any]]:
    """What was logged, whole lines only."""
    return [json.loads(line) for line in config.with_name("log").read_text().rpartition("\n")[0].splitlines()]


def has_logged(config: Path, message: str, *accounts: str) -> bool:
    """Whether that was logged of each of them."""
    return {line.get("account") for line in lines(config) if line["message"] == message} >= set(accounts)


async def page(port: int, path: str) -> tuple[int, str]:
    """Status and body of a page of the endpoint."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/{path}") as answer:
        return answer.status, await answer.text()


async def ended(running: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and standard error, when it has come to an end."""
    _, said = await asyncio.to_thread(running.communicate, timeout=30)
    return running.returncode, said


async def test_log_pages_and_exit_code_say_which_account_is_meant(house: House) -> None:
    await house.add("acme", credentials=Credentials(access_token="another"))
    for subdomain in OTHERS:
        await house.add(subdomain)
    port = free_port()
    config = house.config(port=port)
    with process(config, "run") as running:
        await until(lambda: has_logged(config, "caught up", *OTHERS) and has_logged(config, "stopped", "acme"))
        assert (await page(port, "livez"))[0] == 200
        assert json.loads((await page(port, "livez"))[1])["states"] == {"stopped": 1, "caught_up": 2}
        status, text = await page(port, "readyz")
        assert status == 503
        assert {reason.partition(": ")[0] for reason in json.loads(text)["reasons"]} == {"acme/tickets"}
        shown = json.loads((await page(port, "status"))[1])["services"]
        assert {each["account"]: each["state"] for each in shown} == {
            "acme": "stopped",
            **dict.fromkeys(OTHERS, "caught_up"),
        }
        metrics = (await page(port, "metrics"))[1]
        assert 'zendesk_producer_state{account="acme",state="stopped",stream="tickets"} 1.0' in metrics
        assert 'zendesk_producer_state{account="beta",state="caught_up",stream="tickets"} 1.0' in metrics
        running.terminate()
        code, said = await ended(running)
    assert code == 77
    assert said.startswith("error: acme/tickets: ")
    own = [line for line in lines(config) if line["logger"] == "producer"]
    assert {line["account"] for line in own if line["level"] == "error"} == {"acme"}
    assert {line.get("account") for line in own} == {"acme", *OTHERS}


async def test_a_signal_ends_all_accounts_and_one_that_hangs_with_them(house: House) -> None:
    await house.add("acme", **served(Fault("stalled_body", seconds=600)))
    for subdomain in OTHERS:
        await house.add(subdomain)
    config = house.config()
    with process(config, "run") as running:
        await until(lambda: has_logged(config, "caught up", *OTHERS) and len(house.far_ends["acme"].journal) > 0)
        running.terminate()
        code, said = await ended(running)
    assert (code, said) == (0, "")
    assert has_logged(config, "stopped", "acme", *OTHERS)


async def test_only_the_accounts_that_are_named_are_run(house: House) -> None:
    for subdomain in ("acme", *OTHERS):
        await house.add(subdomain)
    config = house.config()
    with process(config, "--account", "beta", "--account", "gamma", "run", "--once") as running:
        assert await ended(running) == (0, "")
    assert not house.far_ends["acme"].journal
    assert all(house.faults(name) == [] for name in OTHERS)


async def test_sigkill_at_random_moments_loses_and_repeats_nothing_of_any_account(house: House) -> None:
    dice = random.Random(10)
    for subdomain in ("acme", *OTHERS):
        account = await house.add(subdomain, {"requests_per_minute": 1200, "streams": "tickets,users"})
        for number in range(60):
            account.users.put(int(house.clock.now()) - 200 + number // 7, id=number + 1)
    config = house.config()
    for _ in range(8):
        with process(config, "run") as running:
            asked = {name: len(server.journal) for name, server in house.far_ends.items()}
            await until(lambda asked=asked: all(len(house.far_ends[name].journal) > asked[name] for name in asked))  # type: ignore[misc]
            await asyncio.sleep(dice.uniform(0, 0.3))
            running.send_signal(signal.SIGKILL)
        house.something_new()
    with process(config, "run", "--once", "--give-up-after", "60") as running:
        assert await ended(running) == (0, "")
    for subdomain, server in house.far_ends.items():
        assert house.faults(subdomain) == []
        users = house.reader(subdomain).read(house.topic("users", subdomain))
        assert faults(users, server.account.users.versions()) == []


async def test_no_secret_of_any_account_appears_anywhere(house: House, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()

    def keep(name: str, text: str) -> None:
        (secrets / name).write_text(text)

    keep("accounts__acme__api_token", "canary-api-token")
    keep("accounts__beta__client_secret", "canary-client-secret")
    keep("accounts__gamma__password", "canary-wrong-password")
    keep("zendesk__access_token", "canary-of-all")
    email = {"email": "agent@acme.example"}
    await house.add("acme", email, credentials=Credentials("agent@acme.example", api_token="canary-api-token"))
    await house.add("beta", {"client_id": "us"}, oauth=OAuth("us", "canary-client-secret"))
    await house.add("gamma", email, credentials=Credentials("agent@acme.example", password="canary-right"))
    await house.add("delta", credentials=Credentials(access_token="canary-of-all"))
    port = free_port()
    config = house.config(port=port)
    signed_in = ("acme", "beta", "delta")
    text = ""
    with process(config, "--set", "log.level=debug", "run", secrets=secrets) as running:
        await until(lambda: has_logged(config, "caught up", *signed_in) and has_logged(config, "stopped", "gamma"))
        for path in ("livez", "readyz", "status", "metrics"):
            text += (await page(port, path))[1]
        running.terminate()
        code, said = await ended(running)
    assert code == 77
    assert said.startswith("error: gamma/tickets: ")
    for words in (("config", "show"), ("config", "show", "--json")):
        with process(config, *words, secrets=secrets) as running:
            assert (await ended(running))[0] == 0
    text += said + config.with_name("log").read_text() + str(house.reader("acme").checkpoints())
    for subdomain in signed_in:
        assert house.faults(subdomain) == []
        text += str(house.reader(subdomain).messages())
    logins = [b64encode(f"agent@acme.example{login}".encode()).decode().rstrip("=") for login in LOGINS]
    assert [each for each in ("canary", *logins) if each in text] == []


LOGINS = ("/token:canary-api-token", ":canary-wrong-password")


# --- commands


async def test_the_topics_of_all_accounts_are_created_by_one_command(house: House) -> None:
    for subdomain in ("acme", *OTHERS):
        await house.add(subdomain)
    config = house.config()
    with process(config, "topics", "create") as running:
        assert await ended(running) == (0, "")
    told = config.with_name("log").read_text()
    for subdomain in ("acme", *OTHERS):
        assert f"creating {house.topic('tickets', subdomain)}: " in told
        assert house.reader(subdomain).messages() == []
    assert told.count(f"creating {house.topic('checkpoints')}: ") == 1


async def test_a_command_about_one_account_wants_to_know_which(house: House) -> None:
    for subdomain in ("acme", *OTHERS):
        await house.add(subdomain)
    config = house.config()
    with process(config, "check") as running:
        code, said = await ended(running)
    assert code == 78
    assert "this is about one account, and there are acme, beta, gamma" in said
    assert "--account" in said
    with process(config, "--account", "beta", "check") as running:
        assert (await ended(running))[0] == 0
    assert [bool(server.journal) for server in house.far_ends.values()] == [False, True, False]
