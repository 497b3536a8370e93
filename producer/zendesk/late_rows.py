"""Decides when the walk goes back to look for late rows, such as appear at a second that the position has passed, and how
long what was handled is remembered for that."""

from __future__ import annotations

import math
import time

from producer.model import Page, Position

EVERY = 60.0
"""Seconds between two looks back while caught up."""

PAGES = 3
"""Of a look back, until it takes turns with pages from the position on: with small pages it may have thousands."""

FAILURES = 3
"""Times in a row that a look back from one second may fail, until none begins before the position of then."""

PAUSE = 4.0
"""Times as long as a look back took until the next one: they use a fifth of the time, and of the budget, at most."""

HIDDEN = 60
"""Seconds that the API hides every row for; only what takes longer is late."""


class LateRows:
    """For one Kafka session. `window`: by how many seconds rows may be late; 0: never look back.

    A look back begins at the position's `since`, from which on the map knows every row that was handled, and ends where
    the position is. Mostly it is one request that stands in for a poll. Where a session begins with something remembered it
    is owed at once, in a backlog, too: a service that runs now and then looks back as well, and until somebody has looked
    nothing can be forgotten. All others come when caught up.
    """

    def __init__(self, window: float) -> None:
        self._window = window
        self._at: int | None = None
        self._goal = self._pages = self._failures = 0
        self._gave_way = False
        self._not_before = 0
        self._caught_up = False
        self._owed: bool | None = None
        self._began = self._due = time.monotonic()
        # By the API's clock: what it was last, when the running look back began, and the last one that is complete.
        self._told = math.inf
        self._looking: float | None = None
        self._looked: float | None = None

    def floor(self, position: Position, server_time: float | None) -> float:
        """The stamp before which nothing needs to be remembered behind `position`; infinite: nothing at all.

        A row is final a whole window after it should have shown. Of an answer, rows that are final now; of what is
        remembered already only those that were final when they were last looked at: after an outage nobody has yet.
        """
        # Where an answer does not tell the time, an earlier one only lets more be remembered than needed.
        self._told = self._told if server_time is None else server_time
        return self._floor(position, self._told)

    def _floor(self, position: Position, now: float) -> float:
        if self._window == 0:
            return math.inf
        if position.since < position.end_time:
            now = -math.inf if self._looked is None else min(now, self._looked)
        return max(now - HIDDEN - self._window, self._not_before)

    def next_start(self, position: Position) -> int | None:
        """The second to read from instead of the position's; None: not now."""
        if self._owed is None:
            self._owed = position.since < position.end_time
        if position.pinned or self._floor(position, math.inf) > position.end_time:
            self._at = None
            return None
        if self._at is None:
            due = time.monotonic() >= self._due and (self._caught_up or self._owed)
            start = max(position.since, self._not_before)
            if not due or start >= position.end_time:
                return None
            self._at, self._goal, self._pages = start, position.end_time, 0
            self._began, self._looking = time.monotonic(), None
        elif self._pages >= PAGES and not self._gave_way:
            self._gave_way = True
            return None
        return max(self._at, position.since)

    def looked(self, page: Page, reached: int) -> None:
        """A page from before the position came, which reached so far.

        It is to get behind the second where the position was: a page cut within that second may have left out a late row,
        which a cursor has passed.
        """
        self._looking = self._looking or page.server_time
        self._caught_up = page.caught_up
        self._at, self._pages, self._gave_way, self._failures = reached, self._pages + 1, False, 0
        if page.caught_up or reached > self._goal:
            self._looked, self._owed = self._looking, False
            self._finish()

    def failed(self, position: Position) -> None:
        """A second before `position` cannot be read by time now: it is tried again, but not for ever."""
        self._failures += 1
        if self._failures >= FAILURES:
            self._not_before, self._failures = position.end_time, 0
        self._finish()

    def passed(self, page: Page) -> None:
        """A page from the position on came."""
        self._told = self._told if page.server_time is None else page.server_time
        self._caught_up = page.caught_up

    def _finish(self) -> None:
        now = time.monotonic()
        self._at, self._due = None, now + max(EVERY, PAUSE * (now - self._began))
