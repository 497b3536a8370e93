"""Decides where each version of a page goes: to the tickets topic, to the dead letters, or nowhere; and what the checkpoint
says of it. Asks nobody."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypedDict

from msgspec.structs import replace

from producer.dead_letters import Letter, Letters
from producer.errors import Unpublishable
from producer.fields import RecordRules
from producer.json_spans import NotJson
from producer.kafka.limits import SLACK, Limits
from producer.model import Checkpoint, Page, Poison, Record, Sideload, Version
from producer.records import Records
from producer.settings import Settings
from producer.sideloads import Recent, SideloadRecords
from producer.streams import BESIDE, TICKETS, Stream
from producer.system_updates import Steadiness, is_published, is_system_update


class _Place(TypedDict):
    """Of a page in the history."""

    account: str
    generation: int
    seq: int


@dataclass(frozen=True, slots=True)
class Shipment:
    """What a page comes to in one transaction: records by topic, and the checkpoint that covers them. In this
    order they are appended where there are no transactions: what a ticket names comes before it.

    `published` are the versions in the tickets topic, `letters` those in the dead letters, `excluded` those that are in
    neither, by the settings.
    """

    records: Mapping[str, Collection[Record]]
    checkpoint: Checkpoint
    published: tuple[Version, ...]
    letters: tuple[Letter, ...]
    excluded: int

    def __len__(self) -> int:
        """How many records it has, the checkpoint's not counted."""
        return sum(map(len, self.records.values()))


class Sorter:
    """For one Kafka session of a stream. `limits` says what the topics take."""

    def __init__(self, settings: Settings, stream: Stream, limits: Limits) -> None:
        self._stream = stream
        self._tickets = settings.tickets
        self._topics = settings.topics
        self._topic = settings.topics.of(stream)
        self._limits = limits
        self._key = settings.tickets.key
        self._rules = settings.tickets.rules(stream.name)
        self._rules_beside = {name: settings.tickets.rules(name) for name in BESIDE}
        self._steadiness = Steadiness()
        self._recent = Recent()

    def sort(self, page: Page, checkpoint: Checkpoint) -> Shipment:
        """The shipment of the page that was fetched from the checkpoint's position.

        Raises:
            Unpublishable: a version cannot be published, and `tickets.on_poison` says to stop then.
        """
        published, letters, excluded = self._triage(page.versions, checkpoint)
        beside: dict[str, list[Sideload]] = {}
        # Where no row is news, what is beside them may have changed all the same: it comes with the next one that is.
        for sideload in self._recent.news(page.beside) if page.versions else ():
            sorted_ = self._sort_beside(sideload)
            if isinstance(sorted_, Sideload):
                beside.setdefault(sideload.array, []).append(sorted_)
            else:
                letters.append(sorted_)
        if letters and self._tickets.on_poison == "stop":
            raise _unpublishable(letters[0], self._topic)
        successor = checkpoint.after(
            page,
            published=bool(published),
            dead_lettered=len(letters),
            steady=self._steadiness.after(page, checkpoint),
        )
        where = _Place(account=successor.account, generation=successor.generation, seq=successor.seq)
        records: dict[str, Collection[Record]] = {
            self._topics.beside(array): SideloadRecords(sideloads, **where) for array, sideloads in beside.items()
        }
        if published:
            records[self._topic] = Records(
                published,
                **where,
                stream=self._stream,
                tombstones=self._tickets.tombstones,
                mark_system_updates=self._stream is TICKETS and self._tickets.system_updates != "include",
            )
        if letters:
            topic = self._topics.dead_letters
            records[topic] = Letters(
                letters,
                **where,
                number=checkpoint.dead_lettered + 1,
                takes=lambda value: self._limits.takes(topic, value),
                key=self._key,
                head=max(self._limits.batch(topic) - SLACK, 0),
            )
        return Shipment(records, successor, published, tuple(letters), excluded)

    def _triage(
        self, versions: tuple[Version, ...], checkpoint: Checkpoint
    ) -> tuple[tuple[Version, ...], list[Letter], int]:
        """Versions to publish, dead letters, and how many are excluded."""
        published: list[Version] = []
        letters: list[Letter] = []
        plenty = self._limits.record(self._topic) - SLACK
        exclude = (
            self._stream is TICKETS and self._tickets.system_updates == "exclude" and checkpoint.steady is not None
        )
        for version in versions:
            shown = version.value if self._rules is None else _ruled(self._rules, version.value)
            poison = version.poison or (_UNRULED if shown is None else None)
            if poison is None and shown is not None and len(shown) > plenty:
                poison = self._too_large(self._topic, shown)
            if poison is not None:
                letters.append(Letter(version, poison, self._stream.name, shown))
            elif not (exclude and is_system_update(version) and is_published(version, checkpoint)):
                published.append(version if self._rules is None else replace(version, value=shown))
        return tuple(published), letters, len(versions) - len(published) - len(letters)

    def _sort_beside(self, sideload: Sideload) -> Sideload | Letter:
        """What of it can be published, or the letter of what cannot."""
        rules, value = self._rules_beside[sideload.array], sideload.value
        shown = value if rules is None else _ruled(rules, value)
        poison = sideload.poison or (
            _UNRULED if shown is None else self._too_large(self._topics.beside(sideload.array), shown)
        )
        if poison is None:
            return replace(sideload, value=shown)
        version = Version(sideload.id, 0, sideload.digest, value, updated_at=sideload.updated_at, stamped=False)
        return Letter(version, poison, f"{self._stream.name}?include={sideload.array}", shown)

    def _too_large(self, topic: str, value: bytes) -> Poison | None:
        if self._limits.takes(topic, value):
            return None
        limit = int(self._limits.record(topic))
        return Poison("too_large", f"compressed it is over {limit} bytes, the most that topic {topic} takes")


_UNRULED = Poison("unparsable", "field rules cannot be applied to it, so that nothing of it may be shown")


def _ruled(rules: RecordRules, value: bytes) -> bytes | None:
    """What field rules leave of a value; None: they cannot be applied to it."""
    try:
        return rules.apply(value)
    except NotJson:
        return None


def _unpublishable(letter: Letter, topic: str) -> Unpublishable:
    hint = "tickets.on_poison is stop: with dead_letter it would go to topics.dead_letters, and the account go on"
    if letter.poison.reason == "too_large":
        hint = f"raise max.message.bytes of topic {topic}; {hint}"
    version = letter.version
    who = f"number {version.id}" if version.id >= 0 else "one without a usable id"
    return Unpublishable(
        f"{who} of {letter.source}, stamped {version.stamp}, of {len(version.value):,} bytes, cannot be published: "
        f"{letter.poison.detail}",
        hint=hint,
    )
