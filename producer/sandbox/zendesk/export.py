"""The time-based export: which tickets a request gets, and the page that carries them."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import orjson

from producer.sandbox.zendesk.account import Account

MAX_PER_PAGE: Final = 1_000
SAMPLE_SIZE: Final = 50


@dataclass(frozen=True, slots=True)
class Rules:
    """How the export treats time; the defaults are today's.

    `excluded_seconds`: changes younger than this are not shown. `too_recent_seconds`: a `start_time` not older than this
    is refused (60 today, 2 in 2023, 300 before 2018), in one of the three forms on record. `stuck`: a second that fills
    the page does not extend it, so that asking on from that second never gets past it: what several connectors report.
    """

    excluded_seconds: float = 60
    too_recent_seconds: float = 60
    too_recent_answer: Literal["400 json", "422 json", "422 text"] = "400 json"
    stuck: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of the export: the tickets' exact bytes and the envelope around them."""

    tickets: list[bytes]
    end_time: int | None
    end_of_stream: bool
    next_page: str | None

    def to_bytes(self) -> bytes:
        """Compact JSON with the keys in the order of the recordings."""
        envelope = {
            "count": len(self.tickets),
            "end_of_stream": self.end_of_stream,
            "next_page": self.next_page,
            "end_time": self.end_time,
        }
        return b'{"tickets":[' + b",".join(self.tickets) + b"]," + orjson.dumps(envelope)[1:]


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
        next_page: Callable[[int], str],
        *,
        exclude_deleted: bool = False,
    ) -> Page:
        """The page that begins at `start_time`; `next_page` makes the next request's URL from its `start_time`."""
        rows, more = self._rows(start_time, per_page, now, exclude_deleted)
        if not rows:
            return Page([], None, True, None)
        stamp = self._account.stamp
        end_of_stream = not more
        if not more:
            end_time = stamp(rows[-1])
        elif stamp(rows[0]) != stamp(rows[per_page - 1]):
            rows = rows[:per_page]
            end_time = stamp(rows[-1])
        elif self._rules.stuck:
            rows = rows[:per_page]
            end_time = stamp(rows[0])
        else:
            end_time = stamp(rows[0]) + 1
            rows = [row for row in rows if stamp(row) < end_time]
        return Page([self._account.body(row) for row in rows], end_time, end_of_stream, next_page(end_time))

    def sample(self, start_time: int, now: float, next_page: Callable[[int], str]) -> Page:
        """At most 50 tickets, for a look at the format: never extended."""
        rows, more = self._rows(start_time, SAMPLE_SIZE, now, exclude_deleted=False)
        if not rows:
            return Page([], None, True, None)
        end_time = self._account.stamp(rows[:SAMPLE_SIZE][-1])
        tickets = [self._account.body(row) for row in rows[:SAMPLE_SIZE]]
        return Page(tickets, end_time, not more, next_page(end_time))

    def _rows(self, start_time: int, per_page: int, now: float, exclude_deleted: bool) -> tuple[list[int], bool]:
        """Whole seconds of versions, ties shuffled, until they are more than a page; and whether they are."""
        rows: list[int] = []
        for _, versions in self._account.seconds(start_time, now - self._rules.excluded_seconds, now):
            if exclude_deleted:
                versions = [version for version in versions if self._account.status(version) != "deleted"]
            self._ties.shuffle(versions)
            rows += versions
            if len(rows) > per_page:
                return rows, True
        return rows, False
