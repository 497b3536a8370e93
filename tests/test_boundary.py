"""What is new in a page: the boundary rule, on arbitrary histories with cut seconds, extended pages, idle polls and crashes."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.errors import Pinned
from producer.model import Checkpoint, Page, Position, Seen, Version
from producer.zendesk.boundary import advance, content_digest
from producer.zendesk.client import Answer
from producer.zendesk.doubts import Doubts, Notices
from producer.zendesk.page import slice_page
from producer.zendesk.time_export import read

SETTLING = 60


def read_page(position: Position, answer: Answer) -> Page | None:
    """As the source reads an answer of the time-based export; None where it says nothing."""
    assert answer.body is not None
    cut = slice_page(answer.body)
    if not cut.rows:
        return Page((), position, caught_up=True) if cut.ended else None
    doubts = Doubts(frozenset(), Notices(lambda _: None))
    page, _ = read(position, position.end_time, cut, bool(cut.ended), answer, doubts, math.inf)
    return page


@dataclass
class Export:
    """The time-based export as the recordings show it: inclusive start, cut and extended seconds, ties in no order."""

    now: int = 1_000
    tickets: dict[int, tuple[int, int]] = field(default_factory=dict)  # id -> (stamp, revision)
    ever: list[tuple[int, int, int]] = field(default_factory=list)

    def change(self, ticket: int) -> None:
        revision = self.tickets.get(ticket, (0, 0))[1] + 1
        self.tickets[ticket] = (self.now, revision)
        self.ever.append((ticket, self.now, revision))

    def answer(self, start_time: int, per_page: int, tie: int) -> Answer:
        rows = [
            (stamp, hash((id_, tie)), id_, revision)
            for id_, (stamp, revision) in self.tickets.items()
            if start_time <= stamp <= self.now - SETTLING
        ]
        rows.sort()
        ended = len(rows) <= per_page
        extended = not ended and rows[0][0] == rows[per_page - 1][0]
        rows = [row for row in rows if row[0] == rows[0][0]] if extended else rows[:per_page]
        return Answer(
            json.dumps(
                {
                    "tickets": [{"id": id_, "revision": rev, "generated_timestamp": at} for at, _, id_, rev in rows],
                    "count": len(rows),
                    "end_of_stream": ended,
                    "end_time": rows[-1][0] + extended if rows else None,
                }
            ).encode(),
            float(self.now),
            {},
        )


Reader = Callable[[Position, Answer], Page | None]
Steps = list[tuple[str, int]]

steps = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.integers(1, 12)),
        st.tuples(st.just("pass"), st.sampled_from([0, 1, 1, 2, 30, 61, 200])),
        st.tuples(st.just("poll"), st.integers(0, 99)),
        st.tuples(st.just("crash"), st.integers(0, 99)),
    ),
    max_size=120,
)


def replay(steps: Steps, per_page: int, read: Reader) -> tuple[list[tuple[int, int, int]], Export, Position]:
    """Run a history; what was published, in order. A crash fetches a page and loses it before the commit."""
    export, position = Export(), Position(0)
    published: list[tuple[int, int, int]] = []

    def poll(tie: int, commit: bool) -> bool:
        nonlocal position
        page = read(position, export.answer(position.end_time, per_page, tie))
        if page is None:
            return True
        if commit:
            published.extend(
                (version.id, version.stamp, json.loads(version.value)["revision"]) for version in page.versions
            )
            position = page.position
        return page.caught_up

    for step, argument in steps:
        if step == "change":
            export.change(argument)
        elif step == "pass":
            export.now += argument
        else:
            poll(argument, commit=step == "poll")
    export.now += 2 * SETTLING
    for tie in range(len(export.ever) + 5):
        if poll(tie, commit=True):
            break
    poll(99, commit=True)  # an idle poll on top
    return published, export, position


def faults(published: list[tuple[int, int, int]], export: Export) -> list[str]:
    """What the promise forbids."""
    found = [f"{version} published {times} times" for version, times in Counter(published).items() if times > 1]
    found += [f"{version} was never offered" for version in published if version not in export.ever]
    current = {(id_, stamp, revision) for id_, (stamp, revision) in export.tickets.items()}
    found += [f"{version} is missing" for version in current - set(published)]
    newest: dict[int, int] = {}
    for id_, stamp, _ in published:
        if newest.get(id_, 0) > stamp:
            found.append(f"ticket {id_}: {stamp} behind {newest[id_]}")
        newest[id_] = max(newest.get(id_, 0), stamp)
    return found


@given(steps, st.integers(1, 5))
def test_every_version_is_published_exactly_once_and_in_order(steps: Steps, per_page: int) -> None:
    published, export, _ = replay(steps, per_page, read_page)
    assert faults(published, export) == []


@given(steps, st.integers(1, 5))
def test_a_position_survives_its_checkpoint(steps: Steps, per_page: int) -> None:
    def through_bytes(position: Position, answer: Answer) -> Page | None:
        return read_page(Checkpoint.from_bytes(checkpoint(position).to_bytes()).position, answer)

    published, export, _ = replay(steps, per_page, through_bytes)
    assert faults(published, export) == []


@given(steps, st.integers(1, 5))
def test_the_boundary_map_holds_only_what_can_be_shown_again(steps: Steps, per_page: int) -> None:
    _, _, position = replay(steps, per_page, read_page)
    assert all(seen.stamp >= position.end_time for seen in position.boundary.values())


CUT_SECOND: Steps = [*(("change", id_) for id_ in range(1, 3)), ("pass", 1), *(("change", id_) for id_ in range(3, 13))]
IDLE: Steps = [("change", 1), ("pass", 61), ("poll", 0), ("poll", 1), ("poll", 2)]


def repeating(position: Position, answer: Answer) -> Page | None:
    """A wrong reader: knows no boundary map, as clients without memory."""
    return read_page(Position(position.end_time), answer)


def dropping(position: Position, answer: Answer) -> Page | None:
    """A wrong reader: drops rows stamped at or before the position, as clients that compare with <=."""
    page = read_page(Position(position.end_time), answer)
    if page is None:
        return None
    kept = tuple(version for version in page.versions if version.stamp > position.end_time)
    return Page(kept, page.position, page.caught_up)


@pytest.mark.parametrize("history", [CUT_SECOND, IDLE])
def test_the_oracle_sees_boundary_rows_repeated(history: Steps) -> None:
    published, export, _ = replay(history, 4, repeating)
    assert any("times" in fault for fault in faults(published, export))


def test_the_oracle_sees_boundary_rows_dropped() -> None:
    published, export, _ = replay(CUT_SECOND, 4, dropping)
    assert any("missing" in fault for fault in faults(published, export))


def checkpoint(position: Position) -> Checkpoint:
    return Checkpoint(
        account="acme",
        stream="tickets",
        tickets_topic="t",
        dead_letters_topic="d",
        checkpoints_topic="c",
        checkpoints_partitions=12,
        ends=(0,),
        generation=1,
        seq=3,
        instance="i",
        start=0,
        end_time=position.end_time,
        boundary=position.boundary,
        since=position.since,
        cursor=position.cursor,
    )


def rows(*tickets: Mapping[str, object]) -> list[Version]:
    return slice_page(json.dumps({"tickets": tickets, "end_of_stream": True}).encode()).rows


def test_the_same_content_in_other_bytes_is_no_new_version() -> None:
    first = advance(Position(0), rows({"id": 1, "generated_timestamp": 100, "a": {"x": 1.50, "y": None}}), 100)
    body = b'{"tickets": [{"a": {"y": null,\n "x": 1.5}, "generated_timestamp": 100, "id": 1}], "end_of_stream": true}'
    second = advance(first.position, slice_page(body).rows, 100)
    assert (second.sifted.fresh, second.sifted.repeated) == ((), 1)
    assert second.position == first.position


def test_other_content_under_the_same_stamp_is_a_new_version() -> None:
    first = advance(Position(0), rows({"id": 1, "generated_timestamp": 100, "a": 1}), 100)
    second = advance(first.position, rows({"id": 1, "generated_timestamp": 100, "a": 2}), 100)
    assert [version.id for version in second.sifted.fresh] == [1]


def test_numbers_are_compared_as_they_were_written() -> None:
    assert content_digest(b'{"a":1.0}') != content_digest(b'{"a":1}')
    assert content_digest(b'{"a":1e400}') != content_digest(b'{"a":2e400}')
    assert content_digest(b'{"a":123456789012345678901234567890}') != content_digest(
        b'{"a":123456789012345678901234567891}'
    )
    assert content_digest(b'{ "b":2, "a":[1.50, {}] }') == content_digest(b'{"a":[1.50,{}],"b":2}')


def test_a_row_older_than_what_was_published_of_its_ticket_is_not_published() -> None:
    position = Position(100, {1: Seen(120, "0" * 16, "0" * 16)})
    step = advance(position, rows({"id": 1, "generated_timestamp": 110}), 110)
    assert (step.sifted.fresh, step.sifted.stale) == ((), 1)
    assert step.position.boundary[1].stamp == 120


def test_the_same_row_twice_in_one_page_is_published_once() -> None:
    ticket = {"id": 1, "generated_timestamp": 100}
    step = advance(Position(0), rows(ticket, ticket), 100)
    assert (len(step.sifted.fresh), step.sifted.repeated) == (1, 1)


def test_a_ticket_without_a_stamp_of_its_own_is_published_once() -> None:
    ticket = {"id": 1, "updated_at": "1970-01-01T00:01:30Z", "status": "open"}
    first = advance(Position(0), rows(ticket), 100)
    again = advance(first.position, rows(ticket), 100)
    changed = advance(again.position, rows({**ticket, "status": "closed"}), 105)
    assert [version.stamp for version in first.sifted.fresh] == [90]
    assert again.sifted.fresh == ()
    assert len(changed.sifted.fresh) == 1


def test_a_second_that_the_export_does_not_leave_is_pinned() -> None:
    body = json.dumps(
        {"tickets": [{"id": 1, "generated_timestamp": 100}], "end_of_stream": False, "end_time": 100}
    ).encode()
    with pytest.raises(Pinned, match="share the second 100"):
        read_page(Position(100), Answer(body, None, {}))
