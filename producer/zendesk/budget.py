"""When the account may be asked: requests evenly spaced where they are sent, and held back when the API says so."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping
from typing import Literal

from producer.events import Noticed, Observer, Waiting
from producer.stop import Stop
from producer.streams import TICKETS
from producer.zendesk.answers import retry_after
from producer.zendesk.turns import Turns

MINUTE = 60.0
"""Seconds of the API's windows."""

MARGIN = 1.01
"""Times the even spacing, so that N + 1 requests span 60.6 s: some may be 0.6 s longer on their way than others."""

HEAD_START = 0.25
"""Seconds before a request may be sent at which its preparation begins: a look at Kafka, a connection made anew."""

USUAL = 10
"""Export requests per minute that an account without the High Volume add-on is allowed."""

MOST = 600
"""Requests per minute: of a limit above this, which is a mistake of whoever told it, no more is believed."""

_EXPORTS = ("zendesk-ratelimit-incremental-exports", "zendesk-rate-limit-incremental-exports")
_ACCOUNT = ("ratelimit", "rate-limit", "x-rate-limit")


class Budget:
    """Spaces the requests to one account's exports: `per_minute` of them, or "auto" what the API says it allows, less the
    share `left_to_others`.

    Never are two sent closer to each other than a minute's even part and one per cent, so that no minute, wherever it
    begins, has more of them than asked for (of a fraction: than the next whole number). Nothing is made up for after a slow
    page: a process killed while it did would leave its successor a minute that is spent already. A new process waits as
    long before its first request as between any two, which carries the same over a restart, and over a crash loop (design,
    D8); and `later` by that part of it, so that accounts which begin together ask one after the other, and their pages are not
    all in memory at once.

    `turn` before a request is prepared, which the account's streams take in turns; the client calls `sending` and `hear`.
    """

    def __init__(
        self,
        per_minute: float | Literal["auto"],
        stop: Stop,
        tell: Observer,
        left_to_others: float = 0.0,
        *,
        later: float = 0.0,
    ) -> None:
        self._left_to_others = left_to_others if per_minute == "auto" else None
        self.per_minute = USUAL * (1 - left_to_others) if per_minute == "auto" else per_minute
        self._stop = stop
        self._tell = tell
        self._turn = -math.inf  # the last one taken
        self._sent = _now() + later * self._interval
        self._held = -math.inf  # until then
        self._window = -1, -1  # `remaining` and `resets` of the last answer
        self._alone = True
        self._turns = Turns(first=TICKETS.name)
        self._door = asyncio.Lock()  # two streams that wait for the same moment would go through it together

    async def turn(self, stream: str = TICKETS.name, tell: Observer | None = None) -> None:
        """Wait until the stream may prepare a request; `tell` hears of it instead of the account's own observer.

        Turns are spaced as requests are, for those that come to nothing.

        Raises:
            Stopping: asked to stop meanwhile.
        """
        tell = tell or self._tell
        async with self._turns.take(stream, lambda wait: tell(Waiting("another stream's turn", wait))):
            head_start = min(HEAD_START, self._interval / 10)
            while (wait := max(self._turn + self._interval, self._next - head_start) - _now()) > 0:
                tell(Waiting("budget", wait))
                await self._stop.sleep_or_raise(wait)
            self._turn = _now()

    async def sending(self) -> None:
        """Wait out what is left until the request may be sent, and count it as sent.

        Raises:
            Stopping: asked to stop meanwhile.
        """
        async with self._door:
            while (wait := self._next - _now()) > 0:
                await self._stop.sleep_or_raise(wait)
            self._sent = _now()

    def hear(self, headers: Mapping[str, str]) -> None:
        """Obey what any answer tells: `Retry-After`, and that nothing is left of the export's limit or of the account's.

        With "auto" the export's limit sets the pace, and what is left to others counts as nothing left.
        """
        self._hold(retry_after(headers) or 0.0)
        for name in _EXPORTS:
            if name in headers:
                self._hear_exports(headers[name])
        for name in _ACCOUNT:
            if (remaining := headers.get(f"{name}-remaining")) is not None:
                if remaining == "0":
                    self._wait_for_reset(_number(headers.get(f"{name}-reset", "")))
                break

    @property
    def _interval(self) -> float:
        return MINUTE / self.per_minute * MARGIN

    @property
    def _next(self) -> float:
        return max(self._sent + self._interval, self._held)

    def _hear_exports(self, value: str) -> None:
        told = limit_of(value)
        total, remaining, resets = told.get("total"), told.get("remaining"), told.get("resets")
        reserved = 0.0
        if self._left_to_others is not None and total is not None:
            self._follow(total, self._left_to_others)
            reserved = total * self._left_to_others
        if remaining is None:
            return
        alone = self._all_ours(total, remaining, resets)
        if remaining <= reserved and not alone:
            self._wait_for_reset(resets)

    def _follow(self, total: int, left_to_others: float) -> None:
        per_minute = min(max(total, 1), MOST) * (1 - left_to_others)
        if per_minute != self.per_minute:
            self.per_minute = per_minute
            self._tell(
                Noticed(
                    "budget",
                    f"{per_minute:g} requests per minute from now on: the API allows {total}, of which "
                    f"{left_to_others:.0%} are left to others",
                )
            )

    def _all_ours(self, total: int | None, remaining: int, resets: int | None) -> bool:
        """Whether what is gone of this window's limit went to our own requests: then the spacing alone keeps within it.

        To wait for the reset all the same would cost seconds of each minute, since it is told in whole ones and may have
        been counted before the page was built.
        """
        if total is None or resets is None or self.per_minute > total:
            return False
        before, self._window = self._window, (remaining, resets)
        if remaining > before[0] or resets > before[1]:  # a new window
            self._alone = remaining == total - 1
        else:
            self._alone = self._alone and remaining == before[0] - 1
        return self._alone

    def _wait_for_reset(self, seconds: int | None) -> None:
        """Whole seconds may have been rounded down. Where the end is not told, or not believable, it is a window away."""
        self._hold(min(MINUTE if seconds is None else seconds, MINUTE) + 1)

    def _hold(self, seconds: float) -> None:
        self._held = max(self._held, _now() + seconds)


def limit_of(value: str) -> dict[str, int]:
    """The numbers of a header of the form `total=10; remaining=0; resets=2`, as far as they are told."""
    return {name: int(number) for name, number in re.findall(r"(\w+)=(\d{1,9})\b", value)}


def _now() -> float:
    return asyncio.get_running_loop().time()


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d{1,9}", text) else None
