"""The pretend Zendesk behaves as the real export was recorded to behave: over real HTTP, one claim per test."""

import asyncio
import base64
import json
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import fields
from email.utils import parsedate_to_datetime
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.sandbox.zendesk import (
    KNOWN,
    Account,
    Clock,
    Credentials,
    Fault,
    Limits,
    Rules,
    Scenario,
    ScenarioError,
    Simulator,
)
from tests.conftest import until

EXPORT = "/api/v2/incremental/tickets"
CURSOR_EXPORT = EXPORT + "/cursor"
NOW = 1_700_000_000
BEGIN = NOW - 86_400  # of the small account
ANYBODY = aiohttp.encode_basic_auth("agent@acme.example/token", "any")


class Reply:
    """A whole answer, with its body as it came out of the transport decoding."""

    def __init__(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        self.status, self.headers, self.body = response.status, response.headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def ids(self) -> list[int]:
        return [ticket["id"] for ticket in self.json["tickets"]]


class Caller:
    """Asks one simulator, without following redirects."""

    def __init__(self, session: aiohttp.ClientSession, server: Simulator) -> None:
        self.session, self.server = session, server

    async def get(self, path: str = EXPORT, *, login: str | None = ANYBODY, **query: Any) -> Reply:
        headers = {} if login is None else {"Authorization": login}
        url = self.server.base_url + path
        async with self.session.get(url, params=query, headers=headers, allow_redirects=False) as response:
            return Reply(response, await response.read())


@asynccontextmanager
async def simulated(account: Account, clock: Clock | None = None, **options: Any) -> AsyncIterator[Caller]:
    options.setdefault("limits", Limits.unlimited())
    timeout = aiohttp.ClientTimeout(total=20)
    async with (
        Simulator(account, clock=clock or Clock.manual(NOW), **options) as server,
        aiohttp.ClientSession(timeout=timeout) as session,
    ):
        yield Caller(session, server)


def account_of(*stamps: int) -> Account:
    account = Account()
    for stamp in stamps:
        account.put(stamp)
    return account


def small_account() -> Account:
    return Account.generate(tickets=300, seed=3, until=NOW, span=86_400, burst_every=0)


# Paging


async def test_the_start_is_inclusive_and_the_end_is_the_last_stamp() -> None:
    async with simulated(account_of(100, 200, 300)) as caller:
        page = (await caller.get(start_time=200)).json
        assert [ticket["generated_timestamp"] for ticket in page["tickets"]] == [200, 300]
        assert list(page) == ["tickets", "count", "end_of_stream", "next_page", "end_time"]
        assert (page["count"], page["end_of_stream"], page["end_time"]) == (2, True, 300)


async def test_an_idle_account_answers_every_poll_with_its_last_ticket() -> None:
    async with simulated(account_of(100, 300)) as caller:
        polls = [await caller.get(start_time=300) for _ in range(3)]
        assert [(poll.ids, poll.json["end_time"], poll.json["end_of_stream"]) for poll in polls] == [
            ([2], 300, True)
        ] * 3


async def test_a_full_page_cuts_a_second_and_ends_at_it() -> None:
    async with simulated(account_of(100, 200, 200, 200, 300)) as caller:
        first = (await caller.get(start_time=0, per_page=2)).json
        assert (first["count"], first["end_time"], first["end_of_stream"]) == (2, 200, False)
        again = await caller.get(start_time=200, per_page=10)
        assert sorted(again.ids) == [2, 3, 4, 5]


async def test_a_second_that_fills_the_page_extends_it_and_ends_one_second_later() -> None:
    async with simulated(account_of(200, 200, 200, 200, 300)) as caller:
        page = (await caller.get(start_time=0, per_page=2)).json
        assert (page["count"], page["end_time"], page["end_of_stream"]) == (4, 201, False)


async def test_an_empty_page_has_no_end_time_and_no_next_page() -> None:
    async with simulated(account_of(100)) as caller:
        assert (await caller.get(start_time=101)).json == {
            "tickets": [],
            "count": 0,
            "end_of_stream": True,
            "next_page": None,
            "end_time": None,
        }


async def test_next_page_is_there_at_the_end_and_echoes_path_form_and_page_size() -> None:
    async with simulated(account_of(100)) as caller:
        bare = (await caller.get(EXPORT, start_time=1)).json
        assert bare["end_of_stream"]
        assert bare["next_page"] == f"{caller.server.base_url}{EXPORT}?start_time=100"
        suffixed = (await caller.get(EXPORT + ".json", start_time=1, per_page=5)).json
        assert suffixed["next_page"] == f"{caller.server.base_url}{EXPORT}.json?per_page=5&start_time=100"


async def test_a_stuck_export_never_gets_past_a_full_second() -> None:
    async with simulated(account_of(200, 200, 200, 300), rules=Rules(stuck=True)) as caller:
        for _ in range(3):
            page = (await caller.get(start_time=200, per_page=2)).json
            assert (page["count"], page["end_time"], page["end_of_stream"]) == (2, 200, False)


async def test_ties_come_in_another_order_each_time() -> None:
    async with simulated(account_of(*[200] * 30)) as caller:
        orders = {tuple((await caller.get(start_time=0)).ids) for _ in range(4)}
        assert len(orders) == 4
        assert {tuple(sorted(order)) for order in orders} == {tuple(range(1, 31))}


async def test_no_page_holds_more_than_1000_tickets_unless_extended() -> None:
    async with simulated(account_of(*range(1_000, 2_200))) as caller:
        assert (await caller.get(start_time=0, per_page=5_000)).json["count"] == 1_000
        assert (await caller.get(start_time=0)).json["count"] == 1_000


async def test_deleted_tickets_are_in_the_stream_unless_excluded() -> None:
    account = account_of(100, 200)
    account.delete(1, at=300)
    async with simulated(account) as caller:
        assert (await caller.get(start_time=0)).ids == [2, 1]
        assert (await caller.get(start_time=0, exclude_deleted="true")).ids == [2]


async def test_the_sample_shows_at_most_50_tickets() -> None:
    async with simulated(account_of(*[100] * 70)) as caller:
        page = (await caller.get(EXPORT + "/sample", start_time=0)).json
        assert (page["count"], page["end_of_stream"]) == (50, False)


@settings(max_examples=25, deadline=None)
@given(
    stamps=st.lists(st.integers(1, 12), max_size=60),
    per_page=st.integers(1, 7),
    seed=st.integers(0, 1_000),
)
def test_paging_with_boundary_deduplication_visits_every_version_once(
    stamps: list[int], per_page: int, seed: int
) -> None:
    account = Account(seed=seed)
    for stamp in stamps:
        account.put(stamp)

    async def visit() -> list[tuple[int, int]]:
        visited: list[tuple[int, int]] = []
        position, boundary = 0, set[tuple[int, int]]()
        async with simulated(account) as caller:
            while True:
                page = (await caller.get(start_time=position, per_page=per_page)).json
                rows = [(ticket["id"], ticket["generated_timestamp"]) for ticket in page["tickets"]]
                visited += [row for row in rows if row not in boundary]
                position = position if page["end_time"] is None else page["end_time"]
                boundary = {row for row in (*boundary, *rows) if row[1] >= position}
                if page["end_of_stream"]:
                    return visited

    assert sorted(asyncio.run(visit())) == sorted(enumerate(stamps, 1))


# Paging by cursor


def stamped(reply: Reply) -> list[tuple[int, int]]:
    return [(ticket["generated_timestamp"], ticket["id"]) for ticket in reply.json["tickets"]]


async def walk(caller: Caller, **query: Any) -> list[tuple[int, int]]:
    """Every row, as (stamp, id), from the beginning to the end of the cursor export's stream."""
    rows: list[tuple[int, int]] = []
    reply = await caller.get(CURSOR_EXPORT, start_time=0, **query)
    while True:
        rows += stamped(reply)
        if reply.json["end_of_stream"]:
            return rows
        reply = await caller.get(CURSOR_EXPORT, cursor=reply.json["after_cursor"], **query)


async def test_a_cursor_is_the_last_row_and_its_url_echoes_path_form_and_page_size() -> None:
    account = Account()
    account.put(1_707_271_741, id=4_045)
    async with simulated(account, Clock.manual(1_707_300_000)) as caller:
        page = (await caller.get(CURSOR_EXPORT + ".json", start_time=0)).json
        url = f"{caller.server.base_url}{CURSOR_EXPORT}"
        assert list(page) == ["tickets", "after_url", "before_url", "after_cursor", "before_cursor", "end_of_stream"]
        assert page | {"tickets": None} == {
            "tickets": None,
            "after_url": f"{url}.json?cursor=MTcwNzI3MTc0MS4wfHw0MDQ1fA%3D%3D",
            "before_url": None,
            "after_cursor": "MTcwNzI3MTc0MS4wfHw0MDQ1fA==",
            "before_cursor": None,
            "end_of_stream": True,
        }
        bare = (await caller.get(CURSOR_EXPORT, start_time=0, per_page=7)).json
        assert bare["after_url"] == f"{url}?cursor=MTcwNzI3MTc0MS4wfHw0MDQ1fA%3D%3D&per_page=7"


async def test_a_cursor_page_begins_inclusively_is_ordered_by_stamp_and_id_and_never_extended() -> None:
    account = Account()
    for stamp, ticket in ((200, 9), (200, 2), (100, 5), (200, 4), (300, 1)):
        account.put(stamp, id=ticket)
    async with simulated(account) as caller:
        first = await caller.get(CURSOR_EXPORT, start_time=200, per_page=2)
        assert (stamped(first), first.json["end_of_stream"]) == ([(200, 2), (200, 4)], False)
        second = await caller.get(CURSOR_EXPORT, cursor=first.json["after_cursor"], per_page=2)
        assert (stamped(second), second.json["end_of_stream"]) == ([(200, 9), (300, 1)], True)


@settings(max_examples=25, deadline=None)
@given(
    stamps=st.lists(st.integers(1, 12), max_size=60),
    per_page=st.integers(1, 7),
    rng=st.randoms(use_true_random=False),
)
def test_walking_by_cursor_visits_every_version_once_and_in_order(
    stamps: list[int], per_page: int, rng: random.Random
) -> None:
    account = Account()
    ids = rng.sample(range(1, 1_000), len(stamps))
    for stamp, ticket in zip(stamps, ids, strict=True):
        account.put(stamp, id=ticket)

    async def visit() -> list[tuple[int, int]]:
        async with simulated(account) as caller:
            return await walk(caller, per_page=per_page)

    assert asyncio.run(visit()) == sorted(zip(stamps, ids, strict=True))


async def test_where_nothing_follows_a_cursor_the_page_is_empty_and_the_cursor_stays() -> None:
    account = account_of(100)
    async with simulated(account) as caller:
        cursor = (await caller.get(CURSOR_EXPORT, start_time=0)).json["after_cursor"]
        for _ in range(2):
            idle = await caller.get(CURSOR_EXPORT, cursor=cursor)
            assert (idle.ids, idle.json["end_of_stream"], idle.json["after_cursor"]) == ([], True, cursor)
            assert idle.json["after_url"].endswith("/cursor?cursor=MTAwLjB8fDF8")
        account.put(100)
        assert (await caller.get(CURSOR_EXPORT, cursor=cursor)).ids == [2]


async def test_a_first_request_that_matches_nothing_gets_no_cursor() -> None:
    async with simulated(account_of(100)) as caller:
        assert (await caller.get(CURSOR_EXPORT, start_time=101)).json == {
            "tickets": [],
            "after_url": None,
            "before_url": None,
            "after_cursor": None,
            "before_cursor": None,
            "end_of_stream": True,
        }


async def test_with_a_cursor_the_start_time_is_ignored_and_nothing_is_too_recent() -> None:
    clock = Clock.manual(1_000)
    async with simulated(account_of(100, 200, 939), clock) as caller:
        cursor = (await caller.get(CURSOR_EXPORT, start_time=0, per_page=1)).json["after_cursor"]
        for start_time in ("0", "999", "soon"):
            assert (await caller.get(CURSOR_EXPORT, start_time=start_time, cursor=cursor)).ids == [2, 3]
        assert (await caller.get(CURSOR_EXPORT, start_time=940)).json["error"] == "StartTimeTooRecent"
        latest = (await caller.get(CURSOR_EXPORT, cursor=cursor)).json["after_cursor"]
        clock.advance(-30)
        assert (await caller.get(CURSOR_EXPORT, cursor=latest)).status == 200


async def test_the_cursor_export_does_not_show_the_last_minute_yet() -> None:
    clock = Clock.manual(1_000)
    async with simulated(account_of(900, 970), clock) as caller:
        page = await caller.get(CURSOR_EXPORT, start_time=0)
        assert (page.ids, page.json["end_of_stream"]) == ([1], True)
        clock.advance(30)
        assert (await caller.get(CURSOR_EXPORT, cursor=page.json["after_cursor"])).ids == [2]


async def test_a_row_that_appears_behind_a_cursor_is_shown_by_the_other_export_alone() -> None:
    clock = Clock.manual(1_000)
    account = Account()
    for stamp, ticket in ((500, 2), (500, 3), (501, 1)):
        account.put(stamp, id=ticket)
    account.put(500, id=7, visible_at=1_050)
    async with simulated(account, clock) as caller:
        page = await caller.get(CURSOR_EXPORT, start_time=500, per_page=2)
        assert stamped(page) == [(500, 2), (500, 3)]
        rest = await caller.get(CURSOR_EXPORT, cursor=page.json["after_cursor"])
        assert stamped(rest) == [(501, 1)]
        clock.advance(50)
        assert (await caller.get(CURSOR_EXPORT, cursor=rest.json["after_cursor"])).ids == []
        assert stamped(await caller.get(CURSOR_EXPORT, cursor=page.json["after_cursor"])) == [(500, 7), (501, 1)]
        assert 7 in (await caller.get(start_time=500)).ids
        assert 7 in {offered.id for offered in account.versions(clock.now())}


async def test_a_ticket_changed_during_a_walk_by_cursor_comes_later_and_its_old_version_not_at_all() -> None:
    clock = Clock.manual(1_000)
    account = account_of(100, 200, 300)
    async with simulated(account, clock) as caller:
        cursor = (await caller.get(CURSOR_EXPORT, start_time=0, per_page=1)).json["after_cursor"]
        account.update(2, at=clock.now())
        clock.advance(100)
        assert stamped(await caller.get(CURSOR_EXPORT, cursor=cursor)) == [(300, 3), (1_000, 2)]


@pytest.mark.parametrize(
    "cursor", ["", "nonsense", "MTAw", "MTAwLjB8fA==", "MTAwLjB8fDF8MQ==", "LTEuMHx8MXw=", "é", "MTAwLjB8fDF"]
)
async def test_an_unreadable_cursor_is_refused(cursor: str) -> None:
    async with simulated(account_of(100)) as caller:
        refused = await caller.get(CURSOR_EXPORT, cursor=cursor)
        assert (refused.status, refused.json["error"]) == (400, "InvalidValue")
        assert (await caller.get(CURSOR_EXPORT, cursor="MTAwLjB8fDF8")).status == 200  # 100.0||1|


@pytest.mark.parametrize("query", [{}, {"start_time": "soon"}, {"start_time": 1, "per_page": 0}])
async def test_a_cursor_export_without_a_readable_position_is_refused(query: dict[str, Any]) -> None:
    async with simulated(account_of(100)) as caller:
        assert (await caller.get(CURSOR_EXPORT, **query)).status == 400


async def test_a_cursor_expires_when_the_rules_say_so_and_not_otherwise() -> None:
    for lasts, status in ((None, 200), (3_600, 400)):
        clock = Clock.manual(NOW)
        async with simulated(account_of(100, 200), clock, rules=Rules(cursors_expire_seconds=lasts)) as caller:
            cursor = (await caller.get(CURSOR_EXPORT, start_time=0, per_page=1)).json["after_cursor"]
            clock.advance(3_600)
            assert (await caller.get(CURSOR_EXPORT, cursor=cursor)).status == 200
            clock.advance(1)
            assert (await caller.get(CURSOR_EXPORT, cursor=cursor)).status == status


async def test_a_cursor_that_is_handed_out_again_lives_on() -> None:
    clock = Clock.manual(NOW)
    async with simulated(account_of(100), clock, rules=Rules(cursors_expire_seconds=60)) as caller:
        cursor = (await caller.get(CURSOR_EXPORT, start_time=0)).json["after_cursor"]
        for _ in range(3):
            clock.advance(50)
            assert (await caller.get(CURSOR_EXPORT, cursor=cursor)).json["after_cursor"] == cursor


async def test_deleted_tickets_are_in_the_cursor_export_unless_excluded() -> None:
    account = account_of(100, 200, 300)
    account.delete(1, at=250)
    async with simulated(account) as caller:
        assert await walk(caller, per_page=1) == [(200, 2), (250, 1), (300, 3)]
        assert await walk(caller, per_page=1, exclude_deleted="true") == [(200, 2), (300, 3)]


async def test_a_second_of_many_pages_is_walked_to_its_end() -> None:
    account = account_of(*[500] * 4_500, 501)
    async with simulated(account) as caller:
        assert await walk(caller) == [*((500, ticket) for ticket in range(1, 4_501)), (501, 4_501)]
        assert [served.tickets for served in caller.server.journal] == [1_000] * 4 + [501]


async def test_both_exports_draw_on_the_same_bucket() -> None:
    async with simulated(account_of(100), limits=Limits(exports_per_minute=2)) as caller:
        paths = (CURSOR_EXPORT, EXPORT, CURSOR_EXPORT, EXPORT)
        assert [(await caller.get(path, start_time=0)).status for path in paths] == [200, 200, 429, 429]


# Time


async def test_the_last_minute_is_not_shown_yet() -> None:
    clock = Clock.manual(1_000)
    async with simulated(account_of(900, 970), clock) as caller:
        assert (await caller.get(start_time=0)).ids == [1]
        clock.advance(30)
        assert (await caller.get(start_time=0)).ids == [1, 2]


async def test_a_ticket_changed_during_the_run_reappears_later_and_its_old_version_is_gone() -> None:
    clock = Clock.manual(1_000)
    account = account_of(100, 200, 300)
    async with simulated(account, clock) as caller:
        assert (await caller.get(start_time=0, per_page=1)).ids == [1]
        account.update(2, at=clock.now())
        clock.advance(100)
        rest = await caller.get(start_time=100)
        assert [(ticket["id"], ticket["generated_timestamp"]) for ticket in rest.json["tickets"]] == [
            (1, 100),
            (3, 300),
            (2, 1_000),
        ]


async def test_a_late_row_appears_in_a_second_that_was_served_before() -> None:
    clock = Clock.manual(1_000)
    account = account_of(500, 501)
    late = account.put(500, visible_at=1_050)
    async with simulated(account, clock) as caller:
        assert (await caller.get(start_time=500)).ids == [1, 2]
        assert late not in {offered.id for offered in account.versions(clock.now())}
        clock.advance(50)
        assert sorted((await caller.get(start_time=500)).ids) == [1, 2, late]


@pytest.mark.parametrize(
    ("form", "threshold", "status", "words"),
    [
        ("400 json", 60, 400, b"StartTimeTooRecent"),
        ("422 json", 300, 422, b'"Too recent start_time. Use a start_time older than 5 minutes"'),
        ("422 text", 300, 422, b"Too recent start_time. Use a start_time older than 5 minutes"),
    ],
)
async def test_a_too_recent_start_is_refused_up_to_the_threshold(
    form: Any, threshold: int, status: int, words: bytes
) -> None:
    rules = Rules(too_recent_seconds=threshold, too_recent_answer=form)
    async with simulated(account_of(100), Clock.manual(10_000), rules=rules) as caller:
        refused = await caller.get(start_time=10_000 - threshold)
        assert refused.status == status
        assert words in refused.body
        assert (await caller.get(start_time=10_000 - threshold - 1)).status == 200


@pytest.mark.parametrize(
    "query", [{}, {"start_time": "soon"}, {"start_time": "-1"}, {"start_time": 1, "per_page": 0}, {"start_time": ""}]
)
async def test_a_missing_or_unreadable_parameter_is_refused(query: dict[str, Any]) -> None:
    async with simulated(account_of(100)) as caller:
        assert (await caller.get(**query)).status == 400


async def test_a_start_time_with_a_fraction_is_taken() -> None:
    async with simulated(account_of(100, 200)) as caller:
        assert (await caller.get(start_time="200.0")).ids == [2]


# Tickets


async def test_the_served_bytes_are_those_of_the_ground_truth() -> None:
    account = small_account()
    hostile = b'{ "id": 9007199254740993, "n": 1.0e0, "id_text": "\\u0031", "generated_timestamp": 1600000000 }'
    account.put(1_600_000_000, 9_007_199_254_740_993, raw=hostile)
    account.put(1_600_000_001, 77, subject="Grüße", custom_fields=[], brand_new_key={"a": None})
    async with simulated(account, Clock.manual(NOW + 100)) as caller:
        truth = (await caller.get("/simulator/truth", current="true")).body
        listed = {line["id"]: line["sha256"] for line in map(json.loads, truth.splitlines())}
        page = msgspec.json.decode((await caller.get(start_time=0)).body, type=dict[str, msgspec.Raw])
        served = [bytes(ticket) for ticket in msgspec.json.decode(page["tickets"], type=list[msgspec.Raw])]
        assert hostile in served
        assert Counter(sha256(ticket).hexdigest() for ticket in served) == Counter(listed.values())
        overridden = json.loads(next(ticket for ticket in served if b"brand_new_key" in ticket))
        assert (overridden["id"], overridden["subject"], overridden["custom_fields"]) == (77, "Grüße", [])
        assert list(overridden)[-1] == "generated_timestamp"


def test_the_same_seed_makes_the_same_account_and_another_seed_another() -> None:
    def digests(seed: int) -> list[str]:
        account = Account.generate(tickets=50, seed=seed, until=NOW, span=86_400)
        account.update(3, at=NOW)
        return [offered.sha256 for offered in account.versions()]

    assert digests(1) == digests(1)
    assert not set(digests(1)) & set(digests(2))


def test_the_ground_truth_keeps_replaced_versions_and_tells_the_current_one() -> None:
    account = account_of(100)
    account.update(1, at=200)
    account.delete(1, at=300)
    truth = list(account.versions())
    assert [(one.generated_timestamp, one.current) for one in truth] == [(100, False), (200, False), (300, True)]
    assert truth[-1].status == "deleted"
    assert len({one.sha256 for one in truth}) == 3


def bodies(account: Account) -> Iterator[dict[str, Any]]:
    for _, versions in account.seconds(0, NOW, NOW):
        for version in versions:
            yield json.loads(account.body(version))


def only_body(account: Account) -> dict[str, Any]:
    (body,) = bodies(account)
    return body


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {key for key in before if before[key] != after[key]}


def test_a_deletion_keeps_the_content_and_scrubbing_takes_it_moving_only_the_generated_timestamp() -> None:
    account = account_of(1_000)
    live = only_body(account)
    account.delete(1, at=2_000)
    deleted = only_body(account)
    assert changed(live, deleted) <= {"status", "updated_at", "generated_timestamp", "custom_status_id"}
    assert deleted["status"] == "deleted"
    account.scrub(1, at=3_000)
    scrubbed = only_body(account)
    assert scrubbed["generated_timestamp"] == 3_000
    assert (scrubbed["updated_at"], scrubbed["status"]) == (deleted["updated_at"], "deleted")
    assert (scrubbed["subject"], scrubbed["raw_subject"], scrubbed["description"]) == ("SCRUBBED", "SCRUBBED", "X")
    assert scrubbed["tags"] == scrubbed["custom_fields"] == scrubbed["fields"] == []
    assert scrubbed["requester_id"] == live["requester_id"]
    account.remove(1)
    assert list(bodies(account)) == []


def test_a_system_update_moves_the_generated_timestamp_alone() -> None:
    account = Account()
    account.put(1_000, updated_at="2001-01-01T00:00:00Z", status="hold")
    before = only_body(account)
    account.system_update(1, at=2_000)
    assert changed(before, only_body(account)) <= {"generated_timestamp", "due_at"}
    assert only_body(account)["generated_timestamp"] == 2_000


def test_a_restored_ticket_shows_a_normal_status_and_a_scrubbed_one_cannot_come_back() -> None:
    account = account_of(1_000)
    account.delete(1, at=2_000)
    account.restore(1, at=3_000)
    assert only_body(account)["status"] == "open"
    account.delete(1, at=4_000)
    account.scrub(1, at=5_000)
    with pytest.raises(ValueError, match="scrubbed, not deleted"):
        account.restore(1, at=6_000)


@pytest.mark.parametrize("change", ["update", "delete", "restore", "scrub", "system_update"])
def test_a_change_to_an_unknown_ticket_is_an_error(change: str) -> None:
    with pytest.raises(ValueError, match="account acme has no ticket 9"):
        getattr(account_of(100), change)(9, at=200)


SAMPLE_FIELDS = """
requester_id allow_attachments allow_channelback assignee_email assignee_id attribute_value_ids brand_id collaborator_ids
collaborators comment created_at custom_fields custom_status_id description due_at email_cc_ids email_ccs external_id
follower_ids followers followup_ids forum_topic_id from_messaging_channel group_id has_incidents id is_public macro_id
macro_ids metadata organization_id priority problem_id raw_subject recipient requester safe_update satisfaction_rating
sharing_agreement_ids status subject submitter_id tags ticket_form_id type updated_at updated_stamp url via
via_followup_source_id via_id voice_comment encoded_id support_type fields generated_timestamp
""".split()


def test_an_account_shows_every_field_and_every_variant_of_a_real_one() -> None:
    account = Account.generate(tickets=14_000, seed=1, until=NOW, span=90 * 86_400)
    seen: dict[str, set[Any]] = {}
    custom_types: set[type] = set()
    sizes = []
    for _, versions in account.seconds(0, NOW, NOW):
        for version in versions:
            body = account.body(version)
            ticket_id = account.id(version)
            if ticket_id % 7 and ticket_id % 2_003 and ticket_id != 13_337:
                continue
            sizes.append(len(body))
            assert body.startswith(b'{"url":"https://acme.zendesk.com/api/v2/tickets/')
            ticket = json.loads(body)
            assert list(ticket)[-1] == "generated_timestamp"
            assert ticket["fields"] == ticket["custom_fields"]
            for key, value in ticket.items():
                seen.setdefault(key, set()).add(value if isinstance(value, str | int | None) else type(value))
            seen.setdefault("channel", set()).add(type(ticket["via"]["channel"]))
            custom_types |= {type(field["value"]) for field in ticket["custom_fields"]}
    assert set(SAMPLE_FIELDS) <= set(seen)
    assert seen["status"] == {"new", "open", "pending", "hold", "solved", "closed", "deleted"}
    assert seen["channel"] == {str, int}
    assert seen["satisfaction_rating"] == {None, dict}
    assert {None, ""} <= seen["subject"]
    assert custom_types == {str, int, float, bool, list, type(None)}
    assert "1970-01-01T00:00:00Z" in seen["updated_at"]
    assert "SCRUBBED" in seen["subject"]
    assert max(sizes) > 1024 * 1024
    assert any(60_000 < size < 500_000 for size in sizes)
    assert 3_500 < sorted(sizes)[len(sizes) // 2] < 5_500


def test_a_generated_history_has_a_second_that_overflows_a_page_and_updates_older_than_their_stamp() -> None:
    account = Account.generate(tickets=20_000, seed=1, until=NOW, span=90 * 86_400)
    assert len(account) == 20_000
    crowds = [len(versions) for _, versions in account.seconds(0, NOW, NOW)]
    assert max(crowds) > 1_000
    assert sum(crowds) == 20_000


def test_an_account_holds_less_than_250_bytes_per_ticket() -> None:
    tracemalloc.start()
    try:
        account = Account.generate(tickets=20_000, seed=1, until=NOW, span=365 * 86_400)
        seconds = islice(account.seconds(0, NOW, NOW), 300)
        assert sum(len(account.body(version)) for _, versions in seconds for version in versions) > 1_000_000
        held = tracemalloc.get_traced_memory()[0]
        empty = Account()
        pieces = tracemalloc.get_traced_memory()[0] - held
    finally:
        tracemalloc.stop()
    assert len(empty) == 0
    assert (held - pieces) / len(account) < 250  # so a million tickets hold less than 250 MB


# Who may read


@pytest.mark.parametrize(
    ("login", "status"),
    [
        (aiohttp.encode_basic_auth("a@acme.example/token", "t0ken"), 200),
        (aiohttp.encode_basic_auth("a@acme.example", "pass:word"), 200),
        ("Bearer access", 200),
        (aiohttp.encode_basic_auth("a@acme.example/token", "wrong"), 401),
        (aiohttp.encode_basic_auth("a@acme.example", "t0ken"), 401),
        ("Basic ???", 401),
        ("Bearer wrong", 401),
        (None, 401),
    ],
)
async def test_only_the_given_credentials_are_accepted(login: str | None, status: int) -> None:
    credentials = Credentials(email="a@acme.example", api_token="t0ken", password="pass:word", access_token="access")
    assert "t0ken" not in repr(credentials)
    async with simulated(account_of(100), credentials=credentials) as caller:
        reply = await caller.get(login=login, start_time=0)
        assert reply.status == status
        if login == "Bearer wrong":
            assert reply.json["error"] == "invalid_token"
        elif status == 401:
            assert reply.json == {"error": "Couldn't authenticate you"}
            assert reply.headers["WWW-Authenticate"] == 'Basic realm="Web Password"'


async def test_without_credentials_anybody_passes_but_not_nobody() -> None:
    async with simulated(account_of(100)) as caller:
        assert (await caller.get(start_time=0, login="Bearer whatever")).status == 200
        assert (await caller.get(start_time=0, login=None)).status == 401


async def test_an_unknown_path_is_an_invalid_endpoint() -> None:
    async with simulated(account_of(100)) as caller:
        reply = await caller.get("/api/v2/incremental/requests", start_time=0)
        assert (reply.status, reply.json["error"]) == (404, "InvalidEndpoint")


# Limits


async def test_the_eleventh_export_request_of_a_minute_is_refused_until_the_next_full_minute() -> None:
    clock = Clock.manual(60 * 1_000_000 + 15)
    async with simulated(account_of(100), clock, limits=Limits()) as caller:
        told = [(await caller.get(start_time=0)).headers["zendesk-ratelimit-incremental-exports"] for _ in range(10)]
        assert told[0] == "total=10; remaining=9; resets=45"
        assert told[-1] == "total=10; remaining=0; resets=45"
        refused = await caller.get(start_time=0)
        assert (refused.status, refused.headers["Retry-After"]) == (429, "45")
        assert refused.json["error"] == "APIRateLimitExceeded"
        clock.advance(45)
        assert (await caller.get(start_time=0)).status == 200


async def test_the_accounts_own_limit_is_refused_in_plain_text() -> None:
    async with simulated(account_of(100), limits=Limits(account_per_minute=1)) as caller:
        await caller.get(start_time=0)
        refused = await caller.get(start_time=0)
        assert (refused.status, refused.headers["Content-Type"]) == (429, "text/plain; charset=utf-8")
        assert refused.body.startswith(b"Number of allowed API requests per minute exceeded")


async def test_a_refusal_may_keep_silent_about_when_to_come_back() -> None:
    async with simulated(account_of(100), limits=Limits(exports_per_minute=0, retry_after=False)) as caller:
        refused = await caller.get(start_time=0)
        assert refused.status == 429
        assert "Retry-After" not in refused.headers


async def test_a_neighbour_drains_the_bucket_that_we_share() -> None:
    clock = Clock.manual(60 * 1_000_000)
    async with simulated(account_of(100), clock, limits=Limits(neighbour_per_minute=10)) as caller:
        clock.advance(30)
        statuses = [(await caller.get(start_time=0)).status for _ in range(6)]
        assert statuses == [200] * 5 + [429]


@pytest.mark.parametrize(
    ("era", "sent", "absent"),
    [
        (2023, "rate-limit-remaining", "ratelimit-remaining"),
        (2024, "ratelimit-reset", "zendesk-ratelimit-incremental-exports"),
        (2026, "zendesk-ratelimit-incremental-exports", "rate-limit-remaining"),
    ],
)
async def test_each_era_spells_its_rate_limit_headers(era: Any, sent: str, absent: str) -> None:
    async with simulated(account_of(100), limits=Limits(era=era)) as caller:
        headers = (await caller.get(start_time=0)).headers
        assert all(name in headers for name in (sent, "X-Rate-Limit", "X-Rate-Limit-Remaining"))
        assert absent not in headers


async def test_waits_are_told_in_the_clients_seconds_when_the_clock_runs_fast() -> None:
    clock = Clock(start=60 * 1_000_000, speed=30)
    async with simulated(account_of(100), clock, limits=Limits(exports_per_minute=0)) as caller:
        assert int((await caller.get(start_time=0)).headers["Retry-After"]) <= 2


async def test_the_sample_allows_ten_requests_in_twenty_minutes() -> None:
    clock = Clock.manual(20 * 60 * 1_000_000)
    async with simulated(account_of(100), clock, limits=Limits()) as caller:
        statuses = []
        for _ in range(11):
            statuses.append((await caller.get(EXPORT + "/sample", start_time=0)).status)
            clock.advance(60)
        assert statuses == [200] * 10 + [429]


# The wire


async def test_answers_are_gzipped_in_chunks_when_asked_for() -> None:
    async with simulated(small_account()) as caller:
        zipped = await caller.get(start_time=0)
        assert (zipped.headers["Content-Encoding"], zipped.headers["Transfer-Encoding"]) == ("gzip", "chunked")
        url = caller.server.base_url + EXPORT
        headers = {"Authorization": ANYBODY, "Accept-Encoding": "identity"}
        async with caller.session.get(url, params={"start_time": 0}, headers=headers) as plain:
            assert "Content-Encoding" not in plain.headers
            assert len(await plain.read()) == len(zipped.body)
        assert "größer".encode() in zipped.body  # UTF-8, not escaped


async def test_every_answer_names_its_request_and_version() -> None:
    async with simulated(account_of(100)) as caller:
        reply = await caller.get(start_time=0)
        assert len(reply.headers.getall("X-Request-Id")) == 2
        assert reply.headers["X-Request-Id"] == caller.server.journal[0].request_id
        assert reply.headers["X-Zendesk-Api-Version"] == "v2"
        assert reply.headers["ETag"].startswith('W/"')


async def test_the_date_is_the_simulated_clocks_and_can_be_skewed_or_missing() -> None:
    for skew in (0.0, -30.0):
        async with simulated(account_of(100), date_skew=skew) as caller:
            date = (await caller.get(start_time=0)).headers["Date"]
            assert parsedate_to_datetime(date).timestamp() == NOW + skew
    async with simulated(account_of(100), send_date=False) as caller:
        assert "Date" not in (await caller.get(start_time=0)).headers


async def test_a_server_clock_that_jumps_back_hides_what_is_younger_again() -> None:
    clock = Clock.manual(1_000)
    async with simulated(account_of(800, 900), clock, limits=Limits(exports_per_minute=1)) as caller:
        assert (await caller.get(start_time=0)).ids == [1, 2]
        clock.advance(-100)
        earlier = await caller.get(start_time=0)
        assert (earlier.status, earlier.ids) == (200, [1])
        assert parsedate_to_datetime(earlier.headers["Date"]).timestamp() == 900


@pytest.mark.parametrize("path", [EXPORT, CURSOR_EXPORT])
async def test_a_page_takes_its_seconds_of_the_clock(path: str) -> None:
    async with simulated(account_of(100), Clock(NOW, speed=100), page_seconds=20) as caller:
        began = time.monotonic()
        assert (await caller.get(path, start_time=0)).ids == [1]
        assert time.monotonic() - began >= 0.2


async def test_a_page_in_the_making_holds_up_no_other_request() -> None:
    async with simulated(account_of(100), page_seconds=600) as caller:
        slow = [asyncio.create_task(caller.get(start_time=0)) for _ in range(2)]
        await until(lambda: len(caller.server.journal) == 2)
        assert (await caller.get()).status == 400  # no page, no time
        assert [page.done() for page in slow] == [False, False]
        for page in slow:
            page.cancel()


# Faults

ANSWERED = {
    "database_conflict": (409, b'"DatabaseConflict"'),
    "internal_server_error": (500, b'"Internal Server Error"'),
    "bad_gateway": (502, b"<html>"),
    "unknown_error": (520, b"<html>"),
    "origin_timeout": (524, b"<html>"),
    "database_deadlock": (503, b'"DatabaseDeadlock"'),
    "maintenance": (503, b"maintenance"),
    "upstream_timeout": (504, b"upstream request timeout"),
    "too_many_exports": (429, b'"APIRateLimitExceeded"'),
    "too_many_requests": (429, b"Number of allowed API requests"),
    "not_authenticated": (401, b"Couldn't authenticate you"),
    "invalid_token": (401, b'"invalid_token"'),
    "forbidden": (403, b"You do not have access"),
    "missing_scope": (403, b"missing the following required scopes"),
    "no_help_desk": (404, b"No help desk at"),
    "redirect": (302, b""),
    "html_page": (200, b"<html>"),
}
TORN = {"reset_before_headers", "reset_after_headers", "chunked_body_cut"}
WRONG = {
    "gzip_stream_cut": (json.JSONDecodeError, "Unterminated string|Expecting"),
    "json_prefix": (json.JSONDecodeError, "Unterminated string|Expecting"),
    "missing_key": (KeyError, "end_time"),
    "null_end_time": (AssertionError, "no end_time"),
    "nothing_yet": (AssertionError, "nothing, and not the end"),
    "foreign_next_page": (AssertionError, "elsewhere"),
    "tickets_not_a_list": (TypeError, "string indices"),
    "placeholders": (TypeError, "not supported between"),
    "ticket_without_id": (KeyError, "id"),
    "ticket_without_generated_timestamp": (KeyError, "generated_timestamp"),
    "deep_nesting": (RecursionError, "recursion"),
    "lone_surrogate": (UnicodeEncodeError, "surrogates not allowed"),
    "shuffled": (AssertionError, "out of order"),
    "duplicate_ids": (AssertionError, "an id twice"),
    "before_start_time": (AssertionError, "before the start"),
    "wrong_count": (AssertionError, "wrong count"),
    "future_end_time": (AssertionError, "ends elsewhere"),
    "end_time_backwards": (AssertionError, "ends elsewhere"),
}
BY_TIME = {"null_end_time", "nothing_yet", "wrong_count", "future_end_time", "end_time_backwards"}
WRONG_BY_CURSOR = {name: claim for name, claim in WRONG.items() if name not in BY_TIME} | {
    "missing_key": (KeyError, "after_cursor"),
    "null_cursor": (AssertionError, "no cursor"),
    "empty_midstream": (AssertionError, "nothing, and not the end"),
}
SLOW_OR_SWOLLEN = {"stalled_body", "slow_first_byte", "connection_dropped", "gzip_bomb", "oversized_body"}
SEEN_OVER_REQUESTS = {"cursor_refused", "same_page", "other_bytes"}


def digest_tickets(tickets: list[dict[str, Any]]) -> None:
    stamps = [ticket["generated_timestamp"] for ticket in tickets]
    assert min(stamps) >= BEGIN, "before the start"
    assert stamps == sorted(stamps), "out of order"
    ids = [ticket["id"] for ticket in tickets]
    assert len(ids) == len(set(ids)), "an id twice"
    json.dumps(tickets, ensure_ascii=False).encode()


def digest_page(body: bytes) -> None:
    """Read a page of the time-based export as a trusting client would that keeps its eyes open."""
    page = json.loads(body)
    assert page["end_time"] is not None, "no end_time"
    assert page["tickets"] or page["end_of_stream"], "nothing, and not the end"
    digest_tickets(page["tickets"])
    assert page["count"] == len(page["tickets"]), "wrong count"
    assert page["end_time"] == page["tickets"][-1]["generated_timestamp"], "ends elsewhere"
    assert "//127.0.0.1" in page["next_page"], page["next_page"]


def digest_cursor_page(body: bytes) -> None:
    """The same for a page of the cursor export."""
    page = json.loads(body)
    assert page["tickets"] or page["end_of_stream"], "nothing, and not the end"
    digest_tickets(page["tickets"])
    assert page["after_cursor"] is not None, "no cursor"
    assert "//127.0.0.1" in page["after_url"], page["after_url"]


def test_every_known_fault_is_tested_here() -> None:
    assert {*ANSWERED, *TORN, *WRONG, *WRONG_BY_CURSOR, *SLOW_OR_SWOLLEN, *SEEN_OVER_REQUESTS} == KNOWN


@pytest.mark.parametrize("name", sorted(ANSWERED))
async def test_a_scripted_answer_comes_in_place_of_the_page(name: str) -> None:
    status, words = ANSWERED[name]
    async with simulated(small_account(), scenario=Scenario([Fault(name, requests=[2])])) as caller:
        replies = [await caller.get(start_time=0) for _ in range(3)]
        assert [reply.status for reply in replies] == [200, status, 200]
        assert words in replies[1].body
        digest_page(replies[2].body)
        assert [served.fault for served in caller.server.journal] == [None, name, None]


@pytest.mark.parametrize("name", sorted(TORN))
async def test_a_torn_answer_is_an_error_and_the_next_one_is_whole(name: str) -> None:
    async with simulated(small_account(), scenario=Scenario([Fault(name, times=2)])) as caller:
        while len(caller.server.journal) < 2:  # aiohttp asks a second time by itself after a reset before the head
            with pytest.raises(aiohttp.ClientError):
                await caller.get(start_time=0)
        digest_page((await caller.get(start_time=0)).body)
        assert [served.fault for served in caller.server.journal] == [name, name, None]


@pytest.mark.parametrize("name", sorted(WRONG))
async def test_a_spoiled_page_is_what_it_says(name: str) -> None:
    kind, words = WRONG[name]
    async with simulated(small_account(), scenario=Scenario([Fault(name, requests=[1])])) as caller:
        reply = await caller.get(start_time=BEGIN)
        assert reply.status == 200
        with pytest.raises(kind, match=words):
            digest_page(reply.body)
        digest_page((await caller.get(start_time=BEGIN)).body)


@pytest.mark.parametrize("name", sorted(WRONG_BY_CURSOR))
async def test_a_spoiled_page_of_the_cursor_export_is_what_it_says(name: str) -> None:
    kind, words = WRONG_BY_CURSOR[name]
    scenario = Scenario([Fault(name, requests=[1], key="after_cursor")])
    async with simulated(small_account(), scenario=scenario) as caller:
        reply = await caller.get(CURSOR_EXPORT, start_time=BEGIN)
        assert reply.status == 200
        with pytest.raises(kind, match=words):
            digest_cursor_page(reply.body)
        digest_cursor_page((await caller.get(CURSOR_EXPORT, start_time=BEGIN)).body)


@pytest.mark.parametrize("name", sorted(BY_TIME | {"missing_key"}))
async def test_a_fault_of_the_time_based_export_waits_for_a_page_of_it(name: str) -> None:
    scenario = Scenario([Fault(name, times=1)])
    async with simulated(small_account(), scenario=scenario) as caller:
        digest_cursor_page((await caller.get(CURSOR_EXPORT, start_time=BEGIN)).body)
        with pytest.raises((AssertionError, KeyError)):
            digest_page((await caller.get(start_time=BEGIN)).body)
        assert [served.fault for served in caller.server.journal] == [None, name]


@pytest.mark.parametrize("name", ["null_cursor", "empty_midstream"])
async def test_a_fault_of_the_cursor_export_waits_for_a_page_of_it(name: str) -> None:
    scenario = Scenario([Fault(name, times=1)])
    async with simulated(small_account(), scenario=scenario) as caller:
        digest_page((await caller.get(start_time=BEGIN)).body)
        with pytest.raises(AssertionError):
            digest_cursor_page((await caller.get(CURSOR_EXPORT, start_time=BEGIN)).body)
        assert [served.fault for served in caller.server.journal] == [None, name]


@pytest.mark.parametrize("key", ["tickets", "end_of_stream", "end_time", "count", "after_cursor"])
async def test_any_key_can_be_missing_where_it_belongs(key: str) -> None:
    async with simulated(small_account(), scenario=Scenario([Fault("missing_key", key=key)])) as caller:
        for path, keys in (
            (EXPORT, {"tickets", "count", "end_of_stream", "next_page", "end_time"}),
            (
                CURSOR_EXPORT,
                {"tickets", "after_url", "before_url", "after_cursor", "before_cursor", "end_of_stream"},
            ),
        ):
            assert set((await caller.get(path, start_time=0)).json) == keys - {key}


async def test_a_page_may_have_null_cursors_and_its_rows_all_the_same() -> None:
    scenario = Scenario([Fault("null_cursor", requests=[1])])
    async with simulated(account_of(100, 200), scenario=scenario) as caller:
        page = await caller.get(CURSOR_EXPORT, start_time=0, per_page=1)
        assert (page.ids, page.json["end_of_stream"]) == ([1], False)
        assert (page.json["after_cursor"], page.json["after_url"]) == (None, None)


async def test_an_empty_page_in_midstream_hands_back_the_cursor_it_was_asked_with() -> None:
    scenario = Scenario([Fault("empty_midstream", requests=[1, 3])])
    async with simulated(account_of(100, 200), scenario=scenario) as caller:
        without = (await caller.get(CURSOR_EXPORT, start_time=0)).json
        assert (without["tickets"], without["end_of_stream"], without["after_cursor"]) == ([], False, None)
        cursor = (await caller.get(CURSOR_EXPORT, start_time=0, per_page=1)).json["after_cursor"]
        empty = (await caller.get(CURSOR_EXPORT, cursor=cursor)).json
        assert (empty["tickets"], empty["end_of_stream"], empty["after_cursor"]) == ([], False, cursor)
        assert empty["after_url"].endswith("/cursor?cursor=MTAwLjB8fDF8")
        assert (await caller.get(CURSOR_EXPORT, cursor=cursor)).ids == [2]


async def test_a_refused_cursor_waits_for_a_cursor() -> None:
    async with simulated(account_of(100), scenario=Scenario([Fault("cursor_refused", times=1)])) as caller:
        cursor = (await caller.get(CURSOR_EXPORT, start_time=0)).json["after_cursor"]
        statuses = [(await caller.get(CURSOR_EXPORT, cursor=cursor)).status for _ in range(2)]
        assert statuses == [400, 200]
        assert [served.fault for served in caller.server.journal] == [None, "cursor_refused", None]


async def test_the_same_page_comes_for_ever_whatever_is_asked() -> None:
    scenario = Scenario([Fault("same_page", requests=range(2, 100))])
    async with simulated(small_account(), scenario=scenario) as caller:
        right = await caller.get(start_time=0, per_page=5)
        bodies = {(await caller.get(start_time=start, per_page=5)).body for start in (BEGIN + 9_000, 0, BEGIN)}
        assert len(bodies) == 1
        assert right.body not in bodies
        by_cursor = [await caller.get(CURSOR_EXPORT, start_time=start, per_page=5) for start in (BEGIN, BEGIN + 9_000)]
        assert by_cursor[0].body == by_cursor[1].body
        assert by_cursor[0].json["after_cursor"] is not None


@pytest.mark.parametrize("path", [EXPORT, CURSOR_EXPORT])
async def test_other_bytes_say_the_same_with_every_number_as_it_was(path: str) -> None:
    account = small_account()
    account.put(
        NOW - 100, id=900, raw=b'{"id":900,"n":[1.50,{"b":-0.0,"a":1e2}],"big":123456789012345678901,"s":"\\u00e9"}'
    )
    scenario = Scenario([Fault("other_bytes", requests=[1])])
    async with simulated(account, scenario=scenario) as caller:
        other, right = [cut(await caller.get(path, start_time=0)) for _ in range(2)]
        assert not set(other.values()) & set(right.values())
        assert {key: literal(ticket) for key, ticket in other.items()} == {
            key: literal(ticket) for key, ticket in right.items()
        }
        assert list(json.loads(other[900])) == ["s", "big", "n", "id"]
        assert b'[ 1.50, { "a" : 1e2,\n"b" : -0.0 } ]' in other[900]


def literal(ticket: bytes) -> Any:
    """The content, with numbers as the characters that were sent."""
    return json.loads(ticket, parse_float=str, parse_int=str)


def cut(reply: Reply) -> dict[int, bytes]:
    """The exact bytes of each ticket, by its id."""
    page = msgspec.json.decode(reply.body, type=dict[str, msgspec.Raw])
    tickets = [bytes(ticket) for ticket in msgspec.json.decode(page["tickets"], type=list[msgspec.Raw])]
    return {json.loads(ticket)["id"]: ticket for ticket in tickets}


async def test_a_lie_about_the_end_leaves_rows_and_stream_alone() -> None:
    day = 86_400
    for name, end_time in (("future_end_time", NOW - 500 + day), ("end_time_backwards", NOW - 600 - day)):
        scenario = Scenario([Fault(name, requests=[1])])
        async with simulated(account_of(NOW - 600, NOW - 500, NOW - 400), scenario=scenario) as caller:
            page = (await caller.get(start_time=NOW - 600, per_page=2)).json
            assert (page["end_time"], page["end_of_stream"], page["count"]) == (end_time, False, 2)
            assert page["next_page"].endswith(f"&start_time={end_time}")


async def test_rows_before_the_start_and_counts_and_doubles_lie_by_what_was_asked() -> None:
    script = Scenario(
        [
            Fault("wrong_count", requests=[1], by=-2),
            Fault("before_start_time", requests=[2, 3]),
            Fault("duplicate_ids", requests=[4]),
            Fault("shuffled", requests=[5]),
        ]
    )
    async with simulated(account_of(NOW - 600, NOW - 500, NOW - 400), scenario=script) as caller:
        assert (await caller.get(start_time=0)).json["count"] == 1
        assert stamped(await caller.get(start_time=NOW - 550)) == [(NOW - 550 - 86_400, 2), (NOW - 400, 3)]
        cursor = base64.b64encode(f"{NOW - 600}.0||1|".encode()).decode()
        by_cursor = await caller.get(CURSOR_EXPORT, cursor=cursor)
        assert stamped(by_cursor) == [(NOW - 600 - 86_400, 2), (NOW - 400, 3)]
        doubled = await caller.get(start_time=NOW - 500)
        assert (doubled.ids, doubled.json["count"]) == ([2, 2, 3, 3], 4)
        backwards = await caller.get(start_time=0)
        assert (backwards.ids, backwards.json["end_time"]) == ([3, 2, 1], NOW - 400)


async def test_a_cut_gzip_stream_has_no_end_although_its_framing_has() -> None:
    async with (
        simulated(small_account(), scenario=Scenario([Fault("gzip_stream_cut")])) as caller,
        aiohttp.ClientSession(auto_decompress=False, headers={"Authorization": ANYBODY}) as session,
        session.get(caller.server.base_url + EXPORT, params={"start_time": 0}) as response,
    ):
        stream = await response.read()
    unpacker = zlib.decompressobj(wbits=31)
    assert unpacker.decompress(stream).startswith(b'{"tickets":[')
    assert not unpacker.eof


@pytest.mark.parametrize("name", ["stalled_body", "slow_first_byte"])
async def test_a_stall_lasts_its_seconds_and_then_the_page_is_whole(name: str) -> None:
    async with simulated(small_account(), scenario=Scenario([Fault(name, times=1, seconds=0.3)])) as caller:
        began = time.monotonic()
        digest_page((await caller.get(start_time=0)).body)
        assert time.monotonic() - began >= 0.3


async def test_a_stalled_body_does_not_hold_up_the_servers_end() -> None:
    async with simulated(small_account(), scenario=Scenario([Fault("stalled_body", seconds=600)])) as caller:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(caller.get(start_time=0), 0.3)
        began = time.monotonic()
    assert time.monotonic() - began < 5


async def test_a_dropped_connection_is_not_announced() -> None:
    scenario = Scenario([Fault("connection_dropped", requests=[1])])
    async with simulated(small_account(), scenario=scenario) as caller:
        host, port = caller.server.base_url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {EXPORT}?start_time=0 HTTP/1.1\r\nHost: x\r\nAuthorization: {ANYBODY}\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(-1), 5)  # until the server hangs up
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"connection: close" not in head.lower()
        assert body.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("name", ["gzip_bomb", "oversized_body"])
async def test_a_swollen_body_has_its_size_and_is_still_a_page(name: str) -> None:
    size = 8 * 1024 * 1024
    async with simulated(small_account(), scenario=Scenario([Fault(name, size=size)])) as caller:
        reply = await caller.get(start_time=0)
        assert size - 1024 * 1024 <= len(reply.body) <= size
        assert (name == "gzip_bomb") == ("Content-Encoding" in reply.headers)
        digest_page(reply.body)


async def test_an_upstream_timeout_goes_away_with_smaller_pages() -> None:
    scenario = Scenario([Fault("upstream_timeout", per_page_above=250)])
    async with simulated(small_account(), scenario=scenario) as caller:
        assert [(await caller.get(start_time=0, per_page=size)).status for size in (1_000, 500, 250)] == [504, 504, 200]


async def test_retry_after_comes_in_seconds_or_as_a_date_or_not_at_all() -> None:
    script = Scenario(
        [
            Fault("database_deadlock", requests=[1], retry_after=7),
            Fault("database_deadlock", requests=[2], retry_after=7, retry_after_form="date"),
            Fault("too_many_exports", requests=[3], retry_after=None),
            Fault("maintenance", requests=[4]),
        ]
    )
    async with simulated(account_of(100), scenario=script) as caller:
        told = [(await caller.get(start_time=0)).headers.get("Retry-After") for _ in range(4)]
        assert told[0] == "7"
        assert parsedate_to_datetime(str(told[1])).timestamp() == NOW + 7
        assert told[2:] == [None, None]


async def test_a_probable_fault_strikes_at_the_same_requests_for_the_same_seed() -> None:
    async def struck(seed: int) -> list[bool]:
        scenario = Scenario([Fault("bad_gateway", probability=0.5)], seed=seed)
        async with simulated(account_of(100), scenario=scenario) as caller:
            return [(await caller.get(start_time=0)).status == 502 for _ in range(30)]

    assert await struck(1) == await struck(1) != await struck(2)
    assert 5 < sum(await struck(1)) < 25


async def test_a_fault_of_the_page_waits_for_a_page() -> None:
    scenario = Scenario([Fault("tickets_not_a_list", times=1)])
    async with simulated(account_of(100), scenario=scenario) as caller:
        assert (await caller.get()).status == 400
        assert isinstance((await caller.get(start_time=0)).json["tickets"], dict)
        assert isinstance((await caller.get(start_time=0)).json["tickets"], list)


def test_the_example_scenario_is_valid_and_names_every_fault_and_every_setting() -> None:
    path = Path(__file__).parent.parent / "config" / "scenario.example.yaml"
    assert len(Scenario.from_yaml(path).faults) == 6
    text = path.read_text(encoding="utf-8")
    assert [name for name in (*KNOWN, *(field.name for field in fields(Fault))) if name not in text] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("faults:\n  - name: databse_deadlock", "there is no fault 'databse_deadlock'; known ones: bad_gateway, "),
        ("faults:\n  - name: bad_gateway\n    request: [1]", "fault 1: unknown request; known: .*requests"),
        ("faults:\n  - name: bad_gateway\n    times: often", "fault 1: Expected `int"),
        ("faults:\n  - name: bad_gateway\n    probability: 7", "probability is 7"),
        ("faults: 3", "expected a mapping with a list `faults`"),
        ("faults: [", "is not YAML"),
        ("faults: []\nlimits: 3", "unknown limits"),
    ],
)
def test_a_wrong_scenario_is_refused_with_what_is_possible(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError, match=message):
        Scenario.from_yaml(path)


def test_a_scenario_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="cannot be read: No such file"):
        Scenario.from_yaml(tmp_path / "none.yaml")


# Beside the API


async def test_the_journal_tells_what_was_asked_and_served() -> None:
    clock = Clock.manual(NOW)
    async with simulated(account_of(100, 200), clock) as caller:
        await caller.get(start_time=50, per_page=1)
        clock.advance(6)
        await caller.get()
        first, second = map(json.loads, (await caller.get("/simulator/journal")).body.splitlines())
        assert first == {
            "number": 1,
            "at": NOW,
            "path": EXPORT,
            "start_time": 50,
            "cursor": None,
            "per_page": 1,
            "status": 200,
            "tickets": 1,
            "end_time": 101,
            "end_of_stream": False,
            "request_id": caller.server.journal[0].request_id,
            "fault": None,
        }
        assert (second["number"], second["at"], second["status"], second["start_time"]) == (2, NOW + 6, 400, None)
        cursor = (await caller.get(CURSOR_EXPORT, start_time=0)).json["after_cursor"]
        await caller.get(CURSOR_EXPORT, cursor=cursor)
        third, fourth = caller.server.journal[2:]
        assert (third.path, third.cursor, third.tickets, third.end_time) == (CURSOR_EXPORT, None, 2, None)
        assert (fourth.start_time, fourth.cursor, fourth.tickets, fourth.end_of_stream) == (None, cursor, 0, True)


async def test_changes_on_request_are_stamped_now_and_answer_their_ids() -> None:
    account = small_account()
    clock = Clock.manual(NOW + 1_000)
    async with simulated(account, clock) as caller:
        url = caller.server.base_url + "/simulator/changes"
        async with caller.session.post(url, json={"create": 2, "update": 3, "delete": 1, "system_update": 1}) as made:
            ids = await made.json()
        assert {kind: len(tickets) for kind, tickets in ids.items()} == {
            "create": 2,
            "update": 3,
            "delete": 1,
            "system_update": 1,
        }
        clock.advance(100)
        touched = {ticket for tickets in ids.values() for ticket in tickets}
        assert set((await caller.get(start_time=NOW + 1_000)).ids) == touched
        for nonsense in (b"[]", b"{", b'{"create":"two"}', b'{"destroy":1}', b'{"create":-1}', b'{"create":true}'):
            async with caller.session.post(url, data=nonsense) as refused:
                assert refused.status == 400
                assert "create, update, delete, system_update" in await refused.text()


async def test_clock_and_summary_can_be_asked() -> None:
    async with simulated(account_of(100)) as caller:
        assert (await caller.get("/simulator/clock", login=None)).json == {"now": NOW, "speed": 0.0}
        summary = (await caller.get("/simulator", login=None)).json
        assert (summary["subdomain"], summary["tickets"], summary["now"]) == ("acme", 1, NOW)


async def test_the_truth_streams_while_the_export_is_served() -> None:
    async with simulated(Account.generate(3_000, 1, NOW, 86_400), Clock.manual(NOW + 100)) as caller:
        async with caller.session.get(caller.server.base_url + "/simulator/truth") as truth:
            first = json.loads(await truth.content.readline())
            assert set(first) == {"id", "generated_timestamp", "sha256", "current", "status", "updated_at"}
            assert (await caller.get(start_time=0, per_page=10)).status == 200
            rest = (await truth.content.read()).splitlines()
        assert len(rest) == 2_999


def test_a_fast_clock_runs_fast_and_a_manual_one_stands_still() -> None:
    fast, manual = Clock(NOW, speed=1_000), Clock.manual(NOW)
    deadline = time.monotonic() + 5
    while fast.now() < NOW + 10 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert fast.now() >= NOW + 10
    assert manual.now() == NOW
    manual.advance(5)
    assert manual.now() == NOW + 5
    manual.advance(-25)
    assert manual.now() == NOW - 20
    with pytest.raises(ValueError, match="time does not run backwards"):
        Clock(NOW, speed=-1)


# The command


@pytest.fixture
def command(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """The simulator as a process of its own, with the file that tells its address."""
    ready = tmp_path / "ready"
    program = "import typer; from producer.cli.simulate import simulate; typer.run(simulate)"
    options = ["--port=0", "--tickets=500", "--churn=6000", "--speed=60", "--token=t0ken", f"--ready-file={ready}"]
    process = subprocess.Popen([sys.executable, "-c", program, *options], stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 20
        while not ready.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        yield process, ready
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_command_serves_keeps_changing_and_ends_on_a_signal(
    command: tuple[subprocess.Popen[str], Path], number: signal.Signals
) -> None:
    process, ready = command
    url = ready.read_text(encoding="utf-8").strip()
    login = aiohttp.encode_basic_auth("agent@acme.example/token", "t0ken")
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}{EXPORT}?start_time=0", headers={"Authorization": login}) as page:
            assert page.status == 200
        deadline = time.monotonic() + 10
        lines = 0
        while lines <= 500 and time.monotonic() < deadline:
            async with session.get(f"{url}/simulator/truth") as truth:
                lines = len((await truth.read()).splitlines())
        assert lines > 500
    os.kill(process.pid, number)
    output, _ = await asyncio.to_thread(process.communicate, timeout=10)
    assert process.returncode == 0
    assert f"PRODUCER_ZENDESK__BASE_URL={url}" in output
    assert "PRODUCER_ZENDESK__REQUESTS_PER_MINUTE=600" in output
    assert "t0ken" not in output


def test_the_command_refuses_an_unknown_fault(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text("faults:\n  - name: nonsense\n", encoding="utf-8")
    program = "import typer; from producer.cli.simulate import simulate; typer.run(simulate)"
    done = subprocess.run(
        [sys.executable, "-c", program, f"--scenario={path}"], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert "nonsense" in done.stderr


def test_random_changes_never_touch_a_deleted_ticket() -> None:
    account = Account.generate(tickets=40, seed=5, until=NOW, span=86_400)
    rng = random.Random(5)
    while (ticket := account.pick(rng, NOW)) is not None:
        account.delete(ticket, at=NOW)
    assert {body["status"] for body in bodies(account)} == {"deleted"}
