"""Who may ask: OAuth clients, tokens that run out, secrets that are rotated, and refusals that pass or do not."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from producer import retry, service
from producer.errors import BadAnswer, Misconfigured, Refused, SignInRefused, Unavailable
from producer.events import CaughtUp, Committed, Event, Fetched, Noticed, Retrying
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
from producer.zendesk import auth
from producer.zendesk.auth import covers, scope_of
from producer.zendesk.budget import Budget
from producer.zendesk.probe import probe
from producer.zendesk.source import open_account
from tests.conftest import joined, until
from tests.reader import Reader, faults
from tests.test_cli import free_port
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
    "body",
    [
        b'{"access_token":""}',
        b'{"access_token":"canary\\r\\nX-Header: 1"}',
        '{"access_token":"canary-\u00fc"}'.encode(),
        b'{"access_token":["canary"]}',
        b'{"access_token":"canary","scope":["tickets:read"]}',
        b'{"access_token":"canary","expires_in":"soon"}',
        b'["canary"]',
        b'{"access_token":"canary',
        b"",
    ],
    ids=range(9),
)
async def test_an_answer_without_a_token_that_can_be_sent_is_refused_unquoted(
    body: bytes, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OAuth, "grant", lambda *_: _answer(body))
    async with open_account(settings, Stop(), lambda _: None) as opened:
        with pytest.raises(BadAnswer) as caught:
            await opened.client.get("incremental/tickets", {"start_time": 0})
    assert "canary" not in f"{caught.value} {caught.value!r} {caught.value.hint}"


@pytest.mark.parametrize("fault", ["maintenance", "html_page", "not_authenticated"])
async def test_while_a_token_is_good_a_failing_renewal_stops_nothing_and_is_told(
    fault: str,
    account: Account,
    clock: Clock,
    oauth: OAuth,
    kafka: Cluster,
    names: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auth, "PAUSE", 0.2)
    history(account, clock.now())
    oauth.longest = 4  # renewed when half of it is left
    scenario = Scenario([Fault(fault, requests=(2, 3, 4))])
    async with Simulator(
        account, clock=clock, limits=Limits.unlimited(), oauth=oauth, token_scenario=scenario
    ) as zendesk:
        login = (f"zendesk.client_id={CLIENT}", f"zendesk.client_secret={SECRET}")
        run = Run(load_settings(overrides=signed_in(joined(kafka, zendesk, names), *login)))
        await until(lambda: len(oauth.journal) > 1)
        polls = run.told(CaughtUp)
        await until(lambda: run.told(CaughtUp) > polls + 2)
        await run.end()
    assert {served.status for served in zendesk.journal} == {200}
    assert run.told(Retrying) == 0
    told = [event for event in run.events if isinstance(event, Noticed) and event.kind == "token"]
    assert [event.again for event in told] == [False, True, True]
    assert "the one in hand is good for" in told[0].text


async def test_a_token_that_has_run_out_is_no_longer_used_while_none_is_given(
    settings: Settings, clock: Clock, oauth: OAuth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the one before."""
    monkeypatch.setattr(auth, "PAUSE", 0.2)
    oauth.longest = 1
    async with open_account(settings, Stop(), lambda _: None) as opened:
        await opened.client.get("incremental/tickets", {"start_time": 0})
        oauth.client_secret = "another"

        async def ask() -> None:
            while True:
                await opened.client.get("incremental/tickets", {"start_time": 0})
                await asyncio.sleep(0.02)

        with pytest.raises(SignInRefused, match="Zendesk gives no token"):
            await asyncio.wait_for(ask(), 10)


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


async def test_a_secret_that_is_read_while_half_of_it_is_written_stops_nothing(
    secret_file: Callable[[str, str], None],
    overrides: list[str],
    zendesk: Simulator,
    account: Account,
    clock: Clock,
    oauth: OAuth,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auth, "PAUSE", 0.2)
    history(account, clock.now())
    secret_file("zendesk__client_secret", SECRET)
    oauth.longest = 4
    run = Run(load_settings(overrides=[each for each in overrides if "client_secret" not in each]))
    await until(lambda: run.told(CaughtUp) > 0)
    oauth.client_secret = OTHER
    secret_file("zendesk__client_secret", OTHER[: len(OTHER) // 2])
    await until(lambda: any(isinstance(event, Noticed) and event.kind == "token" for event in run.events))
    secret_file("zendesk__client_secret", OTHER)
    await until(lambda: sum(asked.granted is not None for asked in oauth.journal) > 1)
    polls = run.told(CaughtUp)
    await until(lambda: run.told(CaughtUp) > polls)
    await run.end()
    assert {served.status for served in zendesk.journal} == {200}
    assert run.told(Retrying) == 0


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
    assert refused(run) > 0  # without a grace it would not be tried again (the control below)


async def test_the_grace_begins_with_the_first_refusal_however_long_ago_the_last_page_was(
    overrides: list[str], account: Account, clock: Clock, oauth: OAuth
) -> None:
    history(account, clock.now())
    run = Run(load_settings(overrides=[*overrides, "zendesk.refused_grace=0.6", "zendesk.poll_interval=1.5"]))
    await until(lambda: run.told(CaughtUp) > 0)
    oauth.client_secret = "another"
    oauth.revoke()
    with pytest.raises(SignInRefused):
        await asyncio.wait_for(run.task, 20)
    assert refused(run) > 0  # without a grace it would not be tried again (the control below)


async def test_a_success_in_between_begins_the_grace_anew(
    overrides: list[str], account: Account, clock: Clock, oauth: OAuth
) -> None:
    history(account, clock.now())
    run = Run(load_settings(overrides=[*overrides, "zendesk.refused_grace=2"]))
    began = time.monotonic()
    while time.monotonic() < began + 4:
        polls, refusals = run.told(CaughtUp), refused(run)
        await until(lambda polls=polls: run.told(CaughtUp) > polls)  # type: ignore[misc]
        oauth.client_secret = "another"
        oauth.revoke()
        await until(lambda refusals=refusals: refused(run) > refusals)  # type: ignore[misc]
        oauth.client_secret = SECRET
    await run.end()


def refused(run: Run) -> int:
    """How often a refusal was told."""
    return sum(isinstance(event, Retrying) and event.what == "sign-in" for event in run.events)


async def test_without_grace_the_first_refusal_ends_the_service(
    overrides: list[str], account: Account, clock: Clock, oauth: OAuth
) -> None:
    history(account, clock.now())
    run = Run(load_settings(overrides=[*overrides, "zendesk.refused_grace=0"]))
    await until(lambda: run.told(CaughtUp) > 0)
    oauth.client_secret = "another"
    oauth.revoke()
    with pytest.raises(SignInRefused):
        await asyncio.wait_for(run.task, 20)
    assert run.told(Retrying) == 0


async def test_a_right_that_is_granted_while_it_is_missed_is_seen_without_a_restart(
    settings: Settings, account: Account, clock: Clock, oauth: OAuth
) -> None:
    history(account, clock.now())
    run = Run(settings)
    await until(lambda: run.told(CaughtUp) > 0)
    scopes, oauth.scopes, oauth.tells_scope = oauth.scopes, ("users:read",), False
    oauth.revoke()
    await until(lambda: refused(run) > 1)
    told = [event.error for event in run.events if isinstance(event, Retrying)]
    assert isinstance(told[-1], SignInRefused)
    assert "lacks a scope" in told[-1].hint
    oauth.scopes = scopes
    polls = run.told(CaughtUp)
    await until(lambda: run.told(CaughtUp) > polls)
    await run.end()


async def test_a_token_with_more_rights_in_the_file_is_taken_after_a_403(
    secret_file: Callable[[str, str], None], kafka: Cluster
) -> None:
    async def by_token(request: web.Request) -> web.Response:
        if request.headers["Authorization"] != f"Bearer {OTHER}":
            return web.json_response({"error": "Forbidden"}, status=403)
        return web.json_response({"tickets": [], "count": 0, "end_of_stream": True})

    secret_file("zendesk__access_token", SECRET)
    async with served(by_token) as address:
        base = ["zendesk.subdomain=acme", f"zendesk.base_url={address}", "kafka.bootstrap_servers=a:1"]
        settings = load_settings(overrides=[*base, "zendesk.requests_per_minute=60000"])
        async with open_account(settings, Stop(), lambda _: None) as opened:
            for _ in range(2):
                with pytest.raises(SignInRefused):
                    await opened.client.get("incremental/tickets", {"start_time": 0})
            secret_file("zendesk__access_token", OTHER)
            with pytest.raises(SignInRefused):  # it was asked with the old one
                await opened.client.get("incremental/tickets", {"start_time": 0})
            await opened.client.get("incremental/tickets", {"start_time": 0})


async def test_a_refusal_that_lasts_longer_than_a_single_run_may_is_77_and_not_69(
    overrides: list[str], account: Account, clock: Clock, oauth: OAuth
) -> None:
    history(account, clock.now())
    run = Run(load_settings(overrides=overrides), give_up_after=1.5)
    await until(lambda: run.told(CaughtUp) > 0)
    oauth.client_secret = "another"
    oauth.revoke()
    with pytest.raises(SignInRefused):
        await asyncio.wait_for(run.task, 20)
    assert refused(run) > 0


async def test_a_check_says_what_the_token_is_good_for(
    overrides: list[str], account: Account, clock: Clock, oauth: OAuth
) -> None:
    oauth.scopes, oauth.longest = ("read",), 600

    async def signs_in(*more: str) -> str:
        settings = load_settings(overrides=[*overrides, *more])
        report = await probe(settings, Budget(60_000, Stop(), lambda _: None), 0, lambda _: None, briefly=True)
        return next(finding.text for finding in report.findings if finding.about == "sign-in")

    assert await signs_in("zendesk.scope=read") == (
        "a token of an OAuth client (scope read, for 600 s) may read the export"
    )
    oauth.longest, oauth.tells_scope = 172_800, False
    assert "(scope read, for 7200 s)" in await signs_in("zendesk.scope=read")


def test_the_pretend_zendesk_as_a_command_insists_on_an_oauth_client(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    options = ["simulate", "--port=0", "--tickets=10", "--client-secret=s3cret", f"--ready-file={ready}"]
    with in_the_background(["-m", "producer", *options], tmp_path / "log") as process:
        try:
            deadline = time.monotonic() + 20
            while not ready.exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            url = f"{ready.read_text().strip()}/oauth/tokens"
            asked = {"grant_type": "client_credentials", "client_id": CLIENT, "scope": "read", "expires_in": 600}
            statuses = [posted(url, {**asked, "client_secret": secret}) for secret in ("s3cret", "another")]
        finally:
            process.terminate()
    assert statuses == [201, 401]
    said = (tmp_path / "log").read_text()
    assert f"PRODUCER_ZENDESK__CLIENT_ID={CLIENT}" in said
    assert "s3cret" not in said


def posted(url: str, body: dict[str, object]) -> int:
    """The status of the answer."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


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
        pace = "zendesk.requests_per_minute=60000"
        more = [
            "zendesk.start_time=0",
            pace,
            "http.enabled=false",
            f"kafka.bootstrap_servers={kafka.bootstrap_servers}",
        ]
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


LOGINS = {
    "oauth": {"client_id": CLIENT, "client_secret": 'canary-"quoted"-secret'},
    "access": {"access_token": "canary-access-token"},
    "api": {"email": "agent@acme.example", "api_token": "canary-api-token"},
    "password": {"email": "agent@acme.example", "password": "canary-password"},
}
PROXY = "user:canary%2Fproxy"
CANARY = re.compile("canary|Y2FuYXJ5|NhbmFye|jYW5hcn", re.IGNORECASE)
"""Also as it looks in base64, at each of the places where it can begin."""
UNREDACTED = "from producer.settings import Settings; Settings.secrets = lambda self: (); from producer.__main__ import main; main()"


async def test_canaries_in_every_credential_appear_nowhere(
    kafka: Cluster, names: dict[str, str], reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for way in LOGINS:
        topics = {name: f"{topic}.{way}" for name, topic in names.items()}
        said = await overheard(way, kafka, topics, tmp_path / way, monkeypatch, "-m", "producer")
        said += repr([reader.read(topics[name]) for name in ("tickets", "checkpoints")])
        assert "answered 503" in said
        assert "Bearer ***" in said or "Basic ***" in said
        assert [line for line in said.splitlines() if CANARY.search(line)] == []


async def test_the_search_for_canaries_finds_them_where_nothing_is_redacted(
    kafka: Cluster, names: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the one before."""
    for way in ("oauth", "api"):
        topics = {name: f"{topic}.{way}" for name, topic in names.items()}
        said = await overheard(way, kafka, topics, tmp_path / way, monkeypatch, "-c", UNREDACTED)
        for place in ('"limits":', '"error":', '"text": "'):
            assert [line for line in said.splitlines() if place in line and CANARY.search(line)], (way, place)


def in_the_background(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Python, with all that it says in a file."""
    with log.open("wb") as output:
        return subprocess.Popen([sys.executable, *words], stdout=output, stderr=output)


async def overheard(
    way: str,
    kafka: Cluster,
    topics: dict[str, str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *program: str,
) -> str:
    """What a service shows at debug level: log, status page, metrics and `config show`.

    It speaks through a proxy to an API that echoes all it is told, in every second answer as an error.
    """
    folder.mkdir()
    for name, value in LOGINS[way].items():
        (folder / f"zendesk__{name}").write_text(value)
    (folder / "tickets__hash_key").write_text("canary-hash-key-0123456789")
    monkeypatch.setenv("PRODUCER_SECRETS_DIR", str(folder))
    asked: Counter[str] = Counter()

    async def echo(request: web.Request) -> web.Response:
        asked[request.path] += 1
        told = f"{request.headers.get('Authorization')} {request.headers.get('Proxy-Authorization')} {await request.text()}"
        headers = {"Retry-After": "0", "X-Rate-Limit": told, "X-Request-Id": told}
        if asked[request.path] % 2:
            return web.json_response({"error": told}, status=503, headers=headers)
        if request.path == "/oauth/tokens":
            token = {"access_token": "canary-token-given", "scope": "tickets:read", "expires_in": 1}
            return web.json_response(token, headers=headers)
        page = {"tickets": [], "count": 0, "end_of_stream": True, "end_time": None, "next_page": None}
        return web.json_response(page, headers=headers)

    async with served(echo) as address:
        port = free_port()
        settings = {
            "zendesk.subdomain": "acme",
            "zendesk.base_url": "http://zendesk",  # which only the proxy knows
            "zendesk.proxy": f"http://{PROXY}@{address.removeprefix('http://')}",
            "zendesk.start_time": "0",
            "zendesk.requests_per_minute": "6000",
            "zendesk.poll_interval": "0.1",
            "kafka.bootstrap_servers": kafka.bootstrap_servers,
            "log.level": "debug",
            "http.port": f"{port}",
            "tickets.drop_fields": "$.description",
            **{f"topics.{name}": topic for name, topic in topics.items()},
        }
        words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        log = folder / "log"
        process = in_the_background([*program, *words, "run"], log)
        try:
            await until(lambda: sum(count for path, count in asked.items() if "incremental" in path) > 6, 60)
            async with aiohttp.ClientSession() as session:
                pages = [
                    await (await session.get(f"http://127.0.0.1:{port}/{page}")).text()
                    for page in ("status", "metrics")
                ]
            process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(process.wait, 20)
        finally:
            process.kill()
            process.wait()
        config = [sys.executable, *program, *words, "config", "show"]
        shown = await asyncio.to_thread(subprocess.run, config, capture_output=True, text=True, check=True)
    return "\n".join([log.read_text(), *pages, shown.stdout, shown.stderr])


def test_streams_have_scopes() -> None:
    assert {stream.scope for stream in STREAMS.values()} == {"tickets:read", "users:read", "organizations:read"}
