"""Decides what of a page is new: the export's start is inclusive, so every page repeats rows of the one before.

The rule (design, D7). A version's identity is its ticket's id, its stamp and its content. The boundary map of a position
holds every ticket handled at or after the position's `since`; a row that it holds already is a repeat, any other row is
new, row by row, also within a page. The next map is the old one with this page's rows laid over it, less all that is
stamped before the new `since`: exactly the rows that a request from there can show again.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from producer.errors import Pinned
from producer.fields import identity
from producer.model import Position, Seen, Version

REMEMBERED = 5_000
"""Tickets in a boundary map at most: in a checkpoint they are 75 bytes each, and brokers take 1 MB by default."""

# Integers of any size come through msgspec exactly; other numbers are kept as the text that they were.
_decoder = msgspec.json.Decoder(float_hook=lambda text: msgspec.Raw(text.encode()))
_encoder = msgspec.json.Encoder(order="sorted")


@dataclass(frozen=True, slots=True)
class Sifted:
    """The `fresh` versions among a page's rows, in order; the last one `handled` by ticket; how many were not fresh."""

    fresh: tuple[Version, ...]
    handled: Mapping[int, Version]
    repeated: int
    stale: int


@dataclass(frozen=True, slots=True)
class Advance:
    """What a page comes to, and the position after it. `shortened`: the map was full, so `since` is later than asked for."""

    sifted: Sifted
    position: Position
    shortened: bool = False


def sift(position: Position, rows: Iterable[Version], key: bytes | None = None) -> Sifted:
    """Apply the rule to the rows of a page that was asked for from `position`. `key`: see `content_digest`.

    A row older than what was handled of its ticket is stale: publishing it would put an old version behind a new one.
    A row without a stamp of its own is compared by content alone.
    """
    handled: dict[int, Version] = {}
    fresh: list[Version] = []
    repeated = stale = 0
    for row in rows:
        known: Seen | Version | None = handled.get(row.id) or position.boundary.get(row.id)
        if known is not None and (known.stamp == row.stamp or not row.stamped) and _same(known, row, key):
            repeated += 1
        elif known is not None and known.stamp > row.stamp and row.stamped:
            stale += 1
        else:
            fresh.append(row)
            handled[row.id] = row
    return Sifted(tuple(fresh), handled, repeated, stale)


def advance(
    position: Position, rows: Iterable[Version], end_time: int, floor: float = math.inf, key: bytes | None = None
) -> Advance:
    """Sift the rows and move to `end_time`, remembering all that was handled at or after it, or since `floor` if earlier.

    A row without a stamp of its own is remembered as if stamped `end_time`, the latest that the API can have stamped it:
    remembered by its `updated_at` it would be forgotten at once, and repeated for ever. A page without news moves no
    position, so that nothing needs to be written.

    Raises:
        Pinned: more tickets share the second `end_time` than a map may hold.
    """
    sifted = sift(position, rows, key)
    if not sifted.fresh and end_time == position.end_time:
        return Advance(sifted, position)
    since = math.ceil(min(end_time, max(position.since, floor)))  # up: what lies before it is forgotten
    boundary = {
        id_: seen for id_, seen in position.boundary.items() if seen.stamp >= since and id_ not in sifted.handled
    }
    for id_, row in sifted.handled.items():
        stamp = row.stamp if row.stamped else max(row.stamp, end_time)
        if stamp >= since:
            boundary[id_] = Seen(stamp, row.digest, content_digest(row.value, key))
    shortened = len(boundary) > REMEMBERED
    if shortened:
        since = sorted((seen.stamp for seen in boundary.values()), reverse=True)[REMEMBERED] + 1
        if since > end_time:
            raise Pinned(
                f"{len(boundary):,} tickets at or after the second {end_time}: more than a checkpoint can hold"
            )
        boundary = {id_: seen for id_, seen in boundary.items() if seen.stamp >= since}
    return Advance(sifted, Position(end_time, boundary, since), shortened)


def content_digest(value: bytes, key: bytes | None = None) -> str:
    """A digest of a ticket's canonical content: keys sorted, number tokens as they were, no insignificant white space.

    The first 16 hexadecimal digits of the SHA-256, as with H. Costs about ten times as much as H itself: only the rows of
    a boundary are worth it. A ticket that could be cut out of its page but not taken apart here counts by its bytes.
    With a `key` it is an HMAC: where fields are left out of what is published, nobody is to find them by trying.
    """
    with contextlib.suppress(RecursionError, msgspec.MsgspecError, ValueError):
        value = _encoder.encode(_decoder.decode(value))
    return identity(key, value) if key else hashlib.sha256(value).hexdigest()[:16]


def _same(known: Seen | Version, version: Version, key: bytes | None) -> bool:
    """Whether two versions of one ticket with the same stamp have the same content."""
    if known.digest == version.digest:
        return True
    content = known.content if isinstance(known, Seen) else content_digest(known.value, key)
    return content == content_digest(version.value, key)
