"""Gives the memory of pages that are gone back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from producer.events import Committed, Event

PAGES = 10
"""After so many pages. It takes a millisecond or two, of some hundred that the pages took."""


class Memory:
    """An observer of all services together. `trim` gives back what is free.

    The C library keeps what pages have taken, and in pieces that the next ones may not fit into: of fifty accounts that
    backfilled side by side, 600 of 750 MB were free and still ours (docs/performance.md).
    """

    def __init__(self, trim: Callable[[], object]) -> None:
        self._trim = trim
        self._pages = 0

    def __call__(self, event: Event) -> None:
        """Count the pages."""
        if isinstance(event, Committed):
            self._pages += 1
            if self._pages == PAGES:
                self._pages = 0
                self._trim()


def trim() -> None:
    """Give back what is free. Only glibc is asked: others do it by themselves, or do not say how."""
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    malloc_trim(0)
