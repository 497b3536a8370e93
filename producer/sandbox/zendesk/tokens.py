"""OAuth of the pretend Zendesk: clients that ask for tokens, and which tokens are good for what."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Any, Literal

from producer.sandbox.zendesk.answers import Answer, json_answer

LIFETIMES = range(301, 172_800)
"""Seconds that `expires_in` may ask for (grant-type reference of Zendesk's OAuth)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for a token. `granted` is the scope of the one that was given, None: none was."""

    at: float
    client_id: str
    scope: str
    expires_in: Any
    granted: str | None


@dataclass(slots=True)
class OAuth:
    """One confidential client, and the tokens that it was given.

    `scopes` are those that it may have: another one that is asked for still yields a token, which lacks it. Without
    `tells_scope` the answer does not say so. No token lives longer than `longest` seconds, whatever was asked for.
    """

    client_id: str
    client_secret: str = field(repr=False)
    scopes: Collection[str] = ("read", "tickets:read", "users:read", "organizations:read")
    tells_scope: bool = True
    longest: float = 172_800
    journal: list[Asked] = field(default_factory=list)
    _tokens: dict[str, tuple[float, frozenset[str]]] = field(default_factory=dict, repr=False)

    def grant(self, asked: Mapping[str, Any], now: float) -> Answer:
        """The answer to `POST /oauth/tokens` with grant type `client_credentials`."""
        client_id, scope, expires_in = asked.get("client_id"), str(asked.get("scope", "")), asked.get("expires_in")
        granted: str | None = None
        if asked.get("grant_type") != "client_credentials":
            answer = _refused(400, "unsupported_grant_type", "The authorization grant type is not supported.")
        elif client_id != self.client_id or not compare_digest(
            str(asked.get("client_secret")).encode(), self.client_secret.encode()
        ):
            answer = _refused(401, "invalid_client", "Client authentication failed due to unknown client.")
        elif type(expires_in) is not int or expires_in not in LIFETIMES:
            answer = _refused(400, "invalid_request", "expires_in is out of range.")
        else:
            words = frozenset(scope.split()) & frozenset(self.scopes)
            granted = " ".join(sorted(words))
            token = secrets.token_hex(32)
            life = min(expires_in, self.longest)
            self._tokens[token] = now + life, words
            told = {"scope": granted} if self.tells_scope else {}
            answer = json_answer(201, {"access_token": token, "token_type": "bearer", **told, "expires_in": life})
        self.journal.append(Asked(now, str(client_id), scope, expires_in, granted))
        return answer

    def judge(self, token: str, stream: str, now: float) -> Literal["good", "unknown", "lacks a scope"]:
        """Whether the token is good for reading this stream now."""
        until, words = self._tokens.get(token, (0.0, frozenset()))
        if now >= until:
            return "unknown"
        needed = {"users": "users:read", "organizations": "organizations:read"}.get(stream, "tickets:read")
        return "good" if words & {"read", needed} else "lacks a scope"

    def revoke(self) -> None:
        """No token that was given until now is good any more."""
        self._tokens.clear()


def _refused(status: int, error: str, description: str) -> Answer:
    return json_answer(status, {"error": error, "error_description": description})
