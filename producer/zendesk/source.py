"""The account's export as the service meets it: what lives as long as the process, and a walk for each Kafka session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from producer.events import Noticed, Observer
from producer.settings import Settings
from producer.stop import Stop
from producer.zendesk.budget import Budget
from producer.zendesk.client import Client, open_client
from producer.zendesk.page_size import PageSize
from producer.zendesk.time_export import TimeExport


@dataclass(frozen=True, slots=True)
class Source:
    """Connections, request budget and page size of one account. Use `open_source`."""

    client: Client
    budget: Budget
    page_size: PageSize
    stop: Stop
    tell: Observer

    @asynccontextmanager
    async def export(self, guard: Callable[[], Awaitable[None]]) -> AsyncIterator[TimeExport]:
        """A walk for one Kafka session; what it fetched ahead does not outlive it. `guard`: see `TimeExport`."""
        walk = TimeExport(self.client, self.budget, self.page_size, guard, self.stop, self.tell)
        try:
            yield walk
        finally:
            await walk.close()


@asynccontextmanager
async def open_source(
    settings: Settings, stop: Stop, tell: Observer, *, requests_per_minute: float | None = None
) -> AsyncIterator[Source]:
    """An account's source for the process's lifetime. `requests_per_minute` overrides the setting.

    Raises:
        Misconfigured: as from `open_client`.
    """
    zendesk = settings.zendesk
    if zendesk.api_token is not None:
        tell(
            Noticed(
                "api_token",
                "Zendesk's API tokens stop working on 2027-04-30: sign in with an OAuth access token instead "
                "(zendesk.access_token)",
            )
        )
    async with open_client(settings, tell) as client:
        budget = Budget(requests_per_minute or zendesk.requests_per_minute, stop, tell)
        yield Source(client, budget, PageSize(zendesk.page_size), stop, tell)
