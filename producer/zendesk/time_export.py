"""Reads the time-based incremental export: the page that begins at a second."""

from __future__ import annotations

from dataclasses import dataclass

from producer.errors import Pinned
from producer.model import Page, Position
from producer.zendesk.asker import Asker
from producer.zendesk.boundary import advance
from producer.zendesk.client import Answer
from producer.zendesk.doubts import Doubts
from producer.zendesk.late_rows import LateRows
from producer.zendesk.page import PLAIN, Format, Slice, empty_page, page_of, slice_page
from producer.zendesk.page_size import PageSize

TRIES = 10
"""Answers that say nothing (no rows, and the stream has not ended), before the account is pinned."""


@dataclass(frozen=True, slots=True)
class TimeExport:
    """For one Kafka session."""

    asker: Asker
    size: PageSize
    doubts: Doubts
    late_rows: LateRows
    format: Format = PLAIN

    async def page(self, position: Position, start: int) -> tuple[Page, int]:
        """The page from the second `start` on, and the second that the API's answer reached.

        `start` is the position's `end_time`, or lies between its `since` and that.

        Raises:
            Pinned: the API does not move past `start`, or there is more at one second than a checkpoint can hold.
            BadAnswer: the answer is not what the API promises.
            Others: as from `Asker.ask`.
        """
        for _ in range(TRIES):
            answer, asked = await self.asker.ask(self.format.stream.path, {"start_time": start}, self.size)
            if answer.body is None:  # too recent: there is nothing yet from here on
                return empty_page(answer, position, caught_up=True), start
            cut = slice_page(answer.body, self.format)
            if self.doubts.damaged(cut):
                continue
            ended = self.doubts.ended(cut, asked)
            if cut.rows:
                floor = self.late_rows.floor(position, answer.server_time)
                return read(position, start, cut, ended, answer, self.doubts, floor, self.format.key)
            if ended:
                return empty_page(answer, position, caught_up=True), start
        raise Pinned(f"{TRIES} answers without a ticket from start_time {start}, and the stream did not end")


def read(
    position: Position,
    start: int,
    cut: Slice,
    ended: bool,
    answer: Answer,
    doubts: Doubts,
    floor: float,
    key: bytes | None = None,
) -> tuple[Page, int]:
    """Make a page of an answer with rows; pure, but for what `doubts` tells. `floor`, `key`: see `advance`, else `TimeExport.page`."""
    doubts.look_at(cut)
    reached = doubts.end_time(position.since, start, cut)
    if not ended and reached <= start:
        raise Pinned(
            f"{len(cut.rows):,} tickets share the second {start} and the API does not move past it "
            f"(end_time {cut.end_time}, stream not ended)"
        )
    step = advance(position, cut.rows, max(reached, position.end_time), floor, key)
    if step.shortened:
        doubts.notice("late_row_window", f"too many tickets to look for late rows before {step.position.since}")
    return page_of(answer, cut, step.sifted, position, step.position, ended), reached
