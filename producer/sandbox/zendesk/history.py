"""One stream's records: the newest version of each by stamp and id, and every version that there ever was."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import repeat
from typing import Any, Final, Literal

import msgspec

from producer.dates import seconds

SupportScope = Literal["agent", "all", "ai_agent"]


@dataclass(frozen=True, slots=True)
class View:
    """What a request wants to see of a stream: which rows, and what beside and inside them (names of sideloads)."""

    exclude_deleted: bool = False
    support_type_scope: SupportScope = "agent"
    include: frozenset[str] = frozenset()


PLAIN: Final = View()
"""What a request sees that asks for nothing in particular."""


@dataclass(frozen=True, slots=True)
class Offered:
    """One version of the ground truth: `sha256` is of the exact bytes that the export serves, in 64 hex digits;
    `current` says that nothing newer has replaced it; `generated_timestamp` is the stamp that the export goes by, in a
    stream whose stamp has another name as well; `updated_at` is that of the body, in Unix seconds, None where it has none.
    """

    id: int
    generated_timestamp: int
    sha256: str
    current: bool
    status: str
    updated_at: int | None


class _Dated(msgspec.Struct):
    updated_at: Any = None


_dated = msgspec.json.Decoder(_Dated)


class History(ABC):
    """The records of one stream; `name` is that of the array in which its pages hold them.

    A *version* is a number counting the stream's changes from 0. Every version has a stamp in Unix seconds.
    """

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.seed = seed
        # One entry per version.
        self._ids = array("q")
        self._stamps = array("q")
        self._current = bytearray()
        self._updated = array("q")  # of a stream whose stamp is not its `updated_at`
        # Sparse: versions out of the ordinary.
        self._overrides: dict[int, dict[str, Any]] = {}
        self._raw: dict[int, bytes] = {}
        self._visible_at: dict[int, float] = {}
        # The newest versions: by id, and in the order of (stamp, id).
        self._newest: dict[int, int] = {}
        self._order = array("Q")
        self._highest_id = 0

    def __len__(self) -> int:
        """How many records the export can show."""
        return len(self._order)

    def seconds(self, start: float, until: float, now: float, view: View = PLAIN) -> Iterator[tuple[int, list[int]]]:
        """The newest versions that `view` shows at `now` with `start` <= stamp <= `until`: (stamp, versions) pairs."""
        position = self._position(start)
        while position < len(self._order) and (stamp := self._stamps[self._order[position]]) <= until:
            end = self._end_of_second(stamp, position)
            versions = self._order[position:end].tolist()
            if self._visible_at or self._hides(view):
                versions = [version for version in versions if self._is_shown(version, now, view)]
            if versions:
                yield stamp, versions
            position = end

    def rows(self, stamp: float, id: int, until: float, now: float, view: View = PLAIN) -> Iterator[int]:
        """The newest versions that `view` shows at `now`, by (stamp, id) from here on, with stamp <= `until`."""
        for position in range(self._position(stamp, id), len(self._order)):
            version = self._order[position]
            if self._stamps[version] > until:
                return
            if self._is_shown(version, now, view):
                yield version

    def body(self, version: int, view: View = PLAIN) -> bytes:
        """The exact bytes that the export now serves for this version."""
        return self._contents(version, view)[-1]

    def beside(self, bodies: Sequence[bytes], view: View) -> dict[str, list[bytes]]:
        """What the page of these records holds beside them: for each array's name, records in bytes."""
        return {}

    def stamp(self, version: int) -> int:
        """The second that the export goes by."""
        return self._stamps[version]

    def id(self, version: int) -> int:
        """The id of the record that this is a version of."""
        return self._ids[version]

    @abstractmethod
    def status(self, version: int) -> str:
        """What the record is in this version; `deleted` where it is gone."""

    def versions(self, now: float | None = None, view: View = PLAIN) -> Iterator[Offered]:
        """The ground truth: every version that this view may ever have been shown, in the order of the changes.

        With `now`, rows that `visible_at` still hides are left out. A version that was replaced within its last minute,
        and so never shown, is listed too: nobody can be wrong for not having it, because it is not current. A version
        whose content has changed under the same stamp is listed once for each. Changes made during the iteration are
        not part of it.
        """
        for version in range(len(self._ids)):
            if self._is_shown(version, math.inf if now is None else now, view):
                contents = self._contents(version, view)
                for number, content in enumerate(contents, 1):
                    yield Offered(
                        self._ids[version],
                        self._stamps[version],
                        sha256(content).hexdigest(),
                        bool(self._current[version]) and number == len(contents),
                        self.status(version),
                        self._updated_at(version, content),
                    )

    def pick(self, rng: random.Random, at: float) -> int | None:
        """The id of some record that is not deleted and can change at this moment; None when none is found."""
        for _ in range(200 if self._order else 0):
            version = self._order[rng.randrange(len(self._order))]
            if self._alive(version) and self._stamps[version] <= int(at):
                return self._ids[version]
        return None

    def _updated_at(self, version: int, content: bytes) -> int | None:
        """That of the bytes served for it. Mostly it is known, and parsing them would cost a quarter of the time."""
        if self._updated and version not in self._raw and version not in self._overrides:
            return self._updated[version]
        try:
            date = _dated.decode(content).updated_at
        except (msgspec.MsgspecError, RecursionError, ValueError):
            return None
        return seconds(date) if isinstance(date, str) else None

    @abstractmethod
    def _contents(self, version: int, view: View) -> Sequence[bytes]:
        """The bytes served for this version, the newest last: more than one where they changed on their own."""

    def _alive(self, version: int) -> bool:
        return self.status(version) != "deleted"

    def _load(self, ids: array[int], stamps: array[int]) -> None:
        """Begin with these records, one version of each, by ascending id."""
        self._ids, self._stamps = ids, stamps
        self._current = bytearray(repeat(1, len(ids)))
        self._newest = dict(zip(ids, range(len(ids)), strict=True))
        self._order = array("Q", sorted(range(len(ids)), key=stamps.__getitem__))
        self._highest_id = ids[-1] if ids else 0

    def _add(self, id: int, stamp: int, raw: bytes | None = None, visible_at: float | None = None) -> int:
        """A version that is now the newest of its record."""
        version = len(self._ids)
        self._ids.append(id)
        self._stamps.append(stamp)
        self._current.append(1)
        if raw is not None:
            self._raw[version] = raw
        if visible_at is not None:
            self._visible_at[version] = visible_at
        before = self._newest.get(id)
        if before is not None:
            self._retire(before)
        self._newest[id] = version
        self._order.insert(self._position(stamp, id), version)
        self._highest_id = max(self._highest_id, id)
        return version

    def _retire(self, version: int) -> None:
        self._current[version] = 0
        del self._order[self._position(self._stamps[version], self._ids[version])]

    def _hides(self, view: View) -> bool:
        """Whether this view shows less than everything."""
        return view.exclude_deleted

    def _is_shown(self, version: int, now: float, view: View) -> bool:
        if self._visible_at.get(version, now) > now:
            return False
        return not view.exclude_deleted or self.status(version) != "deleted"

    def _position(self, stamp: float, id: int = 0) -> int:
        """Where (stamp, id) is, or belongs, in the order."""
        return bisect_left(self._order, (stamp, id), key=lambda v: (self._stamps[v], self._ids[v]))

    def _end_of_second(self, stamp: int, position: int) -> int:
        """Behind the last version of the second that begins at `position`; most seconds have one version only."""
        if position + 1 == len(self._order) or self._stamps[self._order[position + 1]] != stamp:
            return position + 1
        return bisect_right(self._order, stamp, position, key=self._stamps.__getitem__)
