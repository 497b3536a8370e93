"""An independent read_committed reader (librdkafka, not aiokafka), and what the promise forbids in what it reads."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from producer.dead_letters import RESOLVED
from producer.sandbox.zendesk import Offered


@dataclass(frozen=True, slots=True)
class Message:
    """A record as a consumer gets it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, str]

    @property
    def identity(self) -> tuple[int, int, str]:
        """(id, stamp, H), from `ce_id`; an id that is not known is -1."""
        id_, stamp, digest, *_ = self.headers["ce_id"].split(":")
        return -1 if id_ == "unknown" else int(id_), int(stamp), digest

    @property
    def page(self) -> tuple[int, int, int, int]:
        """(generation, seq, index, count), from `zendesk-page`."""
        generation, seq, index, count = map(int, self.headers["zendesk-page"].split("/"))
        return generation, seq, index, count


class Reader:
    """Reads a test's topics from the beginning to their ends."""

    def __init__(self, bootstrap_servers: str, tickets: str, checkpoints: str, dead_letters: str = "") -> None:
        self._servers = bootstrap_servers
        self._tickets = tickets
        self._checkpoints = checkpoints
        self._dead_letters = dead_letters

    def messages(self) -> list[Message]:
        """The tickets topic, partition by partition."""
        return self.read(self._tickets)

    def letters(self) -> list[Message]:
        """The dead-letter topic."""
        return self.read(self._dead_letters)

    def checkpoints(self) -> list[dict[str, Any]]:
        """The values of the checkpoint topic, oldest first."""
        return [json.loads(message.value or b"null") for message in self.read(self._checkpoints)]

    def read(self, topic: str) -> list[Message]:
        """Any topic, partition by partition."""
        consumer = Consumer(
            {
                "bootstrap.servers": self._servers,
                "group.id": "tests",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 10,  # half a second otherwise, to learn that there is no more
            }
        )
        read: list[Message] = []
        ends = self._ends(topic)
        try:
            consumer.list_topics(
                topic, timeout=10
            )  # else it looks for the partitions' leaders only half a second later
            consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in ends])
            deadline = time.monotonic() + 90  # longer than an abandoned transaction can hold readers back
            while ends:
                assert time.monotonic() < deadline, f"{topic}: a transaction hangs before {ends}"
                message = consumer.poll(0.1)
                if message is None:
                    continue
                if (error := message.error()) is not None:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    # Of a read_committed reader this is the last stable offset: the end only when nothing is open.
                    if place(message)[1] >= ends.get(place(message)[0], 0):
                        ends.pop(place(message)[0], None)
                    continue
                headers: dict[str, str] = {}
                for each in message.headers() or []:
                    assert isinstance(each, tuple)
                    assert isinstance(each[1], bytes)
                    headers[each[0]] = each[1].decode()
                key, value = message.key(), message.value()
                assert key is None or isinstance(key, bytes)
                assert value is None or isinstance(value, bytes)
                read.append(Message(*place(message), key, value, headers))
        finally:
            consumer.close()
        return sorted(read, key=lambda message: (message.partition, message.offset))

    def _ends(self, topic: str) -> dict[int, int]:
        """High watermarks of the partitions that hold anything.

        Asked by a consumer that does not read committed: to one that does, a broker names the last stable offset, which
        stays behind for a moment after a commit is acknowledged, until the markers are written.
        """
        consumer = Consumer(
            {"bootstrap.servers": self._servers, "group.id": "tests", "isolation.level": "read_uncommitted"}
        )
        try:
            ends: dict[int, int] = {}
            for partition in consumer.list_topics(topic, timeout=10).topics[topic].partitions:
                low, high = _watermarks(consumer, TopicPartition(topic, partition))
                if low < high:
                    ends[partition] = high
            return ends
        finally:
            consumer.close()


def _watermarks(consumer: Consumer, partition: TopicPartition) -> tuple[int, int]:
    """Of a topic that was created a moment ago, a broker may not know yet that it leads it."""
    deadline = time.monotonic() + 30
    while True:
        try:
            low, high = consumer.get_watermark_offsets(partition, timeout=10)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.NOT_LEADER_FOR_PARTITION or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return low, high


def place(message: KafkaMessage) -> tuple[int, int]:
    """Partition and offset."""
    partition, offset = message.partition(), message.offset()
    assert partition is not None
    assert offset is not None
    return partition, offset


def faults(
    messages: Iterable[Message], truth: Iterable[Offered], letters: Iterable[Message] = (), *, keyed_by_id: bool = True
) -> list[str]:
    """What the promise forbids: versions missing, repeated, altered or out of order, and pages torn.

    `letters` are the records of the dead-letter topic: what is there is not to be in `messages`, unless a mark says that
    it was published later.
    """
    found: list[str] = []
    seen: Counter[tuple[int, int, str]] = Counter()
    newest: dict[int, int] = {}
    pages: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for message in messages:
        generation, seq, index, count = message.page
        pages.setdefault((generation, seq), []).append((index, count))
        if message.value is None:
            continue
        id_, stamp, digest = message.identity
        seen[message.identity] += 1
        if hashlib.sha256(message.value).hexdigest()[:16] != digest or (keyed_by_id and message.key != b"%d" % id_):
            found.append(f"ticket {id_} at {stamp} is altered")
        if stamp < newest.get(id_, 0):
            found.append(f"ticket {id_}: {stamp} behind {newest[id_]}")
        newest[id_] = max(stamp, newest.get(id_, 0))
    records = list(letters)
    marks = {record.identity: record.headers[RESOLVED] for record in records if RESOLVED in record.headers}
    letters = [record for record in records if RESOLVED not in record.headers]
    found += [f"{each} is marked and has no letter" for each in marks.keys() - {letter.identity for letter in letters}]
    for letter in letters:
        if marks.get(letter.identity) != "published":
            seen[letter.identity] += 1
        elif not seen[letter.identity]:
            found.append(f"{letter.identity} is marked as published and is not")
        whole = letter.headers["zendesk-dead-letter-value"] == "whole"
        if whole and hashlib.sha256(letter.value or b"").hexdigest() != letter.headers["zendesk-dead-letter-sha256"]:
            found.append(f"the dead letter of {letter.identity} is altered")
    numbers = sorted(int(letter.headers["zendesk-dead-letter-number"].split("/")[1]) for letter in letters)
    if numbers != list(range(1, len(numbers) + 1)):
        found.append(f"dead letters are numbered {numbers}")
    found += [f"{version} published {times} times" for version, times in seen.items() if times > 1]
    offered = {(each.id, each.generated_timestamp, each.sha256[:16]): each.current for each in truth}
    found += [f"{version} was never offered" for version in seen if version not in offered]
    superseded = [version for version, how in marks.items() if how != "published"]
    found += [f"{version} is marked as superseded and is current" for version in superseded if offered.get(version)]
    found += [f"{version} is missing" for version, current in offered.items() if current and version not in seen]
    for (generation, seq), parts in pages.items():
        if sorted(index for index, _ in parts) != list(range(parts[0][1])):
            found.append(f"page {generation}/{seq} is torn")
    if {generation for generation, _ in pages} - {1}:
        found.append("the generation did not stay 1")
    numbers = sorted(seq for _, seq in pages)
    if numbers != list(range(1, len(numbers) + 1)):
        found.append(f"page numbers have gaps: {numbers}")
    return found
