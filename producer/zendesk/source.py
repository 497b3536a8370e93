"""The account's export as the service meets it: what lives as long as the process, and a walk for each Kafka session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from producer.events import Noticed, Observer
from producer.settings import Settings
from producer.stop import Stop
from producer.zendesk.asker import Asker
from producer.zendesk.auth import API_TOKENS_END
from producer.zendesk.budget import Budget
from producer.zendesk.client import Client, open_client
from producer.zendesk.cursor_export import CursorExport
from producer.zendesk.doubts import Doubts, Notices, hosts_of
from producer.zendesk.late_rows import LateRows
from producer.zendesk.page_size import PageSize
from producer.zendesk.time_export import TimeExport
from producer.zendesk.walk import Walk


@dataclass(frozen=True, slots=True)
class Source:
    """Connections, request budget, page sizes and doubts of one account. Use `open_source`."""

    client: Client
    budget: Budget
    always: Mapping[str, str]
    doubts: Doubts
    time_size: PageSize
    cursor_size: PageSize
    by_cursor: bool
    window: float
    stop: Stop
    tell: Observer

    @asynccontextmanager
    async def export(self, guard: Callable[[], Awaitable[None]]) -> AsyncIterator[Walk]:
        """A walk for one Kafka session; what it fetched ahead does not outlive it.

        `guard` is awaited before every request and may raise.
        """
        asker = Asker(self.client, self.budget, self.always, guard, self.stop, self.tell)
        late_rows = LateRows(self.window)
        walk = Walk(
            TimeExport(asker, self.time_size, self.doubts, late_rows),
            CursorExport(asker, self.cursor_size, self.doubts, late_rows, stay=self.by_cursor),
            late_rows,
            self.doubts.notice,
            self.tell,
        )
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
                f"Zendesk's API tokens stop working on {API_TOKENS_END}: sign in with an OAuth access token instead "
                "(zendesk.access_token)",
            )
        )
    budget = Budget(requests_per_minute or zendesk.requests_per_minute, stop, tell, zendesk.left_to_others)
    async with open_client(settings, tell, budget) as client:
        yield Source(
            client,
            budget,
            {"exclude_deleted": "true"} if zendesk.exclude_deleted else {},
            Doubts(hosts_of(zendesk), Notices(tell)),
            PageSize(zendesk.page_size),
            PageSize(zendesk.page_size),
            zendesk.export == "cursor",
            zendesk.late_row_window,
            stop,
            tell,
        )
