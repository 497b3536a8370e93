"""Publishes dead letters after all: asks the export again, and commits what it shows under the service's lock.

A version is published when three things hold, the last two of which are looked at again once every instance is fenced:

1. The export shows it. It shows states, so it was the ticket's newest one then.
2. The service has passed it and will not come to it again: it is before all that the position remembers, or remembered
   as it is. What `checkpoint set` has put before the service once more, the service publishes itself.
3. The tickets topic holds neither it nor a newer one, from when the letter was written up to the high watermark.

Versions, the marks that settle their letters, and the checkpoint are one transaction. The checkpoint differs in its
page number alone, and names no instance: the service opens a new session at its next look and goes on. Where nothing can
be settled nobody is disturbed.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import socket
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from producer.dead_letter_topic import Found
from producer.dead_letters import identity, resolved
from producer.errors import Blocked, Misconfigured, SessionOver, Unavailable
from producer.events import Event, Retrying
from producer.kafka.batches import partition_of
from producer.kafka.checkpoints import CheckpointReader, open_reader
from producer.kafka.connection import client_options, disconnect
from producer.kafka.failures import ASK, within
from producer.kafka.limits import Limits
from producer.kafka.reading import ConsumerRecords, TopicReader, open_topic
from producer.kafka.session import open_session
from producer.kafka.surgery import newest_checkpoint
from producer.kafka.topics import open_admin
from producer.model import Checkpoint, Page, Position, Record, Version
from producer.retry import backoff
from producer.settings import Settings
from producer.shipment import Sorter
from producer.stop import Stop
from producer.streams import TICKETS
from producer.zendesk.boundary import sift
from producer.zendesk.source import Source, open_source

TRIES = 5
"""Times that letters are committed anew because somebody came in between."""

PATIENCE = 70.0
"""Seconds to wait at an open transaction: the broker ends those of killed instances after sixty."""

EARLIER = 3600.0
"""Seconds before a letter at which the look at the tickets topic begins: clocks differ."""

_VERSION = re.compile(rb"((\d{1,19}):(\d{1,10}):[0-9a-f]{16})(:tombstone)?")

Say = Callable[[str], None]


class Outcome(NamedTuple):
    """What became of a letter: it is settled, or it stays open, and why."""

    letter: Found
    how: Literal["published", "superseded", "stays"]
    why: str = ""


async def retry(
    settings: Settings, letters: Sequence[Found], requests_per_minute: float, say: Say
) -> AsyncGenerator[Outcome]:
    """Try to publish open letters; yields what became of each once it is certain: what a transaction settles, together.

    Raises:
        Retriable, Refused, Misconfigured: as from `Walk.fetch` and `open_session`.
        Unavailable: a transaction in the tickets topic stays open.
        SessionOver: somebody came in between, again and again.
    """
    # What is tried here is tried because a person wants it published, and what stays is a letter already.
    updates = "mark" if settings.tickets.system_updates == "exclude" else settings.tickets.system_updates
    tickets = settings.tickets.model_copy(update={"system_updates": updates, "on_poison": "dead_letter"})
    settings = settings.model_copy(update={"tickets": tickets})
    hopeful: list[Found] = []
    for letter in letters:
        if why := _hopeless(letter):
            yield Outcome(letter, "stays", why)
        else:
            hopeful.append(letter)
    if not hopeful:
        return

    def tell(event: Event) -> None:
        if isinstance(event, Retrying):
            say(f"{event.error}; asking again in {event.wait:.0f} s")

    async with (
        _open_events(settings, hopeful) as events,
        open_source(settings, Stop(), tell, requests_per_minute=requests_per_minute) as source,
    ):
        redelivery = _Redelivery(settings, hopeful, events, say)
        await events.catch_up()
        known, waiting = _split(hopeful, lambda letter: redelivery.known(letter) is not None)
        for outcome in await redelivery.settle(known, {}) if known else ():
            yield outcome
        waiting.sort(key=lambda letter: letter.stamp)
        if waiting:
            say(f"up to {len(waiting):,} requests to the export, {requests_per_minute:g} a minute")
        while waiting:
            start, why = waiting[0].stamp, ""
            try:
                shown, until = await _ask(source, start, {(letter.id, letter.stamp) for letter in waiting})
            except Blocked as error:
                shown, until, why = {}, start + 1, str(error)
            asked, waiting = _split(waiting, lambda letter: letter.stamp < until)  # noqa: B023
            for outcome in await redelivery.settle(asked, shown, why):
                yield outcome


def _hopeless(letter: Found) -> str:
    """Why it cannot be asked for."""
    if letter.source != TICKETS.name:
        return f"only tickets are asked for again, and this is of {letter.source}"
    if letter.id is None:
        return "it has no id, without which nothing can be published"
    return "" if letter.stamp else "without a stamp the export cannot be asked for it"


_Shown = Mapping[tuple[int | None, int], Version]
"""Versions by id and stamp."""


async def _ask(source: Source, start: int, wanted: Collection[tuple[int | None, int]]) -> tuple[_Shown, float]:
    """What the export shows of those that are wanted, from the second `start` on.

    Also answers the second before which it has shown everything, at least the one after `start`.

    Raises:
        Blocked, Retriable, Refused, Misconfigured: as from `Walk.fetch`.
    """
    shown: dict[tuple[int | None, int], Version] = {}
    position = Position(start)
    async with source.export(_nobody_to_ask) as export:
        while position.end_time <= start:
            page = await export.fetch(position)
            shown.update(((row.id, row.stamp), row) for row in page.versions if (row.id, row.stamp) in wanted)
            if page.caught_up:
                return shown, math.inf
            position = page.position
    return shown, position.end_time


async def _nobody_to_ask() -> None: ...


def _split(letters: Sequence[Found], belongs: Callable[[Found], bool]) -> tuple[list[Found], list[Found]]:
    """Those that belong, and the others."""
    return [each for each in letters if belongs(each)], [each for each in letters if not belongs(each)]


class _Plan(NamedTuple):
    """What a transaction would hold, the checkpoint with it, and what becomes of the letters then."""

    records: Mapping[str, Collection[Record]]
    checkpoint: Checkpoint
    outcomes: list[Outcome]


class _Redelivery:
    """Settles letters, as many at a time as one answer of the export has decided."""

    def __init__(self, settings: Settings, letters: Sequence[Found], events: _Events, say: Say) -> None:
        self._settings = settings
        self._events = events
        self._say = say
        self._limits = Limits()
        self._sorter = Sorter(settings, TICKETS, self._limits)
        self._newest: dict[int | None, int] = defaultdict(int)
        for letter in letters:
            self._newest[letter.id] = max(self._newest[letter.id], letter.stamp)
        self._instance = f"dead-letters retry on {socket.gethostname()}/{os.getpid()}"

    def known(self, letter: Found) -> Literal["published", "superseded"] | None:
        """What is known of a letter without asking the export: by the tickets topic, and by the other letters."""
        if self._events.holds(letter.identity):
            return "published"
        newer = self._events.holds_newer(letter.id, letter.stamp) or self._newest[letter.id] > letter.stamp
        return "superseded" if newer else None

    async def settle(self, letters: Sequence[Found], shown: _Shown, why: str = "") -> list[Outcome]:
        """Publish and mark what can be, of `shown` by the export or known otherwise; `why`: it could not show them."""
        # Nobody is disturbed for nothing: by the cluster's settings most of what stays is known before.
        await self._hear_limits()
        checkpoint = await newest_checkpoint(self._settings)
        if checkpoint is None:
            raise Misconfigured("there is no checkpoint", hint="there is nothing to retry before `run`")
        await self._events.catch_up()
        plan = self._plan(letters, shown, why, checkpoint)
        if not plan.records:
            return plan.outcomes
        for attempt in range(1, TRIES):
            try:
                return await self._commit(letters, shown, why)
            except SessionOver as error:
                self._say(f"{error}; once more")
                await asyncio.sleep(backoff(attempt, 0.5, 5.0))
        return await self._commit(letters, shown, why)

    async def _hear_limits(self) -> None:
        async with open_admin(self._settings.kafka) as admin:
            configs = await admin.configs(self._settings.topics.tickets, self._settings.topics.dead_letters)
        for topic, config in configs.items():
            if "max.message.bytes" in config:
                self._limits.told(topic, int(config["max.message.bytes"]))

    async def _commit(self, letters: Sequence[Found], shown: _Shown, why: str) -> list[Outcome]:
        # The session bears a name at first: a service that looks in the meantime stands by instead of fencing us again.
        async with open_session(self._settings, TICKETS, self._instance, None, self._limits, lambda _: None) as session:
            await self._events.catch_up()
            plan = self._plan(letters, shown, why, session.checkpoint)
            await session.check()
            session.checkpoint = session.checkpoint.replace(instance="")
            await session.commit(plan.records, plan.checkpoint)
            return plan.outcomes

    def _plan(self, letters: Sequence[Found], shown: _Shown, why: str, checkpoint: Checkpoint) -> _Plan:
        """What to do about these letters, by what is known now."""
        key = self._settings.tickets.key
        outcomes: list[Outcome] = []
        candidates: list[tuple[Found, Version]] = []
        for letter in letters:
            version = shown.get((letter.id, letter.stamp))
            if (how := self.known(letter)) is not None:
                outcomes.append(Outcome(letter, how))
            elif version is None:
                outcomes.append(Outcome(letter, "stays", why or _NOT_SHOWN))
            elif self._events.holds(identity(version)):  # the content has changed under the same stamp
                outcomes.append(Outcome(letter, "superseded"))
            elif not _passed(version, checkpoint, key):
                outcomes.append(Outcome(letter, "stays", _NOT_PASSED))
            else:
                candidates.append((letter, version))
        versions = {identity(version): version for _, version in candidates}
        records, refused = self._records(versions, checkpoint)
        for letter, version in candidates:
            name = identity(version)
            if name in refused:
                outcomes.append(Outcome(letter, "stays", refused[name]))
            else:
                outcomes.append(Outcome(letter, "published" if name == letter.identity else "superseded"))
        account = self._settings.zendesk.subdomain
        marks = [resolved(each.identity, account, how) for each, how, _ in outcomes if how != "stays"]
        checkpoint = checkpoint.replace(seq=checkpoint.seq + bool(records))
        if marks:
            records[self._settings.topics.dead_letters] = marks
        return _Plan(records, checkpoint, outcomes)

    def _records(
        self, versions: dict[str, Version], checkpoint: Checkpoint
    ) -> tuple[dict[str, Collection[Record]], dict[str, str]]:
        """The records of those versions that can be published, and why the others cannot, by their identity."""
        refused: dict[str, str] = {}
        while versions:
            # What came beside them is not published again: the service may have published a newer state of it since.
            page = Page(tuple(versions.values()), checkpoint.position, caught_up=False)
            shipment = self._sorter.sort(page, checkpoint)
            if not shipment.letters:
                return dict(shipment.records), refused
            for each in shipment.letters:
                refused[identity(each.version)] = each.poison.detail
                del versions[identity(each.version)]
        return {}, refused


_NOT_SHOWN = "the export does not show it now, and nothing newer of the ticket is in the topic"
_NOT_PASSED = "the service has yet to come to it, and will publish it by itself"


def _passed(version: Version, checkpoint: Checkpoint, key: bytes | None) -> bool:
    """Whether the service will not publish the version by itself: it is behind all that is remembered, or remembered."""
    if checkpoint.end_time is None:
        return False
    position = checkpoint.position
    if position.cursor is not None and position.pinned and (version.stamp, version.id) <= position.cursor.passed:
        return True
    return version.stamp < position.since or sift(position, [version], key).repeated > 0


class _Events:
    """What the tickets topic holds of some tickets, from the time of their letters on. Use `_open_events`."""

    def __init__(
        self,
        topic: str,
        reader: TopicReader,
        ends: CheckpointReader,
        start: dict[int, int],
        partitions: int,
        keys: Collection[bytes],
    ) -> None:
        self._topic = topic
        self._reader = reader
        self._ends = ends
        self._start = start
        self._partitions = partitions
        self._keys = keys
        self._held: set[str] = set()
        self._newest: dict[int, int] = {}

    async def catch_up(self) -> None:
        """Read on, up to the high watermark: what somebody else's open transaction hides may be newer than a letter.

        Raises:
            Unavailable: a transaction stays open.
            SessionOver, Refused: Kafka failed, or no right to read the topic.
        """
        async with within(ASK, f"ask where topic {self._topic} ends"):
            ends = await self._ends.high_watermarks(self._topic, self._partitions)
        spans = {partition: (start, ends[partition]) for partition, start in self._start.items()}
        for partition, stable in (await self._reader.read(spans, self._take, PATIENCE)).items():
            raise Unavailable(
                f"a transaction stays open: no reader gets past offset {stable} of partition {partition} of {self._topic}",
                hint="look with `kafka-transactions.sh find-hanging`",
            )
        self._start = {partition: ends[partition] for partition in spans}

    def holds(self, name: str) -> bool:
        """Whether there is a version with this identity."""
        return name in self._held

    def holds_newer(self, id_: int | None, stamp: int) -> bool:
        """Whether there is a version of the ticket with a later stamp."""
        return id_ is not None and self._newest.get(id_, 0) > stamp

    def _take(self, _: int, records: ConsumerRecords) -> None:
        for record in records:
            if record.key not in self._keys:
                continue
            headers: Mapping[str, bytes | None] = dict(record.headers)
            if found := _VERSION.fullmatch(headers.get("ce_id") or b""):  # compaction may have left the tombstone alone
                name, id_, stamp = found[1].decode(), int(found[2]), int(found[3])
                self._held.add(name)
                self._newest[id_] = max(self._newest.get(id_, 0), stamp)


@asynccontextmanager
async def _open_events(settings: Settings, letters: Sequence[Found]) -> AsyncIterator[_Events]:
    """The tickets topic, for what it holds of the letters' tickets."""
    topic, options = settings.topics.tickets, client_options(settings.kafka)
    async with open_admin(settings.kafka) as admin:
        known = (await admin.survey()).topics.get(topic)
    if known is None:
        raise Misconfigured(f"topic {topic} does not exist", hint="there is nothing to retry before `run`")
    times: dict[int, float] = {}
    for letter in letters:
        partition = partition_of(_key(letter), known.partitions)
        times[partition] = min(times.get(partition, math.inf), letter.appended - EARLIER)
    keys = {_key(letter) for letter in letters}
    async with open_topic(options, topic) as reader, open_reader(options, settings.topics.checkpoints) as ends:
        start = await _offsets_at(options, topic, times, await reader.ends(known.partitions))
        yield _Events(topic, reader, ends, start, known.partitions, keys)


def _key(letter: Found) -> bytes:
    return str(letter.id).encode()


async def _offsets_at(
    options: dict[str, Any], topic: str, times: Mapping[int, float], ends: Mapping[int, int]
) -> dict[int, int]:
    """The first offset of a time (Unix seconds) or later, by partition; that of `ends` where there is none before."""
    consumer = AIOKafkaConsumer(**options)
    try:
        async with within(ASK, f"ask for offsets of topic {topic} by time"):
            await consumer.start()
            asked = {TopicPartition(topic, partition): max(0, int(time * 1000)) for partition, time in times.items()}
            found = await consumer.offsets_for_times(asked)
    finally:
        await disconnect(consumer)
    return {each.partition: ends[each.partition] if at is None else at.offset for each, at in found.items()}
