"""How far a backfill is: what is foretold of accounts whose truth is known, and what is not foretold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.model import Checkpoint, Page, Position, Version
from producer.observers import progress
from producer.observers.progress import ENOUGH_PAGES, ENOUGH_SECONDS, Estimate, Progress
from tests.test_observers import checkpoint

BIRTH = 1_500_000_000
SPAN = 100_000_000
"""Seconds of history when a walk begins."""
PAUSE = 6.0
"""Seconds from page to page."""


def at(position: int, start: int = BIRTH) -> Checkpoint:
    return checkpoint(end_time=position).replace(start=start)


def page(position: int, tickets: int = 1000, *, first: int = BIRTH, caught_up: bool = False) -> Page:
    return Page((Version(1, first, "", b""),) * tickets, Position(position), caught_up)


Account = Callable[[float], int]
"""The position behind the ticket of a number."""


def changing(density: float, factor: float = 1) -> Account:
    """So many tickets a second, and after half the span `factor` times as many."""
    turn = density * SPAN / 2

    def position_of(number: float) -> int:
        before, after = min(number, turn), max(0.0, number - turn)
        return BIRTH + int(before / density + after / (density * factor))

    return position_of


def growing(tickets: int, factor: float) -> Account:
    """So many tickets in the span, at its end `factor` times as dense as at its beginning."""
    return lambda number: BIRTH + int(SPAN * math.log1p((factor - 1) * number / tickets) / math.log(factor))


class Walk:
    """A walk through an account from the ticket of a number on, with pages of 1,000 tickets."""

    def __init__(self, account: Account, number: float = 0) -> None:
        self.progress = Progress()
        self.account = account
        self.number = number
        self.moment = 0.0
        self.position = account(number)
        self.progress.resume(at(self.position))

    @property
    def clock(self) -> float:
        return BIRTH + SPAN + self.moment

    def step(self) -> Estimate:
        """The next page, and what is said after it."""
        self.moment += PAUSE
        self.number += 1000
        self.position = self.account(self.number)
        self.progress.walk(self.moment, page(self.position))
        return self.now()

    def now(self) -> Estimate:
        said = self.progress.estimate(self.moment, self.clock)
        assert said is not None
        return said

    def to_the_end(self) -> Iterator[tuple[float, Estimate]]:
        """Moments of the walk with what was said then, until a page catches up."""
        while self.position < self.clock:
            said = self.step()
            yield self.moment, said


def contains(said: Estimate, truth: float) -> bool:
    """Whether the range, if there is one, has the truth in it; a page more or less is none of its business."""
    if said.eta_range is None:
        return True
    low, high = said.eta_range
    return low - 2 * PAUSE <= truth <= (math.inf if high is None else high + 2 * PAUSE)


def misses(walk: Walk) -> list[float]:
    """The shares at which the range did not contain the truth."""
    said = list(walk.to_the_end())
    return [estimate.share or 0 for moment, estimate in said if not contains(estimate, walk.moment - moment)]


# Densities that make walks of 20 to 400 pages; parts of the account that were walked before.
densities = st.floats(0.0002, 0.002)
parts = st.floats(0, 0.9)


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 10**8), st.integers(0, 3)), max_size=100),
    st.floats(0, 2**33),
    st.floats(0, 1e7),
)
def test_whatever_comes_no_figure_is_nonsense(
    steps: list[tuple[float, int, int]], clock: float, silence: float
) -> None:
    walked = Progress()
    walked.resume(at(BIRTH))
    moment, position = 0.0, BIRTH
    for seconds, forward, tickets in steps:
        moment, position = moment + seconds, position + forward
        walked.walk(moment, page(position, tickets))
        said = walked.estimate(moment + silence, clock)
        assert said is not None
        assert said.share is None or 0 <= said.share <= 1
        assert said.tickets_left is None or said.tickets_left >= 0
        if said.eta is not None:
            assert said.eta_range is not None
            low, high = said.eta_range
            assert 0 <= low <= said.eta <= (math.inf if high is None else high) < math.inf or high is None
        assert said.fields().keys() >= {"share", "tickets_left", "eta_seconds", "eta_range", "sure"}


@given(st.lists(st.integers(0, 10**7), min_size=1), st.integers(0, 2 * SPAN))
def test_the_share_grows_as_the_position_moves_on(forward: list[int], span: int) -> None:
    walked, position, shares = Progress(), BIRTH, [0.0]
    walked.resume(at(BIRTH))
    for seconds in forward:
        position += seconds
        walked.walk(0, page(position))
        said = walked.estimate(0, BIRTH + span)
        assert said is not None
        assert said.share is not None
        shares.append(said.share)
    assert shares == sorted(shares)


@given(densities, parts)
def test_an_account_of_even_density_is_foretold_exactly(density: float, part: float) -> None:
    walk = Walk(changing(density), part * density * SPAN)
    said = list(walk.to_the_end())
    for moment, estimate in said:
        assert estimate.share == pytest.approx(part + (1 - part) * moment / walk.moment, abs=0.1)
        if estimate.eta is not None:
            assert estimate.eta == pytest.approx(walk.moment - moment, abs=2 * PAUSE)
            assert estimate.tickets_left == pytest.approx(1000 * (walk.moment - moment) / PAUSE, abs=2000)
            assert estimate.tickets_per_minute == pytest.approx(60 * 1000 / PAUSE)


@given(densities, st.floats(0.5, 2), parts)
def test_the_range_holds_the_truth_of_an_account_whose_density_changes_half_way(
    density: float, factor: float, part: float
) -> None:
    assert misses(Walk(changing(density, factor), part * density * SPAN * (1 + factor) / 2)) == []


def test_a_range_that_allows_for_no_change_does_not_hold_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    assert misses(Walk(changing(0.002, 2))) == []
    monkeypatch.setattr(progress, "_DRIFT", 0)
    assert misses(Walk(changing(0.002, 2))) != []


@given(st.integers(100_000, 1_000_000), st.floats(1.1, 20))
def test_the_range_holds_the_truth_of_an_account_that_grows_from_half_of_its_time_on(
    tickets: int, factor: float
) -> None:
    assert [share for share in misses(Walk(growing(tickets, factor))) if share > 0.5] == []


def test_an_even_account_becomes_surer_with_what_was_walked() -> None:
    words = [estimate.sure for _, estimate in Walk(changing(0.002)).to_the_end()]
    assert list(dict.fromkeys(words)) == ["too early to say", "unsure", "fair", "good"]


def test_the_first_pages_and_the_first_seconds_foretell_nothing() -> None:
    walk = Walk(changing(0.001))
    said = [walk.step() for _ in range(ENOUGH_PAGES + 1)]
    assert said[:-1] == [Estimate(each.share) for each in said[:-1]]
    assert said[-1].sure == "unsure"
    hasty = Progress()
    hasty.resume(at(BIRTH))
    for number in range(100):
        hasty.walk(number * ENOUGH_SECONDS / 100, page(BIRTH + number))
    assert hasty.estimate(ENOUGH_SECONDS, BIRTH + 99) == Estimate(share=1.0)


def test_who_starts_in_1970_has_done_no_share_before_the_first_ticket() -> None:
    walked = Progress()
    walked.resume(at(0, start=0))
    walked.walk(0, page(BIRTH + SPAN // 4, first=BIRTH))
    said = walked.estimate(0, BIRTH + SPAN)
    assert said == Estimate(share=0.25)


def test_a_restart_takes_the_share_from_the_checkpoint_and_the_speed_from_its_own_pages() -> None:
    walk = Walk(changing(0.001))
    for _ in range(50):
        walk.step()
    # The next process: another clock to measure by, hours later, at ten times the speed.
    again = Progress()
    again.resume(at(walk.position))
    for number in range(ENOUGH_PAGES * 10 + 1):
        again.walk(1e9 + number * PAUSE / 10, page(walk.position + number * 1_000_000))
    said = again.estimate(1e9 + ENOUGH_PAGES * PAUSE, BIRTH + 10 * SPAN)
    assert said is not None
    done = walk.position - BIRTH + ENOUGH_PAGES * 10_000_000
    assert said.share == pytest.approx(done / (10 * SPAN))
    assert said.tickets_per_minute == pytest.approx(10 * 60 * 1000 / PAUSE)
    assert said.eta == pytest.approx((10 * SPAN - done) / 1_000_000 * PAUSE / 10, rel=0.01)


def test_a_restart_behind_a_first_ticket_that_nobody_remembers_says_no_share() -> None:
    walked = Progress()
    walked.resume(at(BIRTH, start=0))
    walked.walk(0, page(BIRTH + 10))
    said = walked.estimate(0, BIRTH + SPAN)
    assert said == Estimate(share=None)


def test_pages_that_another_instance_has_walked_count_for_nothing() -> None:
    walk = Walk(changing(0.001))
    for _ in range(50):
        walk.step()
    walk.progress.resume(at(walk.position))  # a session of our own that failed: nothing is forgotten
    assert walk.now().eta is not None
    walk.progress.resume(at(walk.position + SPAN // 4))
    assert walk.progress.estimate(walk.moment, walk.clock) is None
    walk.number += 25_000
    said = walk.step()
    assert said == Estimate(said.share)
    assert said.share == pytest.approx(0.76, abs=0.01)


def test_a_second_that_holds_many_pages_is_no_ground_for_promises() -> None:
    walk = Walk(changing(0.001))
    for _ in range(20):
        before = walk.step()
    for _ in range(100):
        walk.moment += PAUSE
        walk.progress.walk(walk.moment, page(walk.position))
    after = walk.now()
    assert after.sure == "unsure"
    assert before.eta is not None
    assert after.eta is not None
    assert after.eta > 2 * before.eta
    stuck = Progress()
    stuck.resume(at(BIRTH))
    for number in range(100):
        stuck.walk(number * PAUSE, page(BIRTH))
    assert stuck.estimate(100 * PAUSE, BIRTH + SPAN) == Estimate(share=0.0)


def test_what_comes_in_faster_than_it_is_read_has_no_end_in_sight() -> None:
    walked = Progress()
    walked.resume(at(BIRTH))
    for number in range(100):
        walked.walk(number * PAUSE, page(BIRTH + number * 5))  # five seconds of history every six
    said = walked.estimate(99 * PAUSE, BIRTH + SPAN)
    assert said is not None
    assert (said.sure, said.eta) == ("unsure", None)
    assert said.tickets_left is not None


def test_an_outage_counts_while_it_lasts() -> None:
    walk = Walk(changing(0.001))
    for _ in range(60):
        before = walk.step()
    after = walk.progress.estimate(walk.moment + 3600, walk.clock + 3600)
    assert after is not None
    assert before.eta is not None
    assert after.eta is not None
    assert after.eta > 5 * before.eta


def test_a_poll_is_no_backfill_and_the_next_backfill_begins_anew() -> None:
    walked = Progress()
    walked.resume(at(BIRTH))
    walked.walk(0, page(BIRTH + 5, caught_up=True))
    assert walked.estimate(0, BIRTH + 66) is None
    for number in range(100):
        walked.walk(number * PAUSE, page(BIRTH + 10 + number))
    walked.rest()
    assert walked.estimate(1000, BIRTH + SPAN) is None
    walked.walk(2000, page(BIRTH + 200))
    said = walked.estimate(2000, BIRTH + 400)
    assert said == Estimate(share=0.5)


def test_a_walk_of_any_length_takes_the_same_memory() -> None:
    walked = Progress()
    walked.resume(at(BIRTH))
    for number in range(50_000):
        walked.walk(number * PAUSE, page(BIRTH + 100 * number, 1))
    assert len(walked._marks) <= progress._MARKS
    said = walked.estimate(50_000 * PAUSE, BIRTH + 10_000_000)
    assert said is not None
    assert said.eta == pytest.approx((10_000_000 - 5_000_000) / (100 / PAUSE - 1), rel=0.01)
