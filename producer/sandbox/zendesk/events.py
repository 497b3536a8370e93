"""Ticket events: what happened to tickets, one immutable record for each change that moves `updated_at`."""

from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson

from producer.dates import utc
from producer.sandbox.zendesk.bodies import AGENTS, DELETED, NEW, OPEN, STATES
from producer.sandbox.zendesk.history import PLAIN, History, SupportScope, View

_FIRST_ID = 2_127_000_000_000
_IDS_EACH = 10
"""An event has one of ten ids; its children have the others."""


class TicketEvents(History):
    """The events of one account. Ids ascend in the order in which events are added; their stamp is `timestamp`.

    A child's id comes before the event's own in the bytes, as in the fixture of a connector. Events of tickets that a
    `support_type_scope` hides are hidden by it as well.
    """

    def __init__(self, seed: int, in_scope: Callable[[int, SupportScope], bool]) -> None:
        super().__init__("ticket_events", seed)
        self._in_scope = in_scope
        self._tickets = array("q")
        self._before = array("B")
        self._after = array("B")
        self._highest_id = _FIRST_ID

    def put(
        self,
        stamp: int,
        ticket: int = 1,
        *,
        raw: bytes | None = None,
        visible_at: float | None = None,
        before: int = NEW,
        after: int = OPEN,
    ) -> int:
        """Add an event of this ticket with exactly this `timestamp` (Unix seconds); returns its id.

        `before` and `after` index `STATES`: two that are NEW tell of the ticket's creation. `raw` and `visible_at` are
        as in `Account.put`.
        """
        id = self._highest_id + _IDS_EACH
        self._add(id, stamp, raw, visible_at)
        self._tickets.append(ticket)
        self._before.append(before)
        self._after.append(after)
        return id

    def generate(self, changes: Iterable[tuple[int, int, int, int]]) -> None:
        """Begin with these: (stamp, ticket, state before, state after), in any order."""
        ordered = sorted(changes)
        self._load(
            array("q", (_FIRST_ID + n * _IDS_EACH for n in range(1, len(ordered) + 1))),
            array("q", (change[0] for change in ordered)),
        )
        self._tickets = array("q", (change[1] for change in ordered))
        self._before = array("B", (change[2] for change in ordered))
        self._after = array("B", (change[3] for change in ordered))
        self._highest_id = max(self._highest_id, _FIRST_ID)

    def status(self, version: int) -> str:
        """Always `active`: events do not end."""
        return "active"

    def _hides(self, view: View) -> bool:
        return view.support_type_scope != "all"

    def _is_shown(self, version: int, now: float, view: View) -> bool:
        return super()._is_shown(version, now, PLAIN) and self._in_scope(
            self._tickets[version], view.support_type_scope
        )

    def _contents(self, version: int, view: View) -> Sequence[bytes]:
        if version in self._raw:
            return [self._raw[version]]
        id, ticket, stamp = self._ids[version], self._tickets[version], self._stamps[version]
        event = {
            "child_events": _children(id, stamp, self._before[version], self._after[version]),
            "id": id,
            "ticket_id": ticket,
            "timestamp": stamp,
            "created_at": utc(stamp),
            "updater_id": AGENTS[(id // _IDS_EACH + self.seed) % len(AGENTS)],
            "via": "Web form",
            "system": {
                "client": "Mozilla/5.0",
                "location": "Kraków, Poland",
                "latitude": 50.06143,
                "longitude": 19.93658,
            },
            "metadata": {},
            "event_type": "Audit",
        }
        return [orjson.dumps(event)]


def _children(id: int, stamp: int, before: int, after: int) -> list[dict[str, Any]]:
    """What the event consists of: what was set at the creation, or the status that has changed; often a comment."""
    via = {"via": "Web form", "via_reference_id": None}
    first: dict[str, Any]
    if before == after == NEW:
        first = {"id": id + 1, **via, "status": "new", "priority": None, "tags": [], "event_type": "Create"}
    else:
        status, previous = STATES[min(after, DELETED)], STATES[min(before, DELETED)]
        first = {"id": id + 1, **via, "status": status, "previous_value": previous, "event_type": "Change"}
    comment = {"id": id + 2, **via, "comment_present": True, "comment_public": stamp % 2 == 0, "event_type": "Comment"}
    return [first] if after >= DELETED else [first, comment]
