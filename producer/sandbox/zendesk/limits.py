"""Rate limits: the account's and the exports' buckets, refilled on every full minute of the clock."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from producer.sandbox.zendesk.clock import Clock

_SAMPLES_PER_WINDOW = 10
_SAMPLE_WINDOW = 20 * 60  # seconds


@dataclass(frozen=True, slots=True)
class Limits:
    """Requests per minute of the simulated clock (None: no limit), and how they are told.

    `era` is the year whose header names are sent: 2023, 2024 or 2026. `neighbour_per_minute` are the requests that another
    client of the same account spreads over each minute. Without `retry_after` a refusal does not say when to come back.
    The cursor export of users has a limit of its own, `user_cursors_per_minute`; all other exports share theirs.
    """

    exports_per_minute: int | None = 10
    account_per_minute: int | None = 700
    era: Literal[2023, 2024, 2026] = 2026
    neighbour_per_minute: int = 0
    retry_after: bool = True
    user_cursors_per_minute: int | None = 20

    @classmethod
    def unlimited(cls) -> "Limits":
        """No limit at all, and so no headers about it."""
        return cls(exports_per_minute=None, account_per_minute=None, user_cursors_per_minute=None)


Asked = Literal["export", "user cursor", "sample"]
"""What a request takes from, beside the account's bucket."""

Bucket = Literal["account"] | Asked


class Buckets:
    """What is left of the limits in the running window. A refused request takes nothing."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._minute = self._sample_window = -1
        self._exports = self._user_cursors = self._all = self._samples = 0

    def take(self, bucket: Asked) -> Bucket | None:
        """Count one request to an export or to its sample; names the bucket that refuses it, None when it may pass."""
        self._roll()
        if self._left(self._limits.account_per_minute, self._all) == 0:
            return "account"
        if bucket == "user cursor":
            if self._user_cursors == self._limits.user_cursors_per_minute:
                return "user cursor"
            self._user_cursors += 1
        elif bucket == "export":
            if self._left(self._limits.exports_per_minute, self._exports) == 0:
                return "export"
            self._exports += 1
        else:
            if self._limits.exports_per_minute is not None and self._samples == _SAMPLES_PER_WINDOW:
                return "sample"
            self._samples += 1
        self._all += 1
        return None

    def headers(self, bucket: Asked = "export") -> Iterator[tuple[str, str]]:
        """What every answer tells about the limits; durations are seconds as the client will wait them."""
        self._roll()
        limits, reset = self._limits, self._seconds_left(60)
        if limits.account_per_minute is not None:
            remaining = self._left(limits.account_per_minute, self._all)
            yield "X-Rate-Limit", f"{limits.account_per_minute}"
            yield "X-Rate-Limit-Remaining", f"{remaining}"
            prefix = "rate-limit" if limits.era == 2023 else "ratelimit"
            yield (f"{prefix}-limit" if limits.era != 2023 else prefix), f"{limits.account_per_minute}"
            yield f"{prefix}-remaining", f"{remaining}"
            yield f"{prefix}-reset", f"{reset}"
        if limits.era != 2026:
            return
        if bucket == "user cursor":
            name, limit = "Zendesk-RateLimit-incremental-exports-cursor", limits.user_cursors_per_minute
            left = None if limit is None else limit - self._user_cursors
        else:
            name, limit = "zendesk-ratelimit-incremental-exports", limits.exports_per_minute
            left = self._left(limit, self._exports)
        if limit is not None:
            yield name, f"total={limit}; remaining={left}; resets={reset}"

    def retry_after(self, bucket: Bucket) -> int | None:
        """Seconds, as the client will wait them, until the refusing bucket is full again; None when it is not told."""
        if not self._limits.retry_after:
            return None
        return self._seconds_left(_SAMPLE_WINDOW if bucket == "sample" else 60)

    def _roll(self) -> None:
        now = self._clock.now()
        if now // 60 != self._minute:
            self._minute = int(now // 60)
            self._exports = self._user_cursors = self._all = 0
        if now // _SAMPLE_WINDOW != self._sample_window:
            self._sample_window = int(now // _SAMPLE_WINDOW)
            self._samples = 0

    def _left(self, limit: int | None, used: int) -> int | None:
        if limit is None:
            return None
        neighbour = int(self._limits.neighbour_per_minute * (self._clock.now() % 60) / 60)
        return max(0, limit - used - neighbour)

    def _seconds_left(self, window: int) -> int:
        return max(1, math.ceil(self._clock.real_seconds(window - self._clock.now() % window)))
