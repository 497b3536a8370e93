"""Walks an account's export page by page, one page ahead of who asks: by time or by cursor, and back for late rows.

The promise, which the service builds on:

- A page holds every row that the API showed from the position on and that was not handled before, in the API's order;
  `page.position` is true once they are safe. Pages come whole or not at all.
- Positions never move backwards, and never past a row that was not in the page (nor in the boundary map).
- A second is asked for only when it is `SETTLED` seconds old by the API's clock, since rows of the last minute may still
  be missing; `start_time` is always the position itself, or less to look for late rows.
- A second that the time-based export does not move past is left by the cursor export. What cannot be read or passed
  either way raises Blocked and is never skipped.
- The next page is fetched while the one in hand is published, so that publishing costs no request slot. It is used only
  for exactly the position that it was fetched for.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from producer.errors import Blocked, Pinned, TooLarge, TooSlow
from producer.events import LateRow, Observer
from producer.model import Cursor, Page, Position
from producer.zendesk.cursor_export import CursorExport
from producer.zendesk.doubts import Notices
from producer.zendesk.late_rows import LateRows
from producer.zendesk.time_export import TimeExport

LOOK_AHEAD = 16 * 1024 * 1024
"""Bytes; behind a larger page none is fetched ahead, so that two such pages are never in memory."""


class Walk:
    """For one Kafka session. Use `Source.export`, or `close` it. Some streams have no export by cursor (`by_cursor` None)."""

    def __init__(
        self, by_time: TimeExport, by_cursor: CursorExport | None, late_rows: LateRows, notice: Notices, tell: Observer
    ) -> None:
        self._by_time = by_time
        self._by_cursor = by_cursor
        self._late_rows = late_rows
        self._notice = notice
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
        start = self._late_rows.next_start(position)
        page = None if start is None else await self._look_back(position, start)
        if page is None:
            page = await self._go_on(position)
            self._late_rows.passed(page)
        if page.late:
            for version in page.versions:
                if version.stamped and version.stamp < position.end_time:
                    self._tell(LateRow(version.id, version.stamp, position.end_time, page.server_time))
        return page

    async def _look_back(self, position: Position, start: int) -> Page | None:
        """A page from before the position, of which is new what the map does not hold; None where it cannot be had."""
        try:
            page, reached = await self._by_time.page(position, start)
        except (Pinned, TooLarge, TooSlow) as error:
            self._notice("late_row_window", f"no look for late rows from {start}: {error}")
            self._by_time.size.restore()
            self._late_rows.failed(position)
            return None
        self._late_rows.looked(page, reached)
        if page.position.end_time == position.end_time:
            page = replace(page, position=replace(page.position, cursor=position.cursor))
        return page

    async def _go_on(self, position: Position) -> Page:
        """From the position on: by the export that is asked for; where that does not get past a second, by the other one."""
        by_cursor = self._by_cursor
        if by_cursor is None:
            page, _ = await self._by_time.page(position, position.end_time)
            return page
        if position.pinned:
            return await by_cursor.page(position)
        try:
            return await self._as_asked(by_cursor, position)
        except (Pinned, TooLarge, TooSlow) as error:
            try:
                return await self._otherwise(by_cursor, position, error)
            except Blocked as second:
                first = f"by {'cursor' if by_cursor.stay else 'time'}"
                raise type(second)(f"{second}; and before, {first}: {error}", hint=second.hint or error.hint) from None

    async def _as_asked(self, by_cursor: CursorExport, position: Position) -> Page:
        if by_cursor.stay:
            return await by_cursor.page(position)
        page, _ = await self._by_time.page(position, position.end_time)
        return page

    async def _otherwise(self, by_cursor: CursorExport, position: Position, error: Blocked) -> Page:
        if by_cursor.stay:
            self._notice("pinned", f"{error}; it is read by time")
            by_cursor.size.restore()
            page, _ = await self._by_time.page(position, position.end_time)
            return page
        self._notice("pinned", f"{error}; it is read by cursor")
        if position.since < position.end_time:
            self._notice("late_row_window", f"no look for late rows before {position.end_time}: it is read by cursor")
        # An extended page does not shrink with `per_page`: it was not for the number that was asked for.
        self._by_time.size.restore()
        return await by_cursor.page(replace(position, cursor=Cursor(None, position.end_time, None, pinned=True)))


async def _drop(ahead: tuple[Position, asyncio.Task[Page]] | None) -> None:
    if ahead is not None:
        ahead[1].cancel()
        await asyncio.gather(ahead[1], return_exceptions=True)
