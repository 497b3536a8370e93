"""The cursor-based export: what stands behind a cursor, and the page that carries it."""

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from producer.sandbox.zendesk.history import PLAIN, History, View
from producer.sandbox.zendesk.page import Page
from producer.sandbox.zendesk.rules import Rules

_POSITION: Final = re.compile(rb"(\d{1,18})\.0\|\|(\d{1,18})\|")


@dataclass(frozen=True, slots=True, kw_only=True)
class CursorPage(Page):
    """One answer of the cursor-based export.

    `cursor` is the one that it was asked with, None for a first request; `link` makes the URL of what is behind a cursor.
    """

    cursor: str | None
    after_cursor: str | None
    link: Callable[[str], str]

    def envelope(self) -> dict[str, Any]:
        """What frames the rows. No recorded page has anything before it."""
        return {
            "after_url": None if self.after_cursor is None else self.link(self.after_cursor),
            "before_url": None,
            "after_cursor": self.after_cursor,
            "before_cursor": None,
            "end_of_stream": self.end_of_stream,
        }


class CursorExport:
    """Pages of one stream in the order of (stamp, id), each from behind the last row of another.

    A page is never extended. Where nothing follows a cursor, that cursor is handed out again; a first request that matches
    nothing gets none. Both are end of stream.
    """

    def __init__(self, history: History, rules: Rules) -> None:
        self._history = history
        self._rules = rules
        self._handed_out: dict[str, float] = {}

    def first(
        self, start_time: int, per_page: int, now: float, link: Callable[[str], str], view: View = PLAIN
    ) -> CursorPage:
        """The page that begins at `start_time`; `link` makes the URL of what is behind a cursor."""
        return self._page(None, start_time, 0, per_page, now, link, view)

    def after(
        self, cursor: str, per_page: int, now: float, link: Callable[[str], str], view: View = PLAIN
    ) -> CursorPage | None:
        """The page behind a cursor; None for a cursor that is unreadable or has expired."""
        position = _position(cursor)
        lasts = self._rules.cursors_expire_seconds
        if position is None or (lasts is not None and now - self._handed_out.get(cursor, now) > lasts):
            return None
        stamp, last_id = position
        return self._page(cursor, stamp, last_id + 1, per_page, now, link, view)

    def _page(
        self,
        cursor: str | None,
        stamp: int,
        id: int,
        per_page: int,
        now: float,
        link: Callable[[str], str],
        view: View,
    ) -> CursorPage:
        history = self._history
        following = history.rows(stamp, id, now - self._rules.excluded_seconds, now, view)
        rows = list(islice(following, per_page))
        end_of_stream = next(following, None) is None
        after_cursor = _cursor(history.stamp(rows[-1]), history.id(rows[-1])) if rows else cursor
        if after_cursor is not None:
            self._handed_out[after_cursor] = now
        bodies = [history.body(row, view) for row in rows]
        return CursorPage(
            name=history.name,
            rows=bodies,
            end_of_stream=end_of_stream,
            since=stamp,
            beside=history.beside(bodies, view),
            cursor=cursor,
            after_cursor=after_cursor,
            link=link,
        )


def _cursor(stamp: int, id: int) -> str:
    """As the recorded ones decode; documented as opaque."""
    return base64.b64encode(f"{stamp}.0||{id}|".encode()).decode()


def _position(cursor: str) -> tuple[int, int] | None:
    try:
        match = _POSITION.fullmatch(base64.b64decode(cursor, validate=True))
    except (binascii.Error, ValueError):
        return None
    return None if match is None else (int(match[1]), int(match[2]))
