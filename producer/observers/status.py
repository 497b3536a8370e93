"""Remembers the last moments of a service, and judges from them whether it is alive and ready."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from producer import __version__
from producer.dates import utc
from producer.errors import Blocked, ProducerError, SignInRefused
from producer.events import (
    Answered,
    CaughtUp,
    Committed,
    Event,
    Fetched,
    Noticed,
    Opened,
    Retrying,
    StandingBy,
    Started,
    Stopped,
    Waiting,
)
from producer.model import Checkpoint
from producer.observers.progress import Estimate, Progress
from producer.settings import Settings

State = Literal["starting", "backfilling", "caught_up", "retrying", "blocked", "refused", "standing_by", "stopped"]
STATES: tuple[State, ...] = get_args(State)

GRACE = 240.0
"""Seconds without an event, beyond the last announced wait, until the loop counts as stuck. Longer than any deadline of
the source or the publisher (the longest is 180 s), within which a healthy loop may have nothing to tell."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """True unless there are reasons against."""

    reasons: tuple[str, ...]

    def __bool__(self) -> bool:
        return not self.reasons


class Status:
    """An observer of one service: of a stream of an account. `monotonic` and `clock` (Unix seconds) are given by tests."""

    def __init__(
        self,
        settings: Settings,
        stream: str,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.checkpoint: Checkpoint | None = None
        """The last one known to be committed."""
        self.account = settings.zendesk.subdomain
        self.stream = stream
        self._redact = settings.redact
        self._patience = max(3 * settings.zendesk.poll_interval, 60.0)
        self._monotonic = monotonic
        self._clock = clock
        self._began = self._moving_until = monotonic()
        self._moving_until += GRACE
        self._instance = ""
        self._opened = False
        self._stopped: str | None = None
        self._standing_by: StandingBy | None = None
        # Since when something fails without a commit or an empty poll since. A session that opens again proves little.
        self._failing_since: float | None = None
        self._failure: Retrying | None = None
        self._last_error: dict[str, Any] | None = None
        self._caught_up_until: float | None = None
        self._poll_due = self._began
        self._last_poll: float | None = None
        self._last_commit: float | None = None
        self._server_clock: tuple[float, float] | None = None
        self._progress = Progress()
        self._counts = dict.fromkeys(
            (
                "requests",
                "pages",
                "tickets_read",
                "tickets_repeated",
                "records_published",
                "bytes_published",
                "dead_lettered",
                "excluded",
                "failures",
            ),
            0,
        )

    def __call__(self, event: Event) -> None:
        """Remember it."""
        now = self._monotonic()
        wait = getattr(event, "wait", 0.0)
        self._moving_until = max(self._moving_until, now + wait + GRACE)
        match event:
            case Started():
                self._instance = event.instance
            case Opened():
                self._opened = True
                self._standing_by = None
                self._caught_up_until = None
                self._poll_due = now
                self.checkpoint = event.checkpoint
                self._progress.resume(event.checkpoint)
            case Waiting():
                self._poll_due = now + wait
            case Answered():
                self._counts["requests"] += 1
            case Fetched():
                self._polled(now, event.page.server_time)
                self._counts["tickets_read"] += event.page.rows
                self._counts["tickets_repeated"] += event.page.repeated
            case Committed():
                self._succeeded()
                self.checkpoint = event.checkpoint
                self._caught_up_until = now if event.page.caught_up else None
                self._progress.walk(now, event.page)
                self._last_commit = self._clock()
                self._counts["pages"] += 1
                self._counts["records_published"] += event.records
                self._counts["bytes_published"] += event.size
                self._counts["dead_lettered"] += len(event.shipment.letters)
                self._counts["excluded"] += event.shipment.excluded
            case CaughtUp():
                self._succeeded()
                self._polled(now, event.server_time)
                self.checkpoint = event.checkpoint
                self._caught_up_until = self._poll_due = now + wait
                self._progress.rest()
            case Retrying():
                self._failure = event
                self._failing_since = now if self._failing_since is None else self._failing_since
                self._counts["failures"] += 1
                self._last_error = {
                    "what": event.what,
                    **self._described(event.error),
                    "attempt": event.attempt,
                    "wait_seconds": round(wait, 1),
                    "at": utc(self._clock()),
                }
            case StandingBy():
                self._standing_by = event
            case Noticed():
                pass
            case Stopped():
                self._stopped = "the service has stopped"
                self.checkpoint = event.checkpoint or self.checkpoint
                if event.error is not None:
                    error = self._described(event.error)
                    self._stopped += f": {error['type']}: {error['text']}"
                    self._last_error = {"what": "service", **error, "at": utc(self._clock())}

    def _polled(self, now: float, server_time: float | None) -> None:
        self._poll_due = now
        self._last_poll = self._clock()
        if server_time is not None:
            self._server_clock = (server_time, now)

    def _succeeded(self) -> None:
        self._failure = self._failing_since = None

    def _described(self, error: BaseException) -> dict[str, str]:
        hint = error.hint if isinstance(error, ProducerError) else ""
        return {"type": type(error).__name__, "text": self._redact(str(error)), "hint": self._redact(hint)}

    @property
    def state(self) -> State:
        """One word for what the service is doing."""
        if self._stopped is not None:
            return "stopped"
        if self._standing_by is not None:
            return "standing_by"
        if self._failure is not None:
            match self._failure.error:
                case SignInRefused():
                    return "refused"
                case Blocked():
                    return "blocked"
                case _:
                    return "retrying"
        if not self._opened:
            return "starting"
        return "backfilling" if self._caught_up_until is None else "caught_up"

    @property
    def last_poll(self) -> float | None:
        """When the API last answered with a page or with nothing new, in Unix seconds."""
        return self._last_poll

    @property
    def last_commit(self) -> float | None:
        """When a page was last committed, in Unix seconds."""
        return self._last_commit

    def lag(self) -> float | None:
        """Seconds by which the topic is behind the API; None while no position is known.

        Caught up, it is 0 until the next poll is due and grows when that does not come; else it is the age of the
        position by the API's clock.
        """
        if self._caught_up_until is not None:
            return max(0.0, self._monotonic() - self._caught_up_until)
        if self.checkpoint is None or self.checkpoint.end_time is None:
            return None
        return max(0.0, self._server_now() - self.checkpoint.end_time)

    def backfill(self) -> Estimate | None:
        """How far the backfill is; None when there is none: before its first page, caught up, or another instance's."""
        if self.state not in ("backfilling", "retrying", "blocked", "refused"):
            return None
        return self._progress.estimate(self._monotonic(), self._server_now())

    def _server_now(self) -> float:
        """The API's clock as far as it has told, or ours, in Unix seconds."""
        if self._server_clock is None:
            return self._clock()
        told, at = self._server_clock
        return told + self._monotonic() - at

    def alive(self) -> Verdict:
        """Whether the loop moves: an event came within the last announced wait and GRACE seconds. One that has come to its
        end, as that of a refused account beside others, need not move any more."""
        late = self._monotonic() - self._moving_until if self._stopped is None else 0.0
        return Verdict((f"nothing has happened for {late + GRACE:.0f} s longer than announced",) if late > 0 else ())

    def ready(self) -> Verdict:
        """Whether the checkpoint is recovered and tickets flow, or would if there were any."""
        if self._stopped is not None:
            return Verdict((self._stopped,))
        now = self._monotonic()
        reasons = []
        if self._standing_by is not None:
            reasons.append(f"standing by: instance {self._standing_by.holder or 'unknown'} holds the account")
        if not self._opened:
            reasons.append("no Kafka session was opened yet, so the checkpoint is not recovered")
        if self.state == "refused":
            reasons.append(f"Zendesk refuses the sign-in: {self._last_error_text()}")
        elif self._failing_since is not None and (not self._opened or now - self._failing_since > self._patience):
            reasons.append(f"failing for {now - self._failing_since:.0f} s: {self._last_error_text()}")
        if self._opened and now - self._poll_due > self._patience:
            reasons.append(f"no successful poll for {now - self._poll_due:.0f} s longer than announced")
        return Verdict(tuple(reasons))

    def _last_error_text(self) -> str:
        error = self._last_error or {}
        return f"{error.get('what')}: {error.get('type')}: {error.get('text')}"

    def snapshot(self) -> dict[str, Any]:
        """All of it, as JSON values; moments as dates, the position also in Unix seconds."""
        checkpoint, lag, backfill = self.checkpoint, self.lag(), self.backfill()
        end_time = checkpoint.end_time if checkpoint else None
        return {
            "account": self.account,
            "stream": self.stream,
            "instance": self._instance,
            "version": __version__,
            "state": self.state,
            "alive": bool(self.alive()),
            "ready": bool(self.ready()),
            "reasons": [*self.alive().reasons, *self.ready().reasons],
            "uptime_seconds": round(self._monotonic() - self._began, 1),
            "position": None if end_time is None else {"unix_seconds": end_time, "date": utc(end_time)},
            "pinned": checkpoint is not None and checkpoint.pinned,
            "generation": checkpoint.generation if checkpoint else None,
            "seq": checkpoint.seq if checkpoint else None,
            "dead_letters": checkpoint.dead_lettered if checkpoint else None,
            "lag_seconds": None if lag is None else round(lag, 1),
            "backfill": None if backfill is None else backfill.fields(),
            "last_poll": None if self._last_poll is None else utc(self._last_poll),
            "last_commit": None if self._last_commit is None else utc(self._last_commit),
            "last_error": self._last_error,
            "counts": dict(self._counts),
        }
