"""Asks the account's exports one question at a time: when it may be asked, again while it may yet succeed, as large as can be had."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from producer.errors import TooLarge, TooSlow
from producer.events import Observer, Retrying, Waiting
from producer.retry import retrying
from producer.stop import Stop
from producer.zendesk.budget import Budget
from producer.zendesk.client import Answer, Client
from producer.zendesk.page_size import PageSize

SETTLED = 61
"""Seconds: the API excludes the last minute, and refuses a `start_time` that is younger."""


@dataclass(frozen=True, slots=True)
class Asker:
    """For one Kafka session of the stream. `guard` is awaited before every request and may raise; `always` are parameters of
    each; `give_up_after`: see `retrying`."""

    client: Client
    budget: Budget
    stream: str
    always: Mapping[str, str]
    guard: Callable[[], Awaitable[None]]
    stop: Stop
    tell: Observer
    give_up_after: float | None

    async def ask(self, path: str, where: dict[str, int | str], size: PageSize) -> tuple[Answer, int]:
        """The answer of `path` from `where` on, and how many tickets it was asked for.

        `where` is a `start_time` or a `cursor`. Half as many tickets are asked for while the answer is too large or too
        slow.

        Raises:
            TooLarge, TooSlow: even for a single ticket.
            Blocked, Retriable, Refused, Misconfigured: as from `Client.get`; Retriable once the retry policy gives up.
            Stopping: asked to stop meanwhile.
        """
        while True:
            tickets = size.now
            try:
                answer = await self._ask_for(path, where, tickets)
            except (TooLarge, TooSlow) as error:
                if not size.was_too_much():
                    raise
                fewer = f"{error}; asking for at most {size.now} tickets at once now"
                self.tell(Retrying("request", type(error)(fewer, hint=error.hint), 0.0, 1))
            else:
                size.was_good()
                return answer, tickets

    async def _ask_for(self, path: str, where: dict[str, int | str], tickets: int) -> Answer:
        start_time = where.get("start_time")
        async for attempt in retrying(self.stop, self.tell, self.give_up_after):
            with attempt:
                if isinstance(start_time, int):
                    await self._settle(start_time)
                await self.budget.turn(self.stream, self.tell)
                await self.guard()
                answer = await self.client.get(path, {**where, **self.always, "per_page": tickets})
        return answer

    async def _settle(self, start_time: int) -> None:
        """Wait until `start_time` is old enough to be asked for. Before the first `Date` of the API nobody knows: ask.

        Never longer than that age: a position comes from rows that the API has shown, so if it seems to lie in the future
        it is the `Date` that is wrong.
        """
        now = self.client.clock.now()
        if now is not None and (wait := min(start_time + SETTLED - now, SETTLED)) > 0:
            self.tell(Waiting("position too recent", wait))
            await self.stop.sleep_or_raise(wait)
