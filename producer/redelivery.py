"""Publishes dead letters after all: asks the export for the ticket again, and commits it under the service's own lock.

A letter may be published if its version is still the ticket's newest. The export shows states, so a version that it shows
was the newest when it was asked; that no newer one was published since is seen in the topic, behind the end that it had
before the API was asked, once the service is fenced. Ticket, mark and checkpoint are one transaction, whose checkpoint
names no instance: the service opens a new session at once and goes on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from producer.dates import utc
from producer.dead_letters import RESOLVED, identity, identity_of, resolved
from producer.errors import Misconfigured, SessionOver, Unpublishable
from producer.kafka.batches import partition_of
from producer.kafka.connection import client_options
from producer.kafka.limits import Limits
from producer.kafka.reading import ConsumerRecords, open_topic
from producer.kafka.session import open_session
from producer.kafka.topics import open_admin
from producer.model import Page, Position, Record, Version
from producer.settings import Settings
from producer.shipment import Sorter
from producer.stop import Stop
from producer.streams import TICKETS
from producer.zendesk.source import open_source

PATIENCE = 70.0
"""Seconds to wait at an open transaction: the broker ends those of killed instances after sixty."""

_TRIES = 3
"""Times that a letter is committed anew because the service came in between."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Found:
    """A letter as the topic tells it. `id` is None where the ticket has none; `outcome` is empty while it is open."""

    identity: str
    id: int | None
    stamp: int
    reason: str
    detail: str
    size: int
    number: str
    appended: float
    outcome: str = ""


async def dead_letters(settings: Settings) -> list[Found]:
    """All letters of the account, oldest first, those that are settled included; none where there is no such topic.

    Raises:
        Unavailable, SessionOver, Refused: Kafka cannot be used.
    """
    topic = settings.topics.dead_letters
    async with open_admin(settings.kafka) as admin:
        known = (await admin.survey()).topics.get(topic)
    if known is None:
        return []
    found: dict[str, Found] = {}

    def take(_: int, records: ConsumerRecords) -> None:
        for record in records:
            headers = dict(record.headers)
            ours = identity_of(headers, settings.zendesk.subdomain)
            if ours is None:
                continue
            name, id_, stamp, _digest = ours
            if RESOLVED not in headers:
                told = {
                    each: _plain(headers, f"zendesk-dead-letter-{each}")
                    for each in ("reason", "detail", "size", "number")
                }
                size = int(told["size"]) if told["size"].isdigit() else 0
                found[name] = Found(
                    name, id_, stamp, told["reason"], told["detail"], size, told["number"], record.timestamp / 1000
                )
            elif name in found:
                found[name] = replace(found[name], outcome=_plain(headers, RESOLVED))

    async with open_topic(client_options(settings.kafka), topic) as reader:
        ends = await reader.ends(known.partitions)
        await reader.read({partition: (0, end) for partition, end in ends.items()}, take, PATIENCE)
    return sorted(found.values(), key=lambda letter: letter.appended)


def _plain(headers: Mapping[str, bytes], name: str) -> str:
    """A header as text that no terminal can take for anything else."""
    return headers.get(name, b"").decode("ascii", "replace").encode("unicode_escape").decode()


async def retry(settings: Settings, letters: Sequence[Found], requests_per_minute: float, say: Say) -> dict[str, str]:
    """Try to publish open letters; answers what became of each, by identity: "published", "superseded" or why it stays.

    Raises:
        Blocked, Retriable, Refused, Misconfigured: as from `Walk.fetch` and `open_session`.
        SessionOver: the service came in between, again and again.
    """
    # Whatever is tried here is tried because a person wants it published.
    tickets = settings.tickets.model_copy(update={"system_updates": "mark", "on_poison": "stop"})
    settings = settings.model_copy(update={"tickets": tickets})
    limits, outcomes = Limits(), dict[str, str]()
    async with open_source(settings, Stop(), lambda _: None, requests_per_minute=requests_per_minute) as source:
        for letter in letters:
            if not letter.stamp:
                outcomes[letter.identity] = "stays: without a stamp the export cannot be asked for it"
                continue
            before = await _ends(settings)
            say(f"asking the export for {letter.identity}, from {utc(letter.stamp)}")
            async with source.export(_nobody_to_ask) as export:
                version = await _newest(export.fetch, letter)
            outcomes[letter.identity] = await _settle(settings, letter, version, before, limits)
    return outcomes


async def _newest(fetch: Callable[[Position], Awaitable[Page]], letter: Found) -> Version | None:
    """The letter's version, if the export still shows it."""
    position = Position(letter.stamp)
    while position.end_time <= letter.stamp:
        page = await fetch(position)
        if (version := next((each for each in page.versions if identity(each) == letter.identity), None)) is not None:
            return version
        if page.caught_up:
            break
        position = page.position
    return None


async def _settle(
    settings: Settings, letter: Found, version: Version | None, before: Mapping[int, int], limits: Limits
) -> str:
    sorter = Sorter(settings, TICKETS, limits)
    for tries_left in reversed(range(_TRIES)):
        with contextlib.suppress(SessionOver) if tries_left else contextlib.nullcontext():
            async with open_session(settings, TICKETS, "", None, limits, lambda _: None) as session:
                checkpoint = session.checkpoint
                records: dict[str, Collection[Record]] = {}
                if version is not None and not await _published_since(settings, version, before):
                    try:
                        shipment = sorter.sort(Page((version,), checkpoint.position, caught_up=False), checkpoint)
                    except Unpublishable as error:
                        return f"stays: {error}"
                    records, checkpoint = dict(shipment.records), shipment.checkpoint
                how = "published" if records else "superseded"
                records[settings.topics.dead_letters] = [resolved(letter.identity, settings.zendesk.subdomain, how)]
                await session.commit(records, checkpoint)
                return how
    raise AssertionError("the last try raises")


async def _published_since(settings: Settings, version: Version, before: Mapping[int, int]) -> bool:
    """Whether an event of the ticket came into the tickets topic since it ended at `before`."""
    topic, key, found = settings.topics.tickets, b"%d" % version.id, False
    partition = partition_of(key, len(before))

    def take(_: int, records: ConsumerRecords) -> None:
        nonlocal found
        found = found or any(record.key == key for record in records)

    async with open_topic(client_options(settings.kafka), topic) as reader:
        end = (await reader.ends(len(before)))[partition]
        await reader.read({partition: (before[partition], end)}, take, PATIENCE)
    return found


async def _ends(settings: Settings) -> dict[int, int]:
    """Where the tickets topic ends."""
    topic = settings.topics.tickets
    async with open_admin(settings.kafka) as admin:
        known = (await admin.survey()).topics.get(topic)
    if known is None:
        raise Misconfigured(f"topic {topic} does not exist", hint="there is nothing to retry before `run`")
    async with open_topic(client_options(settings.kafka), topic) as reader:
        return await reader.ends(known.partitions)


async def _nobody_to_ask() -> None: ...
