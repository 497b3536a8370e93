"""Sideloads of the ticket exports: the records that a page's tickets refer to, and what is counted inside each ticket.

Top-level arrays, `comment_count` and the records' keys are documented for `/tickets`; that `metric_sets` puts a
`metric_set` into each ticket of the exports is on record, and that `incident_counts` puts in an `incident_count`. Left
out, and so treated as names that do not exist: `last_audits`, which the exports do not support; `dates` and
`metric_events`, whose shapes are not on record; `slas`, which elsewhere tells hours left, so that a ticket's bytes
would be others at every request.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import orjson

from producer.dates import utc
from producer.sandbox.zendesk.directory import Directory
from producer.sandbox.zendesk.related import Related

BESIDE: Final[dict[str, tuple[str, ...]]] = {
    "users": ("requester_id", "submitter_id", "assignee_id", "collaborator_ids", "follower_ids", "email_cc_ids"),
    "groups": ("group_id",),
    "organizations": ("organization_id",),
    "brands": ("brand_id",),
    "ticket_forms": ("ticket_form_id",),
    "custom_statuses": ("custom_status_id",),
    "sharing_agreements": ("sharing_agreement_ids",),
}
"""Arrays beside the tickets, and the ticket's keys that refer to their records."""

INSIDE: Final = {"metric_sets": "metric_set", "comment_count": "comment_count", "incident_counts": "incident_count"}
"""What stands in each ticket, and the key that it has there."""

NAMES: Final = frozenset({*BESIDE, *INSIDE})
"""What a ticket export knows by `include`."""


class Sideloads:
    """What one account's tickets refer to."""

    def __init__(self, related: Related, users: Directory, organizations: Directory) -> None:
        self._related = related
        self._listed = {"users": users, "organizations": organizations}
        self._render: dict[str, Callable[[int, int, int], dict[str, Any]]] = {
            "groups": related.group,
            "brands": related.brand,
            "ticket_forms": related.ticket_form,
            "custom_statuses": related.custom_status,
            "sharing_agreements": related.sharing_agreement,
        }
        self._edits: dict[tuple[str, int], dict[str, Any]] = {}

    def edit(self, name: str, id: int, at: float, /, **fields: Any) -> None:
        """From now on the record of this array and id has these fields, and this moment (Unix seconds) as `updated_at`.

        Raises:
            ValueError: there is no such array.
        """
        if name in self._listed:
            self._listed[name].update(id, at, **fields)
        elif name in self._render:
            self._edits[name, id] = self._edits.get((name, id), {}) | fields | {"updated_at": utc(at)}
        else:
            raise ValueError(f"no array {name!r} beside the tickets; there are {', '.join(BESIDE)}")

    def beside(self, tickets: Sequence[bytes], include: Iterable[str]) -> dict[str, list[bytes]]:
        """For each array asked for what these tickets refer to, each once; a ticket that is no JSON refers to nothing."""
        wanted = [name for name in BESIDE if name in include]
        read = list(_objects(tickets)) if wanted else []
        return {name: [self._record(name, id) for id in _referred(read, BESIDE[name])] for name in wanted}

    def inside(
        self, include: Iterable[str], ticket: int, revision: int, created: int, updated: int, counted: int, at: int
    ) -> dict[str, Any]:
        """What is counted of a ticket, by the key that it has there; `counted` and `at` as in `Related.metric_set`."""
        values: dict[str, Callable[[], Any]] = {
            "metric_sets": lambda: self._related.metric_set(ticket, revision, created, updated, counted, at),
            "comment_count": lambda: 1 + revision + counted,
            "incident_counts": lambda: counted,
        }
        return {key: values[name]() for name, key in INSIDE.items() if name in include}

    def _record(self, name: str, id: int) -> bytes:
        if name in self._listed:
            return self._listed[name].record(id)
        born = self._related.born(name, id)
        return orjson.dumps(self._render[name](id, born, born) | self._edits.get((name, id), {}))


def _objects(tickets: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for ticket in tickets:
        try:
            read = orjson.loads(ticket)
        except orjson.JSONDecodeError:
            continue
        if isinstance(read, dict):
            yield read


def _referred(tickets: Iterable[dict[str, Any]], keys: Sequence[str]) -> Iterator[int]:
    """The ids under these keys, in the order of their first mention."""
    found: dict[int, None] = {}
    for ticket in tickets:
        for key in keys:
            value = ticket.get(key)
            found.update((id, None) for id in (value if isinstance(value, list) else [value]) if type(id) is int)
    return iter(found)
