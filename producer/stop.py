""" "Please stop": a flag, a sleep that it cuts short, and the signal handlers that raise it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from producer.errors import Stopping

T = TypeVar("T")


class Stop:
    """A flag that is raised once and never lowered. Belongs to one event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Ask everyone who looks to come to an end."""
        self._event.set()

    def is_set(self) -> bool:
        """Whether someone asked."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Wait until someone asks."""
        await self._event.wait()

    async def sleep(self, seconds: float) -> None:
        """Sleep that long, or less when asked to stop meanwhile. Never raises: look at `is_set` afterwards."""
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._event.wait()
            except TimeoutError:
                pass

    async def sleep_or_raise(self, seconds: float) -> None:
        """As `sleep`, for code that has nothing left to do when asked to stop.

        Raises:
            Stopping: asked to stop, before or during the sleep.
        """
        await self.sleep(seconds)
        if self.is_set():
            raise Stopping("asked to stop")

    async def cut_short(self, work: Coroutine[Any, Any, T]) -> T:
        """Do work that can be abandoned at any moment.

        Raises:
            Stopping: asked to stop; the work was cancelled.
        """
        doing = asyncio.ensure_future(work)
        asked = asyncio.ensure_future(self._event.wait())
        try:
            await asyncio.wait((doing, asked), return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                raise Stopping("asked to stop")
            return doing.result()
        finally:
            for task in (doing, asked):
                task.cancel()
            await asyncio.gather(doing, asked, return_exceptions=True)


@contextmanager
def on_signals(stop: Stop) -> Iterator[None]:
    """While inside, the first SIGTERM or SIGINT raises `stop`; a second one ends the process at once.

    The second exits with 128 + the signal's number, as a shell would report it, and runs no clean-up: whoever sends it
    has waited long enough, and an open transaction is aborted by the broker or by the next instance.
    """
    loop = asyncio.get_running_loop()

    def handle(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, handle, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
