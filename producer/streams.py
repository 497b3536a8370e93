"""What can be asked for: the incremental exports, each a stream with its own topic, checkpoint and lock; and the sideloads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Stream:
    """One of an account's exports.

    `name` is that of the array in its answers, of its path, of its topic's setting, and the end of its checkpoint key and
    transactional id; `record` what one of its rows is called in `ce_type`. `by_cursor`: there is a cursor export, too.
    `sideloads`: its answers may have other records beside the rows. `scoped`: tickets of AI agents are asked for by
    `support_type_scope`. `events`: its rows never change, and have the key of the ticket that they are of. `scope` is what OAuth calls the right to read it.
    """

    name: str
    record: str
    scope: str
    by_cursor: bool = False
    sideloads: bool = False
    scoped: bool = False
    events: bool = False

    @property
    def path(self) -> str:
        """Below `/api/v2`."""
        return f"incremental/{self.name}"


TICKETS = Stream("tickets", "ticket", "tickets:read", by_cursor=True, sideloads=True, scoped=True)

STREAMS: Mapping[str, Stream] = MappingProxyType(
    {
        stream.name: stream
        for stream in (
            TICKETS,
            Stream("users", "user", "users:read", by_cursor=True),
            Stream("organizations", "organization", "organizations:read"),
            Stream("ticket_events", "ticket_event", "tickets:read", scoped=True, events=True),
        )
    }
)
"""All of them by name. The first comes first where requests are shared out."""

BESIDE: Mapping[str, str] = MappingProxyType(
    {
        "users": "user",
        "groups": "group",
        "organizations": "organization",
        "brands": "brand",
        "ticket_forms": "ticket_form",
        "custom_statuses": "custom_status",
        "sharing_agreements": "sharing_agreement",
    }
)
"""Arrays beside the tickets, with the records that a page's tickets refer to, and what one of them is called."""

INSIDE = ("metric_sets", "comment_count", "incident_counts")
"""What is put into each ticket, and so is part of its bytes."""

REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "last_audits": "the incremental exports do not support it",
        "slas": "it tells hours left, so that every ticket would be a new version at every request",
        "dates": "what it looks like is not on record",
        "metric_events": "what it looks like is not on record",
    }
)
"""Names that Zendesk knows elsewhere, and why they are not asked for here."""
