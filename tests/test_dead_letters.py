"""Dead letters afterwards: listed for whoever has to look, published after all, and judged by `verify`."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import OFFSET_END, TopicPartition
from confluent_kafka import admin as confluent_admin

from producer import dead_letter_topic, redelivery, service
from producer.dead_letter_topic import dead_letters
from producer.dead_letters import RESOLVED, Letter, Letters, resolved
from producer.errors import SessionOver, Unavailable
from producer.events import CaughtUp, Committed, Opened, Retrying, StandingBy
from producer.kafka.batches import partition_of
from producer.kafka.limits import Limits
from producer.kafka.reading import open_topic
from producer.kafka.session import Session, open_session
from producer.model import Poison, Version
from producer.records import Records
from producer.sandbox.broker import Cluster
from producer.sandbox.zendesk import HOSTILE, Account, Clock, Rules, Simulator
from producer.sandbox.zendesk import Limits as Unlimited
from producer.settings import Settings, load_settings
from producer.stop import Stop
from producer.streams import STREAMS
from tests.conftest import joined, until
from tests.reader import Message, Reader, faults
from tests.test_checkpoint_command import command
from tests.test_contents import noise, steadily
from tests.test_kills import complete, life_goes_on, running
from tests.test_privacy import RULES
from tests.test_service import Run, configure, history, once
from tests.test_verify import PARTITIONS, judged, send, writer, wrong

Limit = Callable[[int], Awaitable[None]]

confluent: Any = confluent_admin

LOW, HIGH = 1_100_000, 8 * 2**20
"""Bytes that the tickets topic takes: fewer than a large ticket has, and more."""


@pytest.fixture
def clock() -> Clock:
    """A clock that only the test moves."""
    return Clock.manual(1_700_000_000)


@pytest.fixture
async def limit(settings: Settings, zendesk: Simulator, kafka: Cluster) -> Limit:
    """Sets what the tickets topic takes: few bytes, until the test says otherwise."""
    await once(settings)  # creates the topics
    set_ = partial(takes, kafka, settings)
    await set_(LOW)
    return set_


async def takes(kafka: Cluster, settings: Settings, bytes_: int) -> None:
    """Set what the tickets topic takes, as the cluster's owner does."""
    topic = settings.topics.tickets
    await asyncio.to_thread(configure, kafka.bootstrap_servers, topic, "max.message.bytes", str(bytes_))


def large(account: Account, ticket: int, stamp: float, **fields: Any) -> None:
    """A version that the topic does not take."""
    account.put(int(stamp), id=ticket, description=noise(ticket, 2_400_000), **fields)


async def found(settings: Settings) -> dict[int | None, str]:
    """What became of the letters, by ticket; nothing where they are open."""
    return {letter.id: letter.outcome for letter in await dead_letters(settings, print)}


async def retried(settings: Settings, *tickets: int) -> dict[int | None, str]:
    """Retry all letters that are open, or those of these tickets; answers what became of them."""
    letters = [
        letter
        for letter in await dead_letters(settings, print)
        if not letter.outcome and (not tickets or letter.id in tickets)
    ]
    outcomes = redelivery.retry(settings, letters, 60_000, lambda _: None)
    return {letter.id: f"{how}: {why}" if why else how async for letter, how, why in outcomes}


# --- listed -----------------------------------------------------------------------------------------------------------


async def test_the_list_tells_when_which_why_how_large_and_where_to_fetch_it(
    settings: Settings, overrides: list[str], account: Account, clock: Clock, reader: Reader, limit: Limit
) -> None:
    history(account, clock.now())
    large(account, 77, clock.now() - 123)
    account.rewrite(account.put(int(clock.now()) - 123), HOSTILE["id_as_string"])
    await once(settings)
    plain, as_json = [await command(overrides, "dead-letters", "list", *more) for more in ((), ("--json",))]
    told = [json.loads(line) for line in as_json.stdout.splitlines()]
    by_identity = {letter.headers["ce_id"]: letter for letter in reader.letters()}
    assert {each["identity"] for each in told} == by_identity.keys()
    for each in told:
        letter = by_identity[each["identity"]]
        names = ("reason", "detail", "size", "number", "value", "fetch")
        assert {name: str(each[name]) for name in names} == {
            name: letter.headers[f"zendesk-dead-letter-{name}"] for name in names
        }
        assert (each["source"], each["partition"], each["offset"]) == ("tickets", letter.partition, letter.offset)
        told_of = [each["identity"], each["number"], each["reason"], each["detail"], each["fetch"], f"{each['size']:,}"]
        assert all(text in plain.stdout for text in told_of)
    assert sorted(each["id"] or 0 for each in told) == [0, 77]
    assert plain.stdout.endswith("2 dead letters open\n")


async def test_without_a_topic_the_list_is_empty_and_there_is_nothing_to_retry(
    overrides: list[str], kafka: Cluster
) -> None:
    assert (await command(overrides, "dead-letters", "list")).stdout == "0 dead letters open\n"
    assert (await command(overrides, "dead-letters", "retry", "--all", "--yes")).returncode == 0
    named = await command(overrides, "dead-letters", "retry", "5", "--yes")
    assert (named.returncode, named.stdout) == (1, "ticket 5 has no open dead letter\n")


@pytest.mark.parametrize("words", [(), ("--all", "5"), ("5",)])
async def test_retry_wants_to_be_told_what_and_asks_before_it_begins(
    words: tuple[str, ...], settings: Settings, overrides: list[str], account: Account, clock: Clock, limit: Limit
) -> None:
    large(account, 5, clock.now() - 123)
    history(account, clock.now(), tickets=4)
    await once(settings)
    refused = await command(overrides, "dead-letters", "retry", *words)
    assert refused.returncode == 2
    assert ("--yes" if words == ("5",) else "name the tickets to retry, or give --all") in refused.stderr


ESCAPES = b"\x1b[2J\x1b]0;owned\x07\x00\r\n\xe2\x80\xae\xff"


async def test_foreign_records_and_other_accounts_do_no_harm_and_nothing_foreign_reaches_a_terminal(
    settings: Settings, overrides: list[str], account: Account, clock: Clock, kafka: Cluster, limit: Limit
) -> None:
    history(account, clock.now())
    large(account, 77, clock.now() - 123)
    await once(settings)
    source = ("ce_source", b"https://acme.zendesk.com/api/v2/incremental/tickets")
    records: list[list[tuple[str, bytes | None]]]
    fields = ("number", "reason", "detail", "size", "value", "fetch")
    records = [
        [],
        [("ce_id", None), ("ce_source", None), (RESOLVED, None)],
        [("ce_id", ESCAPES), source],
        [("ce_id", b"9" * 5_000 + b":1:0123456789abcdef"), source],
        [("ce_id", b"1:99999999999:0123456789abcdef"), source],
        [("ce_id", b"5:1:0123456789abcdef"), ("ce_source", source[1] + ESCAPES)],
        [("ce_id", b"78:1:0123456789abcdef"), source],
        [
            ("ce_id", b"79:1:0123456789abcdef"),
            source,
            *((f"zendesk-dead-letter-{name}", ESCAPES + b"9" * 5_000) for name in fields),
        ],
    ]
    for number in range(2):
        records.append([(name, value.replace(b"acme", b"other")) for name, value in of_letter(number)])
    await asyncio.to_thread(send_all, kafka, settings.topics.dead_letters, records)
    assert await found(settings) == {77: "", 78: "", 79: ""}
    for more in ((), ("--json",)):
        done = await command(overrides, "dead-letters", "list", *more)
        assert done.returncode == 0, done.stderr
        assert all(line.isascii() and line.isprintable() for line in done.stdout.split("\n"))
        assert "\\x1b[2J" in done.stdout
    other = load_settings(overrides=[*overrides, "zendesk.subdomain=other"])
    assert len(await dead_letters(other, print)) == 2


def of_letter(number: int, value: bytes = b"") -> list[tuple[str, bytes]]:
    """The headers of a letter like any other."""
    version = Version(number, 1_699_999_000, hashlib.sha256(value).hexdigest()[:16], value)
    (record,) = Letters(
        [Letter(version, Poison("unparsable", "it is not JSON"), "tickets", value)],
        account="acme",
        generation=1,
        seq=1,
        number=number + 1,
        takes=lambda _: True,
        head=0,
    )
    return record.headers


def send_all(
    kafka: Cluster,
    topic: str,
    records: Iterable[Iterable[tuple[str, bytes | None]]],
    value: bytes | None = b"",
    key: bytes | None = None,
) -> None:
    """Append records with these headers, as somebody who is not us."""
    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "queue.buffering.max.kbytes": 2**20,
            "message.max.bytes": 10**8,
            "compression.type": "zstd",
        }
    )
    for headers in records:
        producer.produce(topic, value, key, headers=list(headers))
    assert producer.flush(60) == 0


async def test_thousands_of_letters_are_listed_in_the_memory_of_a_few(
    settings: Settings, kafka: Cluster, limit: Limit
) -> None:
    value = os.urandom(100_000)
    records = [of_letter(number, value) for number in range(4_000)]
    await asyncio.to_thread(send_all, kafka, settings.topics.dead_letters, records, value)
    tracemalloc.start()
    try:
        assert len(await dead_letters(settings, print)) == 4_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40e6 < 4_000 * len(value)


async def test_a_letter_behind_somebody_elses_open_transaction_is_missed_aloud_and_not_for_ever(
    settings: Settings, kafka: Cluster, account: Account, clock: Clock, limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letter_topic, "PATIENCE", 1.0)
    told: list[str] = []
    history(account, clock.now())
    async with writer(kafka, transactional_id="neighbour") as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(settings.topics.dead_letters, b"x", partition=0)
        large(account, 77, clock.now() - 123)
        await once(settings)
        assert await dead_letters(settings, told.append) == []
        await producer.abort_transaction()
    assert len(told) == 1
    assert "a transaction is open: nothing behind offset 0 of partition 0" in told[0]
    assert await found(settings) == {77: ""}


async def test_letters_of_all_streams_and_sideloads_are_listed_and_only_tickets_are_retried(
    overrides: list[str], zendesk: Simulator, account: Account, clock: Clock
) -> None:
    settings = load_settings(overrides=[*overrides, "zendesk.include=users"])
    history(account, clock.now(), tickets=3)
    account.users.put(int(clock.now()) - 300, id=1)
    account.users.put(
        int(clock.now()) - 300, id=2, raw=b'{"id":2,"updated_at":"2023-11-14T22:08:20Z","name":"\\ud83d"}'
    )
    requester = json.loads(account.body(0))["requester_id"]
    account.users.put(int(clock.now()) - 300, id=requester, raw=b'{"id":%d,"name":"\\ud83d"}' % requester)
    await once(settings)
    await service.run(settings, Stop(), lambda _: None, instance="users", once=True, stream=STREAMS["users"])
    listed = {(letter.source, letter.id) for letter in await dead_letters(settings, print)}
    assert {("users", 2), ("tickets?include=users", requester)} <= listed
    assert {outcome.partition(",")[0] for outcome in (await retried(settings)).values()} == {
        "stays: only tickets are asked for again"
    }
    assert (await judged(settings)).foreign == 0


# --- publishing after all ---------------------------------------------------------------------------------------------


async def test_a_ticket_that_its_topic_takes_by_now_is_published_once_and_its_letter_settled(
    settings: Settings, account: Account, clock: Clock, reader: Reader, limit: Limit
) -> None:
    history(account, clock.now())
    large(account, 77, clock.now() - 123)
    await once(settings)
    await limit(HIGH)
    before = reader.checkpoints()[-1]
    assert await retried(settings) == {77: "published"}
    after = reader.checkpoints()[-1]
    assert await found(settings) == {77: "published"}
    assert faults(reader.messages(), account.versions(), reader.letters()) == []
    assert {name for name in after if after[name] != before[name]} == {
        *("seq", "instance", "tickets", "written_at", "late_rows", "caught_up")
    }
    assert (after["seq"], after["instance"]) == (before["seq"] + 1, "")
    (message,) = [message for message in reader.messages() if message.key == b"77"]
    assert message.page == (1, after["seq"], 0, 1)
    assert after["tickets"]["ends"][message.partition] == message.offset + 1
    account.update(5, clock.now())
    clock.advance(100)
    await once(settings)
    assert faults(reader.messages(), account.versions(), reader.letters()) == []
    assert (await judged(settings)).clean
    assert (await judged(settings, "off")).clean


async def test_where_the_limit_was_not_raised_the_letter_stays_and_nobody_is_disturbed(
    settings: Settings,
    overrides: list[str],
    account: Account,
    clock: Clock,
    reader: Reader,
    limit: Limit,
) -> None:
    history(account, clock.now())
    large(account, 77, clock.now() - 123)
    run = Run(settings)
    await until(lambda: run.told(Committed) > 0)
    before = reader.checkpoints(), reader.letters()
    done = await command(overrides, "dead-letters", "retry", "77", "--yes", "--requests-per-minute", "60000")
    assert done.returncode == 1, done.stderr
    assert f"stays: compressed it is over {LOW} bytes" in done.stdout
    assert (reader.checkpoints(), reader.letters()) == before
    account.update(1, clock.now())
    clock.advance(100)
    await until(lambda: run.told(Committed) > 1)  # by the producer that it had before: nobody fenced it
    await run.end()
    assert (run.told(Opened), run.told(Retrying), run.told(StandingBy)) == (1, 0, 0)


async def test_a_limit_that_nobody_told_is_learned_from_one_refusal_and_the_letter_stays(
    settings: Settings,
    account: Account,
    clock: Clock,
    reader: Reader,
    limit: Limit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history(account, clock.now())
    large(account, 77, clock.now() - 123)
    await once(settings)
    monkeypatch.setattr(Limits, "told", lambda *_: None)
    (outcome,) = (await retried(settings)).values()
    assert outcome.startswith("stays: compressed it is over")
    assert reader.checkpoints()[-1]["instance"] == ""
    await once(settings)
    assert faults(reader.messages(), account.versions(), reader.letters()) == []


async def test_all_letters_that_one_answer_shows_are_settled_in_one_transaction_and_what_is_still_too_large_stays(
    settings: Settings, zendesk: Simulator, account: Account, clock: Clock, reader: Reader, limit: Limit
) -> None:
    history(account, clock.now())
    for ticket in (71, 72, 73):
        large(account, ticket, clock.now() - 125 + ticket - 70)
    account.put(int(clock.now()) - 123, id=74, description=noise(74, 6_000_000))
    await once(settings)
    await limit(2_000_000)
    asked, before = len(zendesk.journal), reader.checkpoints()[-1]["seq"]
    outcomes = await retried(settings)
    assert [outcomes[ticket] for ticket in (71, 72, 73)] == ["published"] * 3
    assert str(outcomes[74]).startswith("stays: compressed it is over 2000000 bytes")
    assert len(zendesk.journal) == asked + 1
    pages = sorted(message.page for message in reader.messages() if message.key in (b"71", b"72", b"73"))
    assert pages == [(1, before + 1, index, 3) for index in range(3)]
    assert faults(reader.messages(), account.versions(), reader.letters()) == []
    await limit(HIGH)
    assert await retried(settings) == {74: "published"}
    assert faults(reader.messages(), account.versions(), reader.letters()) == []


async def test_a_deletion_is_published_with_its_tombstone(
    settings: Settings, account: Account, clock: Clock, reader: Reader, limit: Limit
) -> None:
    history(account, clock.now())
    large(account, 77, clock.now() - 123, status="deleted")
    await once(settings)
    await limit(HIGH)
    assert await retried(settings) == {77: "published"}
    event, tombstone = (message for message in reader.messages() if message.key == b"77")
    assert (event.headers["ce_type"], tombstone.value) == ("com.zendesk.ticket.deleted.v1", None)
    assert (event.page[2:], tombstone.page[2:]) == ((0, 2), (1, 2))
    assert faults(reader.messages(), account.versions(), reader.letters()) == []


async def test_a_letter_is_superseded_once_something_newer_of_its_ticket_is_in_the_topic_and_stays_until_then(
    settings: Settings, zendesk: Simulator, account: Account, clock: Clock, reader: Reader, limit: Limit
) -> None:
    history(account, clock.now())
    for ticket in (77, 78):
        large(account, ticket, clock.now() - 123)
    await once(settings)
    account.put(int(clock.now()), id=77, description="short")
    account.delete(78, int(clock.now()))
    account.put(int(clock.now()), id=79)
    clock.advance(100)
    await limit(HIGH)
    assert set((await retried(settings)).values()) == {f"stays: {redelivery._NOT_SHOWN}"}
    await once(settings)
    asked = len(zendesk.journal)
    assert await retried(settings) == {77: "superseded", 78: "superseded"}
    assert len(zendesk.journal) == asked
    assert await found(settings) == {77: "superseded", 78: "superseded"}
    assert [message.value is None for message in reader.messages() if message.key == b"78"] == [False, True]
    assert faults(reader.messages(), account.versions(), reader.letters()) == []


async def test_of_two_letters_of_a_ticket_the_newer_is_published(
    settings: Settings, account: Account, clock: Clock, reader: Reader, limit: Limit
) -> None:
    history(account, clock.now())
    large(account, 77, clock.now() - 123)
    await once(settings)
    account.update(77, clock.now())
    clock.advance(100)
    await once(settings)
    await limit(HIGH)
    assert sorted((await retried_all(settings)).values()) == ["published", "superseded"]
    assert faults(reader.messages(), account.versions(), reader.letters()) == []


async def retried_all(settings: Settings) -> dict[str, str]:
    """The same by identity."""
    letters = [letter for letter in await dead_letters(settings, print) if not letter.outcome]
    return {each.letter.identity: each.how async for each in redelivery.retry(settings, letters, 60_000, print)}


async def test_a_version_whose_bytes_have_changed_under_the_same_stamp_is_published_as_the_export_shows_it(
    settings: Settings, account: Account, clock: Clock, reader: Reader, limit: Limit
) -> None:
    history(account, clock.now())
    long_ago = int(clock.now()) - 50_000
    large(account, 77, long_ago)
    await once(settings)
    account.put(long_ago, id=77, description=noise(7, 2_400_000))
    await limit(HIGH)
    assert await retried(settings) == {77: "superseded"}
    assert len([message for message in reader.messages() if message.key == b"77"]) == 1
    assert await retried(settings) == {}
    assert faults(reader.messages(), account.versions(), reader.letters()) == []


async def test_what_the_service_will_look_at_again_is_left_to_it(
    settings: Settings, account: Account, clock: Clock, reader: Reader, limit: Limit
) -> None:
    history(account, clock.now())
    stamp = int(clock.now()) - 123
    large(account, 77, stamp)
    await once(settings)
    account.put(stamp, id=77, description=noise(7, 2_400_000))
    await limit(HIGH)
    assert await retried(settings) == {77: f"stays: {redelivery._NOT_PASSED}"}
    await once(settings)
    assert len([message for message in reader.messages() if message.key == b"77"]) == 1
    assert await retried(settings) == {77: "superseded"}
    assert faults(reader.messages(), account.versions(), reader.letters()) == []


async def test_what_cannot_be_asked_for_stays_and_costs_no_request(
    settings: Settings, zendesk: Simulator, account: Account, clock: Clock, reader: Reader
) -> None:
    history(account, clock.now())
    for name in ("id_as_string", "stamp_as_string"):
        account.rewrite(account.put(int(clock.now()) - 123), HOSTILE[name])
    await once(settings)
    asked, before = len(zendesk.journal), reader.checkpoints()
    outcomes = (await retried(settings)).values()
    assert sorted(outcome.partition(",")[0] for outcome in outcomes) == [
        "stays: it has no id",
        "stays: without a stamp the export cannot be asked for it",
    ]
    assert (len(zendesk.journal), reader.checkpoints()) == (asked, before)


@pytest.mark.parametrize(
    ("rules", "export"), [(Rules(stuck=True), "time"), (Rules(), "cursor"), (Rules(stuck=True), "cursor")]
)
async def test_a_pinned_position_and_a_cursor_stay_as_they_are(
    rules: Rules,
    export: str,
    account: Account,
    clock: Clock,
    kafka: Cluster,
    names: dict[str, str],
    reader: Reader,
) -> None:
    async with Simulator(account, clock=clock, limits=Unlimited.unlimited(), rules=rules) as zendesk:
        settings = load_settings(
            overrides=[*joined(kafka, zendesk, names), "zendesk.page_size=10", f"zendesk.export={export}"]
        )
        await once(settings)
        await takes(kafka, settings, LOW)
        for ticket in range(1, 16):
            account.put(int(clock.now()) - 300, id=ticket)
        large(account, 8, clock.now() - 300)
        await once(settings)
        before = reader.checkpoints()[-1]
        assert before["cursor"] is not None
        assert await found(settings) == {8: ""}
        await takes(kafka, settings, HIGH)
        assert await retried(settings) == {8: "published"}
        after = reader.checkpoints()[-1]
        unchanged = ("cursor", "boundary", "end_time", "from", "skipped", "generation", "dead_lettered")
        assert [after[name] for name in unchanged] == [before[name] for name in unchanged]
        account.update(3, clock.now())
        clock.advance(100)
        await once(settings)
    assert faults(reader.messages(), account.versions(), reader.letters()) == []


async def test_field_rules_apply_to_what_is_published_after_all(
    overrides: list[str], zendesk: Simulator, account: Account, clock: Clock, kafka: Cluster, reader: Reader
) -> None:
    settings = load_settings(overrides=[*overrides, *RULES[1:]])
    await once(settings)
    await takes(kafka, settings, LOW)
    history(account, clock.now())
    large(account, 77, clock.now() - 123, subject="canary-4711", raw_subject="canary-4711")
    await once(settings)
    await takes(kafka, settings, HIGH)
    assert await retried(settings) == {77: "published"}
    (message,) = [message for message in reader.messages() if message.key == b"77"]
    assert b"canary" not in (message.value or b"")
    assert message.headers["ce_id"] == reader.letters()[0].headers["ce_id"]
    assert wrong(await judged(settings)) == {}


async def test_a_system_update_that_was_excluded_leaves_the_letter_of_its_edit_open(
    overrides: list[str], zendesk: Simulator, account: Account, clock: Clock, kafka: Cluster, reader: Reader
) -> None:
    """Else the edit would be nowhere: not published, and in a letter that counts as settled."""
    settings = load_settings(overrides=[*overrides, "tickets.system_updates=exclude"])
    await once(settings)
    await takes(kafka, settings, LOW)
    history(account, clock.now())
    large(account, 77, clock.now() - 5_000)
    run = Run(settings)
    await steadily(run, clock, 800)
    account.update(1, clock.now())
    await steadily(run, clock, 200)
    await run.end()
    await takes(kafka, settings, HIGH)
    account.system_update(77, clock.now())
    clock.advance(100)
    (committed,) = [event for event in await once(settings) if isinstance(event, Committed)]
    assert committed.shipment.excluded == 1
    account.put(int(clock.now()), id=78)
    clock.advance(100)
    await once(settings)
    assert await retried(settings) == {77: f"stays: {redelivery._NOT_SHOWN}"}
    for truth in (None, "off"):
        verdict = await judged(settings, truth)
        assert (wrong(verdict), verdict.excluded) == ({}, 1)


# --- a service that lives on, and others who want the lock ------------------------------------------------------------


def interrupt(monkeypatch: pytest.MonkeyPatch, times: int, meanwhile: Callable[[], Awaitable[Any]]) -> None:
    """So many times, somebody else opens a session between a retry's fence and its commit."""
    left = times

    @asynccontextmanager
    async def interrupted(*arguments: Any, **options: Any) -> AsyncIterator[Session]:
        nonlocal left
        async with open_session(*arguments, **options) as session:
            if left:
                left -= 1
                await meanwhile()
            yield session

    monkeypatch.setattr(redelivery, "open_session", interrupted)


@pytest.mark.parametrize("times", [1, 3])
async def test_a_service_that_comes_back_in_the_middle_delays_a_retry_and_repeats_nothing(
    times: int,
    settings: Settings,
    account: Account,
    clock: Clock,
    reader: Reader,
    limit: Limit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history(account, clock.now())
    large(account, 77, clock.now() - 123)
    await once(settings)
    await limit(HIGH)
    interrupt(monkeypatch, times, lambda: once(settings))
    assert await retried(settings) == {77: "published"}
    assert faults(reader.messages(), account.versions(), reader.letters()) == []


async def test_a_retry_that_is_interrupted_again_and_again_gives_up_and_the_letter_stays_open(
    settings: Settings,
    account: Account,
    clock: Clock,
    reader: Reader,
    limit: Limit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history(account, clock.now())
    large(account, 77, clock.now() - 123)
    await once(settings)
    await limit(HIGH)
    monkeypatch.setattr(redelivery, "TRIES", 2)
    interrupt(monkeypatch, 2, lambda: once(settings))
    with pytest.raises(SessionOver):
        await retried(settings)
    assert await found(settings) == {77: ""}
    assert faults(reader.messages(), account.versions(), reader.letters()) == []


class LooksOnce(redelivery._Events):
    """Wrong: what is published while the retry waits for the lock goes unseen."""

    looks = 2  # when it starts, and before it disturbs anybody

    async def catch_up(self) -> None:
        self.looks -= 1
        if self.looks >= 0:
            await super().catch_up()


@pytest.mark.parametrize(("events", "wrong"), [(redelivery._Events, False), (LooksOnce, True)])
async def test_a_newer_version_that_the_service_publishes_in_the_middle_supersedes_the_letter(
    events: type[redelivery._Events],
    wrong: bool,
    settings: Settings,
    account: Account,
    clock: Clock,
    reader: Reader,
    limit: Limit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history(account, clock.now())
    large(account, 77, clock.now() - 50_000)
    await once(settings)
    await limit(HIGH)

    async def publish_newer() -> None:
        account.put(int(clock.now()), id=77, description="short")
        clock.advance(100)
        await once(settings)

    interrupt(monkeypatch, 1, publish_newer)
    monkeypatch.setattr(redelivery, "_Events", events)
    outcomes = await retried(settings)
    found = faults(reader.messages(), account.versions(), reader.letters())
    if wrong:
        assert any("behind" in fault for fault in found), found
    else:
        assert outcomes == {77: "superseded"}
        assert found == []


@asynccontextmanager
async def stable_ends(options: dict[str, Any], topic: str) -> AsyncIterator[Any]:
    """Wrong: ends as a reader sees them that somebody else's open transaction holds back."""

    class Ends:
        async def high_watermarks(self, topic: str, partitions: int) -> tuple[int, ...]:
            async with open_topic(options, topic) as reader:
                return tuple((await reader.ends(partitions)).values())

    yield Ends()


@pytest.mark.parametrize("wrong", [False, True])
async def test_a_newer_version_behind_somebody_elses_open_transaction_is_seen(
    wrong: bool,
    settings: Settings,
    account: Account,
    clock: Clock,
    kafka: Cluster,
    reader: Reader,
    limit: Limit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history(account, clock.now())
    large(account, 77, clock.now() - 50_000)
    await once(settings)
    await limit(HIGH)
    monkeypatch.setattr(redelivery, "PATIENCE", 1.0)
    if wrong:
        monkeypatch.setattr(redelivery, "open_reader", stable_ends)
    ask = redelivery._ask
    async with writer(kafka, transactional_id="neighbour") as producer:

        async def ask_first(*arguments: Any) -> Any:
            shown = await ask(*arguments)
            await producer.begin_transaction()
            partition = partition_of(b"77", PARTITIONS)
            await producer.send_and_wait(settings.topics.tickets, b"x", key=b"x", partition=partition)
            account.put(int(clock.now()), id=77, description="short")
            clock.advance(100)
            await once(settings)
            return shown

        monkeypatch.setattr(redelivery, "_ask", ask_first)
        if wrong:
            assert await retried(settings) == {77: "published"}
        else:
            with pytest.raises(Unavailable, match="a transaction stays open"):
                await retried(settings)
        await producer.abort_transaction()
    found = faults(reader.messages(), account.versions(), reader.letters())
    assert any("behind" in fault for fault in found) if wrong else found == [], found


async def test_two_retries_at_once_publish_nothing_twice(
    settings: Settings, account: Account, clock: Clock, reader: Reader, limit: Limit, overrides: list[str]
) -> None:
    history(account, clock.now())
    for ticket in (71, 72, 73):
        large(account, ticket, clock.now() - 126 + 2 * (ticket - 70))
    await once(settings)
    await limit(HIGH)
    small_pages = load_settings(overrides=[*overrides, "zendesk.page_size=3"])
    first, second = await asyncio.gather(retried(small_pages), retried(small_pages))
    assert first == second == dict.fromkeys((71, 72, 73), "published")
    assert set((await found(settings)).values()) == {"published"}
    assert faults(reader.messages(), account.versions(), reader.letters()) == []


async def test_a_running_service_stands_by_for_a_moment_at_most_and_goes_on(
    settings: Settings, overrides: list[str], account: Account, clock: Clock, reader: Reader, limit: Limit
) -> None:
    history(account, clock.now())
    large(account, 77, clock.now() - 123)
    run = Run(settings)
    await until(lambda: run.told(CaughtUp) > 0)
    await limit(HIGH)
    words = ("dead-letters", "retry", "77", "--yes", "--requests-per-minute", "60000")
    done, again = await command(overrides, *words), await command(overrides, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{reader.letters()[0].headers['ce_id']}: published"
    assert (again.returncode, again.stdout) == (1, "ticket 77 has no open dead letter\n")
    account.update(1, clock.now())
    clock.advance(100)
    await until(lambda: run.told(Committed) > 1)
    await run.end()
    assert run.told(Opened) > 1
    assert faults(reader.messages(), account.versions(), reader.letters()) == []


async def test_without_transactions_too_a_letter_is_published_once(
    overrides: list[str], zendesk: Simulator, account: Account, clock: Clock, kafka: Cluster, reader: Reader
) -> None:
    settings = load_settings(overrides=[*overrides, "kafka.delivery=at_least_once"])
    await once(settings)
    await takes(kafka, settings, LOW)
    history(account, clock.now())
    large(account, 77, clock.now() - 123)
    run = Run(settings)
    await until(lambda: run.told(CaughtUp) > 0)
    await takes(kafka, settings, HIGH)
    assert await retried(settings) == {77: "published"}
    account.update(1, clock.now())
    clock.advance(100)
    await until(lambda: run.told(Committed) > 1)
    await run.end()
    assert faults(reader.messages(), account.versions(), reader.letters()) == []


async def test_a_retry_that_was_cut_between_a_version_and_its_mark_is_completed_by_the_next(
    overrides: list[str],
    zendesk: Simulator,
    account: Account,
    clock: Clock,
    kafka: Cluster,
    reader: Reader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As it can be without transactions. In between, the control: a version in both topics and no mark is a fault."""
    settings = load_settings(overrides=[*overrides, "kafka.delivery=at_least_once"])
    await once(settings)
    await takes(kafka, settings, LOW)
    history(account, clock.now())
    large(account, 77, clock.now() - 123)
    await once(settings)
    await takes(kafka, settings, HIGH)
    with monkeypatch.context() as patch:
        patch.setattr(redelivery, "TRIES", 1)
        patch.setattr(Session, "_append_to", only_to(settings.topics.tickets))
        with pytest.raises(SessionOver, match="cut"):
            await retried(settings)
    assert await found(settings) == {77: ""}
    (letter,) = reader.letters()
    assert f"{letter.identity} published 2 times" in faults(reader.messages(), account.versions(), [letter])
    assert await retried(settings) == {77: "published"}
    assert faults(reader.messages(), account.versions(), reader.letters()) == []


def only_to(tickets: str) -> Any:
    """Appends to this topic, and then it is over."""
    append_to = Session._append_to

    async def cut(self: Session, topic: str, *rest: Any) -> None:
        if topic != tickets:
            raise SessionOver("cut")
        await append_to(self, topic, *rest)

    return cut


# --- a checkpoint that a person has moved -----------------------------------------------------------------------------


class LooksNowhere(redelivery._Events):
    """Wrong: the topic is not looked at."""

    def holds(self, name: str) -> bool:
        return False


@pytest.mark.parametrize(("events", "wrong_"), [(redelivery._Events, {}), (LooksNowhere, {"duplicated": 1})])
async def test_what_the_service_is_to_publish_again_it_publishes_itself_and_once(
    events: type[redelivery._Events],
    wrong_: dict[str, int],
    settings: Settings,
    overrides: list[str],
    account: Account,
    clock: Clock,
    reader: Reader,
    limit: Limit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin = int(clock.now()) - 50_000
    large(account, 77, begin)
    history(account, clock.now())
    await once(settings)
    await limit(HIGH)
    assert (await command(overrides, "checkpoint", "set", "--start-time", str(begin), "--yes")).returncode == 0
    before = reader.checkpoints()
    assert await retried(settings) == {77: f"stays: {redelivery._NOT_PASSED}"}
    assert reader.checkpoints() == before
    await once(settings)
    assert wrong(await judged(settings)) == {}
    monkeypatch.setattr(redelivery, "_Events", events)
    assert await retried(settings) == {77: "published"}
    assert await found(settings) == {77: "published"}
    assert wrong(await judged(settings)) == wrong_


async def test_a_retry_that_does_not_ask_where_the_service_is_repeats_what_it_publishes(
    settings: Settings,
    overrides: list[str],
    account: Account,
    clock: Clock,
    limit: Limit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control of the test before."""
    monkeypatch.setattr(redelivery, "_passed", lambda *_: True)
    begin = int(clock.now()) - 50_000
    large(account, 77, begin)
    history(account, clock.now())
    await once(settings)
    await limit(HIGH)
    assert (await command(overrides, "checkpoint", "set", "--start-time", str(begin), "--yes")).returncode == 0
    assert await retried(settings) == {77: "published"}
    await once(settings)
    assert wrong(await judged(settings)) == {"duplicated": 1}


async def test_a_letter_that_comes_again_in_a_later_generation_is_one_letter_and_is_published_once(
    settings: Settings, overrides: list[str], account: Account, clock: Clock, reader: Reader, limit: Limit
) -> None:
    begin = int(clock.now()) - 50_000
    large(account, 77, begin)
    history(account, clock.now())
    await once(settings)
    assert (await command(overrides, "checkpoint", "set", "--start-time", str(begin), "--yes")).returncode == 0
    await once(settings)
    assert len(reader.letters()) == 2
    assert await found(settings) == {77: ""}
    await limit(HIGH)
    assert await retried(settings) == {77: "published"}
    assert len([message for message in reader.messages() if message.key == b"77"]) == 1
    assert wrong(await judged(settings)) == {}


async def test_a_letter_from_before_a_jump_ahead_is_published(
    settings: Settings, overrides: list[str], account: Account, clock: Clock, reader: Reader, limit: Limit
) -> None:
    large(account, 77, clock.now() - 50_000)
    history(account, clock.now())
    await once(settings)
    later = str(int(clock.now()) - 70)
    assert (await command(overrides, "checkpoint", "set", "--start-time", later, "--yes")).returncode == 0
    await limit(HIGH)
    assert await retried(settings) == {77: "published"}
    assert wrong(await judged(settings)) == {}


# --- kills ------------------------------------------------------------------------------------------------------------


@contextmanager
def retrying(overrides: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`dead-letters retry --all` as a process of its own, killed at the end."""
    words = ["dead-letters", "retry", "--all", "--yes", "--requests-per-minute", "240"]
    words = [word for each in overrides for word in ("--set", each)] + words
    with log.open("ab") as output:
        process = subprocess.Popen([sys.executable, "-m", "producer", *words], stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_sigkill_at_random_moments_of_retries_beside_a_living_service_loses_and_repeats_nothing(
    overrides: list[str],
    settings: Settings,
    zendesk: Simulator,
    account: Account,
    clock: Clock,
    reader: Reader,
    limit: Limit,
    tmp_path: Path,
) -> None:
    dice, log = random.Random(5), tmp_path / "log"
    history(account, clock.now(), tickets=400)
    for ticket in range(1, 400, 25):
        large(account, ticket, account.stamp(ticket - 1))
    await complete(overrides, log)
    assert len(await found(settings)) == 16
    await limit(HIGH)
    # Small pages, so that a retry takes many transactions.
    small_pages = [*overrides, "zendesk.page_size=10"]
    killed = 0
    with running([*overrides, "zendesk.requests_per_minute=600"], log) as alive:
        for _ in range(40):
            with retrying(small_pages, log) as process:
                await asyncio.sleep(1.2 + dice.uniform(0, 1.5))
                killed += process.poll() is None
            life_goes_on(zendesk, dice, clock)
            if "" not in (await found(settings)).values():
                break
        assert alive.poll() is None
    clock.advance(300)
    await complete(overrides, log)
    assert faults(reader.messages(), account.versions(), reader.letters()) == []
    outcomes = [*(await found(settings)).values()]
    assert set(outcomes) <= {"published", "superseded"}, log.read_text()[-3000:]
    assert killed > 2


# --- judged -----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def lettered(settings: Settings, zendesk: Simulator, account: Account, clock: Clock) -> None:
    """Tickets 1 to 36, of which 3, 9, 15, 21 and 27 are in dead letters. All but the last are required."""
    begin = int(clock.now()) - 1_000
    for ticket in range(1, 37):
        account.put(begin + ticket, id=ticket)
        if ticket % 6 == 3 and ticket < 30:
            account.rewrite(ticket, HOSTILE["lone_surrogate"])
    await once(settings)


@pytest.mark.parametrize("truth", [None, "off"])
async def test_dead_letters_are_handled_and_counted(settings: Settings, lettered: None, truth: str | None) -> None:
    verdict = await judged(settings, truth)
    assert (wrong(verdict), verdict.required, verdict.present, verdict.dead_lettered) == ({}, 35, 31, 5)


Copy = Callable[[int, Message], Message | None]


def as_it_is(number: int, letter: Message) -> Message | None:
    return letter


def without(*numbers: int) -> Copy:
    return lambda number, letter: None if number in numbers else letter


def only(number: int, as_: str = "") -> Copy:
    """One of them alone, with a number of its own or the one that it has."""
    renumbered = {"zendesk-dead-letter-number": as_} if as_ else {}
    return lambda each, letter: replace(letter, headers=letter.headers | renumbered) if each == number else None


def with_header(number: int, name: str, value: str) -> Copy:
    return lambda each, letter: replace(letter, headers=letter.headers | {name: value}) if each == number else letter


def with_value(number: int, value: bytes) -> Copy:
    return lambda each, letter: replace(letter, value=value) if each == number else letter


@pytest.mark.parametrize(
    ("change", "more", "found"),
    [
        (as_it_is, [], {}),
        (without(3), [], {"gaps": 1, "missing": 1}),
        (without(5), [], {"gaps": 1, "missing": 1}),
        (without(1), [], {"gaps": 1, "missing": 1}),
        (as_it_is, [only(2)], {"duplicated": 1}),
        (as_it_is, [only(2, "1/6")], {"duplicated": 1, "disagreements": 1}),
        (with_value(2, b"{}"), [], {"altered": 1}),
        (with_header(2, "zendesk-dead-letter-sha256", "0" * 64), [], {"altered": 1}),
    ],
    ids=[
        *("all are there", "one in the middle is not", "the last is not", "the first is not", "one is there twice"),
        *("one came again", "another value", "another hash"),
    ],
)
async def test_a_letter_that_is_missing_altered_or_there_twice_is_a_fault(
    change: Copy,
    more: list[Copy],
    found: dict[str, int],
    settings: Settings,
    overrides: list[str],
    kafka: Cluster,
    names: dict[str, str],
    reader: Reader,
    lettered: None,
) -> None:
    """In a copy of the topic, which keeps its letters for ever."""
    copy = f"{names['dead_letters']}.copy"
    configs = {"retention.ms": "-1", "max.message.bytes": str(HIGH)}
    client = admin(kafka)
    client.create_topics([confluent.NewTopic(copy, 1, 1, config=configs)])[copy].result(10)
    for each in (change, *more):
        for number, letter in enumerate(reader.letters(), 1):
            if (copied := each(number, letter)) is not None:
                await asyncio.to_thread(send_all, kafka, copy, [encoded(copied)], copied.value, copied.key)
    assert wrong(await judged(load_settings(overrides=[*overrides, f"topics.dead_letters={copy}"]))) == found


def encoded(message: Message) -> list[tuple[str, bytes]]:
    return [(name, value.encode()) for name, value in message.headers.items()]


def admin(kafka: Cluster) -> Any:
    """The cluster's owner."""
    return confluent.AdminClient({"bootstrap.servers": kafka.bootstrap_servers})


def remove_letters(kafka: Cluster, settings: Settings, before: int) -> None:
    """As retention does: all before an offset."""
    place = TopicPartition(settings.topics.dead_letters, 0, before)
    client = admin(kafka)
    client.delete_records([place])[place].result(10)


async def test_letters_that_retention_has_removed_are_accounted_for_by_the_count(
    settings: Settings, kafka: Cluster, names: dict[str, str], lettered: None
) -> None:
    remove_letters(kafka, settings, (await dead_letters(settings, print))[2].offset)
    for truth in (None, "off"):
        verdict = await judged(settings, truth)
        assert (wrong(verdict), verdict.dead_lettered, verdict.letters_gone) == ({}, 3, 2)
    # The control: where nothing can have removed them, they are missing.
    await asyncio.to_thread(configure, kafka.bootstrap_servers, names["dead_letters"], "retention.ms", "-1")
    assert wrong(await judged(settings)) == {"gaps": 1, "missing": 2}


async def test_no_more_is_accounted_for_than_the_checkpoint_counts(
    settings: Settings, kafka: Cluster, names: dict[str, str], account: Account, clock: Clock, lettered: None
) -> None:
    remove_letters(kafka, settings, (await dead_letters(settings, print))[1].offset)
    for ticket in (101, 102, 103):
        account.put(int(clock.now()) - 990, id=ticket)  # the service has passed them
    verdict = await judged(settings)
    assert (wrong(verdict), verdict.letters_gone) == ({"missing": 3}, 1)


async def test_a_letter_that_is_too_young_to_be_removed_excuses_nothing(
    settings: Settings, kafka: Cluster, names: dict[str, str], account: Account, clock: Clock, limit: Limit
) -> None:
    clock.advance(time.time() - clock.now())
    large(account, 77, clock.now() - 1_000)
    history(account, clock.now())
    await once(settings)
    remove_letters(kafka, settings, OFFSET_END)
    assert wrong(await judged(settings)) == {"missing": 1}


async def test_a_version_in_both_topics_is_duplicated_unless_a_mark_says_that_it_was_published(
    settings: Settings, kafka: Cluster, reader: Reader, account: Account, clock: Clock, limit: Limit
) -> None:
    for ticket in (77, 78):
        large(account, ticket, clock.now() - 1_000)
    history(account, clock.now())
    await once(settings)
    await limit(HIGH)
    assert await retried(settings, 77) == {77: "published"}
    for truth in (None, "off"):
        verdict = await judged(settings, truth)
        assert (wrong(verdict), verdict.present, verdict.dead_lettered) == ({}, 41, 1)
    (letter,) = [each for each in reader.letters() if each.key == b"78"]
    _, stamp, digest = letter.identity
    version = Version(78, stamp, digest, letter.value or b"")
    (event,) = Records([version], account="acme", generation=1, seq=3, tombstones=False)
    async with writer(kafka, max_request_size=HIGH) as producer:
        await send(producer, settings, event)
    verdict = await judged(settings)
    assert wrong(verdict)["duplicated"] == 1
    assert "unresolved, and published at" in verdict.examples["duplicated"][0]
    found = faults(reader.messages(), account.versions(), reader.letters())
    assert f"{letter.identity} published 2 times" in found


async def test_a_letter_that_is_marked_as_published_and_was_not_is_missing(
    settings: Settings, kafka: Cluster, reader: Reader, account: Account, lettered: None
) -> None:
    (letter,) = [each for each in reader.letters() if each.key == b"15"]
    mark = resolved(letter.headers["ce_id"], "acme", "published")
    await asyncio.to_thread(send_all, kafka, settings.topics.dead_letters, [mark.headers], mark.value, mark.key)
    assert wrong(await judged(settings)) == {"missing": 1}
    assert any("is not" in fault for fault in faults(reader.messages(), account.versions(), reader.letters()))
