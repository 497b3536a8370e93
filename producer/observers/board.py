"""All services of the process at a glance: one per stream of an account."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry

from producer import __version__
from producer.events import Event, Observer
from producer.observers import fan_out
from producer.observers.log import Log
from producer.observers.metrics import Metrics
from producer.observers.status import Status, Verdict
from producer.settings import Settings


class Board:
    """What is said of one service alone is what its own status says; of several, each reason begins with `account/stream`.

    `monotonic` and `clock` (Unix seconds) are given by tests.
    """

    def __init__(
        self, *, monotonic: Callable[[], float] = time.monotonic, clock: Callable[[], float] = time.time
    ) -> None:
        self._monotonic = monotonic
        self._clock = clock
        self._began = monotonic()
        self._metrics = Metrics()
        self._statuses: list[Status] = []
        self._logs: list[Log] = []
        self._observers: list[Observer] = []

    @property
    def registry(self) -> CollectorRegistry:
        """The metrics of all services and of the process."""
        return self._metrics.registry

    def watch(self, settings: Settings, stream: str) -> Observer:
        """Whom the service of this stream is to tell. Each service is to be watched before the first of them begins."""
        status = Status(settings, stream, monotonic=self._monotonic, clock=self._clock)
        log = Log(status, monotonic=self._monotonic)
        self._statuses.append(status)
        self._logs.append(log)
        if len(self._logs) > 1:
            for each in self._logs:
                each.sign()
        # The others read from the status, so it hears first.
        observer = fan_out(status, self._metrics.watch(status), log)
        self._observers.append(observer)
        return observer

    def tell(self, event: Event) -> None:
        """Tell what happens to every service that has not ended."""
        for status, observer in zip(self._statuses, self._observers, strict=True):
            if status.state != "stopped":
                observer(event)

    def alive(self) -> Verdict:
        """Whether no service is stuck. One that has ended, as that of a refused account, is no reason to end the others."""
        return self._judged(Status.alive)

    def ready(self) -> Verdict:
        """Whether every service is ready."""
        return self._judged(Status.ready)

    def _judged(self, judge: Callable[[Status], Verdict]) -> Verdict:
        if len(self._statuses) == 1:
            return judge(self._statuses[0])
        return Verdict(
            tuple(
                f"{each.account}/{each.stream}: {reason}" for each in self._statuses for reason in judge(each).reasons
            )
        )

    def states(self) -> dict[str, Any]:
        """In a word: the `state` of the only service, or of several how many are in each of the `states`."""
        states = [each.state for each in self._statuses]
        return {"state": states[0]} if len(states) == 1 else {"states": dict(Counter(states))}

    def snapshot(self) -> dict[str, Any]:
        """All of it, as JSON values: of the only service, or of several one by one under `services`."""
        services = [each.snapshot() for each in self._statuses]
        if len(services) == 1:
            return services[0]
        return {
            "version": __version__,
            "alive": bool(self.alive()),
            "ready": bool(self.ready()),
            "reasons": [*self.alive().reasons, *self.ready().reasons],
            "uptime_seconds": round(self._monotonic() - self._began, 1),
            "services": services,
        }
