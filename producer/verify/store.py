"""Keeps what was read on disk, so that memory does not grow with the topic, and answers the judge's questions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from producer.errors import Misconfigured
from producer.verify.judge import Appended, Shown

BYTES_PER_RECORD = 250
"""Disk that a record of the topic and its version at the API take together, at the most."""

_CACHE_KIB = 24 * 1024
"""For pages, and as much again while something is sorted."""

# Nothing in it outlives the process: no journal, no waiting for the disk.
_PRAGMAS = (
    "PRAGMA journal_mode = OFF",
    "PRAGMA synchronous = OFF",
    "PRAGMA locking_mode = EXCLUSIVE",
    f"PRAGMA cache_size = -{_CACHE_KIB}",
)
# `digest` is H: eight bytes. `content` is filled only where versions of one id and stamp differ in H.
_TABLES = (
    "CREATE TABLE records "
    '(id, stamp, digest, tombstone, generation, seq, idx, count, partition, "offset", time, altered, updated, content)',
    "CREATE TABLE current (id, stamp, digest, content, deleted, updated, required)",
    "CREATE TABLE offered (id, stamp, digest)",
    'CREATE TABLE doubtful (partition, "offset", record)',
)
_DOUBTFUL = """
INSERT INTO doubtful
SELECT partition, "offset", r.rowid FROM records r JOIN (
  SELECT id, stamp FROM (
    SELECT id, stamp, digest FROM records WHERE NOT tombstone UNION SELECT id, stamp, digest FROM current
  ) GROUP BY id, stamp HAVING COUNT(*) > 1
) d ON r.id = d.id AND r.stamp = d.stamp WHERE NOT tombstone ORDER BY partition, "offset"
"""
_APPENDED = 'id, stamp, COALESCE(content, digest), tombstone, generation, seq, idx, count, partition, "offset", time'

Record = tuple[int, int, bytes, bool, int, int, int, int, int, int, int, bool, int | None]
"""id, stamp, H, tombstone, generation, seq, index, count, partition, offset, time (ms), altered, updated_at (Unix seconds)."""

Current = tuple[int, int, bytes, bytes | None, bool, int | None, bool]
"""id, stamp, H, canonical digest if known, deleted, updated_at (Unix seconds) if known, required."""

Offered = tuple[int, int, bytes]
"""id, stamp, H."""


class Store:
    """Two histories side by side: the records of the topic, and what the API shows. Use `open_store`."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def add_records(self, rows: Iterable[Record]) -> None:
        """Records of the topic."""
        self._database.executemany("INSERT INTO records VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,NULL)", rows)

    def add_current(self, rows: Iterable[Current]) -> None:
        """Versions that the API shows."""
        self._database.executemany("INSERT INTO current VALUES (?,?,?,?,?,?,?)", rows)

    def add_offered(self, rows: Iterable[Offered]) -> None:
        """Versions that the simulator has ever offered."""
        self._database.executemany("INSERT INTO offered VALUES (?,?,?)", rows)

    def forget_offered(self) -> None:
        """Make room for a newer list of them."""
        self._database.execute("DROP INDEX IF EXISTS offered_by_version")
        self._database.execute("DELETE FROM offered")

    def index(self) -> None:
        """To be called once all records and current versions are in, before any question."""
        self._database.execute("CREATE INDEX records_by_version ON records (id, stamp, digest, tombstone, time)")
        self._database.execute("CREATE INDEX current_by_version ON current (id, stamp, digest)")

    def index_offered(self) -> None:
        """To be called once all offered versions are in."""
        self._database.execute("CREATE INDEX offered_by_version ON offered (id, stamp, digest)")

    def find_doubtful(self) -> dict[int, tuple[int, int]]:
        """Find the events whose bytes must be compared with others of the same id and stamp.

        Answers, by partition, the first such offset and the one after the last.
        """
        self._database.execute(_DOUBTFUL)
        rows = self._rows('SELECT partition, MIN("offset"), MAX("offset") + 1 FROM doubtful GROUP BY partition')
        return {partition: (first, end) for partition, first, end in rows}

    def doubtful(self, partition: int) -> Iterator[tuple[int, int]]:
        """Offset and row of the doubtful events of a partition, in order."""
        return self._rows('SELECT "offset", record FROM doubtful WHERE partition = ? ORDER BY "offset"', partition)

    def settle(self, rows: Iterable[tuple[bytes, int]]) -> None:
        """The canonical digests of doubtful events, each with its row."""
        self._database.executemany("UPDATE records SET content = ? WHERE rowid = ?", rows)

    def required(self) -> int:
        """How many versions must be in the topic."""
        return self._number("SELECT COUNT(*) FROM current WHERE required")

    def events_and_tombstones(self) -> tuple[int, int]:
        """How many there are in the topic."""
        tombstones = self._number("SELECT COUNT(*) FROM records WHERE tombstone")
        return self._number("SELECT COUNT(*) FROM records") - tombstones, tombstones

    def absent(self) -> Iterator[tuple[Shown, int | None, bool, int | None]]:
        """Required versions that are not in the topic, each with the time of its tombstone (None: there is none), whether
        the topic has a later version of the ticket, and the `updated_at` of the newest event of it there.
        """
        rows = self._rows(
            """
            SELECT c.id, c.stamp, c.digest, c.deleted, c.updated,
              (SELECT MAX(time) FROM records t
                WHERE t.id = c.id AND t.stamp = c.stamp AND t.digest = c.digest AND t.tombstone),
              EXISTS (SELECT 1 FROM records l WHERE l.id = c.id AND l.stamp > c.stamp),
              (SELECT updated FROM records n WHERE n.id = c.id AND NOT n.tombstone ORDER BY n."offset" DESC LIMIT 1)
            FROM current c WHERE c.required AND NOT EXISTS (
              SELECT 1 FROM records r WHERE r.id = c.id AND r.stamp = c.stamp
                AND (r.digest = c.digest OR r.content = c.content) AND NOT r.tombstone
            ) ORDER BY c.stamp, c.id
            """
        )
        for id_, stamp, digest, deleted, updated, tombstone, superseded, newest in rows:
            yield Shown(id_, stamp, digest, bool(deleted), updated), tombstone, bool(superseded), newest

    def superseded(self, end_time: int) -> int:
        """Versions in the topic, stamped before the position, that the API no longer shows."""
        return self._number(
            """
            SELECT COUNT(*) FROM (
              SELECT DISTINCT id, stamp, COALESCE(content, digest) FROM records r WHERE NOT tombstone AND stamp < ?
                AND NOT EXISTS (SELECT 1 FROM current c WHERE c.id = r.id AND c.stamp = r.stamp
                  AND (c.digest = r.digest OR c.content = r.content)))
            """,
            end_time,
        )

    def event(self, generation: int, id_: int | None, stamp: int, digest: bytes) -> Appended | None:
        """An event of this version in a generation."""
        where = "WHERE generation = ? AND id = ? AND stamp = ? AND digest = ? AND NOT tombstone LIMIT 1"
        return next(self._appended(where, generation, id_, stamp, digest), None)

    def altered(self) -> Iterator[Appended]:
        """Records that are not what their headers say."""
        return self._appended("WHERE altered")

    def never_offered(self) -> Iterator[Appended]:
        """Records that are what their headers say, of versions that the simulator never offered."""
        return self._appended(
            """
            WHERE NOT altered AND NOT EXISTS (
              SELECT 1 FROM offered o WHERE o.id = r.id AND o.stamp = r.stamp AND o.digest = r.digest)
            """
        )

    def by_key(self) -> Iterator[Appended]:
        """All records as `judge.key_faults` expects them."""
        return self._appended('ORDER BY id, generation, partition, "offset"')

    def by_page(self, generation: int, seq: int) -> Iterator[Appended]:
        """The records up to and with a page, as `judge.page_faults` expects them."""
        return self._appended(
            'WHERE (generation, seq) <= (?, ?) ORDER BY generation, seq, idx, partition, "offset"', generation, seq
        )

    def from_the_start(self) -> bool:
        """Whether each partition that has records still has its very first one."""
        return not self._number(
            'SELECT COUNT(*) FROM (SELECT MIN("offset") AS first FROM records GROUP BY partition) WHERE first > 0'
        )

    def generations(self) -> dict[int, int]:
        """The newest page of each generation in the topic."""
        return dict(self._rows("SELECT generation, MAX(seq) FROM records GROUP BY generation ORDER BY generation"))

    def newest(self) -> Appended | None:
        """A record of the newest page."""
        return next(self._appended("ORDER BY generation DESC, seq DESC LIMIT 1"), None)

    def newest_of(self, generation: int) -> Appended | None:
        """A record of a generation's newest page."""
        return next(self._appended("WHERE generation = ? ORDER BY seq DESC, time DESC LIMIT 1", generation), None)

    def ahead_of(self, generation: int, seq: int, ends: Sequence[int]) -> Appended | None:
        """A record of a later page of the generation that lies before `ends`, an offset per partition."""
        for partition, end in enumerate(ends):
            where = 'WHERE generation = ? AND seq > ? AND partition = ? AND "offset" < ? LIMIT 1'
            if found := next(self._appended(where, generation, seq, partition, end), None):
                return found
        return None

    def stamped_after(self, end_time: int, generation: int, seq: int) -> Iterator[Appended]:
        """Events of a generation's pages up to `seq` that are stamped after a position."""
        return self._appended(
            "WHERE generation = ? AND seq <= ? AND stamp > ? AND NOT tombstone", generation, seq, end_time
        )

    def _appended(self, rest: str, *values: int | bytes | None) -> Iterator[Appended]:
        return map(Appended._make, self._rows(f"SELECT {_APPENDED} FROM records r {rest}", *values))  # noqa: S608 (our own text)

    def _rows(self, query: str, *values: int | bytes | None) -> sqlite3.Cursor:
        return self._database.execute(query, values)

    def _number(self, query: str, *values: int) -> int:
        (number,) = self._database.execute(query, values).fetchone()
        return int(number)


@contextmanager
def open_store(work_dir: Path | None) -> Iterator[Store]:
    """A store in a folder of its own below `work_dir` (None: where the system keeps temporary files), removed at the end.

    Raises:
        Misconfigured: the folder cannot be written, or is full.
    """
    hint = f"name a folder with room by --work-dir: about {BYTES_PER_RECORD} bytes per record of the topic"
    try:
        temporary = TemporaryDirectory(prefix="zendesk-producer-verify-", dir=work_dir)
    except OSError as error:
        raise Misconfigured(f"cannot make a temporary folder: {error}", hint=hint) from error
    with temporary as folder, closing(sqlite3.connect(f"{folder}/histories.sqlite", isolation_level=None)) as database:
        try:
            for statement in _PRAGMAS:
                database.execute(statement)
            _sort_in(database, folder)
            for statement in (*_TABLES, "BEGIN"):
                database.execute(statement)
            yield Store(database)
        except sqlite3.OperationalError as error:
            raise Misconfigured(f"cannot keep what was read in {folder}: {error}", hint=hint) from error
        finally:
            _sort_in(database, "")


def _sort_in(database: sqlite3.Connection, folder: str) -> None:
    """Where SQLite spills what it sorts: for the whole process, hence taken back at the end."""
    database.execute("PRAGMA temp_store_directory = '{}'".format(folder.replace("'", "''")))
