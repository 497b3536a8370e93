"""The nouns that travel: Version, Page, Position, Record, Checkpoint."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self, get_args

import msgspec
import orjson

from producer import __version__
from producer.errors import Misconfigured

FORMAT = 1
"""Of a checkpoint that this program writes, and the newest that it reads."""

Headers = list[tuple[str, bytes]]


Reason = Literal["no_id", "no_stamp", "unparsable", "too_large"]
REASONS: tuple[Reason, ...] = get_args(Reason)


@dataclass(frozen=True, slots=True)
class Poison:
    """Why a version cannot be published: `reason` is a short name, stable like a metric's label; `detail` says more, and
    nothing of what is in the ticket."""

    reason: Reason
    detail: str


# Thousands of these are made for a page. As structs they cost a quarter of a frozen dataclass, and without `gc`, since no
# cycle can go through them, the collector has nothing to do with them.
class Version(msgspec.Struct, frozen=True, gc=False):
    """One version of one ticket, or of a row of another stream, as the export showed it.

    `stamp` is its `generated_timestamp` (Unix seconds), or, where that is missing (`stamped` False), its `updated_at`;
    `digest` the H of the design: the first 16 hexadecimal digits of the SHA-256 of `value`, which holds the ticket's exact
    bytes. `updated_at` is Zendesk's text for it, or None. `poison` says why no consumer could use it, which is why it goes
    to the dead letters; then the `id` may be one of ours, below 0 and made from the bytes, and the `stamp` 0. `about` is the
    ticket that an event is of, whose key it gets.
    """

    id: int
    stamp: int
    digest: str
    value: bytes
    deleted: bool = False
    updated_at: str | None = None
    stamped: bool = True
    poison: Poison | None = None
    about: int | None = None

    @property
    def key(self) -> bytes | None:
        """Of its records in Kafka; None where there is no id."""
        id_ = self.id if self.about is None else self.about
        return b"%d" % id_ if self.id >= 0 else None

    def __repr__(self) -> str:
        """Without what is in the ticket."""
        return f"Version(id={self.id}, stamp={self.stamp}, digest={self.digest!r})"


class Sideload(msgspec.Struct, frozen=True, gc=False):
    """A record that came beside the tickets, in the array of that name: a user, a group. `digest` is as of a Version.

    `poison` says why it cannot be published; without an id that can be used, it is one of ours, as there.
    """

    array: str
    id: int
    digest: str
    value: bytes
    updated_at: str | None = None
    poison: Poison | None = None

    def __repr__(self) -> str:
        """Without what is in it."""
        return f"Sideload(array={self.array!r}, id={self.id}, digest={self.digest!r})"


@dataclass(frozen=True, slots=True)
class Seen:
    """What the boundary map remembers of a ticket: its stamp, the H of its bytes, and a digest of its canonical content."""

    stamp: int
    digest: str
    content: str


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where the cursor export is: behind the row of `last_id` in `second` (None: before every row of that second).

    `value` is the API's own cursor, which is opaque; None: there is none, and one is to be had by asking from `second`.
    `pinned`: the second has more tickets than a boundary map may hold, so that only the order of the cursor export,
    ascending (stamp, id), tells what of it is handled: all up to `last_id`, and what the map holds beyond.
    """

    value: str | None = field(repr=False)
    second: int
    last_id: int | None
    pinned: bool = False

    @property
    def passed(self) -> tuple[int, float]:
        """The order's place up to which everything was shown."""
        return self.second, -math.inf if self.last_id is None else self.last_id


@dataclass(frozen=True, slots=True)
class Position:
    """Where in an account's export we are: every row stamped before `end_time` is handled, and so are those of `boundary`.

    `boundary` maps the id of each ticket handled at or after `since` to what we handled of it last (design, D7); `since`
    is `end_time`, or lies before it by up to the late-row window. `cursor` is set while the cursor export is walked.
    """

    end_time: int
    boundary: Mapping[int, Seen] = field(default_factory=dict, repr=False)
    since: int = -1
    cursor: Cursor | None = None

    def __post_init__(self) -> None:
        if self.since < 0:
            object.__setattr__(self, "since", self.end_time)

    @property
    def pinned(self) -> bool:
        """Whether this position can be left by the cursor export only."""
        return _pinned(self.cursor)


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of the export, less what was handled before.

    `versions` are new since the position that was asked for, in the order of the answer; once they are safe, the account
    is at `position`. `caught_up`: the API had no more to give. `rows` and `size` (decompressed bytes) are of the whole
    answer; `repeated` rows were handled before, `stale` ones are older than a version of the same ticket already handled,
    `late` ones are among the new ones although the position had passed their second, and `unstamped` ones came without a
    `generated_timestamp`. `server_time` is the API's clock (Unix seconds) if it told. `beside` is all that came beside the
    tickets, new or not.
    """

    versions: tuple[Version, ...]
    position: Position
    caught_up: bool
    rows: int = 0
    size: int = 0
    repeated: int = 0
    stale: int = 0
    late: int = 0
    unstamped: int = 0
    server_time: float | None = None
    beside: tuple[Sideload, ...] = field(default=(), repr=False)


class Record(msgspec.Struct, frozen=True, gc=False):
    """One Kafka message for one partition of a topic. A `value` of None is a tombstone."""

    key: bytes | None
    value: bytes | None
    headers: Headers

    def __repr__(self) -> str:
        """Without the value."""
        return f"Record(key={self.key!r}, {'tombstone' if self.value is None else f'{len(self.value)} bytes'})"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The record of the checkpoint topic: where an account's stream is, and what must hold for that to be true.

    Written in the same transaction as the page that it covers. The fields are those of the design, section 4; `ends`
    has, per partition of the tickets topic, the offset after our last append. `end_time` is None after a
    `checkpoint reset`; `since` and `cursor` are those of a Position. `first` is the stamp of the history's first ticket, for
    telling how much of it is done. `caught_up` is when it was caught up last (the API's clock, Unix seconds) and where;
    `steady` the same of when it had been so for a while. `dead_lettered` counts the dead letters of this generation. `unknown` keeps the fields of newer programs, so that writing them back loses nothing.
    """

    account: str
    stream: str
    tickets_topic: str
    dead_letters_topic: str
    checkpoints_topic: str
    checkpoints_partitions: int
    ends: tuple[int, ...]
    generation: int
    seq: int
    instance: str
    start: int
    end_time: int | None
    boundary: Mapping[int, Seen] = field(default_factory=dict, repr=False)
    skipped: tuple[tuple[int, int], ...] = ()
    since: int | None = None
    first: int | None = None
    caught_up: tuple[float, int] | None = None
    steady: tuple[float, int] | None = None
    cursor: Cursor | None = None
    dead_lettered: int = 0
    written_at: str = ""
    program: str = ""
    unknown: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def position(self) -> Position:
        """What the source needs to go on. Raises ValueError on a checkpoint without a position."""
        if self.end_time is None:
            raise ValueError("this checkpoint holds no position")
        return Position(self.end_time, self.boundary, -1 if self.since is None else self.since, self.cursor)

    @property
    def pinned(self) -> bool:
        """As of a Position."""
        return _pinned(self.cursor)

    def after(self, page: Page, *, published: bool, dead_lettered: int, steady: tuple[float, int] | None) -> Self:
        """The checkpoint that covers the page.

        `published`: whether it has records for the tickets topic; `seq` counts only such pages, so that it has no gaps there.
        `dead_lettered`: how many of its versions go to the dead letters.
        """
        end_time = page.position.end_time
        stamps = (version.stamp for version in page.versions if version.stamped)
        return self.replace(
            seq=self.seq + published,
            dead_lettered=self.dead_lettered + dead_lettered,
            end_time=end_time,
            boundary=page.position.boundary,
            since=page.position.since,
            cursor=page.position.cursor,
            first=next(stamps, None) if self.first is None else self.first,
            skipped=_less(self.skipped, self.position.end_time, end_time),
            caught_up=(page.server_time, end_time) if page.caught_up and page.server_time else self.caught_up,
            steady=steady,
        )

    def at(self, end_time: int | None, **changes: Any) -> Self:
        """A copy that a person has put to another position, at which nothing is remembered."""
        return self.replace(end_time=end_time, boundary={}, since=None, cursor=None, steady=None, **changes)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def signed(self, **changes: Any) -> Self:
        """A copy with some fields changed, as it is written now by this program."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return self.replace(**changes, written_at=now, program=f"zendesk-producer {__version__}")

    def to_bytes(self) -> bytes:
        """The record's value: JSON, format 1."""
        position = [self.generation, self.end_time, self.seq]
        known = {
            "format": FORMAT,
            "min_reader": 1,
            "account": self.account,
            "stream": self.stream,
            "tickets": {"topic": self.tickets_topic, "partitions": len(self.ends), "ends": self.ends},
            "dead_letters": {"topic": self.dead_letters_topic},
            "checkpoints": {"topic": self.checkpoints_topic, "partitions": self.checkpoints_partitions},
            "generation": self.generation,
            "seq": self.seq,
            "instance": self.instance,
            "from": self.start,
            "first": self.first,
            "skipped": self.skipped,
            "end_time": self.end_time,
            "cursor": None
            if self.cursor is None
            else {
                "value": self.cursor.value,
                "second": self.cursor.second,
                "last_id": self.cursor.last_id,
                "pinned": self.cursor.pinned,
            },
            "boundary": {str(id_): (seen.stamp, seen.digest, seen.content) for id_, seen in self.boundary.items()},
            "late_rows": None if self.since is None else {"since": self.since, "for": position},
            "caught_up": _moment(self.caught_up, position),
            "steady": _moment(self.steady, position),
            "dead_lettered": self.dead_lettered,
            "written_at": self.written_at,
            "program": self.program,
        }
        return orjson.dumps({**self.unknown, **known})

    @classmethod
    def from_bytes(cls, value: bytes) -> Self:
        """Read a record's value.

        Raises:
            Misconfigured: it is no checkpoint, or one that only a newer program understands.
        """
        try:
            raw = orjson.loads(value)
            if not isinstance(raw, dict):
                raise TypeError("not an object")
            if raw["min_reader"] > FORMAT:
                raise Misconfigured(
                    f"the checkpoint has format {raw['format']} and needs a reader of format {raw['min_reader']} or newer; "
                    f"this program reads {FORMAT}",
                    hint=f"run the newer program that wrote it ({raw.get('program', 'unknown')})",
                )
            return cls._from_fields(raw)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Misconfigured(
                f"the checkpoint record cannot be read ({type(error).__name__}: {error}); it begins {value[:80]!r}",
                hint="nothing was published; look with `zendesk-producer checkpoint show`, mend with `checkpoint set`",
            ) from error

    @classmethod
    def _from_fields(cls, raw: dict[str, Any]) -> Self:
        ends = tuple(_integer(end) for end in raw["tickets"]["ends"])
        if len(ends) != raw["tickets"]["partitions"]:
            raise ValueError("as many ends as partitions expected")
        end_time = None if raw["end_time"] is None else _integer(raw["end_time"])
        generation, seq = _integer(raw["generation"]), _integer(raw["seq"])
        place = [generation, end_time, seq]
        caught_up, steady, late_rows = (_true_at(place, raw.get(name)) for name in ("caught_up", "steady", "late_rows"))
        return cls(
            account=str(raw["account"]),
            stream=str(raw["stream"]),
            tickets_topic=str(raw["tickets"]["topic"]),
            dead_letters_topic=str(raw["dead_letters"]["topic"]),
            checkpoints_topic=str(raw["checkpoints"]["topic"]),
            checkpoints_partitions=_integer(raw["checkpoints"]["partitions"]),
            ends=ends,
            generation=generation,
            seq=seq,
            instance=str(raw["instance"]),
            start=_integer(raw["from"]),
            first=None if raw.get("first") is None else _integer(raw["first"]),
            end_time=end_time,
            boundary={
                int(id_): Seen(_integer(stamp), str(digest), str(content))
                for id_, (stamp, digest, content) in raw["boundary"].items()
            },
            skipped=tuple((_integer(low), _integer(high)) for low, high in raw["skipped"]),
            since=None if late_rows is None else _integer(late_rows["since"]),
            caught_up=None if caught_up is None else (float(caught_up["server_time"]), _integer(caught_up["position"])),
            steady=None if steady is None else (float(steady["server_time"]), _integer(steady["position"])),
            dead_lettered=_integer(raw.get("dead_lettered", 0)),
            cursor=None if raw["cursor"] is None else _cursor(raw["cursor"]),
            written_at=str(raw["written_at"]),
            program=str(raw["program"]),
            unknown={name: raw[name] for name in raw.keys() - _KNOWN},
        )


_KNOWN = frozenset(
    "format min_reader account stream tickets dead_letters checkpoints generation seq instance from first skipped end_time cursor "
    "boundary late_rows caught_up steady dead_lettered written_at program".split()
)


def _less(intervals: tuple[tuple[int, int], ...], low: int, high: int) -> tuple[tuple[int, int], ...]:
    """The intervals without what lies from `low` to before `high`: it has been read now."""
    return tuple(
        part
        for start, end in intervals
        for part in ((start, min(end, low)), (max(start, high), end))
        if part[0] < part[1]
    )


def _pinned(cursor: Cursor | None) -> bool:
    return cursor is not None and cursor.pinned


def _true_at(place: list[int | None], field: Any) -> Any:
    """A field that is true at one position only: None where a program that did not know it has moved on since."""
    return None if field is None or field["for"] != place else field


def _moment(moment: tuple[float, int] | None, place: list[int | None]) -> dict[str, Any] | None:
    return None if moment is None else {"server_time": moment[0], "position": moment[1], "for": place}


def _cursor(raw: Any) -> Cursor:
    value, last_id = raw["value"], raw["last_id"]
    return Cursor(
        None if value is None else str(value),
        _integer(raw["second"]),
        None if last_id is None else _integer(last_id),
        bool(raw["pinned"]),
    )


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"an integer expected, not {value!r:.40}")
    return value
