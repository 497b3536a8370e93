"""The records that tickets refer to, and what is measured of a ticket: the same for the same seed, id and revision.

The keys of a user, and their order, are those of the users export as recorded in 2023; those of the others are from
Zendesk's documentation.
"""

from hashlib import blake2b
from typing import Any, Final

from producer.dates import utc
from producer.sandbox.zendesk.bodies import AGENTS, CUSTOM_STATUSES, STATES

_FIRST_NAMES: Final = ("Ana", "Björn", "Chloé", "Dmitri", "Emre", "Grace", "Ingrid", "João", "Siobhán", "太郎", "Zoë")
_LAST_NAMES: Final = ("Müller", "Ståhl", "Dubois", "Иванов", "Yılmaz", "O'Neill", "Ng", "Pereira", "山田", "Novák")
_PLACES: Final = (("America/New_York", "en-US"), ("Europe/Warsaw", "pl"), ("Asia/Tokyo", "ja"), ("Europe/Berlin", "de"))
_TAGS: Final = ("vip", "trial", "beta", "größe", "edu", "partner")
_TEAMS: Final = ("Support", "Billing", "Second Level", "Escalations", "Großkunden", "Returns", "配送")
_CATEGORIES: Final = {state: "solved" if state in ("closed", "deleted", "scrubbed") else state for state in STATES}


class Related:
    """Renders one account's records. Dates are Unix seconds; a higher `revision` is the record after more edits."""

    def __init__(self, subdomain: str, seed: int) -> None:
        self._api = f"https://{subdomain}.zendesk.com/api/v2"
        self._subdomain = subdomain
        self._key = seed.to_bytes(16, "big", signed=True)

    def born(self, kind: str, id: int) -> int:
        """When a record was made that no history tells of: some second between 2009 and 2016."""
        return 1_250_000_000 + int.from_bytes(self._dice(kind, id)[:4]) % 200_000_000

    def user(self, id: int, created: int, updated: int, revision: int = 0, deleted: bool = False) -> dict[str, Any]:
        """An agent, if the id is one of an agent, or an end user."""
        born, edit = self._dice("user", id), self._dice("user", id, revision)
        agent = id in AGENTS
        first, last = _FIRST_NAMES[born[0] % len(_FIRST_NAMES)], _LAST_NAMES[born[1] % len(_LAST_NAMES)]
        zone, locale = _PLACES[born[2] % len(_PLACES)]
        return {
            "id": id,
            "url": f"{self._api}/users/{id}.json",
            "name": f"{first} {last}",
            "email": f"{'agent' if agent else 'customer'}{id}@example.com",
            "created_at": utc(created),
            "updated_at": utc(updated),
            "time_zone": zone,
            "iana_time_zone": zone,
            "phone": f"+1555{born[3]:07d}" if born[3] < 60 else None,
            "shared_phone_number": None,
            "photo": None,
            "locale_id": 1 + born[2] % len(_PLACES),
            "locale": locale,
            "organization_id": None,
            "role": "agent" if agent else "end-user",
            "verified": born[4] < 200,
            "external_id": f"crm-{id}" if born[4] < 40 else None,
            "tags": [_TAGS[edit[0] % len(_TAGS)]] if edit[1] < 100 else [],
            "alias": None,
            "active": not deleted,
            "shared": False,
            "shared_agent": False,
            "last_login_at": utc(updated) if agent else None,
            "two_factor_auth_enabled": None if agent else False,
            "signature": None,
            "details": None,
            "notes": f"Note {revision}: {edit[2:6].hex()}" if revision else None,
            "role_type": None,
            "custom_role_id": None,
            "moderator": agent,
            "ticket_restriction": None if agent else "requested",
            "only_private_comments": False,
            "restricted_agent": not agent,
            "suspended": False,
            "default_group_id": None,
            "report_csv": False,
            "user_fields": {"plan": edit[6] % 5, "since": utc(created)[:10]},
        }

    def organization(
        self, id: int, created: int, updated: int, revision: int = 0, deleted: bool = False
    ) -> dict[str, Any]:
        """A customer's organization; `deleted_at` tells of its end."""
        born, edit = self._dice("organization", id), self._dice("organization", id, revision)
        first, second = (_LAST_NAMES[born[n] % len(_LAST_NAMES)] for n in range(2))
        return {
            "url": f"{self._api}/organizations/{id}.json",
            "id": id,
            "name": f"{first} & {second} {id % 1_000}",
            "shared_tickets": born[2] < 80,
            "shared_comments": born[2] < 40,
            "external_id": f"crm-{id}" if born[3] < 90 else None,
            "created_at": utc(created),
            "updated_at": utc(updated),
            "domain_names": [f"customer{id % 1_000}.example"] if born[4] < 180 else [],
            "details": None,
            "notes": f"Note {revision}: {edit[2:6].hex()}" if revision else None,
            "group_id": None,
            "tags": [_TAGS[edit[0] % len(_TAGS)]] if edit[1] < 100 else [],
            "organization_fields": {"seats": edit[6]},
            "deleted_at": utc(updated) if deleted else None,
        }

    def group(self, id: int, created: int, updated: int) -> dict[str, Any]:
        """A group of agents."""
        return {
            "url": f"{self._api}/groups/{id}.json",
            "id": id,
            "is_public": True,
            "name": _TEAMS[id % len(_TEAMS)],
            "description": "",
            "default": False,
            "deleted": False,
            "created_at": utc(created),
            "updated_at": utc(updated),
        }

    def brand(self, id: int, created: int, updated: int) -> dict[str, Any]:
        """A brand under which customers are met."""
        return {
            "url": f"{self._api}/brands/{id}.json",
            "id": id,
            "name": f"Acme {id % 100}",
            "brand_url": f"https://{self._subdomain}.zendesk.com",
            "subdomain": self._subdomain,
            "host_mapping": None,
            "has_help_center": True,
            "help_center_state": "enabled",
            "active": True,
            "default": False,
            "is_deleted": False,
            "logo": None,
            "ticket_form_ids": [],
            "signature_template": "{{agent.signature}}",
            "created_at": utc(created),
            "updated_at": utc(updated),
        }

    def ticket_form(self, id: int, created: int, updated: int) -> dict[str, Any]:
        """A form that tickets are filled into."""
        name = f"Form {id % 100}"
        return {
            "url": f"{self._api}/ticket_forms/{id}.json",
            "id": id,
            "name": name,
            "raw_name": name,
            "display_name": name,
            "raw_display_name": name,
            "end_user_visible": True,
            "position": id % 10,
            "ticket_field_ids": [],
            "active": True,
            "default": False,
            "in_all_brands": True,
            "restricted_brand_ids": [],
            "end_user_conditions": [],
            "agent_conditions": [],
            "created_at": utc(created),
            "updated_at": utc(updated),
        }

    def custom_status(self, id: int, created: int, updated: int) -> dict[str, Any]:
        """What agents call a status; its category is the status that a ticket shows."""
        state = STATES[(id - CUSTOM_STATUSES.start) % len(STATES)]
        return {
            "url": f"{self._api}/custom_statuses/{id}.json",
            "id": id,
            "status_category": _CATEGORIES[state],
            "agent_label": state.capitalize(),
            "raw_agent_label": state.capitalize(),
            "end_user_label": state.capitalize(),
            "raw_end_user_label": state.capitalize(),
            "description": "",
            "raw_description": "",
            "end_user_description": "",
            "raw_end_user_description": "",
            "active": True,
            "default": True,
            "created_at": utc(created),
            "updated_at": utc(updated),
        }

    def sharing_agreement(self, id: int, created: int, updated: int) -> dict[str, Any]:
        """An agreement by which tickets are shared with another account."""
        return {
            "url": f"{self._api}/sharing_agreements/{id}.json",
            "id": id,
            "name": f"Sharing {id % 1_000}",
            "type": "inbound",
            "status": "accepted",
            "partner_name": None,
            "remote_subdomain": "acme-partner",
            "created_at": utc(created),
            "updated_at": utc(updated),
        }

    def metric_set(
        self, ticket: int, revision: int, created: int, updated: int, counted: int, at: int
    ) -> dict[str, Any]:
        """What Zendesk measures of a ticket; `counted` times it was measured anew, the last time at `at`."""
        born, edit = self._dice("metric_set", ticket), self._dice("metric_set", ticket, revision)
        spans = [_span(edit[n] * 60 + counted) for n in range(6)]
        return {
            "url": f"{self._api}/ticket_metrics/{7_000_000_000_000 + ticket}.json",
            "id": 7_000_000_000_000 + ticket,
            "ticket_id": ticket,
            "created_at": utc(created),
            "updated_at": utc(at),
            "group_stations": 1 + born[0] % 3,
            "assignee_stations": 1 + born[1] % 2,
            "reopens": counted // 5,
            "replies": revision + counted,
            "assignee_updated_at": utc(updated) if revision else None,
            "requester_updated_at": utc(created),
            "status_updated_at": utc(updated),
            "initially_assigned_at": utc(created) if revision else None,
            "assigned_at": utc(updated) if revision else None,
            "solved_at": None,
            "latest_comment_added_at": utc(updated),
            "reply_time_in_minutes": spans[0],
            "first_resolution_time_in_minutes": spans[1],
            "full_resolution_time_in_minutes": spans[2],
            "agent_wait_time_in_minutes": spans[3],
            "requester_wait_time_in_minutes": spans[4],
            "on_hold_time_in_minutes": spans[5],
            "custom_status_updated_at": utc(updated),
            "reply_time_in_seconds": {"calendar": edit[0] * 3_600 + counted * 60},
        }

    def _dice(self, kind: str, id: int, revision: int | None = None) -> bytes:
        return blake2b(f"{kind}/{id}/{revision}".encode(), key=self._key, digest_size=8).digest()


def _span(minutes: int) -> dict[str, int]:
    return {"calendar": minutes, "business": minutes // 3}
