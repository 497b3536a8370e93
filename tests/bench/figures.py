"""What the costs come to: a table of figures, their goals and verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isnan
from statistics import median

from tests.bench.measure import Cost
from tests.bench.pages import TICKETS


@dataclass(frozen=True, slots=True)
class Round:
    """One round: the service and the yardstick over one page and over `pages` pages."""

    pages: int
    service_start: Cost
    service: Cost
    yardstick_start: Cost
    yardstick: Cost

    @property
    def service_ticket(self) -> float:
        """Seconds of the service's CPU per ticket, net of start-up and the first page."""
        return self._net(self.service, self.service_start)

    @property
    def yardstick_ticket(self) -> float:
        """The same of the yardstick."""
        return self._net(self.yardstick, self.yardstick_start)

    def _net(self, all_pages: Cost, first_page: Cost) -> float:
        return (all_pages.cpu - first_page.cpu) / ((self.pages - 1) * TICKETS)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: values of several runs in `unit`, of which the median (or the largest) has to reach `goal`."""

    name: str
    values: Sequence[float]
    unit: str = ""
    goal: float | None = None
    largest: bool = False
    digits: int = 2

    @property
    def value(self) -> float:
        """The one that counts."""
        return max(self.values) if self.largest else median(self.values)

    @property
    def met(self) -> bool:
        """Whether the goal is reached, or there is none. A NaN reaches nothing."""
        return self.goal is None or (self.value <= self.goal and not any(map(isnan, self.values)))

    def cells(self) -> tuple[str, str, str, str]:
        """Figure, goal, measured, verdict."""
        measured = self._text(self.value)
        if len(self.values) > 1:
            measured += f" ({min(self.values):.{self.digits}f}–{max(self.values):.{self.digits}f})"
        if self.goal is None:
            return self.name, "", measured, ""
        return self.name, f"≤ {self._text(self.goal)}", measured, "met" if self.met else "MISSED"

    def _text(self, value: float) -> str:
        return f"{value:.{self.digits}f} {self.unit}".rstrip()


def figures(rounds: Sequence[Round], long: Cost, long_pages: int, help_: Sequence[Cost]) -> list[Figure]:
    """The figures of a benchmark, those with a goal first. `long` is one run of the service over `long_pages` pages."""
    pages = rounds[0].pages
    peaks = [round_.service.peak for round_ in rounds]
    return [
        Figure(
            "CPU per ticket, service / yardstick",
            [round_.service_ticket / round_.yardstick_ticket for round_ in rounds],
            goal=1.5,
        ),
        Figure("CPU from start to first page committed", [round_.service_start.cpu for round_ in rounds], "s", 0.7),
        Figure("CPU of --help", [cost.cpu for cost in help_], "s", 0.3),
        Figure(f"peak RSS, {pages} pages", peaks, "MB", 100, largest=True, digits=0),
        Figure(f"peak RSS, {long_pages} pages", [long.peak], "MB", 100, digits=0),
        Figure(f"peak RSS, {long_pages} / {pages} pages", [long.peak / median(peaks)], goal=1.1),
        Figure("CPU per ticket, service", [round_.service_ticket * 1e6 for round_ in rounds], "µs", digits=1),
        Figure("CPU per ticket, yardstick", [round_.yardstick_ticket * 1e6 for round_ in rounds], "µs", digits=1),
        Figure("CPU from start to first page, yardstick", [round_.yardstick_start.cpu for round_ in rounds], "s"),
        Figure(f"peak RSS, yardstick, {pages} pages", [round_.yardstick.peak for round_ in rounds], "MB", digits=0),
    ]


def table(lines: Iterable[Figure]) -> str:
    """As Markdown, its columns aligned."""
    rows = [("figure", "goal", "measured (range)", "verdict"), *(line.cells() for line in lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    texts = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([texts[0], rule, *texts[1:]])
