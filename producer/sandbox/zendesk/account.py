"""An account's tickets, and the streams beside them: its users, its organizations and what happens to its tickets."""

import random
import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from typing import Any, Literal

import orjson

from producer.sandbox.zendesk.bodies import (
    AGENTS,
    CLOSED,
    DELETED,
    NEW,
    OPEN,
    ORGANIZATIONS,
    SCRUBBED,
    STATES,
    Bodies,
)
from producer.sandbox.zendesk.directory import Directory
from producer.sandbox.zendesk.events import TicketEvents
from producer.sandbox.zendesk.history import History, SupportScope, View
from producer.sandbox.zendesk.related import Related
from producer.sandbox.zendesk.sideloads import INSIDE, Sideloads

_DAY = 86_400
_SCRUB_DELAY = 30 * _DAY + 58 * 60  # seconds from a deletion to its scrubbing, in the one case on record

# Overridden fields that a change sets anew.
_BY_SYSTEM = frozenset({"generated_timestamp"})
_BY_EDIT = _BY_SYSTEM | {"status", "updated_at"}
_BY_SCRUB = _BY_SYSTEM | {"status", "subject", "raw_subject", "description", "tags", "custom_fields", "fields"}

_STAMP_KEY = b',"generated_timestamp":'
_NOT_COUNTED = ((0, 0),)


class Account(History):
    """The tickets of one subdomain, about 150 bytes each: bodies are rendered when asked for and never kept.

    `generated_timestamp` is set by every change, `updated_at` by all but system updates and scrubbing. `users`,
    `organizations` and `events` are the streams beside the tickets. With `keep_events`, whatever moves a ticket's
    `updated_at` becomes an event. `ai_agents` is the share of tickets that AI agents handle; with one above 0 every
    ticket has a `support_type`.
    """

    def __init__(
        self, subdomain: str = "acme", seed: int = 1, *, ai_agents: float = 0.0, keep_events: bool = False
    ) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]{2,62}", subdomain):
            raise ValueError(f"subdomain {subdomain!r}: use 3 to 63 lower-case letters, digits and hyphens")
        super().__init__("tickets", seed)
        self.subdomain = subdomain
        related = Related(subdomain, seed)
        self.users = Directory("users", related, seed)
        self.organizations = Directory("organizations", related, seed)
        self.events = TicketEvents(seed, self.in_scope)
        self.sideloads = Sideloads(related, self.users, self.organizations)
        self._bodies = Bodies(subdomain, seed)
        self._ai_agents = ai_agents
        self._ai_tickets = ai_agents > 0
        self._keep_events = keep_events
        # One entry per version.
        self._created = array("q")
        self._updated = array("q")
        self._revisions = array("I")
        self._states = array("B")
        # Sparse: versions out of the ordinary. Of a version that was counted anew, how often its ticket was and when.
        self._overrides: dict[int, dict[str, Any]] = {}
        self._counts: dict[int, tuple[tuple[int, int], ...]] = {}

    @classmethod
    def generate(
        cls,
        tickets: int,
        seed: int,
        until: float,
        span: float,
        burst_every: int = 5_000,
        subdomain: str = "acme",
        *,
        ai_agents: float = 0.0,
        keep_events: bool = False,
        users: int = 0,
        organizations: int = 0,
    ) -> "Account":
        """An account with a history of `span` seconds that ends at `until` (Unix seconds).

        One ticket per id from 1, in the state of its last change; edits come soon after the creation or much later. For
        every `burst_every` tickets (0: never) there is one second that a tenth to a half of so many share: bulk edits and
        system updates. A few tickets are deleted or scrubbed, a few carry dates of 1970. So many `users` and
        `organizations` are listed as well, those first to whom tickets refer.
        """
        account = cls(subdomain, seed, ai_agents=ai_agents, keep_events=keep_events)
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

        account._load(array("q", range(1, tickets + 1)), stamps)
        account._created, account._updated = created, updated
        account._revisions = array("I", (0 if state == NEW else 1 for state in states))
        account._states = array("B", states)
        if keep_events:
            made = ((born, n, NEW, NEW) for n, born in enumerate(created, 1))
            changes = zip(created, updated, states, strict=True)
            edited = ((at, n, OPEN, min(state, DELETED)) for n, (born, at, state) in enumerate(changes, 1) if at > born)
            account.events.generate(chain(made, edited))
        if users:
            account.users.generate(account._people(users), until, span)
        if organizations:
            account.organizations.generate(range(ORGANIZATIONS.start, ORGANIZATIONS.start + organizations), until, span)
        return account

    @property
    def streams(self) -> dict[str, History]:
        """All of them, by the names of their arrays."""
        return {stream.name: stream for stream in (self, self.users, self.organizations, self.events)}

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
        self._append(
            ticket,
            stamp,
            created=stamp if before is None else self._created[before],
            updated=stamp,
            revision=0 if before is None else self._revisions[before] + 1,
            state=STATES.index(status) if status in STATES[:SCRUBBED] else OPEN,
            overrides=fields,
            raw=raw,
            visible_at=visible_at,
        )
        return ticket

    def rewrite(self, id: int, edit: Callable[[bytes], bytes]) -> None:
        """From now on the ticket's newest version is served as `edit` makes it from its bytes."""
        version = self._find(id)
        self._raw[version] = edit(self.body(version))

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

    def recount(self, id: int, at: float) -> None:
        """What sideloads put into the ticket changes, and no stamp moves: its metrics, its comments, its incidents."""
        version = self._find(id, at)
        counts = self._counts.get(version, _NOT_COUNTED)
        self._counts[version] = (*counts, (counts[-1][0] + 1, int(at)))

    def remove(self, id: int) -> None:
        """The ticket vanishes from the export, as old tombstones do."""
        version = self._newest.pop(id, None)
        if version is None:
            raise ValueError(f"account {self.subdomain} has no ticket {id}")
        self._retire(version)

    def in_scope(self, ticket: int, scope: SupportScope) -> bool:
        """Whether a `support_type_scope` shows this ticket as it is now."""
        version = self._newest.get(ticket)
        return scope == "all" or (self._support_type(ticket, version) if version is not None else "agent") == scope

    def beside(self, bodies: Sequence[bytes], view: View) -> dict[str, list[bytes]]:
        """The sideloaded arrays."""
        return self.sideloads.beside(bodies, view.include)

    def status(self, version: int) -> str:
        """The version's `status`; `deleted` for scrubbed tickets too."""
        status: str = self._overrides.get(version, {}).get("status", STATES[min(self._states[version], DELETED)])
        return status

    def _contents(self, version: int, view: View) -> Sequence[bytes]:
        if version in self._raw:
            return [self._raw[version]]
        body = self._body(version)
        if not view.include & INSIDE.keys():
            return [body]
        return [self._counted(version, body, view, *count) for count in self._counts.get(version, _NOT_COUNTED)]

    def _body(self, version: int) -> bytes:
        ticket = self._ids[version]
        body = self._bodies.render(
            ticket,
            self._revisions[version],
            self._created[version],
            self._updated[version],
            self._stamps[version],
            self._states[version],
        )
        if self._ai_agents:
            told = b',"support_type":"%b"' % self._support_type(ticket, version).encode()
            rest, stamp = body.replace(b',"support_type":"agent"', b"", 1).rsplit(_STAMP_KEY, 1)
            body = rest + told + _STAMP_KEY + stamp
        if version not in self._overrides:
            return body
        fields = orjson.loads(body) | self._overrides[version]
        fields["generated_timestamp"] = fields.pop("generated_timestamp")  # stays the last key
        return orjson.dumps(fields)

    def _counted(self, version: int, body: bytes, view: View, counted: int, at: int) -> bytes:
        """The ticket's bytes with what sideloads put into it, before the stamp, which stays the last key."""
        updated = self._updated[version]
        inside = self.sideloads.inside(
            view.include,
            self._ids[version],
            self._revisions[version],
            self._created[version],
            updated,
            counted,
            max(updated, at),
        )
        rest, stamp = body.rsplit(_STAMP_KEY, 1)
        return rest + b"," + orjson.dumps(inside)[1:-1] + _STAMP_KEY + stamp

    def _support_type(self, ticket: int, version: int) -> Literal["agent", "ai_agent"]:
        overridden: Literal["agent", "ai_agent"] | None = self._overrides.get(version, {}).get("support_type")
        if overridden is not None:
            return overridden
        return "ai_agent" if ticket * 2_654_435_761 % 2**32 < self._ai_agents * 2**32 else "agent"

    def _people(self, count: int) -> Iterable[int]:
        """So many users, those first to whom tickets refer: the agents, then whoever asked."""
        found = dict.fromkeys(AGENTS)
        found.update(dict.fromkeys(map(self._bodies.requester, range(1, self._highest_id + 1))))
        found.update(dict.fromkeys(range(AGENTS.stop, AGENTS.stop + max(0, count - len(found)))))
        return islice(found, count)

    def _hides(self, view: View) -> bool:
        scope = view.support_type_scope
        return super()._hides(view) or scope == "ai_agent" or (scope == "agent" and self._ai_tickets)

    def _is_shown(self, version: int, now: float, view: View) -> bool:
        if not super()._is_shown(version, now, view):
            return False
        scope = view.support_type_scope
        if scope == "all" or (scope == "agent" and not self._ai_tickets):
            return True
        return self._support_type(self._ids[version], version) == scope

    def _find(self, ticket: int, at: float | None = None, deleted: bool | None = None) -> int:
        """The newest version, if it can change at this moment: `deleted` says what it must be."""
        version = self._newest.get(ticket)
        if version is None:
            raise ValueError(f"account {self.subdomain} has no ticket {ticket}")
        if at is not None and self._stamps[version] > int(at):
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
            event=renewed is _BY_EDIT,
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
        event: bool = True,
        raw: bytes | None = None,
        visible_at: float | None = None,
    ) -> None:
        before = self._newest.get(ticket)
        version = self._add(ticket, stamp, raw, visible_at)
        self._created.append(created)
        self._updated.append(updated)
        self._revisions.append(revision)
        self._states.append(state)
        if overrides:
            self._overrides[version] = overrides
            self._ai_tickets |= overrides.get("support_type") == "ai_agent"
        if before in self._counts:
            self._counts[version] = self._counts[before][-1:]
        if self._keep_events and event:
            was, now = (NEW, NEW) if before is None else (self._states[before], state)
            self.events.put(stamp, ticket, before=was, after=now)
