"""Good pages made bad: what a client must refuse, or handle ticket by ticket."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import orjson

from producer.sandbox.zendesk.export import Page

NESTING: Final = 10_000


def _without_key(page: Page, key: str) -> bytes:
    envelope = orjson.loads(page.to_bytes())
    envelope.pop(key, None)
    return orjson.dumps(envelope)


def _null_end_time(page: Page, _: str) -> bytes:
    return replace(page, end_time=None).to_bytes()


def _nothing_yet(page: Page, _: str) -> bytes:
    """No ticket, and yet not the end of the stream."""
    return replace(page, tickets=[], end_of_stream=False).to_bytes()


def _foreign_next_page(page: Page, _: str) -> bytes:
    return replace(page, next_page="https://elsewhere.example/api/v2/incremental/tickets?start_time=1").to_bytes()


def _tickets_not_a_list(page: Page, _: str) -> bytes:
    return orjson.dumps({**orjson.loads(page.to_bytes()), "tickets": {"count": len(page.tickets)}})


def _placeholders(page: Page, _: str) -> bytes:
    """Every scalar replaced by the name of its type, as in the example body of Zendesk's API collection."""
    return orjson.dumps(_placeholder(orjson.loads(page.to_bytes())))


def _placeholder(value: Any) -> Any:
    match value:
        case dict():
            return {key: _placeholder(inner) for key, inner in value.items()}
        case list():
            return [_placeholder(inner) for inner in value]
        case bool():
            return "<boolean>"
        case int() | float():
            return "<integer>"
        case _:
            return "<string>"


def _in_one_ticket(edit: Callable[[bytes], bytes]) -> Callable[[Page, str], bytes]:
    """Spoil the ticket in the middle of the page; an empty page stays as it is."""

    def spoiled(page: Page, _: str) -> bytes:
        middle = len(page.tickets) // 2
        tickets = [edit(ticket) if n == middle else ticket for n, ticket in enumerate(page.tickets)]
        return replace(page, tickets=tickets).to_bytes()

    return spoiled


FAULTS: Final[dict[str, Callable[[Page, str], bytes]]] = {
    "missing_key": _without_key,
    "null_end_time": _null_end_time,
    "nothing_yet": _nothing_yet,
    "foreign_next_page": _foreign_next_page,
    "tickets_not_a_list": _tickets_not_a_list,
    "placeholders": _placeholders,
    "ticket_without_id": _in_one_ticket(lambda ticket: re.sub(rb'(?<=,)"id":\d+,', b"", ticket, count=1)),
    "ticket_without_generated_timestamp": _in_one_ticket(
        lambda ticket: re.sub(rb',"generated_timestamp":\d+(?=}$)', b"", ticket)
    ),
    "deep_nesting": _in_one_ticket(lambda ticket: b'{"nested":' + b"[" * NESTING + b"]" * NESTING + b"," + ticket[1:]),
    "lone_surrogate": _in_one_ticket(lambda ticket: b'{"nickname":"\\ud83d",' + ticket[1:]),
}
"""Faults that make the body of a page from the page and the fault's `key`. Spoiled tickets are not in the ground truth."""
