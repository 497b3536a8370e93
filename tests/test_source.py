"""The source against a pretend Zendesk that misbehaves: what is retried, what stops the account, what is refused."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from producer import retry
from producer.errors import Blocked, Misconfigured, Pinned, ProducerError, Refused, Stopping, TooLarge
from producer.events import Event, Noticed, Retrying
from producer.model import Page, Position
from producer.sandbox.zendesk import Account, Clock, Credentials, Fault, Limits, Rules, Scenario, Simulator
from producer.settings import load_settings
from producer.stop import Stop
from producer.zendesk.budget import Budget
from producer.zendesk.client import open_client
from producer.zendesk.time_export import TimeExport, open_time_export
from tests.conftest import until
from tests.test_service import history

CANARY = "canary-4f1c"
BEGIN = Position(0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-offs of milliseconds."""
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(retry, "LONGEST_WAIT", 0.05)


@asynccontextmanager
async def source(
    zendesk: Simulator, *overrides: str, stop: Stop | None = None, events: list[Event] | None = None
) -> AsyncIterator[TimeExport]:
    """A source on its own: no Kafka, a guard that lets everything pass."""
    settings = load_settings(
        overrides=[
            "zendesk.subdomain=acme",
            f"zendesk.base_url={zendesk.base_url}",
            "zendesk.requests_per_minute=60000",
            "kafka.bootstrap_servers=localhost:9092",
            *(overrides or (f"zendesk.access_token={CANARY}",)),
        ]
    )
    stop, tell = stop or Stop(), (events if events is not None else []).append

    async def guard() -> None:
        pass

    async with open_client(settings, tell) as client:
        budget = Budget(settings.zendesk.requests_per_minute, stop, tell)
        async with open_time_export(client, budget, settings.zendesk.page_size, guard, stop, tell) as export:
            yield export


@asynccontextmanager
async def faulty(
    account: Account, clock: Clock, *faults: Fault, rules: Rules | None = None
) -> AsyncIterator[Simulator]:
    history(account, clock.now())
    scenario = Scenario(list(faults))
    async with Simulator(account, clock=clock, limits=Limits.unlimited(), scenario=scenario, rules=rules) as server:
        yield server


def whole(page: Page) -> bool:
    return len(page.versions) == 40 and page.caught_up


RETRIED = [
    "bad_gateway",
    "chunked_body_cut",
    "database_conflict",
    "database_deadlock",
    "gzip_stream_cut",
    "internal_server_error",
    "json_prefix",
    "maintenance",
    "origin_timeout",
    "reset_after_headers",
    "reset_before_headers",
    "too_many_exports",
    "too_many_requests",
    "unknown_error",
]
BLOCKING = [
    "deep_nesting",
    "html_page",
    "lone_surrogate",
    "placeholders",
    "redirect",
    "ticket_without_id",
    "tickets_not_a_list",
    "upstream_timeout",
]


@pytest.mark.parametrize("fault", RETRIED)
async def test_a_passing_fault_is_retried_and_the_page_comes_whole(fault: str, account: Account, clock: Clock) -> None:
    events: list[Event] = []
    async with (
        faulty(account, clock, Fault(fault, requests=(1, 2), retry_after=0)) as zendesk,
        source(zendesk, events=events) as export,
    ):
        assert whole(await export.fetch(BEGIN))
        assert len(zendesk.journal) == 3  # two faults and the page: nobody asks behind our back
    assert sum(isinstance(event, Retrying) for event in events) == 2


@pytest.mark.parametrize("fault", BLOCKING)
async def test_an_answer_that_is_no_page_is_refused_clearly_and_nothing_is_lost(
    fault: str, account: Account, clock: Clock
) -> None:
    async with faulty(account, clock, Fault(fault, requests=(1,))) as zendesk, source(zendesk) as export:
        with pytest.raises(Blocked) as caught:
            await export.fetch(BEGIN)
        assert CANARY not in f"{caught.value} {caught.value.hint} {caught.value!r}"
        assert len(str(caught.value)) > 20
        assert whole(await export.fetch(BEGIN))


async def test_a_ticket_without_a_stamp_is_published_and_said_once(account: Account, clock: Clock) -> None:
    events: list[Event] = []
    fault = Fault("ticket_without_generated_timestamp", requests=(1, 2))
    async with faulty(account, clock, fault) as zendesk, source(zendesk, events=events) as export:
        page = await export.fetch(BEGIN)
        await export.fetch(BEGIN)
        assert len(page.versions) == 40
        assert page.unstamped > 0
    assert [event.kind for event in events if isinstance(event, Noticed)] == ["unstamped"]


async def test_an_answer_over_the_cap_is_dropped_while_it_streams(account: Account, clock: Clock) -> None:
    async with (
        faulty(account, clock, Fault("gzip_bomb", requests=(1,), size=64 << 20)) as zendesk,
        source(zendesk, f"zendesk.access_token={CANARY}", "zendesk.max_response_bytes=1MiB") as export,
    ):
        with pytest.raises(TooLarge, match=r"zendesk\.|1,048,576"):
            await export.fetch(BEGIN)


async def test_a_second_that_the_export_does_not_leave_is_pinned(account: Account, clock: Clock) -> None:
    stamp = int(clock.now()) - 300
    for id_ in range(1, 8):
        account.put(stamp, id=id_)
    rules = Rules(stuck=True)
    async with (
        Simulator(account, clock=clock, limits=Limits.unlimited(), rules=rules) as zendesk,
        source(zendesk, f"zendesk.access_token={CANARY}", "zendesk.page_size=3") as export,
    ):
        with pytest.raises(Pinned, match=f"second {stamp}"):
            await export.fetch(Position(stamp))


@pytest.mark.parametrize("answer", ["400 json", "422 json", "422 text"])
async def test_a_refusal_as_too_recent_means_caught_up(answer: str, account: Account, clock: Clock) -> None:
    rules = Rules(too_recent_answer=answer)  # type: ignore[arg-type]  # one of the three
    async with (
        Simulator(account, clock=clock, limits=Limits.unlimited(), rules=rules) as zendesk,
        source(zendesk) as export,
    ):
        position = Position(int(clock.now()) - 5)
        page = await export.fetch(position)
        assert (page.caught_up, page.position, page.versions) == (True, position, ())


@pytest.mark.parametrize(
    "login",
    [
        ("zendesk.access_token=right",),
        ("zendesk.email=agent@acme.example", "zendesk.api_token=right"),
        ("zendesk.email=agent@acme.example", "zendesk.password=right"),
    ],
)
async def test_each_way_to_sign_in_is_accepted_and_a_wrong_one_refused_without_showing_it(
    login: tuple[str, ...], account: Account, clock: Clock
) -> None:
    known = Credentials(email="agent@acme.example", api_token="right", password="right", access_token="right")
    history(account, clock.now())
    async with Simulator(account, clock=clock, limits=Limits.unlimited(), credentials=known) as zendesk:
        async with source(zendesk, *login) as export:
            assert whole(await export.fetch(BEGIN))
        async with source(zendesk, *(word.replace("right", CANARY) for word in login)) as export:
            with pytest.raises(Refused, match="401") as caught:
                await export.fetch(BEGIN)
            assert CANARY not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(("fault", "kind"), [("forbidden", Refused), ("no_help_desk", Misconfigured)])
async def test_what_only_a_person_can_mend_ends_it(
    fault: str, kind: type[ProducerError], account: Account, clock: Clock
) -> None:
    async with faulty(account, clock, Fault(fault)) as zendesk, source(zendesk) as export:
        with pytest.raises(kind, match=r"40[34]"):
            await export.fetch(BEGIN)


async def test_retry_after_is_obeyed(account: Account, clock: Clock) -> None:
    fault = Fault("too_many_exports", requests=(1,), retry_after=1)
    async with faulty(account, clock, fault) as zendesk, source(zendesk) as export:
        began = time.monotonic()
        assert whole(await export.fetch(BEGIN))
        assert time.monotonic() - began >= 1


async def test_a_request_to_stop_ends_a_wait_at_once_and_asks_no_more(account: Account, clock: Clock) -> None:
    stop = Stop()
    fault = Fault("too_many_exports", retry_after=300)
    async with faulty(account, clock, fault) as zendesk, source(zendesk, stop=stop) as export:
        fetching = asyncio.create_task(export.fetch(BEGIN))
        await until(lambda: len(zendesk.journal) > 0)
        stop.set()
        with pytest.raises(Stopping):
            await asyncio.wait_for(fetching, 1)
        assert len(zendesk.journal) == 1


async def test_the_next_page_is_fetched_ahead_and_none_after_the_end(account: Account, clock: Clock) -> None:
    async with (
        faulty(account, clock) as zendesk,
        source(zendesk, f"zendesk.access_token={CANARY}", "zendesk.page_size=10") as export,
    ):
        page = await export.fetch(BEGIN)
        await until(lambda: len(zendesk.journal) > 1)
        seen = len(page.versions)
        while not page.caught_up:
            page = await export.fetch(page.position)
            seen += len(page.versions)
        asked = len(zendesk.journal)
        await asyncio.sleep(0.1)
        assert (seen, len(zendesk.journal)) == (40, asked)


@pytest.mark.parametrize("stamp", [-1, 2**40])
def test_a_stamp_that_is_no_time_is_refused(stamp: int) -> None:
    from producer.errors import BadAnswer
    from producer.zendesk.page import slice_page

    body = {"tickets": [{"id": 1, "generated_timestamp": stamp}], "end_of_stream": True, "end_time": 1}
    with pytest.raises(BadAnswer, match="no time in Unix seconds"):
        slice_page(json.dumps(body).encode())
