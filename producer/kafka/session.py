"""The protocol: fence, recover, then commit each page together with the checkpoint that covers it.

Why this is enough for exactly once (design, D1-D4, D10):

1. A page and the checkpoint behind it are one transaction: whoever sees one sees the other.
2. A session builds only on a checkpoint that it has read *after* fencing. `start` of the transactional id returns only
   when the predecessor's last transaction is decided, and from then on no older instance can commit. So what is read is
   what is true, and it stays true until we commit. The other way round (read, then fence) a predecessor may commit
   between the two, and its page is published again.
3. The checkpoint is read up to the high watermark, not up to what happens to be visible.
4. A transaction begins only after every record of the one before is known to be committed by exactly one EndTxn; after
   any doubt the session ends, and the next one goes back to 2.

Without transactions (`kafka.delivery: at_least_once`) a checkpoint is sent when all of its page is acknowledged, so no
page is lost, and 2 to 4 are left to the checkpoint: an instance that finds another one's there, as far on as its own or
further, appends nothing more. One that has slept may still append what it had in hand, with a checkpoint behind its
successor's. So the newest checkpoint is the one that is furthest on, not the one that came last.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import aclosing, asynccontextmanager

from aiokafka import errors as kafka

from producer.errors import Fenced, Misconfigured, SessionOver
from producer.events import Noticed, Observer, Opened
from producer.kafka.acknowledgements import AcknowledgedProducer
from producer.kafka.batches import partition_of
from producer.kafka.checkpoints import CheckpointReader, checkpoint_key, open_reader, place
from producer.kafka.connection import client_options
from producer.kafka.failures import ASK, within
from producer.kafka.limits import Limits
from producer.kafka.producers import Producer
from producer.kafka.recovery import accept, first_checkpoint, prepare_topics, still_ours
from producer.kafka.topics import Survey, plans
from producer.kafka.transactions import TRANSACTION_TIMEOUT_MS, TransactionalProducer
from producer.model import Checkpoint, Record
from producer.settings import Settings
from producer.streams import Stream

# Seconds. A read to the high watermark, or a start, may have to wait until the broker itself ends a transaction.
_FENCE = _RECOVER = TRANSACTION_TIMEOUT_MS / 1000 + 30
COMMIT = 40.0
HEARTBEAT = 6 * 3600.0
"""Seconds after which a checkpoint is written although nothing changed: the broker forgets a transactional id after 7 days."""


class Session:
    """One producer of a stream, never used after an error, with the checkpoint it was opened on. Use `open_session`."""

    def __init__(
        self,
        producer: Producer,
        reader: CheckpointReader,
        checkpoint: Checkpoint,
        partition: int,
        stable_end: int,
        survey: Survey,
        limits: Limits,
    ) -> None:
        self.checkpoint = checkpoint
        self._producer = producer
        self._reader = reader
        self._partition = partition
        self._key = checkpoint_key(checkpoint.account, checkpoint.stream)
        self._stable_end = self._checkpoint_end = stable_end
        self._survey = survey
        self._limits = limits
        self._looking = asyncio.Lock()
        self._committed_at = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the checkpoint is to be written again although nothing changed."""
        return time.monotonic() - self._committed_at > HEARTBEAT

    async def check(self) -> None:
        """Whether we still hold the account, without disturbing whoever else may.

        Raises:
            Fenced: the newest committed checkpoint names another instance or a higher generation.
            SessionOver: Kafka does not answer, or the checkpoint topic is not what it was.
        """
        # One look at a time: a look-ahead may ask while a page is being committed.
        async with within(ASK, "read the checkpoint topic"), self._looking:
            end = await self._reader.stable_end(self._partition)
            if end < self._stable_end:
                raise SessionOver("the checkpoint topic has become shorter: it was truncated or created anew")
            # Ours alone since our last commit: its record and its marker, nothing to read. Else see what there is.
            found = None
            if end not in (self._stable_end, self._checkpoint_end):
                found = await self._reader.newest_between(self._partition, self._key, self._stable_end, end)
            if found is not None:
                raise_if_fenced(self.checkpoint, found.checkpoint)
                if found.checkpoint.instance != self.checkpoint.instance or not found.last:
                    self._committed_at = -math.inf  # compaction keeps the last record of a key: write ours again
            self._stable_end = end  # not when fenced: whoever looks next is to find the same

    async def commit(self, records: Mapping[str, Collection[Record]], successor: Checkpoint) -> Checkpoint:
        """Append the records of each topic and the checkpoint in one transaction; answers the checkpoint as it was committed.

        The records' acknowledgements come first, and every one of them is awaited: the checkpoint carries the offsets of the
        tickets, and a record that the broker refused must not be committed over. Without transactions that order is all.

        Raises:
            Misconfigured: the tickets topic was created anew while we ran: an append came before our last one.
            Fenced: without transactions only, as from `check`.
            SessionOver: anything else; whether the page is committed, only the next session can tell.
        """
        if self._producer.worn:
            raise SessionOver("a request got no answer: a later page needs a new session")
        if not self._producer.transactional:
            await self.check()  # nobody else keeps a successor's topic from us
        doing = f"commit page {successor.generation}/{successor.seq}"
        async with within(COMMIT, doing):
            await self._producer.begin()
            ends = await self._append(records, successor)
            committed = successor.signed(ends=ends, instance=self.checkpoint.instance)
            record = Record(self._key, committed.to_bytes(), [])
            seen = self._stable_end
            sent = await self._producer.send_to(committed.checkpoints_topic, self._partition, record)
            offset = (await sent).offset
            if 0 <= offset < seen:
                raise SessionOver("the checkpoint topic has become shorter: it was truncated or created anew")
            await self._producer.commit()
        if self._producer.transactional:
            self._checkpoint_end = offset + 2  # the record and the transaction's marker
        elif offset == seen:  # else somebody's record is before it, which is to be looked at
            self._checkpoint_end = offset + 1
        self._committed_at = time.monotonic()
        self.checkpoint = committed
        return committed

    async def _append(self, records: Mapping[str, Collection[Record]], successor: Checkpoint) -> tuple[int, ...]:
        """Append to all topics; answers the ends of our last appends to the tickets topic.

        One topic after the other: without transactions, the mark of a resolved dead letter must not be there without its
        ticket.
        """
        ends = list(successor.ends)
        for topic, of_topic in records.items():
            await self._append_to(topic, of_topic, successor.tickets_topic, ends)
        return tuple(ends)

    async def _append_to(self, topic: str, records: Collection[Record], tickets_topic: str, ends: list[int]) -> None:
        """Append to a topic; where it is that of the tickets, `ends` become those of our last appends."""
        partitions = self._survey.topics[topic].partitions
        sent = await self._producer.send(topic, records, partitions, self._limits.batch(topic))
        outcomes = await asyncio.gather(*(future for _, future in sent), return_exceptions=True)
        for (batch, _), outcome in zip(sent, outcomes, strict=True):
            partition = batch.partition
            if isinstance(outcome, kafka.MessageSizeTooLargeError | kafka.RecordListTooLargeError):
                self._limits.refused(topic, batch.records, batch.size)
                raise SessionOver(
                    f"topic {topic} refused a batch of {batch.size:,} bytes, compressed, with {batch.records:,} records as too "
                    "large: they will be smaller",
                    hint=f"max.message.bytes of topic {topic} should be what `zendesk-producer topics create --dry-run` prints",
                )
            if isinstance(outcome, BaseException):
                raise outcome
            if topic != tickets_topic or outcome.offset < 0:
                continue  # -1: written before, at an offset that the broker no longer knows: the old end stays true
            if outcome.offset < ends[partition]:
                raise Misconfigured(
                    f"topic {topic} was created anew or truncated while we ran: partition {partition} appended at "
                    f"{outcome.offset}, but our last append ended at {ends[partition]}",
                    hint="nothing was committed; if the topic is meant to start over, use `zendesk-producer checkpoint set`",
                )
            ends[partition] = outcome.offset + batch.records


def transactional_id(settings: Settings, stream: str) -> str:
    """The lock on an account and stream: the same for every replica, and for nobody else."""
    return f"zendesk-producer.{settings.topics.checkpoints}.{settings.zendesk.subdomain}.{stream}"


def new_producer(settings: Settings, stream: str) -> Producer:
    """A producer of an account and stream that delivers as `kafka.delivery` says. Not started."""
    options, lock = client_options(settings.kafka), transactional_id(settings, stream)
    if settings.kafka.delivery == "at_least_once":
        return AcknowledgedProducer(options, lock)
    return TransactionalProducer(options, lock)


def raise_if_fenced(ours: Checkpoint, newest: Checkpoint) -> None:
    """Raise Fenced unless the newest committed checkpoint is one that we may go on from.

    One that is behind ours fences nobody: it comes from an instance that has slept, and will find ours.
    """
    if newest.generation > ours.generation:
        raise Fenced(
            f"the checkpoint was moved to generation {newest.generation} (ours is {ours.generation})",
            holder=newest.instance,
        )
    if newest.instance != ours.instance and place(newest) >= place(ours):
        raise Fenced(f"another instance holds {ours.account}/{ours.stream}: {newest.instance}", holder=newest.instance)


@asynccontextmanager
async def open_session(
    settings: Settings,
    stream: Stream,
    instance: str,
    held: Checkpoint | None,
    limits: Limits,
    tell: Observer,
    *,
    take_over: bool = False,
) -> AsyncIterator[Session]:
    """Fence every other instance, recover the checkpoint, write our name into it, and hold the session while inside.

    `held` is the last checkpoint that this process committed (None at its start, the only time when topics are created).
    A newer one of somebody else is then respected, not fenced, unless we have stood by and `take_over`. Leaving closes
    hard, whatever happened.

    Raises:
        Fenced: see `held`.
        Misconfigured, Refused: topics, rights or the checkpoint need a person (design, collisions 2 and 3).
        Unavailable, SessionOver: Kafka cannot be used now.
    """
    started = time.monotonic()
    options = client_options(settings.kafka)
    account = settings.zendesk.subdomain
    key = checkpoint_key(account, stream.name)
    survey = await prepare_topics(settings, stream, limits, first=held is None, tell=tell)
    topic = survey.topics[settings.topics.checkpoints]
    partition = partition_of(account.encode(), topic.partitions)
    producer = new_producer(settings, stream.name)
    async with open_reader(options, topic.name) as reader, aclosing(producer):
        if held is not None and not take_over:
            async with within(ASK, "read the checkpoint"):
                newest = await reader.newest(partition, key, await reader.stable_end(partition), held)
            if newest is not None and newest.instance:
                raise_if_fenced(held, newest)
        async with within(_FENCE, f"take the lock {transactional_id(settings, stream.name)}"):
            await producer.start()
        async with within(
            _RECOVER, f"read the checkpoint topic {topic.name} to its end (is a transaction left hanging?)"
        ):
            end = (await reader.high_watermarks(topic.name, topic.partitions))[partition]
            recovered = await reader.newest(partition, key, end, held)
            if held is not None:
                still_ours(held, recovered)
            if recovered is None:
                checkpoint = await first_checkpoint(settings, stream, survey, reader)
            else:
                checkpoint = await accept(settings, stream, survey, reader, recovered)
                if held is None and settings.zendesk.start_time not in (None, checkpoint.start):
                    tell(Noticed("start_time", "zendesk.start_time is ignored: the checkpoint says where to go on"))
            await producer.warm(*(plan.name for plan in plans(settings, stream) if plan.name in survey.topics))
        session = Session(producer, reader, checkpoint.replace(instance=instance), partition, end, survey, limits)
        await session.commit({}, session.checkpoint)
        if producer.caveat:
            tell(Noticed("delivery", producer.caveat, again=held is not None))
        tell(Opened(session.checkpoint, time.monotonic() - started))
        yield session
