"""What the pages of all exports share: the rows' exact bytes, what is loaded beside them, an envelope around them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

MAX_PER_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(ABC):
    """One answer of an export: `rows` in the array `name`, `beside` them further arrays by their names.

    `since` is the second that it was asked from, by `start_time` or by a cursor.
    """

    name: str
    rows: list[bytes]
    end_of_stream: bool
    since: int
    beside: Mapping[str, list[bytes]] = field(default_factory=dict)

    @abstractmethod
    def envelope(self) -> dict[str, Any]:
        """Everything beside the records, with the keys in the order of the recordings."""

    def to_bytes(self, **lies: Any) -> bytes:
        """Compact JSON, the records first; `lies` stand in the place of the envelope's values."""
        arrays = b"".join(
            b'"%b":[%b],' % (name.encode(), b",".join(records))
            for name, records in ((self.name, self.rows), *self.beside.items())
        )
        return b"{" + arrays + orjson.dumps(self.envelope() | lies)[1:]
