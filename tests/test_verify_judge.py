"""The rules of `verify` on small hand-made histories: each fault is found, and each excuse excuses."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import pytest

from producer.model import Checkpoint, Seen
from producer.settings import TicketsSettings
from producer.verify.judge import (
    Appended,
    Retention,
    Shown,
    disagreements,
    excuse,
    is_required,
    key_faults,
    page_faults,
)

HOUR = 3_600_000
NOW = 1_800_000_000_000
"""Unix ms at which these histories are judged."""

RETENTION = Retention(now=NOW, compaction_lag=HOUR, delete_retention=HOUR)
YOUNG, OLD, ANCIENT = NOW - 1, NOW - HOUR, NOW - 2 * HOUR


def event(
    stamp: int,
    content: str = "a",
    *,
    id: int = 1,
    generation: int = 1,
    page: tuple[int, int, int] = (1, 0, 1),
    offset: int = 0,
    time: int = YOUNG,
    tombstone: bool = False,
) -> Appended:
    return Appended(id, stamp, content.encode(), tombstone, generation, *page, 0, offset, time)


def tombstone(stamp: int, content: str = "a") -> Appended:
    return event(stamp, content, tombstone=True)


def words(records: Iterable[Appended]) -> list[str]:
    return [fault.word for fault in key_faults(records)]


def gaps(*records: Appended, from_the_start: bool = True) -> list[str]:
    return [fault.word for fault in page_faults(records, RETENTION, from_the_start=from_the_start)]


# --- duplicated, out of order


def test_versions_in_the_order_of_their_stamps_are_fine() -> None:
    assert words([event(1), event(2), event(2, "b"), event(3)]) == []


def test_the_same_version_again_is_a_duplicate() -> None:
    assert words([event(1), event(1)]) == ["duplicated"]


def test_every_repetition_counts() -> None:
    assert words([event(1), event(1), event(1)]) == ["duplicated", "duplicated"]


def test_a_tombstone_between_two_equal_events_does_not_make_them_different() -> None:
    assert words([event(1), tombstone(1), event(1)]) == ["duplicated"]


def test_a_second_tombstone_of_one_version_is_a_duplicate() -> None:
    assert words([event(1), tombstone(1), tombstone(1)]) == ["duplicated"]


def test_a_page_appended_again_with_event_and_tombstone_is_two_duplicates() -> None:
    assert words([event(1), tombstone(1), event(1), tombstone(1)]) == ["duplicated", "duplicated"]


def test_a_version_that_comes_back_within_its_second_is_no_duplicate() -> None:
    assert words([event(1, "a"), event(1, "b"), event(1, "a")]) == []


def test_a_tombstone_after_another_version_is_no_duplicate() -> None:
    assert words([event(1, "a"), tombstone(1, "a"), event(1, "b"), event(1, "a"), tombstone(1, "a")]) == []


def test_a_version_published_in_two_generations_is_no_duplicate() -> None:
    assert words([event(1), event(2), event(1, generation=5), event(2, generation=5)]) == []


def test_equal_stamps_of_two_tickets_have_nothing_to_do_with_each_other() -> None:
    assert words([event(2, id=1), event(2, id=2), event(3, id=2), event(1, id=3)]) == []


def test_an_event_behind_a_newer_one_of_its_ticket_is_out_of_order() -> None:
    assert words([event(2), event(1)]) == ["out_of_order"]


def test_each_event_behind_the_newest_is_out_of_order() -> None:
    assert words([event(3), event(1), event(2), event(3)]) == ["out_of_order", "out_of_order"]


def test_the_same_version_again_behind_a_newer_one_is_out_of_order_not_duplicated() -> None:
    assert words([event(1), event(2), event(1)]) == ["out_of_order"]


# --- gaps


def test_pages_without_an_absence_have_no_gap() -> None:
    assert gaps(event(1, page=(1, 0, 2)), event(2, page=(1, 1, 2)), event(3, page=(2, 0, 1))) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((1, 0, 3), (1, 2, 3)),  # a record inside a page
        ((1, 0, 1), (3, 0, 1)),  # a page
        ((1, 0, 2), (2, 0, 1)),  # the end of a page
        ((1, 0, 1), (2, 1, 2)),  # the beginning of one
    ],
)
def test_an_absence_between_two_young_records_is_a_gap(
    first: tuple[int, int, int], second: tuple[int, int, int]
) -> None:
    assert gaps(event(1, page=first), event(2, page=second)) == ["gaps"]


def test_an_absence_beside_a_record_that_could_be_compacted_is_none() -> None:
    assert gaps(event(1, page=(1, 0, 1), time=OLD), event(2, page=(3, 0, 1))) == []


def test_a_young_page_that_ends_early_is_a_gap_and_an_old_one_is_not() -> None:
    assert gaps(event(1, page=(1, 0, 2))) == ["gaps"]
    assert gaps(event(1, page=(1, 0, 2), time=OLD)) == []


def test_a_young_page_that_ends_early_before_a_new_generation_is_a_gap() -> None:
    assert gaps(event(1, page=(1, 0, 2)), event(1, generation=NOW - 5, page=(1, 0, 1))) == ["gaps"]


def test_a_topic_with_its_first_records_begins_with_page_one() -> None:
    assert gaps(event(1, page=(2, 0, 1))) == ["gaps"]
    assert gaps(event(1, page=(2, 0, 1)), from_the_start=False) == []


def test_a_later_generation_that_is_young_begins_with_page_one() -> None:
    assert gaps(event(1, generation=NOW - 5, page=(2, 0, 1)), from_the_start=False) == ["gaps"]
    assert gaps(event(1, generation=OLD, page=(2, 0, 1)), from_the_start=False) == []


def test_the_first_record_of_a_page_may_not_be_absent_at_the_beginning() -> None:
    assert gaps(event(1, page=(1, 1, 2))) == ["gaps"]


def test_two_counts_of_one_page_contradict_each_other_once() -> None:
    records = (event(1, page=(1, 0, 3)), event(2, page=(1, 1, 4)), event(3, page=(1, 2, 3)))
    assert gaps(*records) == ["inconsistent"]


def test_two_versions_in_one_place_contradict_each_other() -> None:
    assert gaps(event(1), event(2)) == ["inconsistent"]


def test_a_page_appended_twice_is_left_to_the_rule_of_duplicates() -> None:
    assert gaps(event(1), event(1)) == []


def test_a_place_beyond_the_end_of_its_page_contradicts_it() -> None:
    assert gaps(event(1), event(2, page=(1, 1, 1))) == ["inconsistent"]


# --- required, missing and what excuses


CHECKPOINT = Checkpoint(
    account="acme",
    stream="tickets",
    tickets_topic="tickets",
    dead_letters_topic="dead",
    checkpoints_topic="checkpoints",
    checkpoints_partitions=12,
    ends=(10,),
    generation=1,
    seq=3,
    instance="one",
    start=100,
    end_time=200,
)


@pytest.mark.parametrize(
    ("stamp", "required"),
    [(99, False), (100, True), (199, True), (200, False), (149, True), (150, False), (159, False), (160, True)],
)
def test_required_is_from_the_beginning_to_before_the_position_outside_what_was_skipped(
    stamp: int, required: bool
) -> None:
    assert is_required(stamp, replace(CHECKPOINT, skipped=((150, 160),))) is required


def test_nothing_is_required_without_a_position() -> None:
    assert not is_required(100, replace(CHECKPOINT, end_time=None))


def shown(time: int, *, deleted: bool = False) -> Shown:
    return Shown(1, time // 1000, b"a", deleted)


def excused(
    absent: Shown, tombstone: int | None, superseded: bool, retention: Retention, *, tombstones: bool
) -> str | None:
    settings = TicketsSettings(tombstones=tombstones)
    return excuse(absent, tombstone, superseded, None, retention, settings)


def test_an_absent_version_without_an_excuse_is_missing() -> None:
    assert excused(shown(ANCIENT), None, False, RETENTION, tombstones=True) is None


def test_an_old_version_before_a_later_one_is_compacted() -> None:
    assert excused(shown(OLD), None, True, RETENTION, tombstones=True) == "compacted"


def test_a_young_version_before_a_later_one_is_missing() -> None:
    assert excused(shown(YOUNG), None, True, RETENTION, tombstones=True) is None


def test_a_deleted_version_is_compacted_for_its_own_old_tombstone() -> None:
    assert excused(shown(ANCIENT, deleted=True), OLD, False, RETENTION, tombstones=True) == "compacted"


def test_a_deleted_version_is_missing_beside_its_own_young_tombstone() -> None:
    assert excused(shown(OLD, deleted=True), YOUNG, False, RETENTION, tombstones=True) is None


def test_a_version_deleted_long_ago_is_cleaned() -> None:
    assert excused(shown(ANCIENT, deleted=True), None, False, RETENTION, tombstones=True) == "cleaned"


def test_a_version_deleted_lately_is_missing_without_its_tombstone() -> None:
    assert excused(shown(OLD, deleted=True), None, False, RETENTION, tombstones=True) is None


def test_a_version_deleted_long_ago_is_missing_where_tombstones_are_off() -> None:
    assert excused(shown(ANCIENT, deleted=True), None, False, RETENTION, tombstones=False) is None


@pytest.mark.parametrize(
    ("mode", "newest", "deleted", "excuse_"),
    [
        ("exclude", 1_700_000_000, False, "excluded"),
        ("exclude", 1_700_000_001, False, None),
        ("exclude", None, False, None),
        ("exclude", 1_700_000_000, True, None),
        ("mark", 1_700_000_000, False, None),
    ],
)
def test_a_system_update_is_excluded_only_where_the_same_edit_is_in_the_topic(
    mode: Literal["exclude", "mark"], newest: int | None, deleted: bool, excuse_: str | None
) -> None:
    absent = shown(YOUNG, deleted=deleted)._replace(updated=1_700_000_000)
    settings = TicketsSettings(system_updates=mode)
    assert excuse(absent, None, False, newest, RETENTION, settings) == excuse_


def test_nothing_is_compacted_in_a_topic_that_is_not() -> None:
    kept = Retention.of_topic({"cleanup.policy": "delete", "retention.ms": "-1"}, NOW)
    assert kept.compaction_lag == math.inf
    assert excused(shown(ANCIENT), None, True, kept, tombstones=True) is None
    assert kept.keeps(ANCIENT)


def test_a_topic_that_deletes_by_age_keeps_what_is_younger() -> None:
    kept = Retention.of_topic({"cleanup.policy": "compact,delete", "retention.ms": str(HOUR)}, NOW)
    assert not kept.keeps(YOUNG)
    kept = Retention.of_topic({"cleanup.policy": "delete", "retention.ms": str(HOUR)}, NOW)
    assert kept.keeps(YOUNG)
    assert kept.may_delete(OLD)
    assert not kept.keeps(OLD)


def test_a_topic_that_deletes_by_size_keeps_nothing_for_certain() -> None:
    configs = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "1000"}
    assert not Retention.of_topic(configs, NOW).keeps(YOUNG)


def test_a_topic_whose_settings_may_not_be_read_excuses_everything() -> None:
    assert excused(shown(YOUNG), None, True, Retention.of_topic(None, NOW), tombstones=True) == "compacted"
    assert not Retention.of_topic(None, NOW).keeps(YOUNG)


# --- checkpoint and topic


def contradictions(
    checkpoint: Checkpoint = CHECKPOINT,
    later: Checkpoint = CHECKPOINT,
    *,
    topic: str = "tickets",
    high_watermarks: tuple[int, ...] = (12,),
    newest: Appended | None = None,
    last: Appended | None = None,
    ahead: Appended | None = None,
    beyond: Iterable[Appended] = (),
    tombstones: bool = True,
) -> int:
    last = last or event(150, page=(3, 0, 1))
    found = disagreements(
        checkpoint,
        later,
        topic=topic,
        high_watermarks=high_watermarks,
        newest=newest or last,
        last=last,
        ahead=ahead,
        beyond=beyond,
        retention=RETENTION,
        tombstones=tombstones,
    )
    return len(list(found))


def test_a_checkpoint_that_covers_the_newest_page_agrees() -> None:
    assert contradictions() == 0


def test_pages_that_are_newer_than_the_checkpoint_read_first_agree() -> None:
    newer = event(300, page=(4, 0, 1))
    assert contradictions(later=replace(CHECKPOINT, seq=4), last=newer) == 0
    assert contradictions(later=replace(CHECKPOINT, generation=NOW, seq=0), last=newer) == 0


def test_a_page_that_no_checkpoint_covers_disagrees() -> None:
    assert contradictions(last=event(300, page=(4, 0, 1))) == 1
    assert contradictions(newest=event(300, generation=2, page=(1, 0, 1))) == 1


def test_a_covered_page_that_is_not_in_the_topic_disagrees() -> None:
    assert contradictions(last=event(150, page=(2, 0, 1))) == 1


def test_a_covered_page_of_deleted_tickets_may_have_been_cleaned() -> None:
    cleaned = event(150, page=(2, 0, 1), time=ANCIENT)
    assert contradictions(last=cleaned) == 0
    assert contradictions(last=cleaned, tombstones=False) == 1


@pytest.mark.parametrize("high_watermarks", [(9,), (12, 12)])
def test_a_topic_that_ends_before_our_last_append_or_has_other_partitions_disagrees(
    high_watermarks: tuple[int, ...],
) -> None:
    assert contradictions(high_watermarks=high_watermarks) == 1


def test_a_checkpoint_of_another_topic_disagrees() -> None:
    assert contradictions(topic="other") == 1


def test_a_later_page_before_the_end_of_our_last_append_disagrees() -> None:
    assert contradictions(later=replace(CHECKPOINT, seq=4), ahead=event(300, page=(4, 0, 1), offset=5)) == 1


def test_a_version_stamped_after_the_position_agrees_only_if_the_boundary_map_knows_it() -> None:
    beyond = event(205, id=7)
    assert contradictions(beyond=[beyond]) == 1
    knowing = replace(CHECKPOINT, boundary={7: Seen(205, "a", "a")})
    assert contradictions(knowing, beyond=[beyond]) == 0
