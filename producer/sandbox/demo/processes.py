"""Starts and ends the demo's processes: the pretend Zendesk, and the service whose log tells how far it is."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

_PATIENCE = 15.0


class DemoFailed(Exception):
    """A part of the demo did not do what it had to; says which, and where its log is."""


class Process:
    """A `zendesk-producer` command as a process of its own, its output in a file."""

    def __init__(
        self, name: str, arguments: Sequence[str], log: Path, settings: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        self._arguments = arguments
        self._settings = settings or {}
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self, on_line: Callable[[bytes], None] | None = None) -> None:
        """Start it; each line of its output goes to the log file and to `on_line`."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PRODUCER_")}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "producer",
            *self._arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**environment, "PRODUCER_CONFIG": os.devnull, **self._settings},
            start_new_session=True,  # Ctrl-C is for the demo, which then ends its parts in their order
            limit=1 << 20,
        )
        self._reading = asyncio.create_task(self._read(self._process, on_line))

    async def _read(self, process: asyncio.subprocess.Process, on_line: Callable[[bytes], None] | None) -> None:
        assert process.stdout is not None
        with self.log.open("ab") as log:
            async for line in process.stdout:
                log.write(line)
                log.flush()
                if on_line is not None:
                    on_line(line)
        await process.wait()

    async def kill(self) -> None:
        """SIGKILL: no warning, no clean-up."""
        await self._signal(signal.SIGKILL)

    async def stop(self) -> int | None:
        """SIGTERM, and SIGKILL to one that does not go; answers its exit code."""
        return await self._signal(signal.SIGTERM)

    async def _signal(self, number: signal.Signals) -> int | None:
        if self._process is None:
            return None
        if self._process.returncode is None:
            self._process.send_signal(number)
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        if self._reading is not None:
            await self._reading
        return self._process.returncode

    def must_run(self) -> None:
        """Raises DemoFailed with the end of its log when it has ended."""
        if not self.running:
            tail = self.log.read_text(errors="replace")[-1500:] if self.log.exists() else ""
            raise DemoFailed(f"{self.name} has ended by itself; the end of {self.log}:\n{tail}")


def told(line: bytes) -> dict[str, Any]:
    """A line of the service's JSON log; anything else counts as nothing told."""
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return event if isinstance(event, dict) else {}
