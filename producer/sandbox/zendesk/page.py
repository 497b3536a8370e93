"""What the pages of both exports have in common: the tickets' exact bytes and an envelope around them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Final

import orjson

MAX_PER_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Page(ABC):
    """One answer of an export. `since` is the second that it was asked from, by `start_time` or by a cursor."""

    tickets: list[bytes]
    end_of_stream: bool
    since: int

    @abstractmethod
    def envelope(self) -> dict[str, Any]:
        """Everything beside the tickets, with the keys in the order of the recordings."""

    def to_bytes(self, **lies: Any) -> bytes:
        """Compact JSON, the tickets first; `lies` stand in the place of the envelope's values."""
        return b'{"tickets":[' + b",".join(self.tickets) + b"]," + orjson.dumps(self.envelope() | lies)[1:]
