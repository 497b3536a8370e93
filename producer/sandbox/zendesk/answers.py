"""The catalogue of answers that are not a page: statuses and bodies as Zendesk and the proxies before it send them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import orjson

JSON: Final = "application/json; charset=utf-8"
TEXT: Final = "text/plain; charset=utf-8"
HTML: Final = "text/html; charset=UTF-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer before it is sent."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)


def json_answer(status: int, body: Any, **headers: str) -> Answer:
    """An answer with a compact JSON body; underscores in header names stand for hyphens."""
    return Answer(
        status, orjson.dumps(body), headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


def gateway_page(status: int, reason: str) -> Answer:
    """What a proxy says in Zendesk's place: HTML."""
    page = (
        f"<!DOCTYPE html>\n<html><head><title>acme.zendesk.com | {status}: {reason}</title></head>\n"
        f"<body><h1>{reason} <span>Error code {status}</span></h1>\n<p>cloudflare</p></body></html>\n"
    )
    return Answer(status, page.encode(), HTML)


def not_authenticated(scheme: Literal["basic", "bearer"]) -> Answer:
    """401 for wrong or missing credentials, or for a bearer token that is no longer good."""
    if scheme == "bearer":
        text = "The access token provided is expired, revoked, malformed or invalid for other reasons."
        return json_answer(401, {"error": "invalid_token", "error_description": text})
    text = 'Basic realm="Web Password"'
    return json_answer(401, {"error": "Couldn't authenticate you"}, WWW_Authenticate=text)


def too_recent(form: Literal["400 json", "422 json", "422 text"], seconds: float) -> Answer:
    """`start_time` is too close to now. The literal body of today's 400 is not on record; that of the 422 is."""
    if form == "400 json":
        text = f"Too recent start_time. Use a start_time older than {seconds:g} seconds"
        return json_answer(400, {"error": "StartTimeTooRecent", "description": text})
    text = f"Too recent start_time. Use a start_time older than {seconds / 60:g} minutes"
    if form == "422 text":
        return Answer(422, text.encode(), TEXT)
    return json_answer(422, {"error": "InvalidValue", "description": text})


def missing_start_time() -> Answer:
    """400 without the required parameter."""
    return json_answer(400, {"error": "ParameterMissing", "description": "Parameter start_time is required"})


def invalid_value(parameter: str, value: str) -> Answer:
    """400 for a parameter that cannot be read."""
    return json_answer(
        400, {"error": "InvalidValue", "description": f"Parameter {parameter} has no valid value: {value}"}
    )


def cursor_refused() -> Answer:
    """400 for a cursor that is unreadable or has expired. The real body is not on record: this is the family's style."""
    return json_answer(400, {"error": "InvalidValue", "description": "Parameter cursor has no valid value"})


def invalid_endpoint() -> Answer:
    """404 for a path that does not exist."""
    return json_answer(404, {"error": "InvalidEndpoint", "description": "Not found"})


def too_many_exports(retry_after: str | None) -> Answer:
    """429 of the incremental exports' bucket: JSON."""
    text = "Number of allowed incremental export API requests per minute exceeded"
    return json_answer(429, {"error": "APIRateLimitExceeded", "description": text}, **_retry_after(retry_after))


def too_many_requests(retry_after: str | None) -> Answer:
    """429 of the account's bucket: plain text."""
    return Answer(429, b"Number of allowed API requests per minute exceeded\n", TEXT, _retry_after(retry_after))


def _retry_after(value: str | None) -> dict[str, str]:
    return {} if value is None else {"Retry-After": value}


def _forbidden(title: str, message: str) -> Answer:
    return json_answer(403, {"error": {"title": title, "message": message}})


_NO_ACCESS = "You do not have access to this page. Please contact the account owner of this help desk for further help."
_NO_HELP_DESK = (
    "There is no help desk configured at this address. This means that the address is available and that you can claim "
    "it at http://www.zendesk.com/signup"
)
_DEADLOCK = "Database deadlock found; please retry your transaction"

FAULTS: Final[dict[str, Callable[[str | None], Answer]]] = {
    "database_conflict": lambda _: json_answer(409, {"error": "DatabaseConflict", "description": "Database collision"}),
    "internal_server_error": lambda _: json_answer(500, {"status": 500, "error": "Internal Server Error"}),
    "bad_gateway": lambda _: gateway_page(502, "Bad gateway"),
    "unknown_error": lambda _: gateway_page(520, "Web server is returning an unknown error"),
    "origin_timeout": lambda _: gateway_page(524, "A timeout occurred"),
    "database_deadlock": lambda wait: json_answer(
        503, {"error": "DatabaseDeadlock", "description": _DEADLOCK}, **_retry_after(wait)
    ),
    "maintenance": lambda _: gateway_page(503, "Zendesk is undergoing maintenance"),
    "upstream_timeout": lambda _: Answer(504, b"upstream request timeout", TEXT),
    "too_many_exports": too_many_exports,
    "too_many_requests": too_many_requests,
    "not_authenticated": lambda _: not_authenticated("basic"),
    "invalid_token": lambda _: not_authenticated("bearer"),
    "forbidden": lambda _: _forbidden("Forbidden", _NO_ACCESS),
    "missing_scope": lambda _: _forbidden("Forbidden", "You are missing the following required scopes: read"),
    "no_help_desk": lambda _: json_answer(
        404, {"error": {"title": "No help desk at acme.zendesk.com", "message": _NO_HELP_DESK}}
    ),
    "cursor_refused": lambda _: cursor_refused(),
    "redirect": lambda _: Answer(
        302, b"", HTML, {"Location": "https://elsewhere.example/api/v2/incremental/tickets.json"}
    ),
    "html_page": lambda _: Answer(
        200, b"<!DOCTYPE html>\n<html><body>Please sign in to the network.</body></html>\n", HTML
    ),
}
"""Faults that answer in place of the export, made from the Retry-After value (None: not sent) where they carry one."""
