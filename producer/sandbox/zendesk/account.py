"""An account's tickets: the newest version of each in stamp order, and every version that there ever was."""

import random
import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import repeat
from typing import Any

import orjson

from producer.sandbox.zendesk.bodies import CLOSED, DELETED, NEW, OPEN, SCRUBBED, STATES, Bodies

_DAY = 86_400
_SCRUB_DELAY = 30 * _DAY + 58 * 60  # seconds from a deletion to its scrubbing, in the one case on record

# Overridden fields that a change sets anew.
_BY_SYSTEM = frozenset({"generated_timestamp"})
_BY_EDIT = _BY_SYSTEM | {"status", "updated_at"}
_BY_SCRUB = _BY_SYSTEM | {"status", "subject", "raw_subject", "description", "tags", "custom_fields", "fields"}


@dataclass(frozen=True, slots=True)
class Offered:
    """One ticket version of the ground truth: `sha256` is of the exact bytes that the export serves, in 64 hex digits;
    `current` says that no newer version has replaced it.
    """

    id: int
    generated_timestamp: int
    sha256: str
    current: bool
    status: str


class Account:
    """The tickets of one subdomain, about 150 bytes each: bodies are rendered when asked for and never kept.

    A *version* is a number counting the account's changes from 0. `generated_timestamp` is set by every change,
    `updated_at` by all but system updates and scrubbing.
    """

    def __init__(self, subdomain: str = "acme", seed: int = 1) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]{2,62}", subdomain):
            raise ValueError(f"subdomain {subdomain!r}: use 3 to 63 lower-case letters, digits and hyphens")
        self.subdomain = subdomain
        self.seed = seed
        self._bodies = Bodies(subdomain, seed)
        # One entry per version.
        self._ids = array("q")
        self._stamps = array("q")
        self._created = array("q")
        self._updated = array("q")
        self._revisions = array("I")
        self._states = array("B")
        self._current = bytearray()
        # Sparse: versions out of the ordinary.
        self._overrides: dict[int, dict[str, Any]] = {}
        self._raw: dict[int, bytes] = {}
        self._visible_at: dict[int, float] = {}
        # The newest versions: by ticket id, and in the order of (stamp, id).
        self._newest: dict[int, int] = {}
        self._order = array("Q")
        self._highest_id = 0

    @classmethod
    def generate(
        cls,
        tickets: int,
        seed: int,
        until: float,
        span: float,
        burst_every: int = 5_000,
        subdomain: str = "acme",
    ) -> "Account":
        """An account with a history of `span` seconds that ends at `until` (Unix seconds).

        One ticket per id from 1, in the state of its last change; edits come soon after the creation or much later. For
        every `burst_every` tickets (0: never) there is one second that a tenth to a half of so many share: bulk edits and
        system updates. A few tickets are deleted or scrubbed, a few carry dates of 1970.
        """
        account = cls(subdomain, seed)
        rng = random.Random(f"history {seed}")
        last, length = int(until), int(span)
        begin = last - length
        states = bytearray(rng.choices(range(len(STATES)), weights=(6, 22, 14, 6, 20, 26, 4, 2), k=tickets))
        lags = rng.choices((0, 1, 2, 3, 4, 5), weights=(54, 31, 14, 0.4, 0.3, 0.3), k=tickets)
        created = array("q", (begin + n * length // max(tickets, 1) for n in range(tickets)))
        stamps = array("q", (born + int((last - born) * rng.random() ** 4) for born in created))
        updated = array("q", (max(born, stamp - lag) for born, stamp, lag in zip(created, stamps, lags, strict=True)))

        for burst in range(tickets // burst_every if burst_every else 0):
            existing = rng.randint(tickets // 10, tickets)
            size = min(existing, rng.randint(burst_every // 10, burst_every // 2))
            second = created[existing - 1]
            for n in rng.sample(range(existing), size):
                if burst % 2:
                    updated[n] = min(updated[n], second)  # a system update leaves it alone
                else:
                    updated[n] = second
                stamps[n] = second
        for n in range(tickets):
            if states[n] == SCRUBBED:
                updated[n] = stamps[n] - _SCRUB_DELAY
                created[n] = min(created[n], updated[n] - 3_600)
            elif n % 4_999 == 6:
                created[n] = updated[n] = 0

        account._ids = array("q", range(1, tickets + 1))
        account._stamps, account._created, account._updated = stamps, created, updated
        account._revisions = array("I", (0 if state == NEW else 1 for state in states))
        account._states = array("B", states)
        account._current = bytearray(repeat(1, tickets))
        account._newest = dict(zip(range(1, tickets + 1), range(tickets), strict=True))
        account._order = array("Q", sorted(range(tickets), key=stamps.__getitem__))
        account._highest_id = tickets
        return account

    def __len__(self) -> int:
        """How many tickets the export can show."""
        return len(self._order)

    def put(
        self,
        stamp: int,
        id: int | None = None,
        *,
        raw: bytes | None = None,
        visible_at: float | None = None,
        **fields: Any,
    ) -> int:
        """Add a ticket version with exactly this `generated_timestamp`; returns its id.

        Without `id` it is a new ticket, with the id of an existing one it replaces that one's newest version. `fields`
        override or add keys of the body. `raw` is the whole body, sent as it is, for content that no renderer makes.
        `visible_at` (Unix seconds) hides the row from the export until then, even when its second was served before.
        """
        ticket = self._highest_id + 1 if id is None else id
        before = self._newest.get(ticket)
        status = fields.get("status", "open")
        version = self._append(
            ticket,
            stamp,
            created=stamp if before is None else self._created[before],
            updated=stamp,
            revision=0 if before is None else self._revisions[before] + 1,
            state=STATES.index(status) if status in STATES[:SCRUBBED] else OPEN,
            overrides=fields,
        )
        if raw is not None:
            self._raw[version] = raw
        if visible_at is not None:
            self._visible_at[version] = visible_at
        return ticket

    def create(self, at: float) -> int:
        """A new ticket, made at this moment; returns its id."""
        stamp = int(at)
        ticket = self._highest_id + 1
        self._append(ticket, stamp, created=stamp, updated=stamp, revision=0, state=NEW, overrides={})
        return ticket

    def update(self, id: int, at: float) -> None:
        """An edit: other content, another status maybe."""
        before = self._find(id, at, deleted=False)
        revision = self._revisions[before] + 1
        state = random.Random(f"{self.seed}/{id}/{revision}").randint(OPEN, CLOSED)
        self._change(before, at, updated=int(at), revision=revision, state=state)

    def delete(self, id: int, at: float) -> None:
        """A soft deletion: the content stays, the status becomes `deleted`."""
        self._change(self._find(id, at, deleted=False), at, updated=int(at), state=DELETED)

    def restore(self, id: int, at: float) -> None:
        """The end of a soft deletion. Raises ValueError when the ticket is not deleted, or scrubbed already."""
        before = self._find(id, at, deleted=True)
        self._change(before, at, updated=int(at), revision=self._revisions[before] + 1, state=OPEN)

    def scrub(self, id: int, at: float) -> None:
        """The permanent deletion: the content is gone, and only `generated_timestamp` moves."""
        before = self._find(id, at, deleted=True)
        self._change(before, at, updated=self._updated[before], state=SCRUBBED, renewed=_BY_SCRUB)

    def system_update(self, id: int, at: float) -> None:
        """A change by Zendesk itself: only `generated_timestamp` moves. Within the same second there is nothing to see."""
        before = self._find(id, at)
        if self._stamps[before] < int(at):
            self._change(before, at, updated=self._updated[before], renewed=_BY_SYSTEM)

    def remove(self, id: int) -> None:
        """The ticket vanishes from the export, as old tombstones do."""
        version = self._newest.pop(id, None)
        if version is None:
            raise ValueError(f"account {self.subdomain} has no ticket {id}")
        self._retire(version)

    def seconds(self, start: float, until: float, now: float) -> Iterator[tuple[int, list[int]]]:
        """The newest versions visible at `now` with `start` <= stamp <= `until`, as (stamp, versions) in stamp order."""
        position = self._position(start)
        while position < len(self._order) and (stamp := self._stamps[self._order[position]]) <= until:
            end = self._end_of_second(stamp, position)
            versions = self._order[position:end].tolist()
            if self._visible_at:
                versions = [version for version in versions if self._is_visible(version, now)]
            if versions:
                yield stamp, versions
            position = end

    def rows(self, stamp: float, id: int, until: float, now: float) -> Iterator[int]:
        """The newest versions visible at `now`, in the order of (stamp, id) from this one on, with stamp <= `until`."""
        for position in range(self._position(stamp, id), len(self._order)):
            version = self._order[position]
            if self._stamps[version] > until:
                return
            if self._is_visible(version, now):
                yield version

    def body(self, version: int) -> bytes:
        """The exact bytes that the export serves for this version."""
        if version in self._raw:
            return self._raw[version]
        body = self._bodies.render(
            self._ids[version],
            self._revisions[version],
            self._created[version],
            self._updated[version],
            self._stamps[version],
            self._states[version],
        )
        if version not in self._overrides:
            return body
        ticket = orjson.loads(body) | self._overrides[version]
        ticket["generated_timestamp"] = ticket.pop("generated_timestamp")  # stays the last key
        return orjson.dumps(ticket)

    def stamp(self, version: int) -> int:
        """The version's `generated_timestamp`."""
        return self._stamps[version]

    def ticket_id(self, version: int) -> int:
        """The id of the ticket that this is a version of."""
        return self._ids[version]

    def status(self, version: int) -> str:
        """The version's `status`; `deleted` for scrubbed tickets too."""
        status: str = self._overrides.get(version, {}).get("status", STATES[min(self._states[version], DELETED)])
        return status

    def versions(self, now: float | None = None) -> Iterator[Offered]:
        """The ground truth: every version that the export may ever have shown, in the order of the changes.

        With `now`, rows that `visible_at` still hides are left out. A version that was replaced within its last minute,
        and so never shown, is listed too: nobody can be wrong for not having it, because it is not current. Changes made
        during the iteration are not part of it.
        """
        for version in range(len(self._ids)):
            if now is not None and not self._is_visible(version, now):
                continue
            yield Offered(
                self._ids[version],
                self._stamps[version],
                sha256(self.body(version)).hexdigest(),
                bool(self._current[version]),
                self.status(version),
            )

    def pick(self, rng: random.Random, at: float) -> int | None:
        """The id of some ticket that is not deleted and can change at this moment; None when none is found."""
        for _ in range(200 if self._order else 0):
            version = self._order[rng.randrange(len(self._order))]
            if self._alive(version) and self._stamps[version] <= int(at):
                return self._ids[version]
        return None

    def _find(self, ticket: int, at: float, deleted: bool | None = None) -> int:
        """The newest version, if it can change at this moment: `deleted` says what it must be."""
        version = self._newest.get(ticket)
        if version is None:
            raise ValueError(f"account {self.subdomain} has no ticket {ticket}")
        if self._stamps[version] > int(at):
            raise ValueError(f"ticket {ticket} cannot change at {int(at)}: it has changed at {self._stamps[version]}")
        if deleted is True and self._states[version] != DELETED:
            raise ValueError(f"ticket {ticket} is {STATES[self._states[version]]}, not deleted")
        if deleted is False and not self._alive(version):
            raise ValueError(f"ticket {ticket} is {STATES[self._states[version]]}: restore it first")
        return version

    def _alive(self, version: int) -> bool:
        return self._states[version] < DELETED

    def _change(
        self,
        before: int,
        at: float,
        *,
        updated: int,
        revision: int | None = None,
        state: int | None = None,
        renewed: frozenset[str] = _BY_EDIT,
    ) -> None:
        self._append(
            self._ids[before],
            int(at),
            created=self._created[before],
            updated=updated,
            revision=self._revisions[before] if revision is None else revision,
            state=self._states[before] if state is None else state,
            overrides={k: v for k, v in self._overrides.get(before, {}).items() if k not in renewed},
        )

    def _append(
        self,
        ticket: int,
        stamp: int,
        *,
        created: int,
        updated: int,
        revision: int,
        state: int,
        overrides: dict[str, Any],
    ) -> int:
        version = len(self._ids)
        self._ids.append(ticket)
        self._stamps.append(stamp)
        self._created.append(created)
        self._updated.append(updated)
        self._revisions.append(revision)
        self._states.append(state)
        self._current.append(1)
        if overrides:
            self._overrides[version] = overrides
        before = self._newest.get(ticket)
        if before is not None:
            self._retire(before)
        self._newest[ticket] = version
        self._order.insert(self._position(stamp, ticket), version)
        self._highest_id = max(self._highest_id, ticket)
        return version

    def _retire(self, version: int) -> None:
        self._current[version] = 0
        del self._order[self._position(self._stamps[version], self._ids[version])]

    def _is_visible(self, version: int, now: float) -> bool:
        return self._visible_at.get(version, now) <= now

    def _position(self, stamp: float, id: int = 0) -> int:
        """Where (stamp, id) is, or belongs, in the order."""
        return bisect_left(self._order, (stamp, id), key=lambda v: (self._stamps[v], self._ids[v]))

    def _end_of_second(self, stamp: int, position: int) -> int:
        """Behind the last version of the second that begins at `position`; most seconds have one version only."""
        if position + 1 == len(self._order) or self._stamps[self._order[position + 1]] != stamp:
            return position + 1
        return bisect_right(self._order, stamp, position, key=self._stamps.__getitem__)
