"""Tells system updates: versions that Zendesk itself made, of which only `generated_timestamp` moved. Pure.

A row alone is enough to know one: an edit stamps both within seconds of each other (at most 5 in 1,000 recorded tickets),
so where `generated_timestamp` is more than a minute behind `updated_at`, the last edit is another version. Whether that
one was ever published is a second question, and only the answer "certainly" lets a system update be left out.
"""

from __future__ import annotations

import re
from functools import lru_cache

from producer.dates import seconds, utc
from producer.model import Checkpoint, Page, Version

APART = 60
"""Seconds by which the two stamps may differ in an edit. As long, the API hides every row."""

STEADY = 600.0
"""Seconds of being caught up that count as certainty: see `is_published`."""

BREAK = 120.0
"""Seconds between two polls that end such a time."""

_ZENDESK_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

_BEFORE_ZENDESK = "2007"
"""Some tickets say 1970 for all their dates, whoever changes them: such a date tells nothing."""


def zendesk_time(text: str | None) -> str | None:
    """`updated_at` where it looks as Zendesk writes it, and not like foreign text."""
    return text if text is not None and _ZENDESK_TIME.fullmatch(text) else None


def is_system_update(version: Version) -> bool:
    """Whether only `generated_timestamp` moved. Not so where a ticket is deleted: its scrubbing looks the same and is news."""
    updated_at = version.updated_at
    # This is asked of every ticket: texts of one form are compared, which costs a third of taking them for dates.
    day, second = divmod(version.stamp - APART, 86_400)
    minute, second = divmod(second, 60)
    if updated_at is None or updated_at >= f"{_date(day)}T{minute // 60:02}:{minute % 60:02}:{second:02}Z":
        return False
    return version.stamped and not version.deleted and updated_at > _BEFORE_ZENDESK and _moment(updated_at) is not None


def is_published(version: Version, checkpoint: Checkpoint) -> bool:
    """Whether the edit behind a system update was certainly published, by what the checkpoint before its page knows.

    It was, if the account had been caught up for STEADY seconds at the API's time t and the position p (`steady`), the edit
    lies STEADY seconds before p, and this version was made after t: then polls every few seconds have looked for the edit.
    They cannot have seen it only if the ticket was hidden in each of them, which takes a system update in every single
    minute of that time. One look is not enough: the row of an old edit is hidden for a minute by any system update, and a
    second one after t would be taken for the first.

    Edits from before the history began, or from what a `checkpoint set` skipped, were never shown.
    """
    edited = _moment(version.updated_at)
    if checkpoint.steady is None or edited is None:
        return False
    server_time, position = checkpoint.steady
    return (
        checkpoint.start <= edited
        and edited + STEADY < position
        and version.stamp > server_time
        and not any(low - APART <= edited < high for low, high in checkpoint.skipped)
    )


class Steadiness:
    """How long one account has been caught up without a break, by the API's clock."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._last = 0.0

    def after(self, page: Page, checkpoint: Checkpoint) -> tuple[float, int] | None:
        """The checkpoint's `steady` once the page is safe: (server time, position) where it has lasted STEADY seconds."""
        now = page.server_time
        if not page.caught_up or now is None:
            return checkpoint.steady
        if self._since is None or not 0 <= now - self._last <= BREAK:
            self._since = now
        self._last = now
        return (now, page.position.end_time) if now - self._since >= STEADY else checkpoint.steady


def _moment(updated_at: str | None) -> int | None:
    return seconds(zendesk_time(updated_at))


@lru_cache
def _date(day: int) -> str:
    return utc(day * 86_400)[:10]
