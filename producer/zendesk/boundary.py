"""Decides what of a page is new: the export's start is inclusive, so every page repeats rows of the one before.

The rule (design, D7). A version's identity is its ticket's id, its stamp and its content. The boundary map of a position
holds every ticket handled at or after the position's `end_time`; a row that it holds already is a repeat, any other row
is new, row by row, also within a page. The next map is the old one with this page's rows laid over it, less all that is
stamped before the new `end_time`: exactly the rows that an inclusive request from there can show again.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from producer.model import Position, Seen, Version

# Integers of any size come through msgspec exactly; other numbers are kept as the text that they were.
_decoder = msgspec.json.Decoder(float_hook=lambda text: msgspec.Raw(text.encode()))
_encoder = msgspec.json.Encoder(order="sorted")


@dataclass(frozen=True, slots=True)
class Advance:
    """What a page comes to: the `fresh` versions in order, the position after them, and how many rows were not fresh."""

    fresh: tuple[Version, ...]
    position: Position
    repeated: int
    stale: int


def advance(position: Position, rows: Iterable[Version], end_time: int) -> Advance:
    """Apply the rule to the rows of a page that was asked for from `position` and ends at `end_time`.

    A row older than what was handled of its ticket is stale: publishing it would put an old version behind a new one.
    A row without a stamp of its own is compared by content alone and remembered as if stamped `end_time`, the latest
    that the API can have stamped it: remembered by its `updated_at` it would be forgotten at once, and repeated for ever.
    """
    handled: dict[int, Version] = {}
    fresh: list[Version] = []
    repeated = stale = 0
    for row in rows:
        known: Seen | Version | None = handled.get(row.id) or position.boundary.get(row.id)
        if known is not None and (known.stamp == row.stamp or not row.stamped) and _same(known, row):
            repeated += 1
        elif known is not None and known.stamp > row.stamp and row.stamped:
            stale += 1
        else:
            fresh.append(row)
            handled[row.id] = row
    boundary = {id_: seen for id_, seen in position.boundary.items() if seen.stamp >= end_time and id_ not in handled}
    for id_, row in handled.items():
        stamp = row.stamp if row.stamped else max(row.stamp, end_time)
        if stamp >= end_time:
            boundary[id_] = Seen(stamp, row.digest, content_digest(row.value))
    return Advance(tuple(fresh), Position(end_time, boundary), repeated, stale)


def content_digest(value: bytes) -> str:
    """A digest of a ticket's canonical content: keys sorted, number tokens as they were, no insignificant white space.

    The first 16 hexadecimal digits of the SHA-256, as with H. Costs about ten times as much as H itself: only the rows of
    a boundary are worth it. A ticket nested so deep that it could be cut out of its page but not taken apart here counts
    by its bytes.
    """
    with contextlib.suppress(RecursionError):
        value = _encoder.encode(_decoder.decode(value))
    return hashlib.sha256(value).hexdigest()[:16]


def _same(known: Seen | Version, version: Version) -> bool:
    """Whether two versions of one ticket with the same stamp have the same content."""
    if known.digest == version.digest:
        return True
    content = known.content if isinstance(known, Seen) else content_digest(known.value)
    return content == content_digest(version.value)
