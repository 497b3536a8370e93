"""`verify --stream` against a real broker: users, organizations and ticket events are judged by the sentence for tickets."""

from __future__ import annotations

import asyncio
import json

import pytest

from producer.kafka.batches import partition_of
from producer.sandbox.broker import Cluster
from producer.sandbox.zendesk import Account, Clock, Simulator
from producer.settings import Settings, load_settings
from producer.streams import STREAMS, TICKETS
from producer.verify import verification
from producer.verify.letters import DeadLetters
from tests.reader import Reader
from tests.test_checkpoint_command import command
from tests.test_streams import ALL, PAGE, account, all_once, clock, crowd
from tests.test_verify import PARTITIONS, again, judged, writer, wrong

__all__ = ["account", "clock"]  # fixtures: an account that keeps its tickets' events, and a clock that only tests move

OTHERS = [name for name in STREAMS if name != "tickets"]
HOSTILE = b'{"id":77,"updated_at":"2023-11-14T22:05:00Z","name":"\\ud83d"}'
"""A user whose name no parser takes, changed at 1,699,999,500."""


@pytest.fixture
def settings(overrides: list[str]) -> Settings:
    """All streams, in pages of ten."""
    return load_settings(overrides=[*overrides, ALL, PAGE])


@pytest.fixture
async def published(settings: Settings, zendesk: Simulator, account: Account, clock: Clock) -> int:
    """A history of every stream in its topic; answers a Unix second in the middle of it."""
    crowd(account, clock.now())
    await all_once(settings)
    return int(clock.now()) - 495


async def append_again(kafka: Cluster, reader: Reader, topic: str, *, number: int, key: bytes | None = None) -> None:
    """Append what the topic holds of a row once more, maybe under another key."""
    async with writer(kafka) as producer:
        for message in await asyncio.to_thread(reader.read, topic):
            if message.identity[0] == number:
                record, key = again(message), key or message.key
                partition = partition_of(key or b"", PARTITIONS)
                await producer.send_and_wait(topic, record.value, key=key, partition=partition, headers=record.headers)


@pytest.mark.parametrize("truth", [None, "off"])
@pytest.mark.parametrize("stream", STREAMS)
async def test_a_true_history_of_any_stream_is_clean(
    stream: str, truth: str | None, settings: Settings, published: int, account: Account
) -> None:
    verdict = await judged(settings, truth, stream=stream)
    assert wrong(verdict) == {}
    current = [version.generated_timestamp for version in account.streams[stream].versions() if version.current]
    passed = sum(stamp < max(current) for stamp in current)  # of the position's own second nothing is demanded yet
    assert (verdict.required, verdict.present, verdict.foreign) == (passed, len(current), 0)
    assert verdict.tombstones == {"users": 1, "organizations": 1}.get(stream, 0)
    assert verdict.to_dict()["stream"] == stream


@pytest.mark.parametrize("stream", OTHERS)
async def test_what_is_repeated_or_left_out_of_a_stream_is_found(
    stream: str,
    settings: Settings,
    published: int,
    account: Account,
    kafka: Cluster,
    reader: Reader,
    names: dict[str, str],
) -> None:
    row = next(account.streams[stream].versions())
    await append_again(kafka, reader, names[stream], number=row.id)
    assert wrong(await judged(settings, stream=stream)) == {"duplicated": 1}
    account.users.put(published, id=1_000)
    account.organizations.put(published, id=1_000)
    account.update(account.put(published - 1, id=1_000), published)
    found = await judged(settings, stream=stream)
    assert wrong(found) == wrong(await judged(settings, "off", stream=stream))
    assert wrong(found).keys() == {"duplicated", "missing"}


async def test_an_event_under_another_key_than_its_tickets_is_altered(
    settings: Settings, published: int, account: Account, kafka: Cluster, reader: Reader, names: dict[str, str]
) -> None:
    event = next(account.events.versions())
    topic = names["ticket_events"]
    own = {message.key for message in await asyncio.to_thread(reader.read, topic) if message.identity[0] == event.id}
    assert b"%d" % event.id not in own  # its own id would be another key
    await append_again(kafka, reader, topic, number=event.id, key=b"%d" % event.id)
    assert wrong(await judged(settings, stream="ticket_events"))["altered"] == 1


async def test_only_of_tickets_system_updates_may_be_left_out(
    settings: Settings, overrides: list[str], published: int, account: Account
) -> None:
    excluding = load_settings(overrides=[*overrides, ALL, PAGE, "tickets.system_updates=exclude"])
    stamp = next(version.generated_timestamp for version in account.users.versions() if version.id == 3)
    account.users.put(stamp, id=3, name="Another")  # of a ticket, with its `updated_at` as it was, this could be one
    assert wrong(await judged(excluding, stream="users")) == {"missing": 1}


async def test_a_stream_is_judged_with_its_own_dead_letters(
    settings: Settings, zendesk: Simulator, account: Account, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd(account, clock.now())
    account.users.put(1_699_999_500, id=77, raw=HOSTILE)
    await all_once(settings)
    users, tickets = await judged(settings, stream="users"), await judged(settings, stream="tickets")
    assert (wrong(users), users.dead_lettered, users.letters_gone) == ({}, 1, 0)
    assert (wrong(tickets), tickets.dead_lettered, tickets.letters_gone) == ({}, 0, 0)
    # The control: among the letters of tickets its own is not to be found, and old enough to have been removed.
    monkeypatch.setattr(verification, "DeadLetters", lambda account, stream: DeadLetters(account, TICKETS))
    mistaken = await judged(settings, stream="users")
    assert (mistaken.dead_lettered, mistaken.letters_gone) == (0, 1)


async def test_the_command_judges_the_stream_that_is_named(
    settings: Settings, overrides: list[str], published: int, account: Account
) -> None:
    told_to = [*overrides, ALL, PAGE]
    account.users.put(published, id=1_000)
    users = await command(told_to, "verify", "--stream", "users", "--requests-per-minute", "60000", "--json")
    told = json.loads(users.stdout)
    assert (users.returncode, told["stream"], told["missing"]) == (1, "users", 1)
    events = await command(told_to, "verify", "--stream", "ticket_events", "--requests-per-minute", "60000")
    assert (events.returncode, events.stdout.splitlines()[-1]) == (0, "verdict: clean")
    unknown = await command(told_to, "verify", "--stream", "triggers")
    assert (unknown.returncode, "there is no stream triggers" in unknown.stderr) == (2, True)
