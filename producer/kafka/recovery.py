"""Which checkpoint a session may go on from: the recovered one if all it relies on still holds, a first one, or none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from producer.dates import position
from producer.errors import Misconfigured
from producer.events import Noticed, Observer
from producer.kafka.checkpoints import CheckpointReader, checkpoint_key, open_reader
from producer.kafka.connection import client_options
from producer.kafka.limits import Limits
from producer.kafka.topics import Plan, Survey, inspect, open_admin, plans
from producer.model import Checkpoint
from producer.settings import Settings
from producer.streams import Stream

_SECOND_LOOK = 1.0
"""Seconds until the cluster is asked again before it is believed that something of ours is gone."""


async def prepare_topics(settings: Settings, stream: Stream, limits: Limits, *, first: bool, tell: Observer) -> Survey:
    """See that the topics are there and safe, and learn what they take; on a first start create those that are missing."""
    async with open_admin(settings.kafka) as admin:
        survey = await admin.survey()
        missing = _missing(settings, stream, survey)
        if missing and not first:
            await asyncio.sleep(_SECOND_LOOK)  # a broker that has just started may hear of topics a moment late
            survey = await admin.survey()
            missing = _missing(settings, stream, survey)
        if missing:
            names = [plan.name for plan in missing]
            if not first:
                raise Misconfigured(
                    f"topic {' and topic '.join(names)} disappeared while we ran",
                    hint="nothing was lost here: restore the topic, or use `zendesk-producer checkpoint set` to start over",
                )
            vital = [name for name in names if name in (settings.topics.of(stream), settings.topics.checkpoints)]
            if vital:
                await refuse_to_start_over(settings, stream, survey, vital)
            if not settings.kafka.create_topics:
                raise Misconfigured(
                    f"topic {' and topic '.join(names)} does not exist, and kafka.create_topics is off",
                    hint="run `zendesk-producer topics create` with the rights to",
                )
            for warning in await admin.create(missing, survey.brokers):
                tell(Noticed("replication", warning))
            while not all(name in survey.topics for name in names):  # brokers hear of it after the controller
                await asyncio.sleep(0.05)
                survey = await admin.survey()
        configs = await admin.configs(*(plan.name for plan in plans(settings, stream) if plan.name in survey.topics))
    if first:
        errors, warnings = inspect(settings.topics, stream, survey, configs)
        if errors:
            raise Misconfigured("; ".join(errors))
        for warning in warnings:
            tell(Noticed("topic", warning))
    for name, config in configs.items():
        if "max.message.bytes" in config:
            limits.told(name, int(config["max.message.bytes"]))
    return survey


def _missing(settings: Settings, stream: Stream, survey: Survey) -> list[Plan]:
    """Topics that do not exist and that we cannot do without."""
    unused = settings.topics.dead_letters if settings.tickets.on_poison == "stop" else None
    return [plan for plan in plans(settings, stream) if plan.name not in survey.topics and plan.name != unused]


async def refuse_to_start_over(settings: Settings, stream: Stream, survey: Survey, missing: Sequence[str]) -> None:
    """Before topics are created: there must be neither a checkpoint (tickets gone) nor tickets (checkpoint gone)."""
    key = checkpoint_key(settings.zendesk.subdomain, stream.name)
    checkpoints, tickets = (
        survey.topics.get(name) for name in (settings.topics.checkpoints, settings.topics.of(stream))
    )
    if (left := checkpoints or tickets) is None:
        return
    async with open_reader(client_options(settings.kafka), settings.topics.checkpoints) as reader:
        ends = await reader.high_watermarks(left.name, left.partitions)
        if checkpoints is None and any(ends):
            raise _lost_checkpoint(settings, stream)
        if checkpoints is not None and await reader.newest_anywhere(key, ends) is not None:
            raise Misconfigured(
                f"topic {' and topic '.join(missing)} does not exist, but {left.name} holds a checkpoint of "
                f"{key.decode()}: what was published was deleted, or topics.{stream.name} has changed, or the topic may not be seen",
                hint="restore the name, the topic or the right (ACL Describe and Write); to publish everything again use `zendesk-producer checkpoint set`",
            )


async def first_checkpoint(settings: Settings, stream: Stream, survey: Survey, reader: CheckpointReader) -> Checkpoint:
    """The checkpoint of a stream that never had one (collision 2: only into an empty topic)."""
    topic, key = survey.topics[settings.topics.checkpoints], checkpoint_key(settings.zendesk.subdomain, stream.name)
    elsewhere = await reader.newest_anywhere(key, await reader.high_watermarks(topic.name, topic.partitions))
    if elsewhere is not None:
        raise Misconfigured(
            f"the checkpoint of {key.decode()} is in partition {elsewhere[0]} of {topic.name}, where it does not belong: "
            f"the topic has been given more partitions (now {topic.partitions})",
            hint="write it anew with `zendesk-producer checkpoint set`",
        )
    tickets = survey.topics[settings.topics.of(stream)]
    ends = await reader.high_watermarks(tickets.name, tickets.partitions)
    if any(ends):
        raise _lost_checkpoint(settings, stream)
    start_time = begin_at(settings, stream)
    return Checkpoint(
        account=settings.zendesk.subdomain,
        stream=stream.name,
        tickets_topic=tickets.name,
        dead_letters_topic=settings.topics.dead_letters,
        checkpoints_topic=topic.name,
        checkpoints_partitions=topic.partitions,
        ends=ends,
        generation=1,
        seq=0,
        instance="",
        start=start_time,
        end_time=start_time,
    )


def still_ours(held: Checkpoint, found: Checkpoint | None) -> None:
    """Whether the checkpoint topic still has what we committed.

    A topic that was created anew, truncated, or given to a leader that was behind has an older checkpoint or none: going
    on from there would publish pages again.

    Raises:
        Misconfigured: it has lost the checkpoint that this process holds.
    """
    if found is None or (found.generation, found.seq) < (held.generation, held.seq):
        has = "none" if found is None else f"page {found.generation}/{found.seq}"
        raise Misconfigured(
            f"topic {held.checkpoints_topic} has lost checkpoints of {held.account}/{held.stream} that were committed: we "
            f"committed page {held.generation}/{held.seq}, the newest one there is {has}",
            hint="going on would publish pages again: restore the topic, or say where to go on with `zendesk-producer "
            f"checkpoint set`; we were at {position(held.end_time)}",
        )


async def accept(
    settings: Settings, stream: Stream, survey: Survey, reader: CheckpointReader, found: Checkpoint
) -> Checkpoint:
    """The recovered checkpoint, if everything that it relies on still holds (collision 3)."""
    tickets, checkpoints = survey.topics[settings.topics.of(stream)], survey.topics[settings.topics.checkpoints]
    for what, now, then in (
        (f"topics.{stream.name}", tickets.name, found.tickets_topic),
        (f"the number of partitions of {tickets.name}", tickets.partitions, len(found.ends)),
        (f"the number of partitions of {checkpoints.name}", checkpoints.partitions, found.checkpoints_partitions),
    ):
        if now != then:
            raise Misconfigured(
                f"{what} was {then} when the checkpoint was written and is {now} now: records of one key would come apart",
                hint="change it back, or accept the new topic with `zendesk-producer checkpoint set`",
            )
    for last_try in (False, True):
        ends = await reader.high_watermarks(tickets.name, tickets.partitions)
        short = [p for p, (now, then) in enumerate(zip(ends, found.ends, strict=True)) if now < then]
        if not short:
            break
        if last_try:
            p = short[0]
            raise Misconfigured(
                f"topic {tickets.name} was created anew or truncated: partition {p} ends at {ends[p]}, but our last append "
                f"ended at {found.ends[p]}",
                hint="restore it, or use `zendesk-producer checkpoint set` to go on or to start over",
            )
        await asyncio.sleep(_SECOND_LOOK)  # a new leader may learn the high watermark a moment late
    # Until its first page a first start may be corrected. A position that a person has set (another generation) is final.
    untouched = found.seq == 0 and found.dead_lettered == 0  # a page may consist of dead letters alone
    correctable = untouched and found.generation == 1 and settings.zendesk.start_time is not None
    if found.end_time is None or correctable:
        start_time = begin_at(settings, stream)
        return found.at(start_time, start=start_time)
    return found


def begin_at(settings: Settings, stream: Stream) -> int:
    """Where an account without a checkpoint begins. Raises Misconfigured where nobody has said so."""
    if settings.zendesk.start_time is None:
        raise Misconfigured(
            f"there is no checkpoint of {settings.zendesk.subdomain}/{stream.name} yet, and zendesk.start_time is not set",
            hint="say where to begin: 0 or 1970-01-01T00:00:00Z for everything, or a date such as 2026-01-01T00:00:00Z",
        )
    return settings.zendesk.start_time


def _lost_checkpoint(settings: Settings, stream: Stream) -> Misconfigured:
    return Misconfigured(
        f"topic {settings.topics.of(stream)} holds records, but {settings.topics.checkpoints} no checkpoint of "
        f"{settings.zendesk.subdomain}/{stream.name}: "
        "going on would publish everything again",
        hint="say where to go on with `zendesk-producer checkpoint set`, or use an empty topic",
    )
