"""What the topics take: how large a record may be, and a batch, by their settings and by what they have refused."""

from __future__ import annotations

import math

from producer.kafka.batches import BATCH_BYTES, size_alone
from producer.model import Record

SLACK = 4096
"""Bytes: more than key, headers and framing of any record of ours (of a dead letter, with the longest names of account and
topic, some 1,300), and than 100 MB of noise grow in a batch."""


class Limits:
    """For the process's lifetime: what a topic refused in one session is known in the next.

    A topic's `max.message.bytes` counts a batch as it is stored, compressed. So a record is too large if the smallest batch
    that it can be in is, which holds it alone.
    """

    def __init__(self) -> None:
        self._told: dict[str, int] = {}
        self._refused: dict[str, int] = {}
        self._batches: dict[str, int] = {}

    def told(self, topic: str, max_message_bytes: int) -> None:
        """The topic's setting, as it is now: where it has changed, what was refused before may fit."""
        if self._told.get(topic) != max_message_bytes:
            self._refused.pop(topic, None)
            self._batches.pop(topic, None)
        self._told[topic] = max_message_bytes

    def refused(self, topic: str, records: int, size: int) -> None:
        """The topic refused a batch of so many records, in all of so many bytes compressed: smaller ones from now on."""
        if records > 1 or size <= self.batch(topic) + SLACK:
            self._batches[topic] = self.batch(topic) // 2
        if records == 1:
            self._refused[topic] = int(min(self.record(topic), size)) - 1

    def record(self, topic: str) -> float:
        """Bytes of the largest batch that the topic takes, as far as is known."""
        return min(self._told.get(topic, math.inf), self._refused.get(topic, math.inf))

    def batch(self, topic: str) -> int:
        """Bytes of a batch, uncompressed, that the topic certainly takes, as far as is known."""
        return max(int(min(self._batches.get(topic, BATCH_BYTES), self.record(topic) - SLACK)), 1)

    def takes(self, topic: str, value: bytes) -> bool:
        """Whether the topic takes a record with this value."""
        limit = self.record(topic)
        return len(value) + SLACK <= limit or size_alone(Record(b"", value, [])) + SLACK <= limit
