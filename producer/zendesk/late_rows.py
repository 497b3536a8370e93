"""Decides when the walk goes back to look for late rows, such as appear at a second that the position has passed, and how
long what was handled is remembered for that."""

from __future__ import annotations

import math
import time

from producer.model import Page, Position

EVERY = 60.0
"""Seconds between two looks back while caught up."""

PAUSE = 4.0
"""Times as long as a look back took until the next one: they use a fifth of the time, and of the budget, at most."""

HIDDEN = 60
"""Seconds that the API hides every row for; only what takes longer is late."""


class LateRows:
    """For one Kafka session. `window`: by how many seconds rows may be late; 0: never look back.

    A look back begins at the position's `since`, from which on the map knows every row that was handled, and ends where
    the position is. Mostly it is one request that stands in for a poll. The first one comes with the session's first
    request, so that a service that runs now and then looks back as well; the others when caught up.
    """

    def __init__(self, window: float) -> None:
        self._window = window
        self._at: int | None = None
        self._not_before = 0
        self._caught_up = True
        self._began = self._due = time.monotonic()
        # By the API's clock: when the running look back began, and the last one that is complete.
        self._looking: float | None = None
        self._looked: float | None = None

    def floor(self, position: Position, server_time: float | None) -> float:
        """The stamp before which nothing needs to be remembered behind `position`; infinite: nothing at all.

        A row is final a whole window after it should have shown. Of an answer, rows that are final now; of what is
        remembered already only those that were final when they were last looked at: after an outage nobody has yet.
        """
        if self._window == 0 or server_time is None:
            return math.inf
        if position.since < position.end_time:
            server_time = -math.inf if self._looked is None else min(server_time, self._looked)
        return server_time - HIDDEN - self._window

    def next_start(self, position: Position) -> int | None:
        """The second to read from instead of the position's; None: not now."""
        if self._window == 0 or position.pinned or self.floor(position, math.inf) > position.end_time:
            return None
        if self._at is None:
            if not self._caught_up or time.monotonic() < self._due:
                return None
            self._began, self._looking = time.monotonic(), None
        start = max(self._at or 0, position.since, self._not_before)
        # Under way it ends behind the position's second: a page cut within it may have left out a late row, which a cursor
        # has passed.
        return start if start < position.end_time + (self._at is not None) else None

    def looked(self, position: Position, page: Page, reached: int) -> None:
        """A page from before `position` came, which reached so far."""
        self._looking = self._looking or page.server_time
        self._caught_up = page.caught_up
        self._at = reached
        if page.caught_up or reached > position.end_time:
            self._looked = self._looking
            self._finish()

    def failed(self, position: Position) -> None:
        """A second before `position` cannot be read by time any more: looks back begin behind it from now on."""
        self._not_before = position.end_time
        self._finish()

    def passed(self, page: Page) -> None:
        """A page from the position on came."""
        self._at = None
        self._caught_up = page.caught_up

    def _finish(self) -> None:
        now = time.monotonic()
        self._at, self._due = None, now + max(EVERY, PAUSE * (now - self._began))
