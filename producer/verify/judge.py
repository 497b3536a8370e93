"""The rules: what is wrong with a history of records, and what compaction excuses. Pure.

The words are those of the promise (README, "The promise"). Versions are (id, stamp, content); `content` is the H of
`ce_id`, or, where one ticket has several H with the same stamp, a digest of the canonical content, so that the same
content in other bytes is the same version.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple

from producer.model import Checkpoint
from producer.settings import TicketsSettings

Word = Literal["missing", "duplicated", "out_of_order", "altered", "gaps", "inconsistent"]


class Appended(NamedTuple):
    """A record of ours in the stream's topic: an event, or the tombstone behind one. `time` is the record's, in ms."""

    id: int
    stamp: int
    content: bytes
    tombstone: bool
    generation: int
    seq: int
    page_index: int
    page_count: int
    partition: int
    offset: int
    time: int

    @property
    def page(self) -> str:
        """Its place in the history, as in the header `zendesk-page`."""
        return f"{self.generation}/{self.seq}/{self.page_index}/{self.page_count}"

    @property
    def place(self) -> str:
        """Its place in the topic, for a person who wants to look."""
        return f"partition {self.partition} offset {self.offset} (page {self.page})"


class Shown(NamedTuple):
    """A version that is current at the API. `updated` is its `updated_at` in Unix seconds, if that is known."""

    id: int
    stamp: int
    digest: bytes
    deleted: bool
    updated: int | None = None


class Fault(NamedTuple):
    """One thing that is wrong: the word it counts under, and what a person must know to look at it."""

    word: Word
    text: str


@dataclass(frozen=True, slots=True)
class Retention:
    """What may have left the topic by itself by `now` (Unix ms). All spans are in ms.

    `compaction_lag` is infinite where the topic is never compacted, `lifetime` where it does not delete by age or size.
    """

    now: float
    compaction_lag: float
    delete_retention: float
    lifetime: float = math.inf

    @classmethod
    def of_topic(cls, configs: Mapping[str, str] | None, now: float) -> Retention:
        """From the topic's settings; None means that they may not be read: then anything may have gone."""
        if configs is None:
            return cls(now, 0, 0, 0)
        policy = configs.get("cleanup.policy", "delete")
        lag = float(configs.get("min.compaction.lag.ms", 0)) if "compact" in policy else math.inf
        lifetime = math.inf
        if "delete" in policy:
            by_time, by_size = int(configs.get("retention.ms", -1)), int(configs.get("retention.bytes", -1))
            lifetime = 0 if by_size >= 0 else by_time if by_time >= 0 else math.inf
        return cls(now, lag, float(configs.get("delete.retention.ms", 0)), lifetime)

    def keeps(self, time: float) -> bool:
        """Whether a record of that time is certainly still in the topic."""
        return self.now - time < min(self.compaction_lag, self.lifetime)

    def may_compact(self, time: float) -> bool:
        """Whether a record of that time may have been removed for a later one of its key."""
        return self.now - time >= self.compaction_lag

    def may_clean(self, time: float) -> bool:
        """Whether a tombstone of that time may have been removed, too."""
        return self.now - time >= self.compaction_lag + self.delete_retention

    def may_delete(self, time: float) -> bool:
        """Whether any record of that time may have been removed for its age, or for the topic's size."""
        return self.now - time >= self.lifetime


def is_required(stamp: int, checkpoint: Checkpoint) -> bool:
    """Whether a version that the API shows must be in the topic: inside the history, behind the position, not skipped."""
    return (
        checkpoint.end_time is not None
        and checkpoint.start <= stamp < checkpoint.end_time
        and not any(low <= stamp < high for low, high in checkpoint.skipped)
    )


def excuse(
    absent: Shown,
    tombstone: int | None,
    superseded: bool,
    newest: int | None,
    retention: Retention,
    tickets: TicketsSettings,
) -> Literal["compacted", "cleaned", "excluded"] | None:
    """Why a required version may be absent from the tickets and the dead letters; None when it is missing.

    Args:
        tombstone: the time of the absent version's own tombstone, if the topic has it. The two were appended together.
        superseded: whether the topic has a later version of the ticket. When the absent one was appended is not known, but
            not before its stamp; what was lost from a page that is still young shows as a gap.
        newest: the `updated_at` of the newest event of the ticket in the topic, or of its newest dead letter if later.
        tickets: whether deleted tickets are given tombstones, and system updates are excluded.
    """
    if (
        tickets.system_updates == "exclude"
        and not absent.deleted
        and absent.updated is not None
        and absent.updated == newest
    ):
        return "excluded"
    if tombstone is not None and retention.may_compact(tombstone):
        return "compacted"
    if tombstone is None and superseded and retention.may_compact(absent.stamp * 1000):
        return "compacted"
    if absent.deleted and tickets.tombstones and retention.may_clean(absent.stamp * 1000):
        return "cleaned"
    return None


def key_faults(records: Iterable[Appended], *, repeated: bool = False) -> Iterator[Fault]:
    """Duplicates and disorder. Expects the records by id, then generation, then in the order of the topic.

    `repeated`: pages may have been published again (`kafka.delivery: at_least_once`). Then a version that was there before
    is a duplicate wherever it stands, and only one that was not can be out of order.
    """
    of: tuple[int, int] | None = None
    event: Appended | None = None
    newest: Appended | None = None
    buried: Appended | None = None  # the tombstone since the last event of another version
    before: dict[tuple[int, bytes, bool], Appended] = {}
    for record in records:
        if (record.id, record.generation) != of:
            of = record.id, record.generation
            event = newest = buried = None
            before.clear()
        if repeated:
            first = before.setdefault((record.stamp, record.content, record.tombstone), record)
            if first is not record:
                yield Fault("duplicated", f"{_name(record)}: {first.place} and {record.place}")
                continue
        if record.tombstone:
            if buried is not None and _same(buried, record):
                yield Fault("duplicated", f"tombstone of {_name(record)}: {buried.place} and {record.place}")
            buried = record
            continue
        if event is not None and _same(event, record):
            yield Fault("duplicated", f"{_name(record)}: {event.place} and {record.place}")
        else:
            buried = None
        if newest is not None and record.stamp < newest.stamp:
            yield Fault("out_of_order", f"{_name(record)}: {record.place} is behind {newest.stamp} of {newest.place}")
        else:
            newest = record
        event = record


def without_repeats(records: Iterable[Appended]) -> Iterator[Appended]:
    """The records of each page as its last attempt has them, where pages may have been published again.

    Expects and yields them by generation, seq and index. An attempt that a crash has cut leaves a part of a page; the next
    one may count other records, since tickets change meanwhile. Of the attempts that count alike, the last record of each
    index stands for all; of those that do not, the whole ones come first, then the last.
    """
    for _, page in groupby(records, key=lambda record: (record.generation, record.seq)):
        attempts: dict[int, dict[int, Appended]] = {}
        for record in sorted(page, key=lambda record: record.time):
            attempts.setdefault(record.page_count, {})[record.page_index] = record
        last = max(
            attempts.items(),
            key=lambda attempt: (len(attempt[1]) == attempt[0], max(record.time for record in attempt[1].values())),
        )
        yield from (record for _, record in sorted(last[1].items()))


def page_faults(records: Iterable[Appended], retention: Retention, *, from_the_start: bool) -> Iterator[Fault]:
    """Gaps in the numbering of pages and of the records in them, and pages that contradict themselves.

    Expects the records by generation, seq and index, up to a page that is known to be committed. A gap is an absence
    between two neighbours that compaction cannot have touched; so is the absence of the end of a page that it cannot have
    touched. What was before a generation's first record: a later generation's number is the time (Unix ms) it began at;
    the first one's beginning is judged only if `from_the_start`, that is, if the topic still has its first records.
    """
    previous: Appended | None = None
    contradicted: tuple[int, int] | None = None
    for record in records:
        if previous is None or record.generation != previous.generation:
            if previous is not None:
                yield from _cut(previous, retention)
            began = record.generation if record.generation > 1 else record.time if from_the_start else -math.inf
            if (record.seq, record.page_index) != (1, 0) and retention.keeps(began) and retention.keeps(record.time):
                yield Fault("gaps", f"generation {record.generation} begins with {record.place}")
        else:
            page = record.generation, record.seq
            if record.seq == previous.seq and record.page_count != previous.page_count and contradicted != page:
                contradicted = page
                yield Fault("inconsistent", f"one page, two counts: {previous.place} and {record.place}")
            if (record.seq, record.page_index) == (previous.seq, previous.page_index):
                if (record.id, record.tombstone) != (previous.id, previous.tombstone) or not _same(previous, record):
                    yield Fault("inconsistent", f"one place, two versions: {previous.place} and {record.place}")
            elif not _adjacent(previous, record) and retention.keeps(previous.time) and retention.keeps(record.time):
                yield Fault("gaps", f"between {previous.place} and {record.place}")
        if record.page_index >= record.page_count:
            yield Fault("inconsistent", f"no such place in a page: {record.place}")
        previous = record
    if previous is not None:
        yield from _cut(previous, retention)


def disagreements(
    checkpoint: Checkpoint,
    later: Checkpoint,
    *,
    topic: str,
    high_watermarks: tuple[int, ...],
    newest: Appended | None,
    last: Appended | None,
    ahead: Appended | None,
    beyond: Iterable[Appended],
    retention: Retention,
    tombstones: bool,
    repeated: bool = False,
) -> Iterator[str]:
    """Where topic and checkpoint contradict each other.

    Args:
        checkpoint: read before the topic; all of its pages must be there.
        later: read after the topic; all pages of the topic must be covered by it.
        high_watermarks: of the stream's topic, by partition.
        newest: the record of the newest page in the topic.
        last: the record of the newest page of the checkpoint's generation.
        ahead: a record of a page behind the checkpoint's, but before the end that it names for the partition.
        beyond: records of the checkpoint's pages that are stamped after its position.
        repeated: whether pages are published before their checkpoint: then there may be one behind the checkpoint's, and
            one that a crash has cut may have reached further than the one that took its place.
    """
    if checkpoint.tickets_topic != topic:
        yield f"the checkpoint is of topic {checkpoint.tickets_topic}, not {topic}"
        return
    if len(checkpoint.ends) != len(high_watermarks):
        yield f"the checkpoint knows {len(checkpoint.ends)} partitions, the topic has {len(high_watermarks)}"
        return
    for partition, (end, high) in enumerate(zip(checkpoint.ends, high_watermarks, strict=True)):
        if high < end:
            yield f"partition {partition} ends at {high}, but our last append ended at {end}: truncated or created anew"
    # Pages at the end are gone by right only if they were deleted tickets, and their tombstones were cleaned since.
    found, time = (last.seq, last.time) if last is not None else (0, 0)
    gone = (tombstones and retention.may_clean(time)) or retention.may_delete(time)
    if checkpoint.seq > found and not gone:
        yield (
            f"the checkpoint covers page {checkpoint.generation}/{checkpoint.seq}, but the newest page of this generation "
            f"in the topic is {found}"
        )
    if newest is not None and (newest.generation, newest.seq) > (later.generation, later.seq + repeated):
        yield f"{newest.place} is in the topic, but the checkpoint covers only {later.generation}/{later.seq}"
    if ahead is not None:
        yield (
            f"{ahead.place} is of a page behind the checkpoint's {checkpoint.generation}/{checkpoint.seq}, but before the end "
            f"of our last append, {checkpoint.ends[ahead.partition]}"
        )
    for record in () if repeated else beyond:
        handled = checkpoint.boundary.get(record.id)
        if handled is None or handled.stamp < record.stamp:
            yield f"{_name(record)} at {record.place} is stamped after the position {checkpoint.end_time}"
            break


def _same(one: Appended, other: Appended) -> bool:
    return one.stamp == other.stamp and one.content == other.content


def _adjacent(one: Appended, other: Appended) -> bool:
    if one.seq == other.seq:
        return other.page_index == one.page_index + 1
    return other.seq == one.seq + 1 and other.page_index == 0 and one.page_index == one.page_count - 1


def _cut(last: Appended, retention: Retention) -> Iterator[Fault]:
    if last.page_index < last.page_count - 1 and retention.keeps(last.time):
        yield Fault("gaps", f"the page ends early, behind {last.place}")


def _name(record: Appended) -> str:
    return f"id {record.id} stamped {record.stamp}"
