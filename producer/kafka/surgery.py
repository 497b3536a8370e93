"""Looks at an account's checkpoint without disturbing its service, and moves it: the way out where a person must decide."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from producer.dates import position
from producer.errors import Misconfigured, ProducerError
from producer.kafka.batches import partition_of
from producer.kafka.checkpoints import checkpoint_key, open_reader
from producer.kafka.connection import client_options
from producer.kafka.failures import ASK, within
from producer.kafka.producers import Producer
from producer.kafka.session import new_producer
from producer.kafka.topics import Survey, open_admin
from producer.kafka.transactions import TRANSACTION_TIMEOUT_MS
from producer.model import Checkpoint, Record
from producer.settings import Settings
from producer.streams import TICKETS, Stream

_FENCE = TRANSACTION_TIMEOUT_MS / 1000 + 30

Confirm = Callable[[Checkpoint | None, Checkpoint], bool]
"""Is shown the checkpoint as it is and as it would be; answers whether to write it."""


class Declined(ProducerError):
    """The person said no; nothing was written."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What a look at the cluster found; `ends` are those of the tickets topic, none where that is missing."""

    survey: Survey
    checkpoint: Checkpoint | None
    ends: tuple[int, ...]


async def newest_checkpoint(settings: Settings, stream: Stream = TICKETS) -> Checkpoint | None:
    """The newest committed checkpoint, read without fencing anybody; None when there is none in any partition.

    Raises:
        Misconfigured: the record cannot be read.
        Unavailable, SessionOver, Refused: Kafka cannot be used.
    """

    def unreadable(error: Misconfigured) -> None:
        raise error

    return (await _look(settings, stream, unreadable)).checkpoint


async def move_checkpoint(
    settings: Settings, start_time: int | None, confirm: Confirm, say: Callable[[str], None], stream: Stream = TICKETS
) -> Checkpoint:
    """Write a checkpoint of a new generation at `start_time`, or without a position (None); answers it.

    Reads without fencing, shows, asks; then fences, reads again, and writes in one transaction. Mere progress in between is
    reported and taken over; another generation means that somebody else moved it: nothing is written, and it is asked
    anew. The record names no instance, so that a living service goes on from it at once. A record that cannot be read is
    said and counts as none: moving is the way out of it.

    Raises:
        Declined: `confirm` said no.
        Misconfigured: a topic is missing.
        Unavailable, SessionOver, Refused: Kafka cannot be used.
    """

    def unreadable(error: Misconfigured) -> None:
        say(f"{error}. It would be replaced.")

    while True:
        shown = await _look(settings, stream, unreadable)
        if not confirm(shown.checkpoint, _plan(settings, shown, start_time, stream)):
            raise Declined("nothing was written")
        async with aclosing(new_producer(settings, stream.name)) as producer:
            async with within(_FENCE, "take the lock of the account"):
                await producer.start()
            now = await _look(settings, stream, unreadable)
            if _generation(now) != _generation(shown):
                say("Somebody else has moved the checkpoint meanwhile; nothing was written. Once more:")
                continue
            if now.checkpoint and shown.checkpoint and now.checkpoint.end_time != shown.checkpoint.end_time:
                say(f"The service has moved on meanwhile, to {position(now.checkpoint.end_time)}.")
            planned = _plan(settings, now, start_time, stream)
            async with within(ASK, "write the checkpoint"):
                await _write(producer, planned)
            return planned


async def _look(settings: Settings, stream: Stream, unreadable: Callable[[Misconfigured], None]) -> _Found:
    """Topics, the newest checkpoint of the key (the right partition's if it has one), and the tickets topic's ends."""
    key = checkpoint_key(settings.zendesk.subdomain, stream.name)
    async with open_admin(settings.kafka) as admin:
        survey = await admin.survey()
    tickets, topic = survey.topics.get(settings.topics.of(stream)), survey.topics.get(settings.topics.checkpoints)
    found: Checkpoint | None = None
    ends: tuple[int, ...] = ()
    async with (
        open_reader(client_options(settings.kafka), settings.topics.checkpoints) as reader,
        within(_FENCE, "read the checkpoint"),
    ):
        if tickets is not None:
            ends = await reader.high_watermarks(tickets.name, tickets.partitions)
        if topic is not None:
            right = partition_of(settings.zendesk.subdomain.encode(), topic.partitions)
            highs = await reader.high_watermarks(topic.name, topic.partitions)
            try:
                found = await reader.newest(right, key, highs[right])
                if found is None and (elsewhere := await reader.newest_anywhere(key, highs)) is not None:
                    _, found = elsewhere
            except Misconfigured as error:
                unreadable(error)
    return _Found(survey, found, ends)


async def _write(producer: Producer, checkpoint: Checkpoint) -> None:
    topic, key = checkpoint.checkpoints_topic, checkpoint_key(checkpoint.account, checkpoint.stream)
    partition = partition_of(checkpoint.account.encode(), checkpoint.checkpoints_partitions)
    await producer.warm(topic)
    await producer.begin()
    await (await producer.send_to(topic, partition, Record(key, checkpoint.to_bytes(), [])))
    await producer.commit()


def _generation(found: _Found) -> int | None:
    return found.checkpoint.generation if found.checkpoint else None


def _plan(settings: Settings, found: _Found, start_time: int | None, stream: Stream) -> Checkpoint:
    """The checkpoint to write: topics, partitions and ends as they are now, so it is also the way out of collisions 2 and 3."""
    survey, old = found.survey, found.checkpoint
    for name in (settings.topics.of(stream), settings.topics.checkpoints):
        if name not in survey.topics:
            raise Misconfigured(f"topic {name} does not exist", hint="create it with `zendesk-producer topics create`")
    skipped: tuple[tuple[int, int], ...] = ()
    begin = 0 if start_time is None else start_time
    if old is not None:
        begin = old.start if start_time is None else min(old.start, start_time)
        skipped = old.skipped
        if old.end_time is not None and start_time is not None:
            if start_time > old.end_time:
                skipped = (*skipped, (old.end_time, start_time))
            skipped = tuple((low, min(high, start_time)) for low, high in skipped if low < start_time)
    return Checkpoint(
        account=settings.zendesk.subdomain,
        stream=stream.name,
        tickets_topic=settings.topics.of(stream),
        dead_letters_topic=settings.topics.dead_letters,
        checkpoints_topic=settings.topics.checkpoints,
        checkpoints_partitions=survey.topics[settings.topics.checkpoints].partitions,
        ends=found.ends,
        generation=max(old.generation + 1 if old else 1, int(time.time() * 1000)),
        seq=0,
        instance="",
        start=begin,
        end_time=start_time,
        skipped=skipped,
        unknown=old.unknown if old else {},
    ).signed()
