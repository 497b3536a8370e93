"""Shows the demo: one live line and what is done on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text


@dataclass
class State:
    """How far the demo is. `tickets` counts records committed, `expected` what the account holds (updates make more)."""

    expected: int = 0
    page: int = 0
    tickets: int = 0
    position: str = "-"
    kills: int = 0
    changes: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def rate(self) -> float:
        """Tickets a second since the service was first started, kills and restarts included."""
        return self.tickets / max(time.monotonic() - self.began, 0.001)

    @property
    def eta(self) -> str:
        """Time to the end of the backfill at this rate."""
        left = self.expected - self.tickets
        if left <= 0 or not self.tickets:
            return "-"
        return f"{left / self.rate:.0f} s"


class Display(Protocol):
    """What the story tells its audience."""

    def say(self, text: str) -> None:
        """Something is done, or begins."""

    def show(self, state: State) -> None:
        """The service has moved."""

    def close(self) -> None:
        """There is nothing more to show."""


class Plain:
    """One line for each thing said, and one for every few pages."""

    def __init__(self) -> None:
        self._shown = 0.0

    def say(self, text: str) -> None:
        print(text, flush=True)

    def show(self, state: State) -> None:
        if time.monotonic() - self._shown >= 2:
            self._shown = time.monotonic()
            self.say(
                f"  page {state.page}, {state.tickets:,} of about {state.expected:,} tickets, position {state.position}, "
                f"{state.rate:,.0f} tickets/s, ETA {state.eta}, kills survived {state.kills}"
            )

    def close(self) -> None:
        pass


class Terminal:
    """What was said scrolls by; below it a bar and a line of figures stay."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f} %"),
            expand=True,
        )
        self._bar: TaskID | None = None
        self._console = console
        self._live = Live(console=console, refresh_per_second=10, transient=True)
        self._live.start()

    def say(self, text: str) -> None:
        self._console.print(Text(text))

    def show(self, state: State) -> None:
        if self._bar is None:
            self._bar = self._progress.add_task("backfill", total=max(state.expected, 1))
        self._progress.update(self._bar, completed=min(state.tickets, state.expected), total=max(state.expected, 1))
        figures = Table.grid(expand=True, padding=(0, 2))
        for _ in range(6):
            figures.add_column()
        figures.add_row(
            f"page [bold]{state.page}",
            f"tickets [bold]{state.tickets:,}",
            f"position [bold]{state.position}",
            f"[bold]{state.rate:,.0f}[/] tickets/s, ETA {state.eta}",
            f"changes meanwhile [bold]{state.changes}",
            f"kills survived [bold red]{state.kills}",
        )
        whole = Table.grid(expand=True)
        whole.add_row(self._progress)
        whole.add_row(figures)
        self._live.update(whole)

    def close(self) -> None:
        self._live.stop()


def display() -> Display:
    """A terminal gets the live one, unless NO_COLOR or CI says that nobody looks."""
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR") and not os.environ.get("CI"):
        return Terminal(Console())
    return Plain()
