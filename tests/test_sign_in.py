"""Who may ask: OAuth clients, tokens that run out, secrets that are rotated, and refusals that pass or do not."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from producer import retry, service
from producer.errors import BadAnswer, Misconfigured, Refused, SignInRefused, Unavailable
from producer.events import CaughtUp, Committed, Event, Fetched, Retrying
from producer.observers.board import Board
from producer.sandbox.broker import Cluster
from producer.sandbox.zendesk import (
    Account,
    Clock,
    Credentials,
    Fault,
    Limits,
    OAuth,
    Scenario,
    Simulator,
)
from producer.sandbox.zendesk.answers import Answer
from producer.settings import Settings, load_settings
from producer.stop import Stop
from producer.streams import STREAMS
from producer.zendesk.auth import covers, scope_of
from producer.zendesk.source import open_account
from tests.conftest import joined, until
from tests.reader import Reader, faults
from tests.test_kills import running
from tests.test_service import Run, history, once

CLIENT, SECRET, OTHER = "zendesk_producer", "canary-client-secret", "canary-rotated-secret"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long before asking again."""
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(retry.Setbacks, "REFUSED", (0.05, 0.1))


@pytest.fixture
def oauth() -> OAuth:
    """What the account accepts."""
    return OAuth(CLIENT, SECRET)


@pytest.fixture
async def zendesk(account: Account, clock: Clock, oauth: OAuth) -> AsyncIterator[Simulator]:
    async with Simulator(account, clock=clock, limits=Limits.unlimited(), oauth=oauth) as server:
        yield server


def signed_in(base: list[str], *login: str) -> list[str]:
    """The same settings with another way to sign in."""
    return [*(each for each in base if not each.startswith("zendesk.access_token")), *login]


@pytest.fixture
def overrides(kafka: Cluster, zendesk: Simulator, names: dict[str, str]) -> list[str]:
    login = (f"zendesk.client_id={CLIENT}", f"zendesk.client_secret={SECRET}")
    return signed_in(joined(kafka, zendesk, names), *login)


@pytest.fixture
def secret_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Writes a secret file."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.setenv("PRODUCER_SECRETS_DIR", str(folder))

    def write(name: str, text: str) -> None:
        (folder / name).write_text(text)

    return write


# --- tokens --------------------------------------------------------------------------------------------------------------


async def test_a_token_is_asked_for_once_with_its_lifetime_and_the_least_scope(
    settings: Settings, account: Account, clock: Clock, oauth: OAuth, reader: Reader
) -> None:
    history(account, clock.now())
    await once(settings)
    assert faults(reader.messages(), account.versions()) == []
    (asked,) = oauth.journal
    assert (asked.scope, asked.expires_in, asked.granted) == ("tickets:read", 7200, "tickets:read")


async def test_a_token_is_renewed_before_it_runs_out_and_no_request_is_refused(
    settings: Settings, zendesk: Simulator, account: Account, clock: Clock, oauth: OAuth
) -> None:
    history(account, clock.now())
    oauth.longest = 1.5
    run = Run(settings)
    await until(lambda: len(oauth.journal) > 3)
    await run.end()
    assert {served.status for served in zendesk.journal} == {200}
    assert run.told(Retrying) == 0


async def test_a_token_that_is_revoked_is_replaced_once_and_the_page_comes_whole(
    settings: Settings, zendesk: Simulator, account: Account, clock: Clock, oauth: OAuth, reader: Reader
) -> None:
    history(account, clock.now())
    run = Run(settings)
    await until(lambda: run.told(CaughtUp) > 0)
    oauth.revoke()
    account.update(3, clock.now() - 61)
    polls = run.told(CaughtUp)
    await until(lambda: run.told(CaughtUp) > polls + 2)
    await run.end()
    assert len(oauth.journal) == 2
    assert [served.status for served in zendesk.journal].count(401) == 1
    assert faults(reader.messages(), account.versions()) == []


async def test_streams_that_meet_a_revoked_token_together_ask_for_one_new_one(
    overrides: list[str], zendesk: Simulator, account: Account, clock: Clock, oauth: OAuth
) -> None:
    history(account, clock.now())
    settings, stop = load_settings(overrides=overrides), Stop()
    async with open_account(settings, stop, lambda _: None) as opened:
        client = opened.client
        await client.get("incremental/tickets", {"start_time": 0})
        oauth.revoke()
        asked = [client.get("incremental/tickets", {"start_time": 0}) for _ in range(4)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {Unavailable}, outcomes
        assert len(oauth.journal) == 2
        await client.get("incremental/tickets", {"start_time": 0})
    assert len(oauth.journal) == 2


@pytest.mark.parametrize("fault", ["maintenance", "bad_gateway", "too_many_requests", "upstream_timeout", "html_page"])
async def test_a_passing_fault_of_the_token_endpoint_is_tried_again(
    fault: str,
    account: Account,
    clock: Clock,
    oauth: OAuth,
    kafka: Cluster,
    names: dict[str, str],
    reader: Reader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry.Setbacks, "BLOCKED", (0.05, 0.1))
    history(account, clock.now())
    scenario = Scenario([Fault(fault, requests=(1, 2), retry_after=0)])
    async with Simulator(
        account, clock=clock, limits=Limits.unlimited(), oauth=oauth, token_scenario=scenario
    ) as zendesk:
        login = (f"zendesk.client_id={CLIENT}", f"zendesk.client_secret={SECRET}")
        events = await once(load_settings(overrides=signed_in(joined(kafka, zendesk, names), *login)))
    assert sum(isinstance(event, Retrying) for event in events) == 2
    assert faults(reader.messages(), account.versions()) == []


@pytest.mark.parametrize("tells", [True, False])
async def test_a_token_without_the_scope_ends_the_service_at_the_start_and_says_why(
    tells: bool, settings: Settings, account: Account, clock: Clock, oauth: OAuth
) -> None:
    history(account, clock.now())
    oauth.scopes, oauth.tells_scope = ("users:read",), tells
    with pytest.raises(SignInRefused) as caught:
        await once(settings)
    if tells:
        assert 'the scope "" where "tickets:read" was asked for' in str(caught.value)
    else:
        assert "403" in str(caught.value)
    assert "scope" in caught.value.hint
    assert "given a token all the same" in caught.value.hint or "zendesk.scope" in caught.value.hint


async def test_a_wrong_client_secret_ends_the_service_at_the_start_with_77(
    overrides: list[str], account: Account, clock: Clock
) -> None:
    with pytest.raises(Refused) as caught:
        await once(load_settings(overrides=[*overrides, "zendesk.client_secret=wrong-canary"]))
    assert caught.value.exit_code == 77
    assert "Zendesk gives no token" in str(caught.value)
    assert "zendesk.client_secret" in caught.value.hint
    assert "wrong-canary" not in f"{caught.value} {caught.value!r} {caught.value.hint}"


async def test_an_answer_to_a_request_for_a_token_is_never_quoted(
    overrides: list[str],
    kafka: Cluster,
    names: dict[str, str],
    account: Account,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(OAuth, "grant", lambda *_: _answer(b'{"acess_token":"canary-token"}'))
    monkeypatch.setattr(retry.Setbacks, "BLOCKED", (0.05, 0.1))
    run = Run(load_settings(overrides=overrides))
    await until(lambda: run.told(Retrying) > 0)
    await run.end()
    told = [event.error for event in run.events if isinstance(event, Retrying)]
    assert all(isinstance(error, BadAnswer) for error in told)
    assert "canary-token" not in str([f"{error} {error!r}" for error in told])


def _answer(body: bytes) -> Any:
    return Answer(200, body)


@pytest.mark.parametrize(
    ("granted", "asked", "enough"),
    [
        ("tickets:read", "tickets:read", True),
        ("read", "tickets:read users:read", True),
        ("read write", "read", True),
        ("tickets:read", "read", False),
        ("", "tickets:read", False),
        ("tickets:read", "tickets:read users:read", False),
        ("tickets:write", "tickets:read", False),
    ],
)
def test_a_scope_covers_what_it_allows(granted: str, asked: str, enough: bool) -> None:
    assert covers(granted, asked) is enough


@pytest.mark.parametrize(
    ("settings", "scope"),
    [
        ((), "tickets:read"),
        (("zendesk.include=metric_sets",), "tickets:read"),
        (("zendesk.include=users",), "read"),
        (("zendesk.streams=tickets,users,ticket_events",), "tickets:read users:read"),
        (("zendesk.streams=organizations",), "organizations:read"),
        (("zendesk.scope=read", "zendesk.streams=users"), "read"),
    ],
)
def test_the_scope_is_the_least_that_streams_and_sideloads_need(settings: tuple[str, ...], scope: str) -> None:
    base = ["zendesk.subdomain=acme", "zendesk.client_id=x", "zendesk.client_secret=y", "kafka.bootstrap_servers=a:1"]
    assert scope_of(load_settings(overrides=[*base, *settings]).zendesk) == scope


# --- rotation ------------------------------------------------------------------------------------------------------------


async def test_a_rotated_client_secret_is_picked_up_without_a_restart(
    overrides: list[str],
    secret_file: Callable[[str, str], None],
    account: Account,
    clock: Clock,
    oauth: OAuth,
    reader: Reader,
) -> None:
    history(account, clock.now())
    secret_file("zendesk__client_secret", SECRET)
    settings = load_settings(overrides=[each for each in overrides if "client_secret" not in each])
    run = Run(settings)
    await until(lambda: run.told(CaughtUp) > 0)
    oauth.client_secret = OTHER
    secret_file("zendesk__client_secret", OTHER)
    oauth.revoke()
    account.update(3, clock.now() - 61)
    polls = run.told(CaughtUp)
    await until(lambda: run.told(CaughtUp) > polls + 2)
    await run.end()
    assert not [event for event in run.events if isinstance(event, Retrying) and event.what == "sign-in"]
    assert faults(reader.messages(), account.versions()) == []
    assert settings.redact(f"it is {OTHER}") == "it is ***"


@pytest.mark.parametrize("way", ["access_token", "api_token", "password"])
async def test_every_secret_that_came_from_a_file_is_read_again_when_it_is_refused(
    way: str,
    secret_file: Callable[[str, str], None],
    account: Account,
    clock: Clock,
    kafka: Cluster,
    names: dict[str, str],
) -> None:
    history(account, clock.now())
    before, after = (
        Credentials(email=None if way == "access_token" else "agent@acme.example", **{way: secret})
        for secret in (SECRET, OTHER)
    )
    secret_file(f"zendesk__{way}", SECRET)
    async with Simulator(account, clock=clock, limits=Limits.unlimited(), credentials=before) as zendesk:
        email = [] if way == "access_token" else ["zendesk.email=agent@acme.example"]
        settings = load_settings(overrides=signed_in(joined(kafka, zendesk, names), *email))
        run = Run(settings)
        await until(lambda: run.told(CaughtUp) > 0)
        zendesk._credentials = after
        await until(lambda: bool([e for e in run.events if isinstance(e, Retrying) and e.what == "sign-in"]))
        secret_file(f"zendesk__{way}", OTHER)
        polls = run.told(CaughtUp)
        await until(lambda: run.told(CaughtUp) > polls + 1)
        await run.end()
    for form in (OTHER, *(form for form in settings.secrets() if form not in (SECRET, OTHER))):
        assert settings.redact(f"it is {form}") == "it is ***"


async def test_a_file_that_is_half_written_or_gone_leaves_the_old_secret_in_force(
    secret_file: Callable[[str, str], None],
    overrides: list[str],
    account: Account,
    clock: Clock,
    oauth: OAuth,
    tmp_path: Path,
) -> None:
    history(account, clock.now())
    secret_file("zendesk__client_secret", SECRET)
    run = Run(load_settings(overrides=[each for each in overrides if "client_secret" not in each]))
    await until(lambda: run.told(CaughtUp) > 0)
    for gone in (False, True):
        secret_file("zendesk__client_secret", "")
        if gone:
            (tmp_path / "secrets/zendesk__client_secret").unlink()
        oauth.revoke()
        polls, asked = run.told(CaughtUp), len(oauth.journal)
        await until(lambda polls=polls: run.told(CaughtUp) > polls + 1)  # type: ignore[misc]
        assert len(oauth.journal) == asked + 1
    await run.end()
    assert not [event for event in run.events if isinstance(event, Retrying) and event.what == "sign-in"]


# --- refusals ------------------------------------------------------------------------------------------------------------


async def test_a_refusal_after_a_success_is_tried_again_slowly_and_loudly_and_passes(
    settings: Settings, account: Account, clock: Clock, oauth: OAuth, reader: Reader
) -> None:
    history(account, clock.now())
    board = Board()
    tell, stop = board.watch(settings, "tickets"), Stop()
    events: list[Event] = []

    def both(event: Event) -> None:
        events.append(event)
        tell(event)

    running_ = asyncio.create_task(service.run(settings, stop, both, instance="one"))
    await until(lambda: any(isinstance(event, CaughtUp) for event in events))
    secret, oauth.client_secret = oauth.client_secret, "another"
    oauth.revoke()
    await until(lambda: sum(isinstance(e, Retrying) and e.what == "sign-in" for e in events) > 2)
    assert board.snapshot()["state"] == "refused"
    assert "Zendesk refuses the sign-in" in str(board.ready().reasons)
    assert board.alive()
    oauth.client_secret = secret
    account.update(3, clock.now() - 61)
    count = len(events)
    await until(lambda: any(isinstance(event, Committed) for event in events[count:]))
    assert board.snapshot()["state"] != "refused"
    stop.set()
    await running_
    assert faults(reader.messages(), account.versions()) == []


async def test_a_refusal_that_lasts_longer_than_the_grace_ends_the_service_with_77(
    overrides: list[str], account: Account, clock: Clock, oauth: OAuth
) -> None:
    history(account, clock.now())
    run = Run(load_settings(overrides=[*overrides, "zendesk.refused_grace=0.6"]))
    await until(lambda: run.told(CaughtUp) > 0)
    oauth.client_secret = "another"
    oauth.revoke()
    with pytest.raises(SignInRefused):
        await asyncio.wait_for(run.task, 20)
    assert [event.what for event in run.events if isinstance(event, Retrying)].count("sign-in") >= 2


async def test_at_the_start_a_refusal_is_tried_no_second_time(
    overrides: list[str], account: Account, oauth: OAuth
) -> None:
    oauth.client_secret = "another"
    run = Run(load_settings(overrides=overrides))
    with pytest.raises(SignInRefused):
        await asyncio.wait_for(run.task, 20)
    assert run.told(Retrying) == run.told(Fetched) == 0
    assert len(oauth.journal) == 1


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("You are missing the following required scopes: read", "lacks a scope"),
        ("Access from your IP address is restricted", "restricts IP addresses"),
        ("This feature is not available in your plan", "plan does not include"),
        ("You do not have access to this page", "need an admin"),
    ],
)
async def test_a_403_says_what_it_is_for(body: str, told: str, kafka: Cluster, names: dict[str, str]) -> None:
    async def forbidden(_: web.Request) -> web.Response:
        return web.json_response({"error": {"title": "Forbidden", "message": body}}, status=403)

    async with served(forbidden) as address:
        login = ["zendesk.subdomain=acme", f"zendesk.base_url={address}", "zendesk.access_token=example"]
        more = ["zendesk.start_time=0", "http.enabled=false", f"kafka.bootstrap_servers={kafka.bootstrap_servers}"]
        topics = [f"topics.{name}={topic}" for name, topic in names.items()]
        with pytest.raises(SignInRefused) as caught:
            await once(load_settings(overrides=[*login, *more, *topics]))
    assert told in caught.value.hint


async def test_a_help_desk_that_does_not_exist_is_a_wrong_setting(
    account: Account, clock: Clock, kafka: Cluster, names: dict[str, str]
) -> None:
    async with Simulator(account, clock=clock, scenario=Scenario([Fault("no_help_desk")])) as zendesk:
        with pytest.raises(Misconfigured, match="No help desk"):
            await once(load_settings(overrides=joined(kafka, zendesk, names)))


@asynccontextmanager
async def served(handler: Any) -> AsyncIterator[str]:
    """An API that answers everything so."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


# --- nothing gets out ----------------------------------------------------------------------------------------------------


def test_canaries_in_every_credential_appear_nowhere(
    kafka: Cluster, names: dict[str, str], reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(_canaries(kafka, names, reader, tmp_path, monkeypatch))


async def _canaries(
    kafka: Cluster, names: dict[str, str], reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An API that echoes all it is told in its errors, for every way to sign in, at debug level, as a process of its own."""
    echoed: list[str] = []

    async def echo(request: web.Request) -> web.Response:
        told = await request.text()
        if request.path == "/oauth/tokens" and len(echoed) % 3:
            body = {"access_token": "canary-access-token-given", "scope": "tickets:read", "expires_in": 7200}
            echoed.append(str(body))
            return web.json_response(body)
        said = f"{request.headers.get('Authorization')} {told} {request.headers.get('Proxy-Authorization')}"
        echoed.append(said)
        return web.json_response({"error": said}, status=503, headers={"Retry-After": "0", "X-Request-Id": said[:200]})

    ways = {
        "oauth": {"zendesk.client_id": CLIENT, "zendesk.client_secret": 'canary-"quoted"-secret'},
        "access": {"zendesk.access_token": "canary-access-token"},
        "api": {"zendesk.email": "agent@acme.example", "zendesk.api_token": "canary-api-token"},
        "password": {"zendesk.email": "agent@acme.example", "zendesk.password": "canary-password"},
    }
    everything = ""
    for way, login in ways.items():
        folder = tmp_path / way
        folder.mkdir()
        for name, value in {**login, "tickets.hash_key": "canary-hash-key-0123456789"}.items():
            (folder / name.replace(".", "__")).write_text(value)
        monkeypatch.setenv("PRODUCER_SECRETS_DIR", str(folder))
        async with served(echo) as address:
            overrides = [
                "zendesk.subdomain=acme",
                f"zendesk.base_url={address}",
                "zendesk.start_time=0",
                "zendesk.requests_per_minute=6000",
                f"kafka.bootstrap_servers={kafka.bootstrap_servers}",
                "log.level=debug",
                "http.port=0",
                "tickets.drop_fields=$.description",
                *(f"topics.{name}={topic}.{way}" for name, topic in names.items()),
            ]
            seen = len(echoed)
            with running(overrides, folder / "log") as process:
                await until(lambda seen=seen: len(echoed) > seen + 4, 60)  # type: ignore[misc]
                process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(process.wait, 20)
            everything += (folder / "log").read_text()
            everything += repr([reader.read(f"{names[name]}.{way}") for name in ("checkpoints", "dead_letters")])
        shown = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "producer", "config", "show"],
            env={**os.environ, "PRODUCER_ZENDESK__SUBDOMAIN": "acme", "PRODUCER_KAFKA__BOOTSTRAP_SERVERS": "a:1"},
            capture_output=True,
            check=False,
        )
        everything += (shown.stdout + shown.stderr).decode()
    assert "503" in everything
    assert any("canary-api-token" in text or "Basic" in text for text in echoed), "the API was told, and echoed it"
    found = [line for line in everything.splitlines() if "canary" in line.lower()]
    assert found == []
    assert "canary" in json.dumps(echoed)  # the control: what was echoed holds them


def test_streams_have_scopes() -> None:
    assert {stream.scope for stream in STREAMS.values()} == {"tickets:read", "users:read", "organizations:read"}
