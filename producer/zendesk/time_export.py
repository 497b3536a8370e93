"""Walks the time-based incremental export, page by page, one page ahead of who asks.

The promise, which the service builds on:

- A page holds every row that the API showed from the position on and that was not handled before, in the API's order;
  `page.position` is true once they are safe. Pages come whole or not at all.
- Positions never move backwards, and never past a row that was not in the page (nor in the boundary map).
- A position is asked for only when it is `SETTLED` seconds old by the API's clock, since rows of the last minute may still
  be missing; `start_time` is always the position itself, never less.
- What cannot be read or passed raises Blocked and is never skipped.
- The next page is fetched while the one in hand is published, so that publishing costs no request slot. It is used only
  for exactly the position that it was fetched for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from producer.errors import BadAnswer, Pinned, TooLarge, TooSlow
from producer.events import Observer, Retrying, Waiting
from producer.model import Page, Position
from producer.retry import retrying
from producer.stop import Stop
from producer.zendesk.boundary import advance
from producer.zendesk.budget import Budget
from producer.zendesk.client import Answer, Client
from producer.zendesk.page import Slice, slice_page
from producer.zendesk.page_size import PageSize

SETTLED = 61
"""Seconds: the API excludes the last minute, and refuses a `start_time` that is younger."""

EMPTY_ANSWERS = 10
"""Answers without rows, at the end of none of which the stream ended, before the account is pinned."""

LOOK_AHEAD = 16 * 1024 * 1024
"""Bytes; behind a larger page none is fetched ahead, so that two such pages are never in memory."""


class TimeExport:
    """The export of one account within one Kafka session. `guard` is awaited before every request and may raise.

    Use `Source.export`, or `close` it.
    """

    def __init__(
        self,
        client: Client,
        budget: Budget,
        page_size: PageSize,
        guard: Callable[[], Awaitable[None]],
        stop: Stop,
        tell: Observer,
    ) -> None:
        self._client = client
        self._budget = budget
        self._page_size = page_size
        self._guard = guard
        self._stop = stop
        self._tell = tell
        self._ahead: tuple[Position, asyncio.Task[Page]] | None = None

    async def fetch(self, position: Position) -> Page:
        """The page that starts at `position`.

        Raises:
            Blocked: this position cannot be passed now.
            Retriable: the API has been unavailable for longer than the retry policy waits.
            Refused, Misconfigured: a person must look.
            Stopping: asked to stop meanwhile.
        """
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == position:
            page = await ahead[1]
        else:
            await _drop(ahead)
            page = await self._fetch(position)
        if not page.caught_up and page.size <= LOOK_AHEAD:
            self._ahead = page.position, asyncio.create_task(self._fetch(page.position))
        return page

    async def close(self) -> None:
        """Abandon the page that is being fetched ahead."""
        ahead, self._ahead = self._ahead, None
        await _drop(ahead)

    async def _fetch(self, position: Position) -> Page:
        for _ in range(EMPTY_ANSWERS):
            answer = await self._ask(position.end_time)
            page = read_page(position, answer)
            if page is not None:
                if page.unstamped:
                    self._client.notice(
                        "unstamped", "tickets without generated_timestamp: their updated_at is taken for it"
                    )
                if page.stale:
                    self._client.notice(
                        "stale", "rows older than a published version of their ticket are not published"
                    )
                return page
        raise Pinned(
            f"{EMPTY_ANSWERS} answers without a ticket from start_time {position.end_time}, and the stream did not end"
        )

    async def _ask(self, start_time: int) -> Answer:
        """An answer of whatever size can be had: half as many tickets are asked for while it is too large or too slow."""
        while True:
            try:
                answer = await self._ask_for(start_time, self._page_size.now)
            except (TooLarge, TooSlow) as error:
                if not self._page_size.was_too_much():
                    raise
                fewer = f"{error}; asking for at most {self._page_size.now} tickets at once now"
                self._tell(Retrying("request", type(error)(fewer, hint=error.hint), 0.0, 1))
            else:
                self._page_size.was_good()
                return answer

    async def _ask_for(self, start_time: int, tickets: int) -> Answer:
        async for attempt in retrying(self._stop, self._tell):
            with attempt:
                await self._settle(start_time)
                await self._budget.turn()
                await self._guard()
                answer = await self._client.get("incremental/tickets", {"start_time": start_time, "per_page": tickets})
        self._budget.hear(answer.headers)
        return answer

    async def _settle(self, start_time: int) -> None:
        """Wait until `start_time` is old enough to be asked for. Before the first `Date` of the API nobody knows: ask."""
        now = self._client.clock.now()
        if now is not None and (wait := start_time + SETTLED - now) > 0:
            self._tell(Waiting("position too recent", wait))
            await self._stop.sleep_or_raise(wait)


def read_page(position: Position, answer: Answer) -> Page | None:
    """Make a page of an answer; None when it had no row and the stream has not ended, which says nothing.

    Raises:
        BadAnswer: the answer is not what the API promises.
        Pinned: rows and more to come, but an `end_time` that does not move.
    """
    if answer.body is None:  # too recent: there is nothing yet from here on
        return Page((), position, caught_up=True, server_time=answer.server_time)
    cut = slice_page(answer.body)
    if not cut.rows:
        return Page((), position, True, size=len(answer.body), server_time=answer.server_time) if cut.ended else None
    end_time = _end_time(position, cut)
    if not cut.ended and end_time <= position.end_time:
        raise Pinned(
            f"{len(cut.rows):,} tickets share the second {position.end_time} and the API does not move past it "
            f"(end_time {cut.end_time}, stream not ended)",
            hint="nothing is lost or repeated: the same request is tried again slowly; tell Zendesk's support, or lower the "
            "number of tickets changed in one second",
        )
    step = advance(position, cut.rows, end_time)
    return Page(
        step.fresh,
        step.position,
        caught_up=cut.ended,
        rows=len(cut.rows),
        size=len(answer.body),
        repeated=step.repeated,
        stale=step.stale,
        unstamped=sum(not row.stamped for row in cut.rows),
        server_time=answer.server_time,
    )


def _end_time(position: Position, cut: Slice) -> int:
    """The position after an answer with rows: the API's `end_time`, within what its rows can vouch for.

    Never before the position asked for, and never beyond the last row's second + 1 (an extended page's `end_time`): what
    lies behind that was not shown. A null `end_time` moves nothing.
    """
    stamps = [row.stamp for row in cut.rows if row.stamped]
    if stamps and min(stamps) < position.end_time:
        raise BadAnswer(f"a ticket stamped {min(stamps)} in an answer from start_time {position.end_time}")
    end_time = position.end_time if cut.end_time is None else cut.end_time
    if len(stamps) == len(cut.rows):
        end_time = min(end_time, max(stamps) + 1)
    return max(end_time, position.end_time)


async def _drop(ahead: tuple[Position, asyncio.Task[Page]] | None) -> None:
    if ahead is not None:
        ahead[1].cancel()
        await asyncio.gather(ahead[1], return_exceptions=True)
