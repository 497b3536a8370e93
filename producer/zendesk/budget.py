"""When the account may be asked again: requests evenly spaced, and held back when the API says so."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

from producer.events import Observer, Waiting
from producer.stop import Stop

_EXPORTS = re.compile(r"remaining=(\d+)\b.*\bresets=(\d+)")


class Budget:
    """Spaces the requests of one account: `per_minute` of them, never two closer than that.

    A new process waits one interval before its first request, so that a crash loop does not hammer the API (design, D8).
    """

    def __init__(self, per_minute: float, stop: Stop, tell: Observer) -> None:
        self._interval = 60 / per_minute
        self._next = time.monotonic() + self._interval
        self._stop = stop
        self._tell = tell

    async def turn(self) -> None:
        """Wait for the next slot and take it.

        Raises:
            Stopping: asked to stop meanwhile.
        """
        while (wait := self._next - time.monotonic()) > 0:
            self._tell(Waiting("budget", wait))
            await self._stop.sleep_or_raise(wait)
        self._next = time.monotonic() + self._interval

    def hold(self, seconds: float) -> None:
        """Let no request start within the next `seconds`."""
        self._next = max(self._next, time.monotonic() + seconds)

    def hear(self, headers: Mapping[str, str]) -> None:
        """Obey the rate-limit headers of an answer: nothing left means nothing before the window's end.

        Both spellings that carry the time left are read: `zendesk-ratelimit-incremental-exports: total=10; remaining=0;
        resets=2` of the exports, and the account's `ratelimit-remaining` with `ratelimit-reset`.
        """
        if exports := _EXPORTS.search(headers.get("zendesk-ratelimit-incremental-exports", "")):
            remaining, resets = exports.groups()
        else:
            remaining = headers.get("ratelimit-remaining") or headers.get("rate-limit-remaining") or ""
            resets = headers.get("ratelimit-reset") or headers.get("rate-limit-reset") or ""
        if remaining == "0" and resets.isdecimal():
            self.hold(min(int(resets), 60))
