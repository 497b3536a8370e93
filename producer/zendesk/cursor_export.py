"""Reads the cursor-based incremental export: the page behind a cursor, which passes any second however many tickets it has.

Its rows come strictly in the order of (stamp, id), and its pages are never extended. The time-based position and its map
are kept beside the cursor, so that a cursor that is refused costs nothing: the walk begins anew at the position's second.
Only in a *pinned* second, which has more tickets than a map may hold, the order stands in for the map: all that is at or
before the last row's (stamp, id) is handled.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from producer.errors import BadAnswer, BadRequest, Misconfigured, Pinned
from producer.model import Cursor, Page, Position, Version
from producer.zendesk.asker import Asker
from producer.zendesk.boundary import Advance, advance, sift
from producer.zendesk.client import Answer
from producer.zendesk.doubts import Doubts
from producer.zendesk.late_rows import LateRows
from producer.zendesk.page import PLAIN, Format, Slice, empty_page, page_of, slice_page
from producer.zendesk.page_size import PageSize
from producer.zendesk.time_export import TRIES

IN_VAIN = 3
"""Times in a row that a cursor may be refused and its second, asked for anew, show nothing new."""


@dataclass(slots=True)
class CursorExport:
    """For one Kafka session. `stay`: go on by cursor behind a pinned second, too."""

    asker: Asker
    size: PageSize
    doubts: Doubts
    late_rows: LateRows
    stay: bool
    format: Format = PLAIN
    _in_vain: int = 0

    async def page(self, position: Position) -> Page:
        """The page behind the position's cursor; where it has none, or the API refuses it, from the position's second on.

        Raises:
            Pinned: answers that lead nowhere.
            BadAnswer: the answer is not what the API promises.
            Others: as from `Asker.ask`.
        """
        cursor = position.cursor or Cursor(None, position.end_time, None)
        refused = False
        for _ in range(TRIES):
            # Only within a pinned second is the cursor's own the place to begin anew: the map is complete at the position's.
            start = cursor.second if position.pinned else position.end_time
            where: dict[str, int | str] = {"start_time": start} if cursor.value is None else {"cursor": cursor.value}
            try:
                answer, asked = await self.asker.ask(f"{self.format.stream.path}/cursor", where, self.size)
            except (BadRequest, Misconfigured) as error:
                # Which status a cursor is refused with is not on record. Were it something else, asking anew says so.
                if cursor.value is None:
                    raise
                self.doubts.notice(
                    "cursor_refused", f"the API refuses our cursor, its second is asked for anew: {error}"
                )
                cursor, refused = replace(cursor, value=None), True
                continue
            if answer.body is None:  # too recent: there is nothing yet from here on
                return empty_page(answer, position, caught_up=True)
            cut = slice_page(answer.body, self.format)
            if self.doubts.damaged(cut):
                continue
            ended = self.doubts.ended(cut, asked)
            if cut.rows:
                floor = self.late_rows.floor(position, answer.server_time)
                page = read(position, cut, ended, answer, self.doubts, floor, stay=self.stay, key=self.format.key)
                return self._worth(page, position, refused=refused)
            if ended:  # the cursor stays as it is: another one for the same place would be news to write down
                return empty_page(answer, position, caught_up=True)
            if cut.cursor not in (None, cursor.value):
                after = replace(position, cursor=replace(cursor, value=cut.cursor))
                return empty_page(answer, after, caught_up=False)
        raise Pinned(f"{TRIES} answers without a ticket by cursor, and the stream did not end")

    def _worth(self, page: Page, position: Position, *, refused: bool) -> Page:
        """See that a page leads on, or, at the end of the stream, that it leaves nothing to write down but a new cursor."""
        if page.versions or _place(page.position) != _place(position):
            self._in_vain = 0
        elif page.caught_up:
            return replace(page, position=position)
        elif refused:
            self._in_vain += 1
            if self._in_vain == IN_VAIN:
                raise Pinned(f"the API has refused {IN_VAIN} cursors in a row, and there was nothing new in between")
        return page


def read(
    position: Position,
    cut: Slice,
    ended: bool,
    answer: Answer,
    doubts: Doubts,
    floor: float,
    *,
    stay: bool,
    key: bytes | None = None,
) -> Page:
    """Make a page of an answer with rows; pure, but for what `doubts` tells. `floor`, `key`: see `advance`, else `CursorExport.page`."""
    doubts.look_at(cut)
    if cut.cursor is None:
        doubts.notice("null_cursor", "an answer with tickets has no cursor: the next one is asked for by its second")
    cursor, rows, pinned = position.cursor, cut.rows, None
    if cursor is not None and cursor.pinned:
        doubts.in_range(cursor.second, cursor.second, rows)
        _see_order(rows)
        pinned = cursor.second if cursor.last_id is not None else rows[0].stamp
        rows = [row for row in rows if (row.stamp, row.id) > cursor.passed]
    else:
        doubts.in_range(position.since, position.end_time, rows)
    step = _step(position, cut.cursor, rows, pinned, doubts, floor, stay=stay, key=key)
    if step.shortened:
        doubts.notice("late_row_window", f"too many tickets to look for late rows before {step.position.since}")
    if not ended and step.position == position:
        raise Pinned(f"{len(cut.rows):,} tickets by cursor, none of them new, and the stream did not end")
    return page_of(answer, cut, step.sifted, position, step.position, ended)


def _step(
    position: Position,
    value: str | None,
    rows: Sequence[Version],
    pinned: int | None,
    doubts: Doubts,
    floor: float,
    *,
    stay: bool,
    key: bytes | None,
) -> Advance:
    """Where `rows` lead, behind which the API's cursor is `value`; `pinned` is the second that is being read by order."""
    if not rows:  # asked anew from the pinned second's beginning, and not yet where we were
        assert position.cursor is not None
        return Advance(sift(position, ()), replace(position, cursor=replace(position.cursor, value=value)))
    # A row without a stamp of its own tells nothing of where the API is.
    last = max((row.stamp for row in rows if row.stamped), default=position.end_time)
    behind = Cursor(value, last, rows[-1].id)
    if behind.second != pinned:
        end_time = max(position.end_time, int(min(behind.second, doubts.in_order(rows))))
        try:
            # Of a pinned second nothing is remembered, so looks back begin behind it.
            step = advance(position, rows, end_time, floor if pinned is None else max(floor, pinned + 1), key)
        except Pinned as error:
            doubts.notice("pinned", f"{error}; it is read by cursor")
        else:
            # What an older answer leads to is behind the position: from there rows would come that nobody remembers.
            onward = behind if stay and value and behind.second >= end_time else None
            return replace(step, position=replace(step.position, cursor=onward))
    return _stay_pinned(position, rows, behind, key)


def _stay_pinned(position: Position, rows: Sequence[Version], behind: Cursor, key: bytes | None) -> Advance:
    """Move within a second by the order alone; of the map stays what the cursor has yet to show."""
    _see_order(rows)
    boundary = {id_: seen for id_, seen in position.boundary.items() if (seen.stamp, id_) > behind.passed}
    return Advance(sift(position, rows, key), Position(behind.second, boundary, cursor=replace(behind, pinned=True)))


def _place(position: Position) -> tuple[object, ...]:
    """Where a position is, whatever the cursor that leads on from there."""
    passed = position.cursor.passed if position.cursor is not None and position.cursor.pinned else None
    return position.end_time, position.pinned, passed


def _see_order(rows: Sequence[Version]) -> None:
    """Where the order alone tells what is handled, a row must have its place in it."""
    if any(row.id < 0 for row in rows):
        raise BadAnswer("a ticket without a usable id in a second that is read by the order of the ids")
    for one, next_ in itertools.pairwise(rows):
        if (one.stamp, one.id) >= (next_.stamp, next_.id):
            raise BadAnswer(
                f"the cursor export shows ticket {next_.id} behind {one.id} against its order in {one.stamp}"
            )
