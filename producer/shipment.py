"""Decides where each version of a page goes: to the tickets topic, to the dead letters, or nowhere; and what the checkpoint
says of it. Asks nobody."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from producer.dead_letters import Letter, Letters
from producer.errors import Unpublishable
from producer.kafka.limits import SLACK, Limits
from producer.model import Checkpoint, Page, Poison, Record, Version
from producer.records import Records
from producer.settings import Settings
from producer.system_updates import Steadiness, is_published, is_system_update


@dataclass(frozen=True, slots=True)
class Shipment:
    """What a page comes to in one transaction: records by topic, the tickets' first, and the checkpoint that covers them.

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
    """For the process's lifetime. `limits` says what the topics take."""

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self._tickets = settings.tickets
        self._topics = settings.topics
        self._limits = limits
        self._steadiness = Steadiness()

    def sort(self, page: Page, checkpoint: Checkpoint) -> Shipment:
        """The shipment of the page that was fetched from the checkpoint's position.

        Raises:
            Unpublishable: a version cannot be published, and `tickets.on_poison` says to stop then.
        """
        published, letters, excluded = self._triage(page.versions, checkpoint)
        if letters and self._tickets.on_poison == "stop":
            raise _unpublishable(*letters[0], self._topics.tickets)
        successor = checkpoint.after(
            page,
            published=bool(published),
            dead_lettered=len(letters),
            steady=self._steadiness.after(page, checkpoint),
        )
        records: dict[str, Collection[Record]] = {}
        if published:
            records[self._topics.tickets] = Records(
                published,
                account=successor.account,
                generation=successor.generation,
                seq=successor.seq,
                tombstones=self._tickets.tombstones,
                mark_system_updates=self._tickets.system_updates != "include",
            )
        if letters:
            topic = self._topics.dead_letters
            records[topic] = Letters(
                letters,
                account=successor.account,
                generation=successor.generation,
                seq=successor.seq,
                number=checkpoint.dead_lettered + 1,
                takes=lambda value: self._limits.takes(topic, value),
                head=max(self._limits.batch(topic) - SLACK, 0),
            )
        return Shipment(records, successor, published, letters, excluded)

    def _triage(
        self, versions: tuple[Version, ...], checkpoint: Checkpoint
    ) -> tuple[tuple[Version, ...], tuple[Letter, ...], int]:
        """Versions to publish, dead letters, and how many are excluded."""
        published: list[Version] = []
        letters: list[Letter] = []
        plenty = self._limits.record(self._topics.tickets) - SLACK
        exclude = self._tickets.system_updates == "exclude" and checkpoint.steady is not None
        for version in versions:
            poison = version.poison
            if poison is None and len(version.value) > plenty:
                poison = self._too_large(version)
            if poison is not None:
                letters.append((version, poison))
            elif not (exclude and is_system_update(version) and is_published(version, checkpoint)):
                published.append(version)
        return tuple(published), tuple(letters), len(versions) - len(published) - len(letters)

    def _too_large(self, version: Version) -> Poison | None:
        if self._limits.takes(self._topics.tickets, version.value):
            return None
        limit = int(self._limits.record(self._topics.tickets))
        return Poison(
            "too_large", f"compressed it is over {limit} bytes, the most that topic {self._topics.tickets} takes"
        )


def _unpublishable(version: Version, poison: Poison, topic: str) -> Unpublishable:
    hint = "tickets.on_poison is stop: with dead_letter it would go to topics.dead_letters, and the account go on"
    if poison.reason == "too_large":
        hint = f"raise max.message.bytes of topic {topic}; {hint}"
    who = f"ticket {version.id}" if version.id >= 0 else "a ticket without a usable id"
    return Unpublishable(
        f"{who}, stamped {version.stamp}, of {len(version.value):,} bytes, cannot be published: {poison.detail}",
        hint=hint,
    )
