"""Reads the dead-letter topic for the judge: which versions it has, and whether all that the checkpoint counts."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby, pairwise
from typing import NamedTuple

from aiokafka.structs import ConsumerRecord

from producer.dates import seconds
from producer.dead_letters import RESOLVED, Identity, identity_of
from producer.streams import Stream
from producer.verify.judge import Appended, Fault, Retention

_NUMBER = re.compile(rb"(\d{1,18})/(\d{1,18})")


class DeadLetter(NamedTuple):
    """A letter of a stream, or of what came beside its rows, which are numbered together. `digest` is the H of its
    version, `time` the record's, in ms."""

    generation: int
    number: int
    name: str
    id: int | None
    stamp: int
    digest: bytes
    time: int
    place: str

    def __str__(self) -> str:
        return f"{self.generation}/{self.number} of {self.name} at {self.place}"


class DeadLetters:
    """What the topic holds of an account's stream. `foreign` are the places of records that are not ours."""

    def __init__(self, account: str, stream: Stream) -> None:
        self.foreign: list[str] = []
        self._account = account
        self._stream = stream
        self._letters: list[DeadLetter] = []
        self._open: set[bytes] = set()
        self._published: set[bytes] = set()
        self._altered: list[DeadLetter] = []
        self._updated: dict[int | None, tuple[int, int | None]] = {}

    def take(self, record: ConsumerRecord[bytes, bytes], partition: int) -> None:
        """Take one record. Those of a key are expected in their order."""
        headers: Mapping[str, bytes | None] = dict(record.headers)
        place = f"partition {partition} offset {record.offset} of the dead letters"
        about = identity_of(headers, self._account)
        number = _NUMBER.fullmatch(headers.get("zendesk-dead-letter-number") or b"")
        if about is None or (number is None and RESOLVED not in headers):
            self.foreign.append(place)
            return
        if about.source.partition("?")[0] != self._stream.name:
            return  # of another stream, whose own numbers it has
        digest = bytes.fromhex(about.digest)
        if number is None:
            self._open.discard(digest)
            if headers[RESOLVED] == b"published":
                self._published.add(digest)
            return
        letter = DeadLetter(
            int(number[1]), int(number[2]), about.text, about.id, about.stamp, digest, record.timestamp, place
        )
        self._letters.append(letter)
        self._open.add(digest)
        if self._updated.get(about.id, (0, None))[0] <= about.stamp:
            self._updated[about.id] = about.stamp, seconds((headers.get("ce_time") or b"").decode("ascii", "replace"))
        if _altered(record, headers, about):
            self._altered.append(letter)

    def hold(self, digest: bytes) -> bool:
        """Whether the version with this H is in a letter that is open."""
        return digest in self._open

    def updated(self, id_: int) -> int | None:
        """The `updated_at` of the newest version of a ticket that is in a letter, in Unix seconds."""
        return self._updated.get(id_, (0, None))[1]

    def gone(self, generation: int, counted: int) -> int:
        """How many of the `counted` letters of a generation are gone from its beginning, as retention takes them."""
        numbers = [letter.number for letter in self._letters if letter.generation == generation]
        return min(min(numbers, default=counted + 1) - 1, counted)

    def newest(self, generation: int) -> int:
        """The last number of a generation that is there; 0: none."""
        return max((letter.number for letter in self._letters if letter.generation == generation), default=0)

    def faults(
        self,
        generation: int,
        counted: int,
        retention: Retention,
        published: Callable[[DeadLetter], Appended | None],
    ) -> Iterator[Fault]:
        """What is wrong with the letters.

        Args:
            generation, counted: the checkpoint's, and how many letters it counts.
            retention: of the dead-letter topic.
            published: the event of a letter's version in the letter's generation, if there is one.
        """
        for letter in self._altered:
            yield Fault("altered", f"dead letter {letter}: not what its headers say")
        for _, group in groupby(sorted(self._letters), key=lambda letter: letter.generation):
            yield from _repeats_and_gaps(list(group), retention)
        yield from self._uncounted(generation, counted, retention)
        for letter in self._letters:
            if letter.digest not in self._published and (event := published(letter)) is not None:
                yield Fault(
                    "duplicated", f"{letter.name} is dead letter {letter}, unresolved, and published at {event.place}"
                )

    def _uncounted(self, generation: int, counted: int, retention: Retention) -> Iterator[Fault]:
        """Letters that are not there although nothing can have removed them: from the beginning, and from the end."""
        began = generation if generation > 1 else -math.inf  # a later generation's number is the time it began at
        never = math.isinf(min(retention.compaction_lag, retention.lifetime))
        if (gone := self.gone(generation, counted)) and (never or retention.keeps(began)):
            yield Fault("gaps", f"the first {gone:,} dead letters are not there, and are too young to be removed")
        last = max((letter for letter in self._letters if letter.generation == generation), default=None)
        if last is not None and last.number < counted and retention.keeps(last.time):
            yield Fault("gaps", f"the checkpoint counts {counted:,} dead letters, the last one in the topic is {last}")


def _repeats_and_gaps(letters: list[DeadLetter], retention: Retention) -> Iterator[Fault]:
    """Of one generation, by number. A version is a repeat unless another one of its ticket was in a letter in between."""
    before: dict[int | None, DeadLetter] = {}
    for one, next_ in pairwise(letters):
        if next_.number == one.number:
            yield Fault("duplicated", f"dead letter {one}, and {next_}")
        elif next_.number > one.number + 1 and retention.keeps(one.time) and retention.keeps(next_.time):
            yield Fault("gaps", f"between the dead letters {one} and {next_}")
    for letter in letters:
        last = before.get(letter.id)
        if letter.id is not None and last is not None and last.name == letter.name and last.number != letter.number:
            yield Fault("duplicated", f"dead letter {last}, and {letter}")
        before[letter.id] = letter


def _altered(record: ConsumerRecord[bytes, bytes], headers: Mapping[str, bytes | None], about: Identity) -> bool:
    """Whether a letter contradicts itself. Where field rules apply, its hash is keyed and says nothing of its value."""
    plain = headers.get("zendesk-dead-letter-sha256") or b""
    told = plain or headers.get("zendesk-dead-letter-hmac-sha256") or b""
    value, how = record.value or b"", headers.get("zendesk-dead-letter-value")
    key = None if about.id is None else str(about.id).encode()
    return (
        not told.startswith(about.digest.encode())
        or record.key != key
        or bool(plain and how == b"whole" and hashlib.sha256(value).hexdigest().encode() != plain)
    )
