"""Says how far a backfill is, when it may end, and how sure that is.

The share is one of time: from the account's first ticket to now by the API's clock. All that is foretold comes from the
pages that this process has committed: what is left is taken to be as dense in tickets, and to go as fast, as the latest
stretch of history of the same length. Twice and half that stretch come to something else; as much as they differ, all may
change once more, and that is the range. It is wider the less was walked in comparison with what is left: nobody knows how
dense a history is that was not read yet.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from producer.model import Checkpoint, Page

Sure = Literal["too early to say", "unsure", "fair", "good"]

ENOUGH_PAGES, ENOUGH_SECONDS = 16, 20.0
"""What must have been walked before anything is foretold."""

_FOUNDED = 1_190_000_000
"""Unix seconds, September 2007: Zendesk's first tickets. Who starts before that means "from the first one"."""

_DRIFT = 1.5
"""What is left may be 2.5 times as dense as what was walked, or as sparse, when no more was walked than is left; the more
was walked, the less is allowed for."""

_FAIR, _GOOD = 3.0, 1.5
"""How often the upper end of a range holds the lower one, at most."""

_NARROW = 1 / 8
"""Of what was walked: the least that is looked back at, twice over. A night is not taken for the future."""

_MARKS = 256


class _Mark(NamedTuple):
    """A page of this process: when it was committed, the position behind it, and the tickets walked so far."""

    moment: float
    position: int
    tickets: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """How far a backfill is. What is None cannot be said.

    `share` (0..1) is of the account's time. `eta` and `eta_range` are seconds until caught up, with the tickets that come
    meanwhile; an upper end of None: perhaps never at this speed.
    """

    share: float | None
    sure: Sure = "too early to say"
    tickets_left: int | None = None
    tickets_per_minute: float | None = None
    eta: float | None = None
    eta_range: tuple[float, float | None] | None = None

    def fields(self) -> dict[str, Any]:
        """As JSON values, rounded."""
        return {
            "share": None if self.share is None else round(self.share, 4),
            "tickets_left": self.tickets_left,
            "tickets_per_minute": _whole(self.tickets_per_minute),
            "eta_seconds": _whole(self.eta),
            "eta_range": None if self.eta_range is None else [_whole(end) for end in self.eta_range],
            "sure": self.sure,
            "assumes": "tickets as dense, and read as fast, as so far",
        }


class Progress:
    """Follows the pages of a process; costs two additions for each, and the same memory after any number."""

    def __init__(self) -> None:
        self._start: int | None = None
        self._first: int | None = None
        self._position: int | None = None
        self._end()

    def resume(self, checkpoint: Checkpoint) -> None:
        """A session goes on from here. Pages that somebody else has walked, or a person has skipped, are none of ours."""
        if checkpoint.start != self._start:
            self._start = checkpoint.start
            self._first = checkpoint.start if checkpoint.start >= _FOUNDED else None
        if checkpoint.first is not None:
            self._first = checkpoint.first
        if checkpoint.end_time != self._position:
            self._position = checkpoint.end_time
            self._end()

    def walk(self, moment: float, page: Page) -> None:
        """A page was committed at this moment (seconds of a clock that never goes back)."""
        if page.versions and self._position == self._start:
            self._first = page.versions[0].stamp
        self._position = page.position.end_time
        if page.caught_up:
            self._end()
        elif not self._marks:  # the first page took the start-up, too, and a leap to the first ticket: it is the zero
            self._last = _Mark(moment, self._position, 0)
            self._marks.append(self._last)
        else:
            self._last = _Mark(moment, self._position, self._last.tickets + len(page.versions))
            self._pages += 1
            if self._pages % self._stride == 0:
                self._marks.append(self._last)
            if len(self._marks) > _MARKS:
                del self._marks[1::2]
                self._stride *= 2

    def rest(self) -> None:
        """The API has no more to give; what comes next is a poll, or another backfill."""
        self._end()

    def estimate(self, moment: float, clock: float) -> Estimate | None:
        """How far the backfill is at this moment, `clock` (Unix seconds) by the API; None when there is no backfill."""
        if not self._marks:
            return None
        begun, last = self._marks[0], self._last
        left = max(0.0, clock - last.position)
        share = self._share(left)
        elapsed, walked = last.moment - begun.moment, last.position - begun.position
        if self._pages < ENOUGH_PAGES or elapsed < ENOUGH_SECONDS or not walked:
            return Estimate(share)
        # A silence longer than usual (an outage) counts as slowness at once, not only when it is over.
        until = max(last.moment, moment - elapsed / self._pages)
        stretch = min(walked, max(2 * left, walked * _NARROW))
        marks = [self._mark_before(last.position - stretch * part) for part in (1, 1 / 2, 1 / 4)]
        seconds = [max(until - mark.moment, 1e-3) for mark in marks]
        speeds = [(last.position - mark.position) / time for mark, time in zip(marks, seconds, strict=True)]
        may_change = max(speeds) / min(speeds) * (1 + _DRIFT * min(1.0, left / walked))
        eta, tickets = _until_met(left, speeds[1]), last.tickets - marks[1].tickets
        soon, late = _until_met(left, max(speeds) * may_change), _until_met(left, min(speeds) / may_change)
        return Estimate(
            share,
            _sure(eta, soon, late),
            tickets_left=round(left * tickets / (last.position - marks[1].position)),
            tickets_per_minute=60 * tickets / seconds[1],
            eta=eta,
            eta_range=None if soon is None else (soon, late),
        )

    def _share(self, left: float) -> float | None:
        if self._first is None or self._position is None:
            return None
        done = max(0, self._position - self._first)
        return done / (done + left) if left else 1.0

    def _mark_before(self, position: float) -> _Mark:
        """The last mark at or before a position that was walked."""
        return self._marks[max(0, bisect_right(self._marks, position, key=lambda mark: mark.position) - 1)]

    def _end(self) -> None:
        self._marks: list[_Mark] = []
        self._last = _Mark(0, 0, 0)
        self._pages = 0
        self._stride = 1


def _until_met(left: float, speed: float) -> float | None:
    """Seconds until `left` seconds of history are walked at `speed` seconds a second, while every second adds one."""
    return left / (speed - 1) if speed > 1 else None


def _sure(eta: float | None, soon: float | None, late: float | None) -> Sure:
    if eta is None or soon is None or late is None or late > _FAIR * soon:
        return "unsure"
    return "good" if late <= _GOOD * soon else "fair"


def _whole(number: float | None) -> int | None:
    return None if number is None else round(number)
