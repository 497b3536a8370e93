"""The time-based export: which tickets a request gets, and the page that carries them."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from producer.sandbox.zendesk.account import Account
from producer.sandbox.zendesk.page import Page
from producer.sandbox.zendesk.rules import Rules

SAMPLE_SIZE: Final = 50


@dataclass(frozen=True, slots=True)
class TimePage(Page):
    """One answer of the time-based export; `link` makes the next request's URL from its `start_time`."""

    end_time: int | None
    link: Callable[[int], str]

    def envelope(self) -> dict[str, Any]:
        """What frames the tickets."""
        return {
            "count": len(self.tickets),
            "end_of_stream": self.end_of_stream,
            "next_page": None if self.end_time is None else self.link(self.end_time),
            "end_time": self.end_time,
        }


class Export:
    """Pages of one account, by the rule that reproduces every recorded page of the real export.

    The start is inclusive; ties have no stable order; a full page ends in the middle of a second, and its `end_time` is
    that second; a second that fills a page extends it to all its tickets, and `end_time` is one second later; at the end
    of the stream `end_time` is the last ticket's stamp.
    """

    def __init__(self, account: Account, rules: Rules) -> None:
        self._account = account
        self._rules = rules
        self._ties = random.Random(f"ties {account.seed}")

    def page(
        self,
        start_time: int,
        per_page: int,
        now: float,
        link: Callable[[int], str],
        *,
        exclude_deleted: bool = False,
    ) -> TimePage:
        """The page that begins at `start_time`; `link` makes the next request's URL from its `start_time`."""
        rows, more = self._rows(start_time, per_page, now, exclude_deleted)
        if not rows:
            return TimePage([], True, start_time, None, link)
        stamp = self._account.stamp
        end_time = stamp(rows[-1])
        if more and stamp(rows[0]) == end_time and not self._rules.stuck:
            end_time += 1
        return TimePage([self._account.body(row) for row in rows], not more, start_time, end_time, link)

    def sample(self, start_time: int, now: float, link: Callable[[int], str]) -> TimePage:
        """At most 50 tickets, for a look at the format: never extended."""
        rows, more = self._rows(start_time, SAMPLE_SIZE, now, exclude_deleted=False)
        if not rows:
            return TimePage([], True, start_time, None, link)
        shown = rows[:SAMPLE_SIZE]
        end_time = self._account.stamp(shown[-1])
        return TimePage([self._account.body(row) for row in shown], not more, start_time, end_time, link)

    def _rows(self, start_time: int, per_page: int, now: float, exclude_deleted: bool) -> tuple[list[int], bool]:
        """A page's versions, ties shuffled: `per_page` at most, or one second that has more; and whether more follow."""
        rows: list[int] = []
        for _, versions in self._account.seconds(start_time, now - self._rules.excluded_seconds, now):
            if exclude_deleted:
                versions = [version for version in versions if self._account.status(version) != "deleted"]
            room = per_page - len(rows)
            if len(versions) <= room:
                self._ties.shuffle(versions)
                rows += versions
            elif rows or self._rules.stuck:
                return rows + self._ties.sample(versions, room), True
            else:
                self._ties.shuffle(versions)
                return versions, True
        return rows, False
