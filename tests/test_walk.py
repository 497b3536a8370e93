"""The walk over arbitrary histories: pinned seconds in both shapes, cursors, switches of mode, late rows, crashes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.errors import BadRequest, Pinned, TooLarge, TooSlow
from producer.model import Checkpoint, Page, Position
from producer.zendesk import boundary, late_rows
from producer.zendesk.asker import Asker
from producer.zendesk.client import Answer
from producer.zendesk.cursor_export import CursorExport
from producer.zendesk.doubts import Doubts, Notices
from producer.zendesk.late_rows import LateRows
from producer.zendesk.page_size import PageSize
from producer.zendesk.time_export import TimeExport
from producer.zendesk.walk import Walk
from tests.test_boundary import checkpoint

SETTLING = 60
WINDOW = 300
Shape = Literal["extended", "stuck", "too large"]
Steps = list[tuple[str, int]]


@dataclass
class Ticket:
    id: int
    stamp: int
    revision: int
    visible_at: int


@dataclass
class Api:
    """Both exports of one account, in the shape that a crowded second has here. Stands where the `Asker` does."""

    shape: Shape = "extended"
    now: int = 1_000
    refused_before: int = 0
    tickets: dict[int, Ticket] = field(default_factory=dict)
    ever: list[tuple[int, int, int]] = field(default_factory=list)
    late: set[tuple[int, int, int]] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # of the next requests, one each; "" for none
    cursors: Literal["good", "null", "always refused"] = "good"
    _older: dict[str, dict[str, Any]] = field(default_factory=dict)

    def change(self, id_: int, late: int = 0) -> None:
        old = self.tickets.get(id_)
        if old is None or old.visible_at <= self.now:  # who changes a ticket that nobody sees yet?
            self.tickets[id_] = Ticket(id_, self.now, old.revision + 1 if old else 1, self.now + SETTLING + late)
            version = (id_, self.now, self.tickets[id_].revision)
            self.ever.append(version)
            if late:
                self.late.add(version)

    def _shown(self, start: tuple[int, float], tie: int = 0) -> list[Ticket]:
        rows = [t for t in self.tickets.values() if (t.stamp, t.id) >= start and t.visible_at <= self.now]
        return sorted(rows, key=lambda t: (t.stamp, hash((t.id, tie)) if tie else t.id))

    async def ask(self, path: str, where: dict[str, int | str], size: PageSize) -> tuple[Answer, int]:
        self.asked.append(path)
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "slow":
            raise TooSlow("too slow")
        by_cursor = path.endswith("/cursor")
        body = self._by_cursor(where, size.now) if by_cursor else self._by_time(int(where["start_time"]), size.now)
        self._older[path], body = body, self._older[path] if fault == "older" else body
        return Answer(json.dumps(body).encode(), None if fault == "no date" else float(self.now), {}), size.now

    def _by_time(self, start: int, per_page: int) -> dict[str, Any]:
        rows = self._shown((start, -1), tie=len(self.asked))
        ended = len(rows) <= per_page
        end_time = rows[-1].stamp if rows else None
        if not ended:
            crowded = rows[0].stamp == rows[per_page - 1].stamp
            if crowded and self.shape != "stuck":
                rows, end_time = [row for row in rows if row.stamp == rows[0].stamp], rows[0].stamp + 1
                if self.shape == "too large" and len(rows) > per_page:
                    raise TooLarge("too large")
            else:
                rows, end_time = rows[:per_page], rows[per_page - 1].stamp
        return {**self._envelope(rows, ended), "end_time": end_time}

    def _by_cursor(self, where: dict[str, int | str], per_page: int) -> dict[str, Any]:
        start: tuple[int, float] = (int(where.get("start_time", 0)), -1)
        if "cursor" in where:
            made, stamp, id_ = map(int, str(where["cursor"]).split("/"))
            if made < self.refused_before or self.cursors == "always refused":
                raise BadRequest("no such cursor")
            start = stamp, id_ + 0.5
        rows = self._shown(start)
        shown = rows[:per_page]
        made = len(self.asked) if self.cursors == "always refused" else self.now  # so that no two are the same
        after = f"{made}/{shown[-1].stamp}/{shown[-1].id}" if shown else where.get("cursor")
        after = None if self.cursors == "null" else after
        return {**self._envelope(shown, len(rows) <= per_page), "after_cursor": after}

    def _envelope(self, rows: list[Ticket], ended: bool) -> dict[str, Any]:
        tickets = [{"id": row.id, "revision": row.revision, "generated_timestamp": row.stamp} for row in rows]
        return {"tickets": tickets, "end_of_stream": ended}


@dataclass
class Life:
    """Walks an account as the service does, in as many lives as it has crashes, and keeps what was published."""

    api: Api
    per_page: int
    mode: str = "time"
    window: float = WINDOW
    position: Position = field(default_factory=lambda: Position(0))
    published: list[tuple[int, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        doubts = Doubts(frozenset(), Notices(lambda _: None))
        asker = cast(Asker, self.api)
        late_rows = LateRows(self.window)
        self.walk = Walk(
            TimeExport(asker, PageSize(self.per_page), doubts, late_rows),
            CursorExport(asker, PageSize(self.per_page), doubts, late_rows, stay=self.mode == "cursor"),
            late_rows,
            doubts.notice,
            lambda _: None,
        )

    async def crash(self) -> None:
        """A page is fetched and lost, and the next life reads the checkpoint's bytes."""
        await self.walk.fetch(self.position)
        await self._die()

    async def _die(self) -> None:
        await self.walk.close()
        self.position = Checkpoint.from_bytes(checkpoint(self.position).to_bytes()).position
        self._begin()

    async def switch(self) -> None:
        """Another mode, which takes a restart."""
        self.mode = "cursor" if self.mode == "time" else "time"
        await self._die()

    async def poll(self) -> Page:
        page = await self.walk.fetch(self.position)
        self.published += [(v.id, v.stamp, json.loads(v.value)["revision"]) for v in page.versions]
        self.position = page.position
        assert len(self.position.boundary) <= boundary.REMEMBERED
        return page

    async def catch_up(self) -> None:
        for _ in range(10 * len(self.api.ever) + 20):
            if (await self.poll()).caught_up:
                return
        raise AssertionError("never caught up")

    def faults(self) -> list[str]:
        """What the promise forbids."""
        found = [
            f"{version} published {times} times" for version, times in Counter(self.published).items() if times > 1
        ]
        current = {(t.id, t.stamp, t.revision) for t in self.api.tickets.values()}
        found += [f"{version} is missing" for version in sorted(current - set(self.published))]
        newest: dict[int, int] = {}
        for id_, stamp, _ in self.published:
            if newest.get(id_, 0) > stamp:
                found.append(f"ticket {id_}: {stamp} behind {newest[id_]}")
            newest[id_] = max(newest.get(id_, 0), stamp)
        return found


async def live(life: Life, steps: Steps) -> list[str]:
    """Run a history to its end; its faults."""
    for step, argument in steps:
        match step:
            case "change":
                life.api.change(argument)
            case "late":
                life.api.change(argument, late=1 + argument * 40 % WINDOW)
            case "burst":
                for id_ in range(20, 20 + argument):
                    life.api.change(id_)
            case "pass":
                life.api.now += argument
            case "poll":
                await life.poll()
            case "crash":
                await life.crash()
            case "switch":
                await life.switch()
            case "refuse":
                life.api.refused_before = life.api.now + 1
                life.api.now += 1
    life.api.now += WINDOW + 3 * SETTLING
    await life.catch_up()
    await life.catch_up()  # the second time around, the look back for late rows comes first
    await life.catch_up()
    await life.walk.close()
    return life.faults()


@contextmanager
def limits(remembered: int) -> Iterator[None]:
    """A map that is soon full, and looks back whenever caught up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boundary, "REMEMBERED", remembered)
        patch.setattr(late_rows, "EVERY", 0)
        patch.setattr(late_rows, "PAUSE", 0)
        yield


def history(*more: st.SearchStrategy[tuple[str, int]]) -> st.SearchStrategy[Steps]:
    return st.lists(
        st.one_of(
            st.tuples(st.just("change"), st.integers(1, 12)),
            st.tuples(st.just("pass"), st.sampled_from([0, 1, 1, 2, 30, 61, 200])),
            st.tuples(st.just("poll"), st.just(0)),
            st.tuples(st.just("crash"), st.just(0)),
            st.tuples(st.just("switch"), st.just(0)),
            st.tuples(st.just("refuse"), st.just(0)),
            *more,
        ),
        max_size=60,
    )


bursts = st.tuples(st.just("burst"), st.integers(1, 30))
late = st.tuples(st.just("late"), st.integers(1, 12))
shapes = st.sampled_from(["extended", "stuck", "too large"])
modes = st.sampled_from(["time", "cursor"])


@settings(max_examples=200, deadline=None)
@given(history(bursts), shapes, st.integers(2, 5), modes, st.sampled_from([6, 5000]))
def test_crowded_seconds_in_every_shape_lose_and_repeat_nothing_across_crashes_and_switches(
    steps: Steps, shape: Shape, per_page: int, mode: str, remembered: int
) -> None:
    with limits(remembered):
        life = Life(Api(shape), per_page, mode)
        assert asyncio.run(live(life, steps)) == []


@settings(max_examples=200, deadline=None)
@given(history(late), st.integers(2, 5), modes)
def test_late_rows_are_published_once_and_in_order_across_crashes_and_switches(
    steps: Steps, per_page: int, mode: str
) -> None:
    with limits(5000):
        assert asyncio.run(live(Life(Api(), per_page, mode), steps)) == []


@settings(max_examples=100, deadline=None)
@given(history(bursts), shapes, st.integers(2, 5), modes, st.sampled_from([0, 0.5, 2.5, 5]))
def test_no_window_however_short_repeats_or_loses_anything(
    steps: Steps, shape: Shape, per_page: int, mode: str, window: float
) -> None:
    with limits(5000):
        assert asyncio.run(live(Life(Api(shape), per_page, mode, window), steps)) == []


@settings(max_examples=200, deadline=None)
@given(history(late, bursts), shapes, st.integers(2, 5), modes, st.sampled_from([6, 5000]))
def test_late_rows_beside_crowded_seconds_repeat_nothing_and_lose_at_most_what_was_late(
    steps: Steps, shape: Shape, per_page: int, mode: str, remembered: int
) -> None:
    with limits(remembered):
        life = Life(Api(shape), per_page, mode)
        found = asyncio.run(live(life, steps))
    assert set(found) <= {f"{version} is missing" for version in life.api.late}


# Controls: each wrong variant must be caught on a history that the real walk passes.

CROWDED: Steps = [("burst", 9), ("pass", 70), *[("poll", 0)] * 4, ("refuse", 0)]
LATE: Steps = [("change", 1), ("late", 2), ("pass", 1), ("change", 3), ("pass", 70), ("poll", 0)]


def one_second_on(life: Life) -> None:
    """Wrong: what several connectors do where the export does not move: `end_time + 1`."""

    async def next_second(position: Position) -> Page:
        return Page((), Position(position.end_time + 1), caught_up=False)

    life.walk._by_cursor = cast(CursorExport, SimpleNamespace(page=next_second, stay=False))


def without_order(life: Life) -> None:
    """Wrong: a refused cursor is asked anew, and what its second showed before is taken for new."""
    real = life.poll

    async def forgetful() -> Page:
        if life.position.cursor is not None:
            life.position = replace(life.position, cursor=replace(life.position.cursor, last_id=None))
        return await real()

    life.poll = forgetful  # type: ignore[method-assign]


def without_looking_back(life: Life) -> None:
    """Wrong: what is behind the position is never read again."""
    life.walk._late_rows = LateRows(0)


def without_a_map(life: Life) -> None:
    """Wrong: looks back, and takes all that it finds for new."""
    real = life.poll

    async def forgetful() -> Page:
        page = await real()
        life.position = Position(life.position.end_time, {}, life.position.since)
        return page

    life.poll = forgetful  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("steps", "wrong", "caught"),
    [
        (CROWDED, None, ""),
        (CROWDED, one_second_on, "missing"),
        (CROWDED, without_order, "times"),
        (LATE, None, ""),
        (LATE, without_looking_back, "missing"),
        (LATE, without_a_map, "times"),
    ],
)
def test_the_oracle_sees_what_a_wrong_walk_loses_or_repeats(
    steps: Steps, wrong: Callable[[Life], None] | None, caught: str
) -> None:
    with limits(5000):
        life = Life(Api("stuck"), per_page=3)
        if wrong is not None:
            wrong(life)
        found = asyncio.run(live(life, steps))
    assert any(caught in fault for fault in found) if caught else found == [], found


def test_a_crowded_second_is_left_by_cursor_and_the_next_one_read_by_time_again() -> None:
    with limits(5000):
        life = Life(Api("stuck"), per_page=3)
        asyncio.run(live(life, [*CROWDED[:2], ("change", 1)]))
    assert life.api.asked[0] == life.api.asked[-1] == "incremental/tickets"
    assert "incremental/tickets/cursor" in life.api.asked
    assert life.position.cursor is None


def test_an_account_that_falls_idle_behind_a_crowded_second_stays_on_the_cursor() -> None:
    with limits(5000):
        life = Life(Api("stuck"), per_page=3)
        asyncio.run(live(life, CROWDED[:2]))
    assert life.api.asked[-1] == "incremental/tickets/cursor"
    assert life.position.pinned
    assert life.position.boundary == {}


# What a search for wrong histories has found


async def looked_back_at(faults: list[str]) -> list[str]:
    """A ticket appears late, and the first requests after the position had passed it meet these faults."""
    life = Life(Api(), per_page=5)
    life.api.change(1)
    life.api.change(2, late=200)
    life.api.now += 1
    life.api.change(3)
    life.api.now += 70
    await life.catch_up()
    life.api.now += 60
    life.api.change(4)
    life.api.now += 70
    life.api.faults = faults
    await life.catch_up()
    await life.catch_up()
    return await live(life, [])


@pytest.mark.parametrize(
    "faults", [["slow"], ["slow", "", "slow"], ["no date"], ["no date"] * 4, ["slow", "no date", "no date"]]
)
def test_a_bad_moment_while_looking_back_costs_no_late_row(faults: list[str]) -> None:
    with limits(5000):
        assert asyncio.run(looked_back_at(faults)) == []


async def older_answers(at: int) -> tuple[list[str], Life]:
    """By cursor; one answer is that to an earlier request."""
    life = Life(Api(), per_page=1, mode="cursor")
    for id_ in range(1, 8):
        life.api.change(id_)
        life.api.now += 1
    life.api.now += 70
    life.api.faults = [""] * at + ["older"]
    return await live(life, []), life


@pytest.mark.parametrize("at", range(1, 8))
def test_an_older_answer_by_cursor_stops_nobody_for_ever(at: int) -> None:
    with limits(5000):
        found, life = asyncio.run(older_answers(at))
    assert found == []
    assert life.position.end_time == 1_006


@pytest.mark.parametrize("mode", ["time", "cursor"])
@pytest.mark.parametrize("cursors", ["null", "always refused"])
def test_without_usable_cursors_a_crowded_second_is_read_by_time_or_stops_the_account(
    cursors: Literal["null", "always refused"], mode: str
) -> None:
    async def read(shape: Shape) -> Life:
        life = Life(Api(shape, cursors=cursors), per_page=3, mode=mode, window=0)
        for id_ in range(1, 12):
            life.api.change(id_)
        life.api.now += 70
        try:
            await life.catch_up()
        finally:
            await life.walk.close()
        return life

    with limits(5000):
        assert asyncio.run(read("extended")).faults() == []
        with pytest.raises(Pinned):
            asyncio.run(read("stuck"))


async def test_an_idle_account_whose_cursors_are_always_refused_writes_nothing() -> None:
    life = Life(Api(cursors="always refused"), per_page=3, mode="cursor", window=0)
    life.api.change(1)
    life.api.now += 70
    await life.catch_up()
    position = life.position
    for _ in range(5):
        assert (await life.poll()).caught_up
    assert life.position == position


async def test_pages_of_one_ticket_do_not_keep_new_tickets_waiting_while_looking_back() -> None:
    with limits(5000):
        life = Life(Api(), per_page=1)
        for id_ in range(1, 13):
            life.api.change(id_)
            life.api.now += 1
        life.api.now += 60
        await life.catch_up()
        life.api.change(100)
        life.api.now += 61
        polls = 0
        while not any(id_ == 100 for id_, _, _ in life.published):
            await life.poll()
            polls += 1
        await life.walk.close()
    assert polls <= 2 * late_rows.PAGES
