"""The pretend Zendesk beyond plain tickets: sideloads, AI agents, the other incremental exports, hostile tickets."""

import asyncio
import json
import re
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.dates import utc
from producer.sandbox.zendesk import (
    HOSTILE,
    Account,
    Changes,
    Clock,
    Fault,
    Limits,
    Offered,
    Rules,
    Scenario,
    View,
)
from producer.sandbox.zendesk.changes import KINDS
from producer.sandbox.zendesk.sideloads import BESIDE, INSIDE, NAMES
from tests.conftest import until
from tests.test_simulator import (
    ANYBODY,
    CURSOR_EXPORT,
    EXPORT,
    NOW,
    Caller,
    Reply,
    account_of,
    cut,
    simulated,
    small_account,
    stamped,
    walk,
)

ROOT = "/api/v2/incremental/"
BESIDE_TICKETS = ("users", "organizations", "ticket_events")
PATHS = (EXPORT, CURSOR_EXPORT)
EVERYTHING = ",".join(sorted(NAMES))


def put(account: Account, name: str, stamp: int, **options: Any) -> int:
    """One record more in this stream; its id."""
    if name == "ticket_events":
        return account.events.put(stamp, **options)
    return (account.users if name == "users" else account.organizations).put(stamp, **options)


def rows_of(name: str, *stamps: int) -> Account:
    """An account with so many records of one stream."""
    account = Account()
    for stamp in stamps:
        put(account, name, stamp)
    return account


def stamps_in(reply: Reply, name: str) -> list[int | str]:
    key = "timestamp" if name == "ticket_events" else "updated_at"
    return [row[key] for row in reply.json[name]]


def as_shown(name: str, *stamps: int) -> list[int | str]:
    """Stamps as the stream's records have them."""
    return [stamp if name == "ticket_events" else utc(stamp) for stamp in stamps]


def raw_rows(reply: Reply, name: str = "tickets") -> list[bytes]:
    """The exact bytes of each row."""
    page = msgspec.json.decode(reply.body, type=dict[str, msgspec.Raw])
    return [bytes(row) for row in msgspec.json.decode(page[name], type=list[msgspec.Raw])]


def digests(rows: list[bytes]) -> list[str]:
    return [sha256(row).hexdigest() for row in rows]


async def truth(caller: Caller, **query: str) -> list[dict[str, Any]]:
    reply = await caller.get("/simulator/truth", **query)
    assert reply.status == 200
    return [json.loads(line) for line in reply.body.splitlines()]


# Sideloads: beside the tickets


def referred(tickets: list[dict[str, Any]], name: str) -> set[int]:
    found: set[int | None] = set()
    for ticket in tickets:
        for key in BESIDE[name]:
            found |= set(ticket[key]) if key.endswith("_ids") else {ticket[key]}
    return {id for id in found if id is not None}


@pytest.mark.parametrize("path", PATHS)
async def test_a_page_brings_the_records_that_its_tickets_refer_to_each_once(path: str) -> None:
    async with simulated(small_account()) as caller:
        page = (await caller.get(path, start_time=0, include=",".join(BESIDE))).json
        assert list(page)[: 1 + len(BESIDE)] == ["tickets", *BESIDE]
        for name in BESIDE:
            ids = Counter(record["id"] for record in page[name])
            assert set(ids) == referred(page["tickets"], name) != set(), name
            assert set(ids.values()) == {1}, name
            assert all(record["updated_at"] >= record["created_at"] for record in page[name])
        assert {user["role"] for user in page["users"]} == {"agent", "end-user"}


@pytest.mark.parametrize("path", PATHS)
async def test_a_page_brings_only_what_was_asked_for_and_for_its_own_tickets(path: str) -> None:
    async with simulated(small_account()) as caller:
        one = (await caller.get(path, start_time=0, per_page=1, include=" groups , users,,")).json
        assert set(one) & set(BESIDE) == {"users", "groups"}
        assert {user["id"] for user in one["users"]} == referred(one["tickets"], "users")


@pytest.mark.parametrize("path", PATHS)
async def test_the_tickets_and_the_envelope_are_the_same_with_records_beside_them(path: str) -> None:
    async with simulated(small_account()) as caller:
        plain, loaded = [await caller.get(path, start_time=0, **query) for query in ({}, {"include": "users,brands"})]
        assert sorted(raw_rows(plain)) == sorted(raw_rows(loaded))
        assert {key: plain.json[key] for key in plain.json if key != "tickets"} == {
            key: loaded.json[key] for key in loaded.json if key not in ("tickets", "users", "brands")
        }
        assert len(loaded.body) > len(plain.body)


@pytest.mark.parametrize("path", PATHS)
async def test_an_empty_page_has_its_arrays_and_they_are_empty(path: str) -> None:
    async with simulated(account_of(100)) as caller:
        page = (await caller.get(path, start_time=101, include=EVERYTHING)).json
        assert [page[name] for name in ("tickets", *BESIDE)] == [[]] * (1 + len(BESIDE))
        assert not {"metric_sets", "metric_set", "comment_count"} & set(page)


async def test_records_are_the_same_every_time_and_others_for_another_seed() -> None:
    async def users(seed: int) -> list[bytes]:
        account = Account(seed=seed)
        account.put(100, requester_id=7, submitter_id=7, assignee_id=None, collaborator_ids=[], follower_ids=[])
        account.put(100, requester_id=8, email_cc_ids=[])
        async with simulated(account) as caller:
            reply = await caller.get(start_time=0, include="users")
            return [row for row in raw_rows(reply, "users") if json.loads(row)["id"] in (7, 8)]

    assert sorted(await users(1)) == sorted(await users(1)) != sorted(await users(2))


async def test_a_user_who_changes_is_another_on_later_pages_and_in_the_users_export() -> None:
    account = account_of(100)
    async with simulated(account) as caller:
        before = (await caller.get(start_time=0, include="users")).json
        requester = before["tickets"][0]["requester_id"]
        account.users.update(requester, at=NOW - 500, name="Ada Lovelace", email="ada@example.com")
        later = await caller.get(start_time=0, include="users")
        assert raw_rows(later) == raw_rows(await caller.get(start_time=0))  # the ticket knows nothing of it
        old, new = ({user["id"]: user for user in page["users"]} for page in (before, later.json))
        assert {key for key in old[requester] if old[requester][key] == new[requester][key]} >= {
            *("id", "url", "created_at", "role", "time_zone", "locale", "active"),
        }
        assert (new[requester]["name"], new[requester]["email"]) == ("Ada Lovelace", "ada@example.com")
        assert new[requester]["updated_at"] == utc(NOW - 500) > old[requester]["updated_at"]
        assert {id: user for id, user in new.items() if id != requester} == {
            id: user for id, user in old.items() if id != requester
        }
        (exported,) = (await caller.get(ROOT + "users", start_time=0)).json["users"]
        assert exported == new[requester]
        account.users.update(requester, at=NOW - 400)
        (again,) = (await caller.get(ROOT + "users", start_time=0)).json["users"]
        assert (again["name"], again["updated_at"]) == ("Ada Lovelace", utc(NOW - 400))


@pytest.mark.parametrize("name", sorted(BESIDE))
async def test_every_record_beside_a_ticket_can_change(name: str) -> None:
    account = account_of(100)
    account.put(100, sharing_agreement_ids=[41], organization_id=42)
    async with simulated(account) as caller:
        before = (await caller.get(start_time=0, include=name)).json[name]
        account.sideloads.edit(name, before[-1]["id"], NOW - 500, name="another")
        after = (await caller.get(start_time=0, include=name)).json[name]
        changed = [(old, new) for old in before for new in after if old["id"] == new["id"] and old != new]
        assert [new["name"] for _, new in changed] == ["another"]
        assert changed[0][1]["updated_at"] == utc(NOW - 500)


def test_a_record_of_an_unknown_kind_cannot_change() -> None:
    with pytest.raises(ValueError, match="no array 'sluggards' beside the tickets; there are users, groups"):
        Account().sideloads.edit("sluggards", 1, 100)


@pytest.mark.parametrize("path", PATHS)
async def test_an_unknown_sideload_is_ignored_and_named_in_a_header(path: str) -> None:
    async with simulated(account_of(100)) as caller:
        plain = await caller.get(path, start_time=0)
        assert "x-zendesk-api-warn" not in plain.headers
        odd = await caller.get(path, start_time=0, include="last_audits,users,sluggards,a\r\nb")
        assert odd.status == 200
        assert "users" in odd.json
        assert odd.headers["x-zendesk-api-warn"] == (
            'Removed restricted keys ["a\\r\\nb", "last_audits", "sluggards"] from parameters according to whitelist'
        )
        assert raw_rows(odd) == raw_rows(plain)


async def test_a_link_carries_include_only_when_the_rules_say_so() -> None:
    for keep, kept in ({"per_page"}, False), ({"per_page", "include"}, True):
        async with simulated(account_of(100), rules=Rules(links_keep=frozenset(keep))) as caller:
            by_time = (await caller.get(start_time=0, per_page=5, include="users,groups")).json["next_page"]
            by_cursor = (await caller.get(CURSOR_EXPORT, start_time=0, per_page=5, include="users")).json["after_url"]
            assert ("include=users" in by_time, "include=users" in by_cursor) == (kept, kept)
            assert "per_page=5" in by_time
            assert "per_page=5" in by_cursor


# Sideloads: inside the tickets


@pytest.mark.parametrize("path", PATHS)
async def test_metrics_comments_and_incidents_stand_in_the_ticket_before_its_stamp(path: str) -> None:
    async with simulated(small_account()) as caller:
        plain, loaded = [cut(await caller.get(path, start_time=0, **query)) for query in ({}, {"include": EVERYTHING})]
        for id, ticket in loaded.items():
            read = json.loads(ticket)
            assert list(read)[-4:] == [*INSIDE.values(), "generated_timestamp"]
            assert read["metric_set"]["ticket_id"] == id
            assert type(read["comment_count"]) is type(read["incident_count"]) is int
            for key in INSIDE.values():
                del read[key]
            assert read == json.loads(plain[id])
        assert not set(INSIDE) & set((await caller.get(path, start_time=0, include=EVERYTHING)).json)


async def test_what_is_counted_changes_without_a_new_stamp_and_the_truth_tells_of_both() -> None:
    account = account_of(100, 200)
    async with simulated(account) as caller:
        plain = await caller.get(start_time=0)
        before = cut(await caller.get(start_time=0, include=EVERYTHING))
        account.recount(1, at=NOW - 500)
        after = cut(await caller.get(start_time=0, include=EVERYTHING))
        assert before[2] == after[2]
        old, new = json.loads(before[1]), json.loads(after[1])
        assert {key for key in old if old[key] != new[key]} == set(INSIDE.values())
        assert new["metric_set"]["updated_at"] == utc(NOW - 500)
        assert (await caller.get(start_time=0)).body == plain.body
        told = [line for line in await truth(caller, include=EVERYTHING) if line["id"] == 1]
        assert [(line["sha256"], line["current"]) for line in told] == [
            (sha256(before[1]).hexdigest(), False),
            (sha256(after[1]).hexdigest(), True),
        ]
        assert len([line for line in await truth(caller) if line["id"] == 1]) == 1
        account.update(1, at=NOW - 400)
        assert json.loads(cut(await caller.get(start_time=0, include="incident_counts"))[1])["incident_count"] == 1


async def test_what_a_raw_ticket_holds_is_left_alone_and_what_is_no_json_refers_to_nothing() -> None:
    account = Account()
    account.put(100, id=1, raw=b'{"id":1,"requester_id":5,"generated_timestamp":100}')
    account.put(100, id=2, raw=b'{"id":2,"requester_id":6,"nickname":"\\ud83d","generated_timestamp":100}')
    account.put(100, id=3, raw=b'["requester_id"]')
    async with simulated(account) as caller:
        reply = await caller.get(start_time=0, include=EVERYTHING)
        page = json.loads(reply.body)
        assert [user["id"] for user in page["users"]] == [5]
        assert b'{"id":2,"requester_id":6,"nickname":"\\ud83d","generated_timestamp":100}' in reply.body
        assert b"metric_set" not in reply.body


# Tickets of AI agents


def with_ai_agents() -> Account:
    """Tickets 2 and 4 are an AI agent's."""
    account = Account()
    for id in range(1, 6):
        account.put(100 * id, id=id, support_type="agent" if id % 2 else "ai_agent")
    return account


SCOPES = {None: {1, 3, 5}, "agent": {1, 3, 5}, "ai_agent": {2, 4}, "all": {1, 2, 3, 4, 5}}


@pytest.mark.parametrize("scope", SCOPES)
async def test_tickets_of_ai_agents_are_hidden_unless_asked_for(scope: str | None) -> None:
    query = {} if scope is None else {"support_type_scope": scope}
    async with simulated(with_ai_agents()) as caller:
        assert set((await caller.get(start_time=0, **query)).ids) == SCOPES[scope]
        assert {id for _, id in await walk(caller, per_page=1, **query)} == SCOPES[scope]
        assert {line["id"] for line in await truth(caller, **query)} == SCOPES[scope]


async def test_a_page_is_filled_with_what_its_scope_shows() -> None:
    async with simulated(with_ai_agents()) as caller:
        page = (await caller.get(start_time=0, per_page=2)).json
        assert ([ticket["id"] for ticket in page["tickets"]], page["end_time"], page["end_of_stream"]) == (
            [1, 3],
            300,
            False,
        )


@pytest.mark.parametrize("path", [*PATHS, EXPORT + "/sample", ROOT + "ticket_events"])
async def test_an_unknown_scope_is_refused(path: str) -> None:
    async with simulated(with_ai_agents()) as caller:
        refused = await caller.get(path, start_time=0, support_type_scope="robots")
        assert (refused.status, refused.json["error"]) == (400, "InvalidValue")
        assert (await caller.get(ROOT + "users", start_time=0, support_type_scope="robots")).status == 200


async def test_an_account_with_ai_agents_tells_of_every_ticket_whose_it_is() -> None:
    account = Account.generate(300, 3, until=NOW, span=86_400, burst_every=0, ai_agents=0.2)
    async with simulated(account, Clock.manual(NOW + 100)) as caller:
        tickets = (await caller.get(start_time=0, support_type_scope="all")).json["tickets"]
        whose = Counter(ticket["support_type"] for ticket in tickets)
        assert whose.total() == 300
        assert 30 < whose["ai_agent"] < 90
        assert set(whose) == {"agent", "ai_agent"}
        assert len((await caller.get(start_time=0)).ids) == whose["agent"]
        raw = raw_rows(await caller.get(start_time=0, support_type_scope="all"))
        assert {row.count(b'"support_type"') for row in raw} == {1}
        assert all(list(ticket)[-1] == "generated_timestamp" for ticket in tickets)


async def test_a_ticket_that_an_agent_takes_over_appears() -> None:
    account = with_ai_agents()
    account.update(2, at=600)
    async with simulated(account) as caller:
        assert 2 not in (await caller.get(start_time=0)).ids
        account.put(700, id=2, support_type="agent")
        assert stamped(await caller.get(start_time=700)) == [(700, 2)]


# Deleted tickets


async def test_scrubbed_tickets_are_left_out_with_the_deleted_ones_and_restored_ones_are_not() -> None:
    account = account_of(100, 200, 300, 400)
    for id in (1, 2, 3):
        account.delete(id, at=500 + id)
    account.scrub(2, at=600)
    account.restore(3, at=700)
    everything, without = [(400, 4), (501, 1), (600, 2), (700, 3)], [(400, 4), (700, 3)]
    async with simulated(account) as caller:
        for query, rows in ({}, everything), ({"exclude_deleted": "true"}, without):
            assert stamped(await caller.get(start_time=0, **query)) == rows
            assert await walk(caller, per_page=1, **query) == rows
            first = (await caller.get(CURSOR_EXPORT, start_time=0, per_page=1)).json["after_cursor"]
            assert stamped(await caller.get(CURSOR_EXPORT, cursor=first, **query)) == rows[1:]
            current = await truth(caller, current="true", **query)
            assert sorted((line["generated_timestamp"], line["id"]) for line in current) == rows


# The other streams


@pytest.mark.parametrize("name", BESIDE_TICKETS)
@settings(max_examples=10, deadline=None)
@given(stamps=st.lists(st.integers(1, 12), max_size=60), per_page=st.integers(1, 7))
def test_paging_through_any_stream_visits_every_version_once(name: str, stamps: list[int], per_page: int) -> None:
    account = rows_of(name, *stamps)

    async def visit() -> list[bytes]:
        visited: dict[bytes, None] = {}
        position = 0
        async with simulated(account) as caller:
            while True:
                reply = await caller.get(ROOT + name, start_time=position, per_page=per_page)
                visited.update(dict.fromkeys(raw_rows(reply, name)))
                position = reply.json["end_time"] or position
                if reply.json["end_of_stream"]:
                    return list(visited)

    told = [offered.sha256 for offered in account.streams[name].versions()]
    assert sorted(digests(asyncio.run(visit()))) == sorted(told)
    assert len(told) == len(stamps)


@pytest.mark.parametrize("name", BESIDE_TICKETS)
async def test_every_stream_starts_inclusively_cuts_seconds_and_extends_pages(name: str) -> None:
    async with simulated(rows_of(name, 100, 200, 200, 200, 300)) as caller:
        cut_page = await caller.get(ROOT + name, start_time=100, per_page=2)
        assert (stamps_in(cut_page, name), cut_page.json["end_time"]) == (as_shown(name, 100, 200), 200)
        extended = await caller.get(ROOT + name + ".json", start_time=200, per_page=2)
        assert (stamps_in(extended, name), extended.json["end_time"]) == (as_shown(name, 200, 200, 200), 201)
        assert extended.json["next_page"] == f"{caller.server.base_url}{ROOT}{name}.json?per_page=2&start_time=201"
        last = (await caller.get(ROOT + name, start_time=201)).json
        assert (last["count"], last["end_time"], last["end_of_stream"]) == (1, 300, True)
        assert (await caller.get(ROOT + name, start_time=301)).json | {"x": 0} == {
            name: [],
            "count": 0,
            "end_of_stream": True,
            "next_page": None,
            "end_time": None,
            "x": 0,
        }


@pytest.mark.parametrize("name", BESIDE_TICKETS)
async def test_no_stream_shows_its_last_minute_and_a_late_row_appears_in_a_second_served_before(name: str) -> None:
    clock = Clock.manual(1_000)
    account = rows_of(name, 500, 970)
    put(account, name, 500, visible_at=1_020)
    async with simulated(account, clock) as caller:
        assert stamps_in(await caller.get(ROOT + name, start_time=0), name) == as_shown(name, 500)
        assert (await caller.get(ROOT + name, start_time=940)).json["error"] == "StartTimeTooRecent"
        assert len(await truth(caller, stream=name)) == 2
        clock.advance(30)
        assert stamps_in(await caller.get(ROOT + name, start_time=0), name) == as_shown(name, 500, 500, 970)
        assert len(await truth(caller, stream=name)) == 3


async def test_a_users_page_has_the_keys_of_the_recordings_in_their_order() -> None:
    async with simulated(rows_of("users", 100)) as caller:
        by_time = (await caller.get(ROOT + "users.json", start_time=0)).json
        assert list(by_time) == ["users", "next_page", "count", "end_of_stream", "end_time"]
        by_cursor = (await caller.get(ROOT + "users/cursor.json", start_time=0)).json
        assert list(by_cursor) == [
            "users",
            "after_url",
            "before_url",
            "after_cursor",
            "before_cursor",
            "end_of_stream",
        ]
        assert " ".join(by_time["users"][0]) == (
            "id url name email created_at updated_at time_zone iana_time_zone phone shared_phone_number photo "
            "locale_id locale organization_id role verified external_id tags alias active shared shared_agent "
            "last_login_at two_factor_auth_enabled signature details notes role_type custom_role_id moderator ticket_restriction "
            "only_private_comments restricted_agent suspended default_group_id report_csv user_fields"
        )


async def test_users_are_walked_by_cursor_in_the_order_of_stamp_and_id() -> None:
    account = Account()
    for stamp, id in ((200, 9), (200, 2), (100, 5), (300, 1)):
        account.users.put(stamp, id=id)
    path = ROOT + "users/cursor"
    async with simulated(account, Clock.manual(1_000)) as caller:
        seen, query = [], {"start_time": "0"}
        while True:
            page = (await caller.get(path, per_page=2, **query)).json
            seen += [user["id"] for user in page["users"]]
            if page["end_of_stream"]:
                break
            query = {"cursor": page["after_cursor"]}
        assert seen == [5, 2, 9, 1]
        account.users.update(5, at=400)
        (changed,) = (await caller.get(path, cursor=page["after_cursor"])).json["users"]
        assert (changed["id"], changed["updated_at"]) == (5, utc(400))
        assert (await caller.get(path, cursor="nonsense")).status == 400


@pytest.mark.parametrize("name", ["organizations", "ticket_events"])
async def test_only_tickets_and_users_have_a_cursor_export(name: str) -> None:
    async with simulated(rows_of(name, 100)) as caller:
        reply = await caller.get(f"{ROOT}{name}/cursor", start_time=0)
        assert (reply.status, reply.json["error"]) == (404, "InvalidEndpoint")


@pytest.mark.parametrize("name", BESIDE_TICKETS)
async def test_every_stream_has_a_sample_of_50_rows(name: str) -> None:
    async with simulated(rows_of(name, *[100] * 70)) as caller:
        page = (await caller.get(f"{ROOT}{name}/sample", start_time=0)).json
        assert (len(page[name]), page["count"], page["end_of_stream"]) == (50, 50, False)


@pytest.mark.parametrize("name", ["users", "organizations"])
async def test_what_is_deleted_stays_in_its_stream_and_says_so(name: str) -> None:
    account = rows_of(name, 100, 200)
    stream = account.users if name == "users" else account.organizations
    first, second = (offered.id for offered in stream.versions())
    stream.delete(first, at=300)
    async with simulated(account) as caller:
        rows = (await caller.get(ROOT + name, start_time=0, exclude_deleted="true")).json[name]
        assert [(row["id"], row["updated_at"]) for row in rows] == [(second, utc(200)), (first, utc(300))]
        if name == "users":
            assert [row["active"] for row in rows] == [True, False]
        else:
            assert [row["deleted_at"] for row in rows] == [None, utc(300)]
        assert [(line["id"], line["status"], line["current"]) for line in await truth(caller, stream=name)] == [
            (first, "active", False),
            (second, "active", True),
            (first, "deleted", True),
        ]
    with pytest.raises(ValueError, match=f"{name[:-1]} {first} is deleted"):
        stream.update(first, at=400)
    with pytest.raises(ValueError, match=f"{name[:-1]} {second} cannot change at 150: it has changed at 200"):
        stream.update(second, at=150)


async def test_a_generated_account_lists_the_users_and_organizations_of_its_tickets() -> None:
    account = Account.generate(200, 3, until=NOW, span=86_400, burst_every=0, users=240, organizations=100)
    async with simulated(account, Clock.manual(NOW + 500)) as caller:
        page = (await caller.get(start_time=0, include="users,organizations")).json
        users = {user["id"]: user for user in (await caller.get(ROOT + "users", start_time=0)).json["users"]}
        organizations = (await caller.get(ROOT + "organizations", start_time=0)).json["organizations"]
        assert (len(users), len(organizations)) == (240, 100)
        assert all(users[ticket["requester_id"]] in page["users"] for ticket in page["tickets"])
        assert all(organization in organizations for organization in page["organizations"])
        summary = (await caller.get("/simulator")).json
        assert {name: summary[name] for name in account.streams} == {
            "tickets": 200,
            "users": 240,
            "organizations": 100,
            "ticket_events": 0,
        }


# Ticket events


async def events(caller: Caller, **query: str) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = (await caller.get(ROOT + "ticket_events", start_time=0, **query)).json[
        "ticket_events"
    ]
    return shown


async def test_what_moves_a_tickets_updated_at_becomes_an_event_where_events_are_kept() -> None:
    for kept in (True, False):
        account = Account(keep_events=kept)
        id = account.create(at=100)
        account.update(id, at=200)
        account.system_update(id, at=300)
        account.delete(id, at=400)
        account.restore(id, at=500)
        account.delete(id, at=600)
        account.scrub(id, at=700)
        async with simulated(account) as caller:
            shown = await events(caller)
            assert [(event["ticket_id"], event["timestamp"]) for event in shown] == (
                [(id, stamp) for stamp in (100, 200, 400, 500, 600)] if kept else []
            )
            if kept:
                created, _, deleted, restored, _ = (event["child_events"][0] for event in shown)
                assert (created["event_type"], created["status"]) == ("Create", "new")
                assert (deleted["event_type"], deleted["status"]) == ("Change", "deleted")
                assert (restored["status"], restored["previous_value"]) == ("open", "deleted")


async def test_events_have_ascending_ids_and_never_change() -> None:
    account = Account(keep_events=True)
    ids = [account.create(at=100) for _ in range(3)]
    async with simulated(account) as caller:
        before = raw_rows(await caller.get(ROOT + "ticket_events", start_time=0), "ticket_events")
        for id in ids:
            account.update(id, at=200)
        after = raw_rows(await caller.get(ROOT + "ticket_events", start_time=0), "ticket_events")
        assert set(before) < set(after)
        shown = [json.loads(row) for row in after]
        assert all(event["created_at"] == utc(event["timestamp"]) for event in shown)
        assert {event["event_type"] for event in shown} == {"Audit"}
        own = [event["id"] for event in shown]
        children = [child["id"] for event in shown for child in event["child_events"]]
        assert len({*own, *children}) == len(own) + len(children)
        older, newer = ([event["id"] for event in shown if event["timestamp"] == stamp] for stamp in (100, 200))
        assert max(older) < min(newer)
        assert {line["status"] for line in await truth(caller, stream="ticket_events")} == {"active"}


async def test_a_generated_history_has_its_events() -> None:
    account = Account.generate(300, 3, until=NOW, span=86_400, burst_every=0, keep_events=True)
    async with simulated(account, Clock.manual(NOW + 100)) as caller:
        shown = await events(caller)
        assert {event["ticket_id"] for event in shown} == set(range(1, 301))
        assert [event["id"] for event in shown] != []
        by_stamp = sorted(shown, key=lambda event: (event["timestamp"], event["id"]))
        assert sorted(event["id"] for event in shown) == [event["id"] for event in by_stamp]


async def test_events_of_tickets_of_ai_agents_are_hidden_like_their_tickets() -> None:
    account = Account(keep_events=True)
    account.put(100, id=1)
    account.put(100, id=2, support_type="ai_agent")
    async with simulated(account) as caller:
        for scope, tickets in ("agent", [1]), ("ai_agent", [2]), ("all", [1, 2]):
            shown = await events(caller, support_type_scope=scope)
            assert sorted(event["ticket_id"] for event in shown) == tickets
            assert len(await truth(caller, stream="ticket_events", support_type_scope=scope)) == len(tickets)
        assert [event["ticket_id"] for event in await events(caller)] == [1]


# Limits


async def test_all_streams_draw_on_the_bucket_of_the_tickets() -> None:
    account = Account()
    async with simulated(account, limits=Limits(exports_per_minute=4)) as caller:
        names = ("users", "tickets", "ticket_events", "organizations", "tickets/cursor", "users")
        assert [(await caller.get(ROOT + name, start_time=0)).status for name in names] == [200] * 4 + [429] * 2


async def test_the_users_export_by_cursor_has_a_bucket_and_a_header_of_its_own() -> None:
    clock = Clock.manual(60 * 1_000_000 + 15)
    async with simulated(account_of(100), clock, limits=Limits(exports_per_minute=1)) as caller:
        by_cursor = [await caller.get(ROOT + "users/cursor", start_time=0) for _ in range(21)]
        assert [reply.status for reply in by_cursor] == [200] * 20 + [429]
        told = by_cursor[0].headers
        assert told["Zendesk-RateLimit-incremental-exports-cursor"] == "total=20; remaining=19; resets=45"
        assert "zendesk-ratelimit-incremental-exports" not in told
        assert by_cursor[20].headers["Retry-After"] == "45"
        tickets = await caller.get(start_time=0)
        assert tickets.headers["zendesk-ratelimit-incremental-exports"] == "total=1; remaining=0; resets=45"
        assert "Zendesk-RateLimit-incremental-exports-cursor" not in tickets.headers
        clock.advance(45)
        assert (await caller.get(ROOT + "users/cursor", start_time=0)).status == 200


# Faults

SPOILT: dict[str, Callable[[dict[str, Any], str], bool]] = {
    "missing_key": lambda page, name: name not in page,
    "tickets_not_a_list": lambda page, name: isinstance(page[name], dict),
    "ticket_without_id": lambda page, name: [("id" in row) for row in page[name]] == [True, False, True],
    "ticket_without_generated_timestamp": lambda page, name: (
        [(("timestamp" if name == "ticket_events" else "updated_at") in row) for row in page[name]]
        == [True, False, True]
    ),
    "before_start_time": lambda page, name: (
        (page[name][0]["timestamp"] if name == "ticket_events" else page[name][0]["updated_at"])
        == as_shown(name, NOW - 86_900)[0]
    ),
    "shuffled": lambda page, name: page["end_time"] == NOW - 300 and len(page[name]) == 3,
    "duplicate_ids": lambda page, name: len(page[name]) == page["count"] == 6,
    "wrong_count": lambda page, name: page["count"] == len(page[name]) + 1,
    "nothing_yet": lambda page, name: page[name] == [] and not page["end_of_stream"],
    "null_end_time": lambda page, name: page["end_time"] is None and len(page[name]) == 3,
    "future_end_time": lambda page, name: page["end_time"] == NOW - 300 + 86_400,
    "lone_surrogate": lambda page, name: [("nickname" in row) for row in page[name]] == [False, True, False],
}


@pytest.mark.parametrize("fault", sorted(SPOILT))
@pytest.mark.parametrize("name", BESIDE_TICKETS)
async def test_pages_of_every_stream_can_be_spoilt(name: str, fault: str) -> None:
    account = rows_of(name, NOW - 500, NOW - 400, NOW - 300)
    scenario = Scenario([Fault(fault, times=1, key=name)])
    async with simulated(account, scenario=scenario) as caller:
        spoilt, right = [(await caller.get(ROOT + name, start_time=NOW - 500)).json for _ in range(2)]
        assert SPOILT[fault](spoilt, name)
        assert not SPOILT[fault](right, name) or fault == "shuffled"
        if fault == "shuffled":
            assert spoilt[name] == right[name][::-1]
        assert [(served.path, served.fault) for served in caller.server.journal] == [
            (ROOT + name, fault),
            (ROOT + name, None),
        ]


async def test_an_array_beside_the_tickets_can_be_missing_and_the_fault_waits_for_it() -> None:
    scenario = Scenario([Fault("missing_key", times=1, key="users")])
    async with simulated(account_of(100), scenario=scenario) as caller:
        assert "users" not in (await caller.get(start_time=0, include="groups")).json
        loaded = [(await caller.get(start_time=0, include="users,groups")).json for _ in range(2)]
        assert [("users" in page, "groups" in page) for page in loaded] == [(False, True), (True, True)]


async def test_the_same_page_comes_again_within_its_own_stream() -> None:
    account = rows_of("users", 100, 200)
    account.put(100)
    async with simulated(account, scenario=Scenario([Fault("same_page")])) as caller:
        tickets, users = await caller.get(start_time=0), await caller.get(ROOT + "users", start_time=0)
        assert (len(tickets.json["tickets"]), len(users.json["users"])) == (1, 2)
        assert (await caller.get(ROOT + "users", start_time=150)).body == users.body


async def test_the_journal_tells_which_stream_was_asked() -> None:
    account = rows_of("organizations", 100, 200)
    async with simulated(account) as caller:
        await caller.get(ROOT + "organizations", start_time=0)
        await caller.get(ROOT + "users/cursor", start_time=0)
        assert [(one.path, one.tickets, one.end_time, one.end_of_stream) for one in caller.server.journal] == [
            (ROOT + "organizations", 2, 200, True),
            (ROOT + "users/cursor", 0, None, True),
        ]


# The truth, and changes


@pytest.mark.parametrize("name", BESIDE_TICKETS)
async def test_the_served_bytes_of_every_stream_are_those_of_its_ground_truth(name: str) -> None:
    account = rows_of(name, 100, 200)
    put(account, name, 300, raw=b'{ "id": 1.0e1, "name": "\\u0041" }')
    async with simulated(account) as caller:
        reply = await caller.get(ROOT + name, start_time=0)
        listed = await truth(caller, stream=name)
        assert digests(raw_rows(reply, name)) == [line["sha256"] for line in listed]
        assert [line["generated_timestamp"] for line in listed] == [100, 200, 300]
        assert all(set(line) == set(Offered.__dataclass_fields__) for line in listed)
        assert await truth(caller) == await truth(caller, stream="tickets") == []


async def test_there_is_no_truth_about_an_unknown_stream() -> None:
    async with simulated(account_of(100)) as caller:
        reply = await caller.get("/simulator/truth", stream="macros")
        assert reply.status == 400
        assert reply.json["streams"] == ["tickets", "users", "organizations", "ticket_events"]


async def test_the_truth_for_a_view_is_what_that_view_was_served() -> None:
    account = Account.generate(300, 3, until=NOW, span=86_400, burst_every=0, ai_agents=0.2)
    for id in range(1, 40):
        account.recount(id, at=NOW)
    query = {"include": EVERYTHING, "exclude_deleted": "true", "support_type_scope": "all"}
    view = View(exclude_deleted=True, support_type_scope="all", include=frozenset(NAMES))
    async with simulated(account, Clock.manual(NOW + 100)) as caller:
        served = digests(raw_rows(await caller.get(start_time=0, **query)))
        current = [line for line in await truth(caller, **query) if line["current"]]
        assert sorted(served) == sorted(line["sha256"] for line in current)
        assert sorted(served) == sorted(offered.sha256 for offered in account.versions(view=view) if offered.current)
        assert not set(served) & {line["sha256"] for line in await truth(caller)}  # the control: nobody asked so


async def test_users_and_organizations_change_on_request() -> None:
    account = Account.generate(100, 3, until=NOW, span=86_400, burst_every=0, users=60, organizations=30)
    clock = Clock.manual(NOW + 1_000)
    counts = dict.fromkeys(KINDS, 2)
    async with simulated(account, clock) as caller:
        url = caller.server.base_url + "/simulator/changes"
        async with caller.session.post(url, json=counts) as made:
            ids = await made.json()
        assert {kind: len(changed) for kind, changed in ids.items()} == counts
        clock.advance(100)
        for name, record in ("users", "user"), ("organizations", "organization"):
            changed = {id for kind in ids if kind.startswith(record) for id in ids[kind]}
            rows = (await caller.get(ROOT + name, start_time=NOW + 1_000)).json[name]
            assert {row["id"] for row in rows} == changed
            gone = {line["id"] for line in await truth(caller, stream=name) if line["status"] == "deleted"}
            assert gone == set(ids[f"{record}_delete"])
        async with caller.session.post(url, json={"update": 1}) as made:
            assert set(await made.json()) == {"create", "update", "delete", "system_update"}


async def test_a_busy_help_desk_changes_users_where_users_are_listed() -> None:
    account = Account.generate(100, 3, until=NOW, span=86_400, burst_every=0, users=60)
    churn = asyncio.create_task(Changes(account, Clock(NOW + 1_000, speed=100)).keep_making(6_000))
    await until(lambda: any(not offered.current for offered in account.users.versions()))
    churn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await churn


def test_the_same_seed_makes_the_same_streams() -> None:
    def told(seed: int) -> list[str]:
        account = Account.generate(50, seed, until=NOW, span=86_400, users=20, organizations=9, keep_events=True)
        changes = Changes(account, Clock.manual(NOW))
        changes.make(update=5, user_update=5, organization_delete=2)
        return [offered.sha256 for stream in account.streams.values() for offered in stream.versions()]

    assert told(1) == told(1)
    assert not set(told(1)) & set(told(2))


# Hostile tickets


def loads(ticket: bytes) -> Any:
    return json.loads(ticket)


def subject(ticket: bytes) -> str:
    return loads(ticket)["subject"] or ""


def fails(error: type[Exception]) -> Callable[[bytes], bool]:
    def failing(ticket: bytes) -> bool:
        with pytest.raises(error):
            loads(ticket)
        return True

    return failing


def levels(ticket: bytes) -> int:
    """How deep its arrays and objects are nested, the ticket itself included."""
    depth = deepest = 0
    for byte in re.sub(rb'"(?:[^"\\]|\\.)*"', b"", ticket):
        depth += (byte in b"[{") - (byte in b"]}")
        deepest = max(deepest, depth)
    return deepest


def pairs(ticket: bytes) -> Counter[str]:
    """How often each key of the ticket itself occurs."""
    found: list[Counter[str]] = []
    json.loads(ticket, object_pairs_hook=lambda members: found.append(Counter(key for key, _ in members)))
    return found[-1]


GOOD = 17

SAID: dict[str, Callable[[bytes], bool]] = {
    "nul": lambda ticket: "\x00" in subject(ticket) and b"\x00" not in ticket,
    "ansi": lambda ticket: "\x1b" in subject(ticket) + loads(ticket)["tags"][0] and b"\x1b" not in ticket,
    "bidi": lambda ticket: "\u202e".encode() in ticket and "\u2066" in subject(ticket),
    "lone_surrogate": lambda ticket: subject(ticket).endswith("\ud83d"),
    "utf8_noncharacters": lambda ticket: "\uffff" in subject(ticket) and "\ufdd0".encode() in ticket,
    "invalid_utf8": fails(UnicodeDecodeError),
    "number_1e400": lambda ticket: loads(ticket)["number"] == float("inf"),
    "huge_integer_field": lambda ticket: json.loads(ticket, parse_int=len)["number"] == 5_001,
    "duplicate_keys_same_id": lambda ticket: pairs(ticket)["id"] == 2 and loads(ticket)["id"] == GOOD,
    "duplicate_keys_other_id": lambda ticket: pairs(ticket)["id"] == 2 and b'"id":999999999,' in ticket,
    "duplicate_keys_subject": lambda ticket: pairs(ticket)["subject"] == 2,
    "escaped_keys": lambda ticket: loads(ticket)["id"] == GOOD and b'"id":17,' not in ticket,
    "id_beyond_64_bits": lambda ticket: loads(ticket)["id"] > 2**64,
    "id_as_string": lambda ticket: loads(ticket)["id"] == "17",
    "id_missing": lambda ticket: "id" not in loads(ticket),
    "id_float": lambda ticket: repr(loads(ticket)["id"]) == "17.0",
    "id_negative": lambda ticket: loads(ticket)["id"] == -GOOD,
    "stamp_as_string": lambda ticket: loads(ticket)["generated_timestamp"] == "100",
    "huge_tags": lambda ticket: 2_000_000 < len(ticket) < 2_100_000 and len(loads(ticket)["tags"]) == 154_000,
    "huge_string_incompressible": lambda ticket: len(ticket) > 3_000_000 and len(zlib.compress(ticket)) > 1_500_000,
    "nesting_900": lambda ticket: levels(ticket) == 901,
    "nesting_1100": lambda ticket: levels(ticket) == 1_101,
    "deep_nesting": lambda ticket: levels(ticket) == 10_001,
    "not_an_object_number": lambda ticket: isinstance(loads(ticket), int),
    "not_an_object_null": lambda ticket: loads(ticket) is None,
    "not_an_object_string": lambda ticket: isinstance(loads(ticket), str),
    "not_an_object_array": lambda ticket: isinstance(loads(ticket), list),
    "empty_object": lambda ticket: loads(ticket) == {},
    "bom": lambda ticket: loads(ticket)["id"] == GOOD and ticket.startswith(b"\xef\xbb\xbf{"),
}


def test_every_hostile_ticket_is_tested_here() -> None:
    assert SAID.keys() == HOSTILE.keys()


@pytest.mark.parametrize("name", sorted(HOSTILE))
async def test_a_hostile_ticket_is_what_it_says_and_is_served_as_it_is(name: str) -> None:
    account = Account()
    account.put(100, id=GOOD)
    (good,) = [account.body(version) for version in account.rows(0, 0, NOW, NOW)]
    account.rewrite(GOOD, HOSTILE[name])
    neighbour = account.put(200)
    hostile = HOSTILE[name](good)
    assert SAID[name](hostile)
    with pytest.raises((AssertionError, pytest.fail.Exception, KeyError)):  # the control
        assert SAID[name](good)
    async with simulated(account) as caller:
        for path in PATHS:
            reply = await caller.get(path, start_time=0)
            assert reply.body.startswith(b'{"tickets":[' + hostile + b',{"url":')
            assert (await caller.get(path, start_time=0, include=EVERYTHING)).body.startswith(b'{"tickets":[' + hostile)
        bad, right = await truth(caller)
        assert (bad["id"], bad["generated_timestamp"], bad["sha256"]) == (GOOD, 100, sha256(hostile).hexdigest())
        assert right["id"] == neighbour


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_every_kind_of_generated_ticket_can_be_made_hostile(name: str) -> None:
    account = Account.generate(60, 3, until=NOW, span=86_400)
    for version in range(60):
        if account.id(version) % 7 == 0:
            good = account.body(version)
            assert HOSTILE[name](good) == HOSTILE[name](good) != good


# The command


@pytest.fixture
def command(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """The simulator as a process of its own, with the file that tells its address."""
    ready = tmp_path / "ready"
    program = "import typer; from producer.cli.simulate import simulate; typer.run(simulate)"
    options = ["--port=0", "--tickets=50", "--users=60", "--organizations=5", "--events", "--ai-agents=0.3"]
    options += ["--requests-per-minute=0", f"--ready-file={ready}"]
    process = subprocess.Popen([sys.executable, "-c", program, *options], stdout=subprocess.PIPE, text=True)
    try:
        yield process, ready
    finally:
        process.kill()
        process.communicate()


async def test_the_command_serves_every_stream_that_it_is_told_of(command: tuple[subprocess.Popen[str], Path]) -> None:
    process, ready = command
    await until(lambda: ready.exists() or process.poll() is not None, 20, "a simulator that is ready")
    url, rows = ready.read_text(encoding="utf-8").strip(), {}
    async with aiohttp.ClientSession(headers={"Authorization": ANYBODY}) as session:
        for name in ("tickets", *BESIDE_TICKETS):
            query = {"start_time": "0", "support_type_scope": "all"}
            async with session.get(url + ROOT + name, params=query) as page:
                rows[name] = (await page.json())[name]
    assert (len(rows["tickets"]), len(rows["users"]), len(rows["organizations"])) == (50, 60, 5)
    assert {event["ticket_id"] for event in rows["ticket_events"]} == set(range(1, 51))
    assert {ticket["support_type"] for ticket in rows["tickets"]} == {"agent", "ai_agent"}
