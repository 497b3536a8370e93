"""Who may read: Basic with an API token or a password, or a bearer token."""

import base64
import binascii
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Literal


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the account accepts; what is None is accepted from nobody."""

    email: str | None = None
    api_token: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    access_token: str | None = field(default=None, repr=False)

    def accept_basic(self, login: str) -> bool:
        """`login` is `email/token:api_token` or `email:password`."""
        accepted = []
        if self.email is not None and self.api_token is not None:
            accepted.append(f"{self.email}/token:{self.api_token}")
        if self.email is not None and self.password is not None:
            accepted.append(f"{self.email}:{self.password}")
        return any(compare_digest(login.encode(), one.encode()) for one in accepted)

    def accept_bearer(self, token: str) -> bool:
        """`token` is an OAuth access token."""
        return self.access_token is not None and compare_digest(token.encode(), self.access_token.encode())


def refusal(authorization: str | None, credentials: Credentials | None) -> Literal["basic", "bearer"] | None:
    """Why a request with this Authorization header is refused: by which scheme's 401; None lets it pass.

    Without `credentials` anybody passes who shows a well-formed Basic or Bearer header; nobody passes without one.
    """
    scheme, _, value = (authorization or "").partition(" ")
    if scheme.lower() == "bearer" and value:
        return None if credentials is None or credentials.accept_bearer(value) else "bearer"
    if scheme.lower() == "basic":
        try:
            login = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return "basic"
        if ":" in login and (credentials is None or credentials.accept_basic(login)):
            return None
    return "basic"
