"""Lets one at a time of an account's streams go for the next request: the first stream first, and none starved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

PATIENCE = 60.0
"""Seconds after which a stream that still waits says so: whoever is silent for long counts as stuck."""


class Turns:
    """A lock for a few streams. Whoever has it waits for the next request's time and lets go of it again.

    While several wait, the stream `first` gets every other turn, and the others share the rest in the order of their coming.
    """

    def __init__(self, first: str) -> None:
        self._first = first
        self._taken = False
        self._last = ""
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def take(self, stream: str, waiting: Callable[[float], None]) -> AsyncIterator[None]:
        """Wait for one's turn, and hold it while inside. `waiting` is told for how many seconds at least, again and again."""
        if self._taken:
            turn = stream, asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                while not turn[1].done():
                    waiting(PATIENCE)
                    await asyncio.wait({turn[1]}, timeout=PATIENCE)
            except asyncio.CancelledError:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                else:  # it was ours already
                    self._pass_on()
                raise
        self._taken, self._last = True, stream
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        if not self._waiting:
            self._taken = False
            return
        wanted = self._last != self._first
        following = next((turn for turn in self._waiting if (turn[0] == self._first) == wanted), self._waiting[0])
        self._waiting.remove(following)
        following[1].set_result(None)
