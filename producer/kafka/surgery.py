"""Looks at an account's checkpoint without disturbing its service, and moves it: the way out where a person must decide."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from producer import __version__
from producer.errors import Misconfigured, ProducerError
from producer.kafka.batches import partition_of
from producer.kafka.checkpoints import CheckpointReader, Offsets, checkpoint_key, close_quietly
from producer.kafka.connection import client_options
from producer.kafka.failures import within
from producer.kafka.session import transactional_id
from producer.kafka.topics import Survey, open_admin
from producer.kafka.transactions import TRANSACTION_TIMEOUT_MS, TransactionalProducer
from producer.model import Checkpoint, Record
from producer.settings import Settings

_ASK = 30.0
_FENCE = TRANSACTION_TIMEOUT_MS / 1000 + 30

Confirm = Callable[[Checkpoint | None, Checkpoint], bool]
"""Is shown the checkpoint as it is and as it would be; answers whether to write it."""


class Declined(ProducerError):
    """The person said no; nothing was written."""


async def newest_checkpoint(settings: Settings, stream: str = "tickets") -> Checkpoint | None:
    """The newest committed checkpoint, read without fencing anybody; None when there is none in any partition.

    Raises:
        Misconfigured: the record cannot be read.
        SessionOver, Refused: Kafka cannot be used.
    """
    async with within(_ASK, "read the checkpoint"):
        _, found, _ = await _look(settings, checkpoint_key(settings.zendesk.subdomain, stream))
    return found


async def move_checkpoint(
    settings: Settings, start_time: int | None, confirm: Confirm, say: Callable[[str], None], stream: str = "tickets"
) -> Checkpoint:
    """Write a checkpoint of a new generation at `start_time`, or without a position (None); answers it.

    Reads without fencing, shows, asks; then fences, reads again, and writes in one transaction. Mere progress in between is
    reported and taken over; another generation means that somebody else moved it: nothing is written, and it is asked
    anew. The record names no instance, so that a living service goes on from it at once.

    Raises:
        Declined: `confirm` said no.
        Misconfigured: a topic is missing.
        SessionOver, Refused: Kafka cannot be used.
    """
    key = checkpoint_key(settings.zendesk.subdomain, stream)
    while True:
        async with within(_ASK, "read the checkpoint"):
            survey, shown, ends = await _look_leniently(settings, key, say)
        planned = _plan(settings, survey, shown, ends, start_time, stream)
        if not confirm(shown, planned):
            raise Declined("nothing was written")
        producer = TransactionalProducer(client_options(settings.kafka), transactional_id(settings, stream))
        try:
            async with within(_FENCE, "take the lock of the account"):
                await producer.start()
            async with within(_FENCE, "write the checkpoint"):
                survey, now, ends = await _look_leniently(settings, key, say)
                if (now and now.generation) != (shown and shown.generation):
                    say("Somebody else has moved the checkpoint meanwhile; nothing was written. Once more:")
                    continue
                if now is not None and shown is not None and now.end_time != shown.end_time:
                    say(f"The service has moved on meanwhile, to {_date(now.end_time)}.")
                planned = _plan(settings, survey, now, ends, start_time, stream)
                topic = planned.checkpoints_topic
                partition = partition_of(planned.account.encode(), planned.checkpoints_partitions)
                await producer.warm(topic)
                await producer.begin()
                (future,) = await producer.send(topic, partition, [[Record(key, planned.to_bytes(), [])]])
                await future
                await producer.commit()
                return planned
        finally:
            await producer.close()


async def _look(settings: Settings, key: bytes) -> tuple[Survey, Checkpoint | None, tuple[int, ...]]:
    """Topics, the newest checkpoint of the key in any partition (the right one first), and the tickets topic's ends."""
    options = client_options(settings.kafka)
    async with open_admin(options) as admin:
        survey = await admin.survey()
    tickets, checkpoints = survey.topics.get(settings.topics.tickets), survey.topics.get(settings.topics.checkpoints)
    offsets = Offsets(options)
    reader = CheckpointReader(options, settings.topics.checkpoints)
    try:
        await offsets.start()
        ends = await offsets.high_watermarks(tickets.name, tickets.partitions) if tickets else ()
        if checkpoints is None:
            return survey, None, ends
        await reader.start()
        right = partition_of(settings.zendesk.subdomain.encode(), checkpoints.partitions)
        highs = await offsets.high_watermarks(checkpoints.name, checkpoints.partitions)
        for partition in sorted(range(checkpoints.partitions), key=lambda number: number != right):
            if (found := await reader.newest(partition, key, highs[partition])) is not None:
                return survey, found, ends
        return survey, None, ends
    finally:
        await close_quietly(*((reader, offsets) if checkpoints else (offsets,)))


async def _look_leniently(
    settings: Settings, key: bytes, say: Callable[[str], None]
) -> tuple[Survey, Checkpoint | None, tuple[int, ...]]:
    """As `_look`, but a record that cannot be read is said and counts as none: moving is the way out of it."""
    try:
        return await _look(settings, key)
    except Misconfigured as error:
        say(f"{error}. It would be replaced.")
    options = client_options(settings.kafka)
    async with open_admin(options) as admin:
        survey = await admin.survey()
    offsets = Offsets(options)
    try:
        await offsets.start()
        tickets = survey.topics.get(settings.topics.tickets)
        return survey, None, await offsets.high_watermarks(tickets.name, tickets.partitions) if tickets else ()
    finally:
        await close_quietly(offsets)


def _plan(
    settings: Settings,
    survey: Survey,
    old: Checkpoint | None,
    ends: tuple[int, ...],
    start_time: int | None,
    stream: str,
) -> Checkpoint:
    """The checkpoint to write: topics, partitions and ends as they are now, so it is also the way out of collisions 2 and 3."""
    for name in (settings.topics.tickets, settings.topics.checkpoints):
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
        stream=stream,
        tickets_topic=settings.topics.tickets,
        dead_letters_topic=settings.topics.dead_letters,
        checkpoints_topic=settings.topics.checkpoints,
        checkpoints_partitions=survey.topics[settings.topics.checkpoints].partitions,
        ends=ends,
        generation=max(old.generation + 1 if old else 1, int(time.time() * 1000)),
        seq=0,
        instance="",
        start=begin,
        end_time=start_time,
        skipped=skipped,
        unknown=old.unknown if old else {},
        written_at=datetime.now(UTC).isoformat(timespec="seconds"),
        program=f"zendesk-producer {__version__}",
    )


def _date(position: int | None) -> str:
    return "no position" if position is None else datetime.fromtimestamp(position, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
