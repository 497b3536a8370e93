"""Reads the dead-letter topic: which letters there are, and which of them are settled."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from producer.dead_letters import RESOLVED, identity_of
from producer.kafka.checkpoints import open_reader
from producer.kafka.connection import client_options
from producer.kafka.failures import ASK, within
from producer.kafka.reading import ConsumerRecords, open_topic
from producer.kafka.topics import open_admin
from producer.settings import Settings

PATIENCE = 10.0
"""Seconds to wait at an open transaction, such as each is for a moment after it was committed."""


@dataclass(frozen=True, slots=True)
class Found:
    """A letter as the topic tells it. All texts are such that no terminal takes them for anything else.

    `id` is None where it has none. `source` is where it was found (`tickets`, `users`, `tickets?include=users`), `number`
    its own in a generation, `size` in bytes, `value` how much of it the topic has (`whole`, `head`, `none`), `fetch` the
    request that shows it again, `appended` Unix seconds. `outcome` is empty while it is open.
    """

    identity: str
    source: str
    id: int | None
    stamp: int
    number: str
    reason: str
    detail: str
    size: int
    value: str
    fetch: str
    partition: int
    offset: int
    appended: float
    outcome: str = ""


class _Mark(NamedTuple):
    how: str
    partition: int
    offset: int
    appended: float

    def settles(self, letter: Found) -> bool:
        """Whether it came behind the letter, which may have been written again since."""
        if self.partition == letter.partition:
            return self.offset > letter.offset
        return self.appended >= letter.appended  # the topic was given more partitions in between


async def dead_letters(settings: Settings, say: Callable[[str], None]) -> list[Found]:
    """All letters of the account, oldest first, those that are settled included; none where there is no such topic.

    `say` is told where a transaction hides what is behind it.

    Raises:
        Unavailable, SessionOver, Refused: Kafka cannot be used.
    """
    topic, account = settings.topics.dead_letters, settings.zendesk.subdomain
    async with open_admin(settings.kafka) as admin:
        known = (await admin.survey()).topics.get(topic)
    if known is None:
        return []
    letters: dict[tuple[str, str], Found] = {}
    marks: dict[tuple[str, str], _Mark] = {}

    def take(partition: int, records: ConsumerRecords) -> None:
        for record in records:
            headers: Mapping[str, bytes | None] = dict(record.headers)
            if (about := identity_of(headers, account)) is None:
                continue
            name, appended = (about.source, about.text), record.timestamp / 1000
            if RESOLVED in headers:
                marks[name] = _Mark(_plain(headers, RESOLVED), partition, record.offset, appended)
                continue
            size = _plain(headers, "zendesk-dead-letter-size")
            letters[name] = Found(
                about.text,
                about.source,
                about.id,
                about.stamp,
                _plain(headers, "zendesk-dead-letter-number"),
                _plain(headers, "zendesk-dead-letter-reason"),
                _plain(headers, "zendesk-dead-letter-detail"),
                int(size) if re.fullmatch(r"\d{1,18}", size) else 0,
                _plain(headers, "zendesk-dead-letter-value"),
                _plain(headers, "zendesk-dead-letter-fetch"),
                partition,
                record.offset,
                appended,
            )

    options = client_options(settings.kafka)
    async with open_topic(options, topic) as reader, open_reader(options, settings.topics.checkpoints) as watermarks:
        async with within(ASK, f"ask where topic {topic} ends"):
            ends = await watermarks.high_watermarks(topic, known.partitions)
        stuck = await reader.read({partition: (0, end) for partition, end in enumerate(ends)}, take, PATIENCE)
    for partition, stable in stuck.items():
        say(
            f"a transaction is open: nothing behind offset {stable} of partition {partition} of {topic} can be read yet"
        )
    for name, mark in marks.items():
        if name in letters and mark.settles(letters[name]):
            letters[name] = replace(letters[name], outcome=mark.how)
    return sorted(letters.values(), key=lambda letter: letter.appended)


def _plain(headers: Mapping[str, bytes | None], name: str) -> str:
    """A header as text that no terminal can take for anything else."""
    return (headers.get(name) or b"").decode("ascii", "replace").encode("unicode_escape").decode()
