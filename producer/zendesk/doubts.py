"""Holds what an answer says against the rows that it shows: nothing is believed that they cannot vouch for.

What is doubted is told once per kind and counted each time (`Notices`); what would lose or repeat a ticket if it were
wrong is an error. README, "What the export does, and what we do about it", has the list.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from urllib.parse import urlsplit

from producer.errors import BadAnswer
from producer.events import Noticed, Observer
from producer.model import Version
from producer.settings import ZendeskSettings
from producer.zendesk.page import Slice

DAMAGED = 3
"""Answers in a row that count other tickets than they show, until the count is no longer believed."""


def hosts_of(zendesk: ZendeskSettings) -> frozenset[str]:
    """The hosts that the API's links may name: where we ask, and the account's own behind a `base_url`."""
    return frozenset({urlsplit(zendesk.base_url).hostname or "", f"{zendesk.subdomain}.zendesk.com"})


class Notices:
    """Oddities of one account: each is told as an event, the first of its kind in this process in words for a person."""

    def __init__(self, tell: Observer) -> None:
        self._tell = tell
        self._told: set[str] = set()

    def __call__(self, kind: str, text: str) -> None:
        """Something odd that is safe. `kind` becomes a metric's label."""
        self._tell(Noticed(kind, text, again=kind in self._told))
        self._told.add(kind)


class Doubts:
    """The examiner of one account's answers. `hosts` are those that its links may name."""

    def __init__(self, hosts: frozenset[str], notice: Notices) -> None:
        self.notice = notice
        self._hosts = hosts
        self._damaged = 0

    def damaged(self, cut: Slice) -> bool:
        """Whether the answer counts other tickets than it shows, so that it is better asked for again: some may be missing.

        After DAMAGED such answers in a row it is the count that is wrong, and what they show is all there is.
        """
        if cut.count is None or cut.count == len(cut.rows):
            self._damaged = 0
            return False
        self.notice("count", f"an answer that counts {cut.count:,} tickets shows {len(cut.rows):,}")
        self._damaged += 1
        return self._damaged < DAMAGED

    def look_at(self, cut: Slice) -> None:
        """Tell of what is odd but harms nothing, since every row is judged by itself and no link is followed."""
        if cut.next_host is not None and cut.next_host not in self._hosts:
            self.notice("next_page", f"the next page is said to be at {cut.next_host}: links are never followed")
        if len({row.id for row in cut.rows}) < len(cut.rows):
            self.notice(
                "duplicate_ids", "an answer shows a ticket more than once: each version of it is published once"
            )
        if cut.lacking:
            self.notice(
                "sideload", f"answers lack {', '.join(cut.lacking)}: is that beyond the rights of who signs in?"
            )
        if any(not row.stamped and row.poison is None for row in cut.rows):
            self.notice("unstamped", "tickets without generated_timestamp: their updated_at is taken for it")

    def ended(self, cut: Slice, asked: int) -> bool:
        """Whether the stream has ended. Where `end_of_stream` is missing, it has if there are fewer rows than asked for.

        Safe both ways where the API fills its pages: a stream that goes on is asked again after the poll interval, one that
        has ended shows nothing new.
        """
        if cut.ended is not None:
            return cut.ended
        if cut.rows:
            self.notice(
                "end_of_stream", "answers do not say end_of_stream: one with fewer tickets than asked for is the end"
            )
        return len(cut.rows) < asked

    def end_time(self, since: int, start: int, cut: Slice) -> int:
        """The position after an answer with rows that was asked for from `start` on: what the rows can vouch for of it.

        Never before `start`; never beyond the last row's second, which may be cut and is shown again by the next answer,
        or + 1 where the page was extended to the whole of one second; and never beyond a row that comes out of order,
        since others may be missing where it should have been.

        Raises:
            BadAnswer: a row stamped before `since`, which nobody can tell whether it was published.
        """
        stamps = [row.stamp for row in cut.rows if row.stamped]
        if not stamps:
            return max(start, cut.end_time or start)
        self.in_range(since, start, cut.rows)
        last = max(stamps)
        end_time = last if cut.end_time is None else cut.end_time
        if end_time < start:
            self.notice("end_time_behind", f"an end_time {end_time} before the start_time {start} is not followed")
        if end_time <= start:
            end_time = last
        extended = not cut.ended and min(stamps) == last
        if end_time > last + extended:
            self.notice("end_time_ahead", f"an end_time {end_time} after the last ticket, of {last}, is not followed")
            end_time = last
        return max(start, int(min(end_time, self.in_order(cut.rows))))

    def in_order(self, rows: Sequence[Version]) -> float:
        """The stamp up to which the rows are in the API's order, ascending: that of the earliest row behind a later one."""
        stamps = [row.stamp for row in rows if row.stamped]
        if stamps == sorted(stamps):
            return math.inf
        self.notice(
            "order", "an answer is not in the order of its stamps: the position goes no further than what is in order"
        )
        highest = itertools.accumulate(stamps, max)
        return min(stamp for stamp, before in zip(stamps, highest, strict=True) if stamp < before)

    def in_range(self, since: int, start: int, rows: Sequence[Version]) -> None:
        """See that no row is stamped before `since`; one before `start` is told.

        Raises:
            BadAnswer: there is one, and nobody can tell whether it was published.
        """
        early = [row for row in rows if row.stamp < start and row.stamped]
        for row in early:
            if row.stamp < since:
                raise BadAnswer(
                    f"ticket {row.id} is stamped {row.stamp} in an answer from {start}: whether it was published is not "
                    "known any more"
                )
        if early:
            self.notice("before_start_time", f"a ticket stamped before the second {start}: judged by itself")
