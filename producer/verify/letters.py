"""Reads the dead-letter topic for the judge: which versions are there, and whether all are that the checkpoint counts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from aiokafka.structs import ConsumerRecord

from producer.dead_letters import RESOLVED, identity_of
from producer.verify.judge import Fault

_NUMBER = re.compile(rb"(\d{1,18})/(\d{1,18})")


@dataclass(slots=True)
class DeadLetters:
    """What the topic holds. `versions` are the H of every version in it; `numbers` those of the letters, by generation."""

    versions: set[bytes] = field(default_factory=set)
    numbers: dict[int, dict[int, str]] = field(default_factory=dict)
    resolved: set[bytes] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def take(self, record: ConsumerRecord[bytes, bytes], partition: int, account: str) -> None:
        """Take one record."""
        headers, place = dict(record.headers), f"partition {partition} offset {record.offset} of the dead letters"
        ours = identity_of(headers, account)
        if ours is None:
            self.foreign.append(place)
            return
        digest = bytes.fromhex(ours[3])
        if RESOLVED in headers:
            self.resolved.add(digest)
            return
        number = _NUMBER.fullmatch(headers.get("zendesk-dead-letter-number") or b"")
        if number is None:
            self.foreign.append(place)
            return
        generation, counted = int(number[1]), int(number[2])
        name = f"{ours[0]} at {place}"
        before = self.numbers.setdefault(generation, {}).setdefault(counted, name)
        if before != name:
            self.faults.append(Fault("duplicated", f"dead letter {generation}/{counted}: {before} and {name}"))
        if headers.get("zendesk-dead-letter-value") == b"whole":
            claimed = (headers.get("zendesk-dead-letter-sha256") or b"").decode("ascii", "replace")
            if hashlib.sha256(record.value or b"").hexdigest() != claimed:
                self.faults.append(Fault("altered", f"dead letter {name}: not what its headers say"))
        self.versions.add(digest)

    def judge(self, generation: int, counted: int) -> tuple[int, Iterator[Fault]]:
        """How many letters of the checkpoint's generation are gone from the beginning, as retention takes them, of all that it
        counts; and what is wrong."""
        numbers = sorted(self.numbers.get(generation, ()))
        removed = counted if not numbers else numbers[0] - 1
        return min(removed, counted), self._faults(numbers, counted)

    def _faults(self, numbers: list[int], counted: int) -> Iterator[Fault]:
        yield from self.faults
        for one, next_ in pairwise(numbers):
            if next_ != one + 1:
                yield Fault("gaps", f"between the dead letters {one} and {next_}")
        if numbers and numbers[-1] < counted:
            yield Fault(
                "gaps", f"the checkpoint counts {counted} dead letters, the last one in the topic is {numbers[-1]}"
            )
