"""The time-based export: which rows a request gets, and the page that carries them."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from producer.sandbox.zendesk.history import PLAIN, History, View
from producer.sandbox.zendesk.page import Page
from producer.sandbox.zendesk.rules import Rules

SAMPLE_SIZE: Final = 50

_KEYS: Final = ("count", "end_of_stream", "next_page", "end_time")
_KEYS_OF_USERS: Final = ("next_page", "count", "end_of_stream", "end_time")


@dataclass(frozen=True, slots=True, kw_only=True)
class TimePage(Page):
    """One answer of the time-based export; `link` makes the next request's URL from its `start_time`."""

    end_time: int | None
    link: Callable[[int], str]

    def envelope(self) -> dict[str, Any]:
        """What frames the rows. Other streams than tickets and users are not on record."""
        values = {
            "count": len(self.rows),
            "end_of_stream": self.end_of_stream,
            "next_page": None if self.end_time is None else self.link(self.end_time),
            "end_time": self.end_time,
        }
        return {key: values[key] for key in (_KEYS_OF_USERS if self.name == "users" else _KEYS)}


class Export:
    """Pages of one stream, by the rule that reproduces every recorded page of the real export.

    The start is inclusive; ties have no stable order; a full page ends in the middle of a second, and its `end_time` is
    that second; a second that fills a page extends it to all its rows, and `end_time` is one second later; at the end
    of the stream `end_time` is the last row's stamp.
    """

    def __init__(self, history: History, rules: Rules) -> None:
        self._history = history
        self._rules = rules
        self._ties = random.Random(f"ties {history.seed}")

    def page(
        self, start_time: int, per_page: int, now: float, link: Callable[[int], str], view: View = PLAIN
    ) -> TimePage:
        """The page that begins at `start_time`; `link` makes the next request's URL from its `start_time`."""
        rows, more = self._rows(start_time, per_page, now, view)
        stamp = self._history.stamp
        extended = more and stamp(rows[0]) == stamp(rows[-1]) and not self._rules.stuck
        return self._made(rows, more, start_time, link, view, beyond=1 if extended else 0)

    def sample(self, start_time: int, now: float, link: Callable[[int], str], view: View = PLAIN) -> TimePage:
        """At most 50 rows, for a look at the format: never extended."""
        rows, more = self._rows(start_time, SAMPLE_SIZE, now, view)
        return self._made(rows[:SAMPLE_SIZE], more, start_time, link, view)

    def _made(
        self, rows: Sequence[int], more: bool, start_time: int, link: Callable[[int], str], view: View, beyond: int = 0
    ) -> TimePage:
        bodies = [self._history.body(row, view) for row in rows]
        return TimePage(
            name=self._history.name,
            rows=bodies,
            end_of_stream=not more,
            since=start_time,
            beside=self._history.beside(bodies, view),
            end_time=self._history.stamp(rows[-1]) + beyond if rows else None,
            link=link,
        )

    def _rows(self, start_time: int, per_page: int, now: float, view: View) -> tuple[list[int], bool]:
        """A page's versions, ties shuffled: `per_page` at most, or one second that has more; and whether more follow."""
        rows: list[int] = []
        for _, versions in self._history.seconds(start_time, now - self._rules.excluded_seconds, now, view):
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
