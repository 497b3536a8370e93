"""What time it is at the API: its `Date` headers, carried forward by our monotonic clock."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime


class ServerClock:
    """A lower bound of the API's clock, never ahead of it: the local wall clock plays no part."""

    def __init__(self) -> None:
        self._date: float | None = None
        self._heard = 0.0

    def hear(self, date: str | None) -> float | None:
        """Take the `Date` header of an answer that has just arrived; answers it as Unix seconds, None if unreadable."""
        try:
            told = parsedate_to_datetime(date or "").timestamp()
        except ValueError:
            return None
        self._date, self._heard = told, time.monotonic()
        return told

    def now(self) -> float | None:
        """Unix seconds at the API, at the latest; None before the first `Date`."""
        return None if self._date is None else self._date + time.monotonic() - self._heard
