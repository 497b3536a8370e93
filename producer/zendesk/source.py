"""An account's exports as the services meet them: what lives as long as the process, and a walk for each Kafka session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from producer.events import Noticed, Observer
from producer.settings import Settings, ZendeskSettings
from producer.stop import Stop
from producer.streams import BESIDE, TICKETS, Stream
from producer.zendesk.asker import Asker
from producer.zendesk.auth import API_TOKENS_END
from producer.zendesk.budget import Budget
from producer.zendesk.client import Client, Pool, open_client
from producer.zendesk.cursor_export import CursorExport
from producer.zendesk.doubts import Doubts, Notices, hosts_of
from producer.zendesk.late_rows import LateRows
from producer.zendesk.page import Format
from producer.zendesk.page_size import PageSize
from producer.zendesk.time_export import TimeExport
from producer.zendesk.walk import Walk


@dataclass(frozen=True, slots=True)
class Source:
    """Page sizes and doubts of one stream of an account, beside what the account's streams share. Use `open_source`."""

    stream: Stream
    account: Account
    doubts: Doubts
    time_size: PageSize
    cursor_size: PageSize
    tell: Observer
    give_up_after: float | None

    @asynccontextmanager
    async def export(self, guard: Callable[[], Awaitable[None]]) -> AsyncIterator[Walk]:
        """A walk for one Kafka session; what it fetched ahead does not outlive it.

        `guard` is awaited before every request and may raise.
        """
        account, zendesk, stream = self.account, self.account.settings.zendesk, self.stream
        always, format = parameters(zendesk, stream), _format(account.settings, stream)
        client, budget = account.client.telling(self.tell), account.budget
        asker = Asker(client, budget, stream.name, always, guard, account.stop, self.tell, self.give_up_after)
        late_rows = LateRows(zendesk.late_row_window)
        by_time = TimeExport(asker, self.time_size, self.doubts, late_rows, format)
        by_cursor = None
        if stream.by_cursor:
            stay = zendesk.export == "cursor"
            by_cursor = CursorExport(asker, self.cursor_size, self.doubts, late_rows, stay, format)
        walk = Walk(by_time, by_cursor, late_rows, self.doubts.notice, self.tell)
        try:
            yield walk
        finally:
            await walk.close()


@dataclass(frozen=True, slots=True)
class Account:
    """What the streams of one account share: connections, sign-in, and the budget of requests. Use `open_account`."""

    settings: Settings
    client: Client
    budget: Budget
    stop: Stop

    def source(self, stream: Stream, tell: Observer, give_up_after: float | None = None) -> Source:
        """One of its streams. What happens on the way is told to `tell`; `give_up_after`: see `retrying`."""
        zendesk = self.settings.zendesk
        sizes = PageSize(zendesk.page_size), PageSize(zendesk.page_size)
        return Source(stream, self, Doubts(hosts_of(zendesk), Notices(tell)), *sizes, tell, give_up_after)


@asynccontextmanager
async def open_account(
    settings: Settings,
    stop: Stop,
    tell: Observer,
    *,
    requests_per_minute: float | None = None,
    pool: Pool | None = None,
    later: float = 0.0,
) -> AsyncIterator[Account]:
    """An account for the process's lifetime. `requests_per_minute` overrides the setting; the connections are those of `pool`,
    or its own; `later`: see `Budget`.

    Raises:
        Misconfigured: as from `open_client`.
    """
    zendesk = settings.zendesk
    if zendesk.api_token is not None:
        tell(
            Noticed(
                "api_token",
                f"Zendesk's API tokens stop working on {API_TOKENS_END}: sign in with an OAuth client instead "
                "(zendesk.client_id and zendesk.client_secret)",
            )
        )
    per_minute = requests_per_minute or zendesk.requests_per_minute
    budget = Budget(per_minute, stop, tell, zendesk.left_to_others, later=later)
    async with open_client(settings, tell, budget, pool) as client:
        yield Account(settings, client, budget, stop)


@asynccontextmanager
async def open_source(
    settings: Settings,
    stop: Stop,
    tell: Observer,
    *,
    stream: Stream = TICKETS,
    requests_per_minute: float | None = None,
) -> AsyncIterator[Source]:
    """One stream of an account that is opened for it alone."""
    async with open_account(settings, stop, tell, requests_per_minute=requests_per_minute) as account:
        yield account.source(stream, tell)


def parameters(zendesk: ZendeskSettings, stream: Stream) -> dict[str, str]:
    """What every request of the stream asks for."""
    always: dict[str, str] = {}
    if stream.scoped and zendesk.support_type_scope != "agent":  # what the API does by itself
        always["support_type_scope"] = zendesk.support_type_scope
    if stream.sideloads and zendesk.exclude_deleted:
        always["exclude_deleted"] = "true"
    if stream.sideloads and zendesk.include:
        always["include"] = ",".join(zendesk.include)
    return always


def _format(settings: Settings, stream: Stream) -> Format:
    """What its answers are made of."""
    beside = tuple(name for name in settings.zendesk.include if name in BESIDE) if stream.sideloads else ()
    return Format(stream, beside, settings.tickets.key)
