"""Judges an answer that is not a page: which error it is, and what a person must see of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

from producer.errors import (
    BadAnswer,
    BadRequest,
    Misconfigured,
    ProducerError,
    SignInRefused,
    Throttled,
    TooSlow,
    Unavailable,
)

MAX_RETRY_AFTER = 3600.0
"""Seconds; a longer `Retry-After` is taken for a mistake and asked about again after this long."""

_TELLING = (
    "retry-after",
    "www-authenticate",
    "location",
    "content-type",
    "x-zendesk-api-warn",
    "zendesk-ratelimit-incremental-exports",
    "x-rate-limit-remaining",
    "ratelimit-reset",
)
_TOO_RECENT = re.compile(r"StartTimeTooRecent|Too recent start_time", re.IGNORECASE)


def too_recent(status: int, body: str) -> bool:
    """Whether the answer says that `start_time` is too young to be asked for: the account is caught up.

    Three generations of the API say it in three ways: 422 with plain text, 422 with JSON, 400 with JSON.
    """
    return status in (400, 422) and _TOO_RECENT.search(body) is not None


def judge(status: int, headers: Mapping[str, str], body: str, redact: Callable[[str], str]) -> ProducerError:
    """The error that an answer of status 300 or more stands for, with all that helps and no secret in it.

    `redact` takes out of a text what the far end may have echoed. `body` is the start of the answer's text. The envelopes of the API's errors differ too much to be parsed
    (`error` as text or object, `errors`, plain text, HTML): classes follow from the status, wording from the body.
    """
    shown = _describe(status, headers, body, redact)
    if status == 429:
        return Throttled(shown, retry_after=retry_after(headers))
    if status == 504:
        return TooSlow(shown, hint="the page takes the API too long to build")
    if status in (408, 409, 425) or status >= 500:
        return Unavailable(shown, retry_after=retry_after(headers))
    if status == 401:
        return SignInRefused(
            shown,
            hint="check zendesk.client_id and zendesk.client_secret, or the other way to sign in that is set: is it right, "
            "expired or revoked?",
        )
    if status == 403:
        return SignInRefused(shown, hint=_why_forbidden(body))
    if status == 404:
        return Misconfigured(shown, hint="check zendesk.subdomain (and zendesk.base_url where it is set)")
    if status < 400:
        return BadAnswer(
            shown, hint="redirects are not followed with credentials: check zendesk.subdomain and zendesk.base_url"
        )
    return BadRequest(shown) if status in (400, 410, 422) else BadAnswer(shown)


def judge_token(status: int, headers: Mapping[str, str], body: str, redact: Callable[[str], str]) -> ProducerError:
    """As `judge`, of the answer of status 300 or more to a request for a token."""
    error = judge(status, headers, body, redact)
    if status in (400, 401, 403, 422):
        return SignInRefused(
            f"Zendesk gives no token: {error}",
            hint="check zendesk.client_id (the client's unique identifier) and zendesk.client_secret; the client's kind must be "
            "confidential",
        )
    # What is too slow here does not get faster by asking for fewer tickets.
    return Unavailable(str(error)) if isinstance(error, TooSlow) else error


def _why_forbidden(body: str) -> str:
    """What an answer with 403 is for, by what it says of it."""
    for pattern, why in _FORBIDDEN:
        if re.search(pattern, body, re.IGNORECASE):
            return why
    return (
        "incremental exports need an admin, and a token with the scope tickets:read (or read); a plan or an IP restriction can "
        "refuse too"
    )


_FORBIDDEN = (
    (
        "scope",
        "the token lacks a scope: an OAuth client may be asked for scopes that it does not have, and is given a token all the "
        "same; see zendesk.scope. Sideloads and other streams need more than tickets:read",
    ),
    (
        r"\bIP\b|ip.?restrict|ip.?address",
        "the account restricts IP addresses: add this host's in the Admin Center, Account > Security > Advanced",
    ),
    (r"\bplan\b|upgrade|subscription|feature", "the account's plan does not include this export"),
    (
        "do not have access|not authorized|admin",
        "incremental exports need an admin: the user who signs in, or whom the OAuth client acts as, is none, or the plan lacks "
        "them",
    ),
)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by `Retry-After`, in either of its forms (RFC 9110, 10.2.3); None when absent or unreadable.

    A date is read against the same answer's `Date`, so that a wrong local clock does not matter.
    """
    value = headers.get("Retry-After", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            until = parsedate_to_datetime(value).timestamp()
            now = parsedate_to_datetime(headers["Date"]).timestamp() if "Date" in headers else time.time()
        except ValueError:
            return None
        seconds = until - now
    return min(max(seconds, 0.0), MAX_RETRY_AFTER) if seconds == seconds else None  # a NaN is no number of seconds


def _describe(status: int, headers: Mapping[str, str], body: str, redact: Callable[[str], str]) -> str:
    told = [f"{name}: {headers[name]}" for name in _TELLING if name in headers]
    if request := headers.get("x-request-id"):
        told.append(f"x-request-id: {request}")
    shown = redact(" ".join(body.split()))[:500]  # in this order: a secret that is cut in two is no longer recognised
    headers_shown = f" ({redact('; '.join(told))})" if told else ""
    return f"Zendesk answered {status}{headers_shown}: {shown or 'no body'}"
