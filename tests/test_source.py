"""The source against a pretend Zendesk that misbehaves: what is retried, what stops the account, what is refused."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import aiohttp
import pytest

from producer import retry
from producer.errors import (
    Blocked,
    Misconfigured,
    Pinned,
    ProducerError,
    Refused,
    Stopping,
    TooLarge,
    TooSlow,
)
from producer.events import Event, Noticed, Retrying
from producer.model import Page, Position
from producer.sandbox.zendesk import Account, Clock, Credentials, Fault, Limits, Rules, Scenario, Served, Simulator
from producer.settings import load_settings
from producer.stop import Stop
from producer.zendesk import client as client_module
from producer.zendesk.page import slice_page
from producer.zendesk.page_size import PageSize
from producer.zendesk.source import open_source
from producer.zendesk.walk import Walk
from tests.conftest import said, until
from tests.test_service import history

CANARY = "canary-4f1c"
BEARER = (f"zendesk.access_token={CANARY}",)
BEGIN = Position(0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-offs of milliseconds."""
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(retry, "LONGEST_WAIT", 0.05)


@asynccontextmanager
async def source(
    zendesk: Simulator, *overrides: str, stop: Stop | None = None, events: list[Event] | None = None
) -> AsyncIterator[Walk]:
    """A source on its own: no Kafka, a guard that lets everything pass."""
    settings = load_settings(
        overrides=[
            "zendesk.subdomain=acme",
            f"zendesk.base_url={zendesk.base_url}",
            "zendesk.requests_per_minute=60000",
            "kafka.bootstrap_servers=localhost:9092",
            *(overrides or BEARER),
        ]
    )
    stop, tell = stop or Stop(), (events if events is not None else []).append

    async def guard() -> None:
        pass

    async with open_source(settings, stop, tell) as opened, opened.export(guard) as export:
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


def by(served: Served) -> str:
    """Which export was asked."""
    return "cursor" if served.path.endswith("/cursor") else "time"


async def walk(export: Walk, position: Position = BEGIN) -> int:
    """Fetch until caught up; how many versions were new."""
    seen = 0
    while True:
        page = await export.fetch(position)
        seen, position = seen + len(page.versions), page.position
        if page.caught_up:
            return seen


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
    "html_page",
    "placeholders",
    "redirect",
    "tickets_not_a_list",
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
    assert said(events) == ["unstamped"]


# Answers that are too much at once


TOO_MUCH = [("oversized_body", TooLarge, "over 1,048,576 bytes"), ("upstream_timeout", TooSlow, "504")]


@pytest.mark.parametrize(("fault", "kind", "text"), TOO_MUCH)
async def test_what_is_too_much_at_once_comes_in_smaller_pages(
    fault: str, kind: type[Blocked], text: str, account: Account, clock: Clock
) -> None:
    events: list[Event] = []
    async with (
        faulty(account, clock, Fault(fault, per_page_above=12, size=8 << 20)) as zendesk,
        source(zendesk, *BEARER, "zendesk.page_size=40", "zendesk.max_response_bytes=1MiB", events=events) as export,
    ):
        assert await walk(export) == 40
        assert [served.per_page for served in zendesk.journal][:3] == [40, 20, 10]
    told = [event.error for event in events if isinstance(event, Retrying)]
    assert [type(error) for error in told] == [kind, kind]
    assert text in str(told[0])
    assert "asking for at most 20 tickets" in str(told[0])


@pytest.mark.parametrize(("fault", "kind", "text"), TOO_MUCH)
async def test_what_is_too_much_even_alone_is_read_by_cursor_and_the_page_size_is_what_it_was(
    fault: str, kind: type[Blocked], text: str, account: Account, clock: Clock
) -> None:
    events: list[Event] = []
    async with (
        faulty(account, clock, Fault(fault, times=4, size=8 << 20)) as zendesk,
        source(zendesk, *BEARER, "zendesk.page_size=8", "zendesk.max_response_bytes=1MiB", events=events) as export,
    ):
        assert await walk(export) == 40
        assert [(by(served), served.per_page) for served in zendesk.journal][:6] == [
            *(("time", tickets) for tickets in (8, 4, 2, 1)),
            ("cursor", 8),
            ("time", 8),
        ]
    assert said(events) == ["pinned"]


@pytest.mark.parametrize(("fault", "kind", "text"), TOO_MUCH)
async def test_what_is_too_much_even_alone_either_way_stops_the_account_and_nothing_is_lost(
    fault: str, kind: type[Blocked], text: str, account: Account, clock: Clock
) -> None:
    async with (
        faulty(account, clock, Fault(fault, times=8, size=8 << 20)) as zendesk,
        source(zendesk, *BEARER, "zendesk.page_size=8", "zendesk.max_response_bytes=1MiB") as export,
    ):
        with pytest.raises(kind, match=f"{text}.*and before, by time: .*{text}"):
            await export.fetch(BEGIN)
        assert [served.per_page for served in zendesk.journal] == [8, 4, 2, 1, 8, 4, 2, 1]
        assert await walk(export) == 40


async def test_an_answer_over_the_cap_is_dropped_while_it_streams(account: Account, clock: Clock) -> None:
    tracemalloc.start()
    try:
        async with (
            faulty(account, clock, Fault("gzip_bomb", requests=(1,), size=256 << 20)) as zendesk,
            source(zendesk, *BEARER, "zendesk.max_response_bytes=1MiB") as export,
        ):
            assert whole(await export.fetch(BEGIN))
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_the_page_size_grows_back_slowly_and_ever_more_rarely_where_that_fails() -> None:
    size = PageSize(1000)
    tries: list[int] = []
    for _ in range(200):
        if size.now > 500:
            tries.append(len(tries))
            assert size.was_too_much()
        else:
            size.was_good()
    assert size.now == 500
    assert 3 <= len(tries) <= 6
    assert not PageSize(1).was_too_much()


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
        source(zendesk, *BEARER, "zendesk.page_size=10") as export,
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


# Paging


async def test_a_page_cut_in_the_middle_of_a_second_loses_and_repeats_nothing(account: Account, clock: Clock) -> None:
    async with faulty(account, clock) as zendesk, source(zendesk, *BEARER, "zendesk.page_size=10") as export:
        assert await walk(export) == 40  # history has seven in each second
        asked = [served.start_time for served in zendesk.journal]
        assert asked == [0, *(served.end_time for served in zendesk.journal[:-1])]


async def test_a_second_larger_than_a_page_comes_whole_in_one_page(account: Account, clock: Clock) -> None:
    stamp = int(clock.now()) - 300
    for id_ in range(1, 31):
        account.put(stamp + (id_ > 25), id=id_)
    async with (
        Simulator(account, clock=clock, limits=Limits.unlimited()) as zendesk,
        source(zendesk, *BEARER, "zendesk.page_size=5") as export,
    ):
        page = await export.fetch(BEGIN)
        assert len(page.versions) == 25
        assert page.position.end_time == stamp + 1
        assert await walk(export, page.position) == 5


async def test_an_idle_account_repeats_its_last_ticket_and_nothing_is_new(account: Account, clock: Clock) -> None:
    async with faulty(account, clock) as zendesk, source(zendesk) as export:
        page = await export.fetch(BEGIN)
        for _ in range(3):
            again = await export.fetch(page.position)
            assert (again.versions, again.position, again.caught_up) == ((), page.position, True)
            assert again.repeated == again.rows > 0


async def test_an_account_without_tickets_is_caught_up_where_it_is(account: Account, clock: Clock) -> None:
    async with Simulator(account, clock=clock, limits=Limits.unlimited()) as zendesk, source(zendesk) as export:
        page = await export.fetch(Position(5))
        assert (page.versions, page.position, page.caught_up) == ((), Position(5), True)


async def test_an_end_time_of_null_moves_no_further_than_the_last_ticket(account: Account, clock: Clock) -> None:
    async with (
        faulty(account, clock, Fault("null_end_time")) as zendesk,
        source(zendesk, *BEARER, "zendesk.page_size=10") as export,
    ):
        assert await walk(export) == 40
        asked = [served.start_time or 0 for served in zendesk.journal]
        assert asked == sorted(set(asked))


async def test_empty_answers_that_do_not_end_the_stream_are_asked_again_and_by_cursor_after_ten(
    account: Account, clock: Clock
) -> None:
    async with faulty(account, clock, Fault("nothing_yet", requests=range(2, 99))) as zendesk:
        async with source(zendesk) as export:
            assert whole(await export.fetch(BEGIN))
        async with source(zendesk) as export:
            assert whole(await export.fetch(BEGIN))
        assert [by(served) for served in zendesk.journal] == ["time"] * 11 + ["cursor"]


async def test_empty_answers_both_ways_stop_the_account(account: Account, clock: Clock) -> None:
    faults = Fault("nothing_yet", requests=range(1, 11)), Fault("empty_midstream", requests=range(11, 21))
    async with faulty(account, clock, *faults) as zendesk, source(zendesk) as export:
        with pytest.raises(Pinned, match=r"10 answers without a ticket by cursor.*10 answers without a ticket"):
            await export.fetch(BEGIN)
        assert whole(await export.fetch(BEGIN))


async def test_the_next_request_is_our_own_whatever_next_page_says(account: Account, clock: Clock) -> None:
    async with (
        faulty(account, clock, Fault("foreign_next_page")) as zendesk,
        source(zendesk, *BEARER, "zendesk.page_size=10") as export,
    ):
        assert await walk(export) == 40
        assert {served.path for served in zendesk.journal} == {"/api/v2/incremental/tickets"}


# When a request may start


@pytest.mark.parametrize("skew", [0, -5 * 86_400])
async def test_a_request_waits_until_its_position_is_61_seconds_old_by_the_servers_clock(
    skew: int, account: Account
) -> None:
    clock = Clock(start=time.time() + skew)
    async with Simulator(account, clock=clock, limits=Limits.unlimited()) as zendesk, source(zendesk) as export:
        await export.fetch(BEGIN)
        young = int(clock.now()) - 58
        assert (await export.fetch(Position(young))).caught_up
        served = zendesk.journal[-1]
        assert (served.start_time, served.status) == (young, 200)
        assert 61 <= served.at - young < 65


async def test_without_a_date_from_the_server_it_is_asked_at_once_and_its_refusal_obeyed(
    account: Account, clock: Clock
) -> None:
    async with (
        Simulator(account, clock=clock, limits=Limits.unlimited(), send_date=False) as zendesk,
        source(zendesk) as export,
    ):
        young = Position(int(clock.now()) - 5)
        assert (await export.fetch(young)).position == young
        assert (zendesk.journal[-1].status, len(zendesk.journal)) == (400, 1)


async def test_requests_are_evenly_spaced_from_the_first_on(account: Account, clock: Clock) -> None:
    async with faulty(account, clock) as zendesk:
        began = clock.now()
        async with source(zendesk, *BEARER, "zendesk.page_size=10", "zendesk.requests_per_minute=300") as export:
            assert await walk(export) == 40
        sent = [began, *(served.at for served in zendesk.journal)]
        gaps = [later - earlier for earlier, later in itertools.pairwise(sent)]
        assert len(gaps) > 3
        # A slot is taken when a request is sent; it may arrive a little late, and the next one then a little early.
        assert min(gaps) > 0.15
        assert sum(gaps) >= 0.2 * len(gaps) - 0.05


@pytest.mark.parametrize("era", [2023, 2024, 2026])
async def test_a_window_with_nothing_left_is_waited_out_and_no_request_refused(
    era: Literal[2023, 2024, 2026], account: Account
) -> None:
    clock = Clock(start=time.time(), speed=60)  # its minute is a second of ours
    limits = Limits(exports_per_minute=2, era=era) if era == 2026 else Limits(None, account_per_minute=2, era=era)
    history(account, clock.now())
    async with (
        Simulator(account, clock=clock, limits=limits) as zendesk,
        source(zendesk, *BEARER, "zendesk.page_size=5") as export,
    ):
        assert await walk(export) == 40
        assert len(zendesk.journal) > 5
        assert {served.status for served in zendesk.journal} == {200}


# Deadlines, and what is between us and the account


@pytest.mark.parametrize("fault", ["stalled_body", "slow_first_byte"])
async def test_an_answer_that_does_not_come_in_time_is_asked_for_again(
    fault: str, account: Account, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "TIMEOUT", aiohttp.ClientTimeout(total=5, sock_read=0.3))
    events: list[Event] = []
    async with (
        faulty(account, clock, Fault(fault, requests=(1,), seconds=30)) as zendesk,
        source(zendesk, events=events) as export,
    ):
        assert whole(await export.fetch(BEGIN))
    assert "no answer in time" in next(str(event.error) for event in events if isinstance(event, Retrying))


async def test_a_connection_dropped_between_polls_is_made_anew(account: Account, clock: Clock) -> None:
    async with (
        faulty(account, clock, Fault("connection_dropped", requests=(1, 2))) as zendesk,
        source(zendesk) as export,
    ):
        for _ in range(3):
            assert whole(await export.fetch(BEGIN))


async def test_a_retry_after_that_is_a_date_is_read_by_the_servers_clock(account: Account) -> None:
    clock = Clock(start=time.time() - 5 * 86_400)
    fault = Fault("too_many_exports", requests=(1,), retry_after=2, retry_after_form="date")
    async with faulty(account, clock, fault) as zendesk, source(zendesk) as export:
        began = time.monotonic()
        assert whole(await export.fetch(BEGIN))
        assert 1 <= time.monotonic() - began < 10


async def test_an_api_token_is_warned_about_with_the_date_of_its_end(account: Account, clock: Clock) -> None:
    events: list[Event] = []
    login = ("zendesk.email=agent@acme.example", f"zendesk.api_token={CANARY}")
    async with faulty(account, clock) as zendesk, source(zendesk, *login, events=events):
        pass
    assert ["2027-04-30" in event.text for event in events if isinstance(event, Noticed)] == [True]


@pytest.mark.parametrize("stamp", [-1, 2**40])
def test_a_ticket_whose_stamp_is_no_time_is_poison(stamp: int) -> None:
    tickets = [{"id": 1, "generated_timestamp": stamp}, {"id": 2, "generated_timestamp": 1}]
    cut = slice_page(json.dumps({"tickets": tickets, "end_of_stream": True, "end_time": 1}).encode())
    assert [row.poison and row.poison.reason for row in cut.rows] == ["no_stamp", None]
