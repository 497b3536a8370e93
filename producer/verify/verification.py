"""The story: read the checkpoint, then what is required, then the topic, and judge. Writes nothing, fences nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from producer.dates import utc
from producer.errors import Misconfigured, SessionOver, Unavailable
from producer.kafka.batches import partition_of
from producer.kafka.checkpoints import CheckpointReader, checkpoint_key, open_reader
from producer.kafka.connection import client_options
from producer.kafka.failures import ASK, within
from producer.kafka.reading import ConsumerRecords, TopicReader, open_topic
from producer.kafka.topics import open_admin
from producer.kafka.transactions import TRANSACTION_TIMEOUT_MS
from producer.model import Checkpoint
from producer.settings import Settings
from producer.streams import TICKETS, Stream
from producer.verify.judge import (
    Fault,
    Retention,
    Shown,
    disagreements,
    excuse,
    key_faults,
    page_faults,
    without_repeats,
)
from producer.verify.letters import DeadLetters
from producer.verify.report import Counted, Verdict
from producer.verify.source import Say, Truth, open_truth, read_export
from producer.verify.store import Store, open_store
from producer.verify.topic import understand
from producer.zendesk.boundary import content_digest

PATIENCE = TRANSACTION_TIMEOUT_MS / 1000 + 10
"""Seconds: a transaction that stays open for longer is stuck. The broker looks for such every ten."""

_SAY_EVERY = 5.0


async def verify(
    settings: Settings,
    *,
    truth: str | None,
    work_dir: Path | None,
    requests_per_minute: float = 2,
    say: Say,
    examples: int = 5,
    patience: float = PATIENCE,
    stream: Stream = TICKETS,
) -> Verdict:
    """Judge a stream's topic, and the dead letters beside it, by the table of the promise (README, "The promise").

    Args:
        truth: URL of the ground truth; None looks whether `zendesk.base_url` has one, "off" asks the API all the same.
        work_dir: where to keep what was read while it is judged; None takes the system's folder of temporary files.
        requests_per_minute: to the API.
        say: is told what goes on, a line at a time.
        examples: how many of each fault the verdict describes.
        patience: seconds to wait at an open transaction.
        stream: whose topic.

    Raises:
        Unavailable: Kafka or the API cannot be reached.
        Blocked: the API's export cannot be read to its end.
        Refused, Misconfigured: a person must look; among others, there is nothing to verify yet.
    """
    try:
        with open_store(work_dir) as store:
            return await _Verification(settings, stream, store, say, examples, patience).run(truth, requests_per_minute)
    except SessionOver as error:
        raise Unavailable(str(error), hint=error.hint) from error


class _Verification:
    """One run: the far ends that it reads, and the verdict in the making."""

    def __init__(
        self, settings: Settings, stream: Stream, store: Store, say: Say, examples: int, patience: float
    ) -> None:
        self._settings = settings
        self._stream = stream
        self._options = client_options(settings.kafka)
        self._store = store
        self._say = say
        self._patience = patience
        self._topic = settings.topics.of(stream)
        self._source = f"https://{settings.zendesk.subdomain}.zendesk.com/".encode()
        self._keyed = settings.tickets.key is not None
        self._rules = settings.tickets
        if stream is not TICKETS:  # nothing else has system updates
            self._rules = self._rules.model_copy(update={"system_updates": "include"})
        self._letters = DeadLetters(settings.zendesk.subdomain, stream)
        self._verdict = Verdict(
            account=settings.zendesk.subdomain,
            topic=self._topic,
            stream=stream,
            delivery=settings.kafka.delivery,
            most_examples=examples,
        )

    async def run(self, truth: str | None, requests_per_minute: float) -> Verdict:
        partitions, checkpoint_partition, configs = await self._look_around()
        async with open_reader(self._options, self._settings.topics.checkpoints) as reader:
            checkpoint = await self._newest_checkpoint(reader, checkpoint_partition)
            self._verdict.judged_by(checkpoint)
            self._say(
                f"the checkpoint of generation {checkpoint.generation} covers {checkpoint.seq:,} pages"
                + ("" if checkpoint.end_time is None else f", up to {utc(checkpoint.end_time)}")
            )
            async with open_truth(self._settings, self._stream, truth) as found:
                if found is not None:
                    self._say(f"reading the ground truth {found.url}")
                    await found.read(checkpoint, self._store, self._say)
                else:
                    at_most = sum(await self._high_watermarks(reader, partitions))
                    await read_export(
                        self._settings, self._stream, checkpoint, self._store, requests_per_minute, at_most, self._say
                    )
                    self._verdict.note(
                        "field rules are on: whether a value is what they leave is not judged"
                        if self._keyed
                        else "the API shows no replaced versions: altered means here that hashes do not match"
                    )
                ends = await self._high_watermarks(reader, partitions)
                async with open_topic(self._options, self._topic) as topic:
                    await self._read_topic(topic, ends)
                    if found is not None:
                        await self._compare_with_offered(found)
                    await self._settle_doubtful(topic)
                await self._read_dead_letters(reader)
            later = await self._newest_checkpoint(reader, checkpoint_partition)
        self._say("judging")
        self._judge(checkpoint, later, ends, Retention.of_topic(configs, time.time() * 1000))
        return self._verdict

    async def _look_around(self) -> tuple[int, int, Mapping[str, str] | None]:
        """Partitions of the stream's topic, the partition of our checkpoints, and the settings of the former."""
        async with open_admin(self._settings.kafka) as admin:
            survey = await admin.survey()
            for name in (self._topic, self._settings.topics.checkpoints):
                if name not in survey.topics:
                    raise Misconfigured(
                        f"topic {name} does not exist, or may not be seen",
                        hint="there is nothing to verify before `run`",
                    )
            letters = survey.topics.get(self._settings.topics.dead_letters)
            all_configs = await admin.configs(self._topic, *([letters.name] if letters else []))
        configs = all_configs.get(self._topic)
        if configs is None:
            self._verdict.note(
                f"the settings of topic {self._topic} may not be read (ACL DescribeConfigs): all that compaction could have "
                "removed counts as compacted, and gaps are not judged"
            )
        elif "delete" in configs.get("cleanup.policy", ""):
            self._verdict.note(
                f"topic {self._topic} has cleanup.policy={configs['cleanup.policy']}: old records go missing"
            )
        checkpoints = survey.topics[self._settings.topics.checkpoints]
        account = self._settings.zendesk.subdomain.encode()
        self._letter_partitions = letters.partitions if letters else 0
        letter_configs = all_configs.get(letters.name) if letters else None
        self._letter_retention = Retention.of_topic(letter_configs, time.time() * 1000)
        return survey.topics[self._topic].partitions, partition_of(account, checkpoints.partitions), configs

    async def _high_watermarks(self, reader: CheckpointReader, partitions: int) -> tuple[int, ...]:
        async with within(ASK, f"ask where topic {self._topic} ends"):
            return await reader.high_watermarks(self._topic, partitions)

    async def _newest_checkpoint(self, reader: CheckpointReader, partition: int) -> Checkpoint:
        """The newest committed one: behind all transactions, or, where one is stuck, before it."""
        topic = self._settings.topics.checkpoints
        key = checkpoint_key(self._settings.zendesk.subdomain, self._stream.name)
        async with within(ASK, f"ask where topic {topic} ends"):
            end = (await reader.high_watermarks(topic, partition + 1))[partition]
        async with within(ASK + self._patience, f"read topic {topic}"):
            try:
                async with asyncio.timeout(self._patience):
                    found = await reader.newest(partition, key, end)
            except TimeoutError:
                stable = await reader.stable_end(partition)
                if stable >= end:
                    raise
                self._verdict.found_stuck(topic, partition, stable)
                found = await reader.newest(partition, key, stable)
        if found is None:
            raise Misconfigured(
                f"there is no checkpoint of {key.decode()} in partition {partition} of topic {topic}",
                hint="there is nothing to verify before `run`; or check zendesk.subdomain and topics.checkpoints",
            )
        return found

    async def _read_topic(self, topic: TopicReader, ends: Sequence[int]) -> None:
        total, said = sum(ends), time.monotonic()
        reached = dict.fromkeys(range(len(ends)), 0)
        self._say(f"reading topic {self._topic}: {len(ends)} partitions, {total:,} offsets")

        def take(partition: int, records: ConsumerRecords) -> None:
            nonlocal said
            rows = [
                (record, understand(record, partition, self._source, self._stream, keyed=self._keyed))
                for record in records
            ]
            self._store.add_records(row for _, row in rows if row is not None)
            for record, row in rows:
                if row is None:
                    self._verdict.count("foreign", f"partition {partition} offset {record.offset}")
            if records:
                reached[partition] = records[-1].offset + 1
            if time.monotonic() - said > _SAY_EVERY:
                said = time.monotonic()
                self._say(f"… {sum(reached.values()) / total:.0%} of the topic")

        stuck = await topic.read({p: (0, end) for p, end in enumerate(ends)}, take, self._patience)
        for partition, stable in stuck.items():
            self._verdict.found_stuck(self._topic, partition, stable)
        self._store.index()

    async def _read_dead_letters(self, reader: CheckpointReader) -> None:
        name = self._settings.topics.dead_letters
        if self._letter_partitions == 0:
            self._verdict.note(f"topic {name} does not exist, or may not be seen: no dead letter is taken into account")
            return
        async with within(ASK, f"ask where topic {name} ends"):
            ends = await reader.high_watermarks(name, self._letter_partitions)

        def take(partition: int, records: ConsumerRecords) -> None:
            for record in records:
                self._letters.take(record, partition)

        async with open_topic(self._options, name) as topic:
            stuck = await topic.read({p: (0, end) for p, end in enumerate(ends)}, take, self._patience)
        for partition, stable in stuck.items():
            self._verdict.found_stuck(name, partition, stable)
        for place in self._letters.foreign:
            self._verdict.count("foreign", place)

    async def _compare_with_offered(self, truth: Truth) -> None:
        """What the ground truth did not have when it was asked, it may have got before the topic was read."""
        if next(self._store.never_offered(), None) is not None:
            await truth.read_offered_again(self._store, self._say)
        for record in self._store.never_offered():
            self._verdict.count("altered", f"id {record.id} at {record.place}: a version that was never offered")

    async def _settle_doubtful(self, topic: TopicReader) -> None:
        """Read events again that differ from others of their id and stamp: is it the content, or just the bytes?

        Where field rules apply, what is published does not tell: their H counts.
        """
        if self._keyed:
            return
        spans = self._store.find_doubtful()
        wanted = {partition: self._store.doubtful(partition) for partition in spans}
        following = {partition: next(rows, None) for partition, rows in wanted.items()}

        def take(partition: int, records: ConsumerRecords) -> None:
            settled = []
            due = following[partition]
            for record in records:
                while due is not None and due[0] < record.offset:  # what was due has been compacted since
                    due = next(wanted[partition], None)
                if due is not None and due[0] == record.offset and record.value is not None:
                    settled.append((_digest(record.value), due[1]))
            following[partition] = due
            self._store.settle(settled)

        await topic.read(spans, take, self._patience)

    def _judge(self, checkpoint: Checkpoint, later: Checkpoint, ends: tuple[int, ...], retention: Retention) -> None:
        verdict, store = self._verdict, self._store
        tombstones = self._rules.tombstones
        verdict.required = store.required()
        verdict.present, verdict.tombstones = store.events_and_tombstones()
        verdict.generations = store.generations()
        if checkpoint.end_time is not None:
            verdict.superseded = store.superseded(checkpoint.end_time)
        letters, removal = self._letters, self._letter_retention
        gone = letters.gone(checkpoint.generation, checkpoint.dead_lettered)
        for absent, tombstone, superseded, newest in store.absent():
            if letters.hold(absent.digest):
                verdict.count("dead_lettered", _describe(absent))
                continue
            newest = max(filter(None, (newest, letters.updated(absent.id))), default=None)
            reason = excuse(absent, tombstone, superseded, newest, retention, self._rules)
            # A letter was written after its version was stamped.
            removed = verdict.letters_gone < gone and removal.may_delete(absent.stamp * 1000)
            unexplained: Counted = "letters_gone" if removed else "missing"
            verdict.count(reason or unexplained, _describe(absent))
        for record in store.altered():
            verdict.count("altered", f"id {record.id} at {record.place}: not what its headers say")
        repeated = self._settings.kafka.delivery == "at_least_once"
        pages = store.by_page(checkpoint.generation, checkpoint.seq)
        faults: Iterator[Fault] = chain(
            letters.faults(
                checkpoint.generation,
                checkpoint.dead_lettered,
                removal,
                lambda letter: store.event(letter.generation, letter.id, letter.stamp, letter.digest),
            ),
            key_faults(store.by_key(), repeated=repeated),
            page_faults(
                without_repeats(pages) if repeated else pages, retention, from_the_start=store.from_the_start()
            ),
        )
        for fault in faults:
            verdict.count(fault.word, fault.text)
        generation, seq = checkpoint.generation, checkpoint.seq
        beyond = () if checkpoint.end_time is None else store.stamped_after(checkpoint.end_time, generation, seq)
        if not repeated and (newest_letter := letters.newest(later.generation)) > later.dead_lettered:
            verdict.disagreements.append(
                f"dead letter {newest_letter} is in the topic, but the checkpoint counts only {later.dead_lettered}"
            )
        verdict.disagreements.extend(
            disagreements(
                checkpoint,
                later,
                topic=self._topic,
                high_watermarks=ends,
                newest=store.newest(),
                last=store.newest_of(generation),
                ahead=store.ahead_of(generation, seq, checkpoint.ends),
                beyond=beyond,
                retention=retention,
                tombstones=tombstones,
                repeated=repeated,
            )
        )


def _digest(value: bytes) -> bytes:
    return bytes.fromhex(content_digest(value))


def _describe(absent: Shown) -> str:
    return f"id {absent.id} stamped {absent.stamp} ({utc(absent.stamp)}), H {absent.digest.hex()}"
