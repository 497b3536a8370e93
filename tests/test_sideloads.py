"""What comes beside the tickets: users, groups and the like, each in a topic of its own, in the page that names it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.events import CaughtUp, Committed
from producer.model import Sideload
from producer.sandbox.zendesk import Account, Clock, Fault, Limits, Scenario, Simulator, View
from producer.settings import Settings, load_settings
from producer.sideloads import Recent
from producer.zendesk.page import Format, slice_page
from tests.conftest import joined, said, until
from tests.reader import Message, Reader, faults
from tests.test_service import Run, history, once

INCLUDE = "zendesk.include=users,groups,metric_sets"


@pytest.fixture
def clock() -> Clock:
    """A clock that only the test moves."""
    return Clock.manual(1_700_000_000)


@pytest.fixture
def settings(overrides: list[str]) -> Settings:
    """With sideloads, and pages of ten tickets."""
    return load_settings(overrides=[*overrides, INCLUDE, "zendesk.page_size=10"])


def state(messages: list[Message]) -> dict[int, dict[str, Any]]:
    """The newest record of each id."""
    return {int(message.key or 0): json.loads(message.value or b"") for message in messages}


@pytest.mark.parametrize("export", ["time", "cursor"])
async def test_whoever_a_ticket_names_is_in_a_topic_beside_it_once(
    export: str,
    overrides: list[str],
    zendesk: Simulator,
    account: Account,
    clock: Clock,
    reader: Reader,
    names: dict[str, str],
) -> None:
    history(account, clock.now())
    settings = load_settings(overrides=[*overrides, INCLUDE, "zendesk.page_size=10", f"zendesk.export={export}"])
    await once(settings)
    tickets = [json.loads(message.value or b"") for message in reader.messages()]
    users, groups = (reader.read(names[f"sideloads.{name}"]) for name in ("users", "groups"))
    assert {ticket["requester_id"] for ticket in tickets} <= set(state(users))
    assert {ticket["group_id"] for ticket in tickets if ticket["group_id"]} == set(state(groups))
    assert max(Counter(message.key for message in (*users, *groups)).values()) == 1
    assert all("metric_set" in ticket for ticket in tickets)
    seen = View(include=frozenset({"metric_sets"}))
    assert faults(reader.messages(), account.versions(view=seen)) == []
    headers = users[0].headers
    assert headers["ce_type"] == "com.zendesk.user.sideloaded.v1"
    assert headers["ce_source"] == "https://acme.zendesk.com/api/v2/incremental/tickets?include=users"
    assert {served.status for served in zendesk.journal} == {200}


async def test_a_page_and_what_is_beside_it_are_one_transaction(
    settings: Settings, zendesk: Simulator, account: Account, clock: Clock, reader: Reader, names: dict[str, str]
) -> None:
    history(account, clock.now())
    await once(settings)
    pages = {message.page[:2] for message in reader.messages()}
    beside = reader.read(names["sideloads.users"])
    assert {message.page[:2] for message in beside} <= pages
    named: dict[int, int] = {}
    for message in reader.messages():
        ticket = json.loads(message.value or b"")
        named[ticket["requester_id"]] = min(message.page[1], named.get(ticket["requester_id"], 10**9))
    first = {int(message.key or 0): message.page[1] for message in beside}
    assert all(first[user] <= page for user, page in named.items())


async def test_a_change_comes_with_the_next_ticket_that_names_it_and_an_idle_poll_publishes_none(
    settings: Settings, zendesk: Simulator, account: Account, clock: Clock, reader: Reader, names: dict[str, str]
) -> None:
    ticket = account.put(int(clock.now()) - 300)
    run = Run(settings)
    await until(lambda: run.told(CaughtUp) > 1)
    before = reader.read(names["sideloads.groups"])
    requester = json.loads(reader.messages()[0].value or b"")["requester_id"]
    account.sideloads.edit("users", requester, clock.now(), name="Somebody Else")
    polls = run.told(CaughtUp)
    await until(lambda: run.told(CaughtUp) > polls + 2)
    assert "Somebody Else" not in str(state(reader.read(names["sideloads.users"])))
    account.update(ticket, clock.now())
    clock.advance(100)
    await until(lambda: run.told(Committed) > 1)
    await run.end()
    users = reader.read(names["sideloads.users"])
    assert state(users)[requester]["name"] == "Somebody Else"
    assert sum(message.key == b"%d" % requester for message in users) == 2
    after = reader.read(names["sideloads.groups"])
    assert all(message in after for message in before)
    assert len({(message.key, message.value) for message in after}) == len(after)


async def test_what_changes_inside_a_ticket_without_a_new_stamp_is_a_new_version_at_the_boundary(
    settings: Settings, zendesk: Simulator, account: Account, clock: Clock, reader: Reader
) -> None:
    ticket = account.put(int(clock.now()) - 300)
    await once(settings)
    account.recount(ticket, clock.now())
    await once(settings)
    one, two = reader.messages()
    assert one.identity[:2] == two.identity[:2]
    assert json.loads(one.value or b"")["metric_set"] != json.loads(two.value or b"")["metric_set"]


async def test_a_repeat_after_a_restart_is_the_newest_state(
    settings: Settings, zendesk: Simulator, account: Account, clock: Clock, reader: Reader, names: dict[str, str]
) -> None:
    ticket = account.put(int(clock.now()) - 300)
    await once(settings)
    account.update(ticket, clock.now())
    clock.advance(100)
    await once(settings)
    users = reader.read(names["sideloads.users"])
    requester = json.loads(reader.messages()[0].value or b"")["requester_id"]
    mine = [message.value for message in users if message.key == b"%d" % requester]
    assert len(mine) == 2
    assert mine[0] == mine[1]


async def test_an_answer_that_lacks_a_sideload_is_told_once_and_the_tickets_are_published(
    account: Account, clock: Clock, kafka: Any, names: dict[str, str], reader: Reader
) -> None:
    history(account, clock.now())
    scenario = Scenario([Fault("missing_key", key="users")])
    async with Simulator(account, clock=clock, limits=Limits.unlimited(), scenario=scenario) as zendesk:
        events = await once(load_settings(overrides=[*joined(kafka, zendesk, names), INCLUDE]))
    assert len(reader.messages()) == 40
    assert said(events).count("sideload") == 1


def test_a_sideload_that_nobody_could_use_goes_to_the_dead_letters_and_the_rest_is_read() -> None:
    users = (
        b'[{"id":1},{"name":"no id"},{"id":2,"name":"\\ud83d"},{"id":3,"deep":' + b"[" * 10_000 + b"]" * 10_000 + b"}]"
    )
    body = b'{"tickets":[{"id":9,"generated_timestamp":5}],"users":' + users + b',"end_of_stream":true,"end_time":5}'
    cut = slice_page(body, Format(beside=("users",)))
    assert [row.id for row in cut.rows] == [9]
    assert [(user.id if user.id >= 0 else None, user.poison and user.poison.reason) for user in cut.beside] == [
        (1, None),
        (None, "no_id"),
        (2, "unparsable"),
        (3, "unparsable"),
    ]


@pytest.mark.parametrize("scope", ["agent", "all", "ai_agent"])
async def test_tickets_of_ai_agents_come_as_the_scope_says(
    scope: str, overrides: list[str], zendesk: Simulator, account: Account, clock: Clock, reader: Reader
) -> None:
    history(account, clock.now(), tickets=10)
    for number in range(5):
        account.put(int(clock.now()) - 200 + number, support_type="ai_agent")
    await once(load_settings(overrides=[*overrides, f"zendesk.support_type_scope={scope}"]))
    seen = View(support_type_scope=scope)  # type: ignore[arg-type]
    assert faults(reader.messages(), account.versions(view=seen)) == []
    assert len(reader.messages()) == {"agent": 10, "all": 15, "ai_agent": 5}[scope]


sideloads = st.builds(
    Sideload, st.sampled_from(["users", "groups"]), st.integers(1, 4), st.sampled_from("abc"), st.just(b"{}")
)


@given(st.lists(st.lists(sideloads, max_size=6), max_size=8), st.integers(1, 5))
def test_with_any_memory_the_newest_state_of_each_is_always_published(pages: list[list[Sideload]], memory: int) -> None:
    recent, published = Recent(memory), dict[tuple[str, int], str]()
    for page in pages:
        published |= {(each.array, each.id): each.digest for each in recent.news(page)}
        for each in page:
            newest = next(other for other in reversed(page) if (other.array, other.id) == (each.array, each.id))
            assert published[each.array, each.id] == newest.digest


def test_what_is_remembered_is_not_published_again() -> None:
    recent, page = Recent(), [Sideload("users", 1, "a", b"{}"), Sideload("groups", 1, "a", b"{}")]
    assert recent.news(page) == page
    assert recent.news(page) == []
