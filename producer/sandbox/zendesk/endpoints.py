"""Which path is which export, and what a request's parameters ask it for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from producer.sandbox.zendesk import answers
from producer.sandbox.zendesk.answers import Answer
from producer.sandbox.zendesk.history import SupportScope, View
from producer.sandbox.zendesk.limits import Asked
from producer.sandbox.zendesk.sideloads import NAMES

Way = Literal["time", "cursor", "sample"]

_ROOT = "/api/v2/incremental/"
_SUFFIXES: Final[dict[Way, str]] = {"time": "", "cursor": "/cursor", "sample": "/sample"}
_WAYS: Final[dict[str, tuple[Way, ...]]] = {
    "tickets": ("time", "cursor", "sample"),
    "users": ("time", "cursor", "sample"),
    "organizations": ("time", "sample"),
    "ticket_events": ("time", "sample"),
}
_SCOPED: Final = ("tickets", "ticket_events")
_SCOPES: Final[dict[str, SupportScope]] = {scope: scope for scope in get_args(SupportScope)}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One way to read one stream, by the name of the stream's array."""

    stream: str
    way: Way

    @property
    def bucket(self) -> Asked:
        """What its requests are counted in."""
        if self.way == "sample":
            return "sample"
        return "user cursor" if self == Endpoint("users", "cursor") else "export"


ENDPOINTS: Final = {
    _ROOT + stream + _SUFFIXES[way] + form: Endpoint(stream, way)
    for stream, ways in _WAYS.items()
    for way in ways
    for form in ("", ".json")
}
"""All of them by their paths."""


def view_of(query: Mapping[str, str], stream: str) -> View | Answer:
    """What the request wants to see of this stream, or what is wrong with it; what no stream knows is ignored."""
    told = query.get("support_type_scope", "agent") if stream in _SCOPED else "agent"
    scope = _SCOPES.get(told)
    if scope is None:
        return answers.invalid_value("support_type_scope", told)
    if stream != "tickets":
        return View(support_type_scope=scope)
    return View(query.get("exclude_deleted") == "true", scope, frozenset(_included(query) & NAMES))


def warning(query: Mapping[str, str], stream: str) -> str | None:
    """What the answer's `x-zendesk-api-warn` says of sideloads that do not exist; None: there are none."""
    unknown = _included(query) - (NAMES if stream == "tickets" else set())
    return (
        f"Removed restricted keys {json.dumps(sorted(unknown))} from parameters according to whitelist"
        if unknown
        else None
    )


def _included(query: Mapping[str, str]) -> set[str]:
    return {name.strip() for name in query.get("include", "").split(",") if name.strip()}
