"""What may be observed: the moments that the service, the source and the publisher tell of, as small values.

Whoever wants to know (logs, metrics, the status page, a progress line) is handed each event and returns at once; nobody
who tells an event knows who listens. `wait` is in seconds and always announced before the wait begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from producer.model import Checkpoint, Page
from producer.shipment import Shipment


@dataclass(frozen=True, slots=True)
class Started:
    """The service begins: once per process. `summary` holds settings worth a line, never a secret."""

    account: str
    instance: str
    summary: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Opened:
    """A Kafka session is open: older instances are fenced and the checkpoint is recovered."""

    checkpoint: Checkpoint
    seconds: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request waits for its turn: for the request budget, or until its position is old enough to be asked for."""

    reason: str
    wait: float


@dataclass(frozen=True, slots=True)
class Answered:
    """The API answered a request, whatever the status. `limits` has the rate-limit headers that it sent, by their names."""

    status: int
    seconds: float
    size: int
    limits: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A page was taken from the source."""

    page: Page


@dataclass(frozen=True, slots=True)
class Committed:
    """A page's records and its checkpoint, as it was written, are committed."""

    page: Page
    shipment: Shipment
    checkpoint: Checkpoint
    seconds: float

    @property
    def records(self) -> int:
        """How many records it had, the checkpoint's not counted."""
        return len(self.shipment)

    @property
    def size(self) -> int:
        """Bytes of the values in the tickets topic."""
        return sum(len(version.value) for version in self.shipment.published)


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """The API had no more to give; the next poll follows in `wait` seconds."""

    checkpoint: Checkpoint
    server_time: float | None
    wait: float


@dataclass(frozen=True, slots=True)
class Retrying:
    """`what` ("request", "session", "account") failed and is tried again in `wait` seconds; `attempt` counts from 1."""

    what: str
    error: BaseException
    wait: float
    attempt: int


@dataclass(frozen=True, slots=True)
class StandingBy:
    """Another instance holds the account; this one waits before it takes over."""

    holder: str
    wait: float


@dataclass(frozen=True, slots=True)
class LateRow:
    """A ticket version that appeared at the second `stamp` after the position had passed it, up to `end_time`."""

    id: int
    stamp: int
    end_time: int
    server_time: float | None


@dataclass(frozen=True, slots=True)
class Noticed:
    """Something odd that is safe. `kind` is a short name, stable like a metric's label; `again`: not the first of its kind."""

    kind: str
    text: str
    again: bool = False


@dataclass(frozen=True, slots=True)
class Stopped:
    """The service ends: orderly (`error` None) or not. `checkpoint` is the last one known to be committed."""

    checkpoint: Checkpoint | None
    error: BaseException | None


Event = (
    Started
    | Opened
    | Waiting
    | Answered
    | Fetched
    | Committed
    | CaughtUp
    | Retrying
    | StandingBy
    | LateRow
    | Noticed
    | Stopped
)
Observer = Callable[[Event], None]
