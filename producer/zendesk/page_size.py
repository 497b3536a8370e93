"""How many tickets are asked for at once: fewer when an answer is too large or takes too long, more again when all is well."""

from __future__ import annotations

_PATIENCE = 10
"""Good pages before more is tried; twice as many each time that it turned out to be too much again."""


class PageSize:
    """`now` is what to ask for: `most` at first, never below 1. Lives as long as the process: what works is remembered."""

    def __init__(self, most: int) -> None:
        self.now = most
        self._most = most
        self._good = 0
        self._before = most
        self._patience = _PATIENCE
        self._grown = False

    def was_good(self) -> None:
        """A page of this size came. After enough of them, twice as many tickets are asked for."""
        self._good += 1
        self._grown = False
        self._before = self.now
        if self._good >= self._patience and self.now < self._most:
            self.now = min(2 * self.now, self._most)
            self._good, self._grown = 0, True

    def was_too_much(self) -> bool:
        """Ask for half as many tickets; False when there is nothing to halve."""
        if self.now == 1:
            return False
        if self._grown:
            self._patience *= 2
        self.now = max(1, self.now // 2)
        self._good, self._grown = 0, False
        return True

    def restore(self) -> None:
        """Ask for as many as before the last good page: it was not for their number that it was too much."""
        self.now = self._before
        self._good, self._grown = 0, False
