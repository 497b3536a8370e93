"""Tells it in words: a line for people on a terminal, a JSON object per line elsewhere, and never a secret."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import orjson
import structlog
from structlog.stdlib import BoundLogger, ProcessorFormatter
from structlog.typing import EventDict, Processor, WrappedLogger

from producer import __version__
from producer.dates import utc
from producer.dead_letters import identity
from producer.errors import ProducerError
from producer.events import (
    Answered,
    CaughtUp,
    Committed,
    Event,
    Fetched,
    LateRow,
    Noticed,
    Opened,
    Retrying,
    StandingBy,
    Started,
    Stopped,
    Waiting,
)
from producer.model import Checkpoint
from producer.observers.status import Status
from producer.settings import Settings
from producer.settings.model import any_of

HEARTBEAT = 300.0
"""Seconds of quiet polls after which one of them is told at INFO."""

PROGRESS = 30.0
"""Seconds of a backfill between two lines that tell how far it is."""

_NAMED = 10
"""Dead letters of a page that are named in the log; the topic names all of them."""

_SECRET_KEY = re.compile(r"authorization|password|token|secret|api_key", re.IGNORECASE)
# C0 and C1 controls, line and paragraph separators, marks that turn the direction of text, halves of surrogate pairs.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def configure(*accounts: Settings, output: TextIO | None = None) -> None:
    """Send every log record of this process to `output` (standard output), as `log.level` and `log.format` say.

    That includes what libraries log by way of the standard library, so it is redacted and escaped, too. `accounts` are the
    settings of every account: each one's secrets are masked; they differ in nothing else that counts here.
    """
    output = output or sys.stdout
    chosen = accounts[0].log
    only = accounts[0].zendesk.subdomain if len(accounts) == 1 else None
    console = chosen.format == "console" or (chosen.format == "auto" and output.isatty())
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        ProcessorFormatter(
            processors=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                # As plain text: structlog's own renderers of exceptions show local variables, with what is in them.
                structlog.processors.format_exc_info,
                ProcessorFormatter.remove_processors_meta,
                _cleaner(_redactor(accounts)),
                *(_for_people(output) if console else _for_machines(only)),
            ]
        )
    )
    level = logging.getLevelName(chosen.level.upper())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # An outage makes aiokafka log the same error many times a second; our own retries tell the story. It is never heard
    # at DEBUG, where it logs whole requests.
    logging.getLogger("aiokafka").setLevel(logging.INFO if level == logging.DEBUG else logging.CRITICAL + 1)


def _redactor(accounts: Sequence[Settings]) -> Callable[[str], str]:
    """Replaces the secrets of all accounts by `***`, also those that they learn while running: one may begin another's."""
    known, pattern = -1, any_of(())

    def redact(text: str) -> str:
        nonlocal known, pattern
        learnings = sum(settings.learnings for settings in accounts)
        if learnings != known:
            known, pattern = learnings, any_of(secret for settings in accounts for secret in settings.secrets())
        return text if pattern is None else pattern.sub("***", text)

    return redact


def _for_people(output: TextIO) -> list[Processor]:
    def omit_our_name(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if event.get("logger") == "producer":
            del event["logger"]
        return event

    return [
        omit_our_name,
        structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
        structlog.dev.ConsoleRenderer(
            colors=output.isatty() and not os.environ.get("NO_COLOR"),
            pad_event_to=16,
            sort_keys=False,
            exception_formatter=structlog.dev.plain_traceback,
        ),
    ]


def _for_machines(only: str | None) -> list[Processor]:
    """`only`: the account that every line is about, where there is one only."""
    account = {} if only is None else {"account": only}

    def arrange(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        first = {name: event.pop(name) for name in ("timestamp", "level")}
        return {**first, "message": event.pop("event"), **account, **event}

    return [
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        arrange,
        structlog.processors.JSONRenderer(serializer=lambda event, **_: orjson.dumps(event).decode()),
    ]


def _cleaner(redact: Callable[[str], str]) -> Processor:
    """Replaces secrets and escapes control characters in all that is about to be rendered."""

    def escape(text: str) -> str:
        return _CONTROL.sub(lambda control: control[0].encode("unicode_escape").decode("ascii"), redact(text))

    def clean(value: Any) -> Any:
        match value:
            case None | bool() | int() | float():
                return value
            case dict():
                return {
                    escape(str(key)): "***" if _SECRET_KEY.search(str(key)) else clean(it) for key, it in value.items()
                }
            case list() | tuple():
                return [clean(item) for item in value]
            case _:
                return escape(str(value))

    def process(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        trace = event.pop("exception", None)
        cleaned: EventDict = clean(event)
        if trace is not None:
            # Its lines stay lines, but indented: foreign text in them cannot pass for a log line of ours.
            cleaned["exception"] = "\n".join("    " + escape(line) for line in str(trace).split("\n"))
        return cleaned

    return process


class Log:
    """An observer of one service. Reads lag and progress from its `status`, which must be told first. `monotonic` is given
    by tests."""

    def __init__(self, status: Status, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._status = status
        self._monotonic = monotonic
        self._log: BoundLogger = structlog.wrap_logger(
            logging.getLogger("producer"),
            processors=[structlog.stdlib.filter_by_level, ProcessorFormatter.wrap_for_formatter],
            wrapper_class=BoundLogger,
        )
        self._told_at = monotonic()
        self._quiet_polls = 0
        self._behind = True
        self._progress_due = self._told_at + PROGRESS
        self._standing_by_for: str | None = None

    def sign(self) -> None:
        """From now on every line says which service it is of."""
        self._log = self._log.bind(account=self._status.account, stream=self._status.stream)

    def __call__(self, event: Event) -> None:
        """Tell it."""
        match event:
            case Started():
                self._info(
                    "started", account=event.account, instance=event.instance, version=__version__, **event.summary
                )
            case Opened():
                self._standing_by_for = None
                self._info("session opened", **_place(event.checkpoint), seconds=round(event.seconds, 3))
            case Committed():
                self._committed(event)
            case CaughtUp():
                self._caught_up(event)
            case Retrying():
                # A sign-in that was refused ends the service before long, if nobody looks.
                (self._log.error if event.what == "sign-in" else self._log.warning)(
                    f"{event.what} failed, will try again",
                    **_error(event.error),
                    attempt=event.attempt,
                    wait_seconds=round(event.wait, 1),
                )
            case StandingBy():
                told = self._standing_by_for == event.holder
                self._standing_by_for = event.holder
                (self._log.debug if told else self._log.warning)(
                    "standing by: another instance holds the account",
                    holder=event.holder,
                    wait_seconds=round(event.wait, 1),
                )
            case LateRow():
                self._log.warning(
                    "late row: a ticket appeared behind the position",
                    ticket=event.id,
                    stamp=utc(event.stamp),
                    position=utc(event.end_time),
                    seconds_late=None if event.server_time is None else round(event.server_time - event.stamp - 60),
                )
            case Noticed():
                (self._log.debug if event.again else self._log.warning)(event.text, kind=event.kind)
            case Stopped():
                self._stopped(event)
            case Waiting():
                self._log.debug("waiting", reason=event.reason, wait_seconds=round(event.wait, 3))
            case Answered():
                self._log.debug(
                    "answered",
                    status=event.status,
                    seconds=round(event.seconds, 3),
                    bytes=event.size,
                    limits=dict(event.limits),
                )
            case Fetched(page):
                self._log.debug(
                    "page fetched",
                    rows=page.rows,
                    new=len(page.versions),
                    repeated=page.repeated,
                    stale=page.stale,
                    bytes=page.size,
                    caught_up=page.caught_up,
                )

    def _committed(self, event: Committed) -> None:
        if letters := event.shipment.letters:
            self._log.error(
                "tickets that cannot be published went to the dead letters",
                letters=len(letters),
                reasons=dict(Counter(letter.poison.reason for letter in letters)),
                tickets=[identity(letter.version) for letter in letters[:_NAMED]],
                detail=letters[0].poison.detail,
            )
        tell = self._info if event.records else self._log.debug
        tell(
            "page committed",
            records=event.records,
            **({"excluded": event.shipment.excluded} if event.shipment.excluded else {}),
            bytes=event.size,
            **_place(event.checkpoint),
            lag_seconds=_whole(self._status.lag()),
            seconds=round(event.seconds, 3),
        )
        self._behind = self._behind or not event.page.caught_up
        if self._monotonic() >= self._progress_due and (backfill := self._status.backfill()) is not None:
            self._info("backfilling", **_place(event.checkpoint), **backfill.fields())
            self._progress_due = self._told_at + PROGRESS

    def _caught_up(self, event: CaughtUp) -> None:
        self._quiet_polls += 1
        if self._behind:
            self._info("caught up", **_place(event.checkpoint))
        elif self._monotonic() - self._told_at >= HEARTBEAT:
            self._info("still caught up", **_place(event.checkpoint), polls=self._quiet_polls)
        else:
            self._log.debug("nothing new", **_place(event.checkpoint), wait_seconds=round(event.wait, 1))
        self._behind = False
        self._progress_due = self._monotonic() + PROGRESS  # a poll of two pages is not worth such a line

    def _stopped(self, event: Stopped) -> None:
        place = _place(event.checkpoint) if event.checkpoint else {}
        match event.error:
            case None:
                self._info("stopped", **place)
            case asyncio.CancelledError():
                self._log.warning("stopped; the page in hand was abandoned", **place)
            case ProducerError():
                self._log.error("stopped", **_error(event.error), **place)
            case error:
                self._log.error("stopped by a bug", **_error(error), **place, exc_info=error)

    def _info(self, text: str, **fields: Any) -> None:
        self._told_at = self._monotonic()
        self._quiet_polls = 0
        self._log.info(text, **fields)


def _place(checkpoint: Checkpoint) -> dict[str, Any]:
    position = None if checkpoint.end_time is None else utc(checkpoint.end_time)
    return {"seq": checkpoint.seq, "generation": checkpoint.generation, "position": position}


def _error(error: BaseException) -> dict[str, str]:
    fields = {"error": str(error), "error_type": type(error).__name__}
    if isinstance(error, ProducerError) and error.hint:
        fields["hint"] = error.hint
    return fields


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds)
