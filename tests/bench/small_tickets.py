"""A server of an account of any size: small tickets, computed from where a page starts, so that none is ever stored.

The export's rules: an inclusive start, at most 1,000 rows, pages that are cut in the middle of a second.
Run as `python -m tests.bench.small_tickets TICKETS START`: it prints its base URL, serves, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import orjson
from aiohttp import web

from producer.dates import utc
from tests.bench import parts

PAGE = 1_000
"""Tickets at most."""

# 7.1 a second: seconds hold seven or eight tickets, and pages are cut behind the fourth or fifth of one.
_ROWS, _SECONDS = 64, 9
_STATUSES = (b"new", b"open", b"pending", b"hold", b"solved", b"closed")


@dataclass(frozen=True, slots=True)
class Account:
    """So many `tickets`, the first of which is stamped `start` (Unix seconds)."""

    tickets: int
    start: int

    @classmethod
    def until(cls, end: float, tickets: int) -> Self:
        """One whose last ticket is stamped a moment before `end`."""
        return cls(tickets, int(end) - 1 - tickets * _SECONDS // _ROWS)

    def ticket(self, row: int) -> bytes:
        """The ticket of a row, counted from 0; its id is one more. 360 bytes or so."""
        id, stamp = row + 1, self._stamp(row)
        date = utc(stamp).encode()
        return (
            b'{"url":"https://acme.zendesk.com/api/v2/tickets/%d.json","id":%d,"created_at":"%b","updated_at":"%b",'
            b'"generated_timestamp":%d,"subject":"Where is order %d?","status":"%b","priority":null,"requester_id":%d,'
            b'"assignee_id":%d,"group_id":%d,"tags":["order","web"],"via":{"channel":"web"}}'
        ) % (
            *(id, id, date, date, stamp, id * 7919 % 10_000_019, _STATUSES[id % len(_STATUSES)]),
            *(360_000_000 + id * 31 % 999_983, 360_000_000 + id % 101, 360_000_000 + id % 7),
        )

    def page(self, start_time: int, limit: int, link: str) -> bytes:
        """The answer from `start_time` on, with at most so many tickets; `link` is the address that was asked."""
        first = max(0, -(-(start_time - self.start) * _ROWS // _SECONDS))
        rows = range(min(first, self.tickets), min(first + limit, self.tickets))
        end_time = self._stamp(rows[-1]) if rows else None
        envelope = {
            "count": len(rows),
            "end_of_stream": rows.stop == self.tickets,
            "end_time": end_time,
            "next_page": f"{link}?start_time={end_time}",
        }
        return b'{"tickets":[' + b",".join(map(self.ticket, rows)) + b"]," + orjson.dumps(envelope)[1:]

    def _stamp(self, row: int) -> int:
        return self.start + row * _SECONDS // _ROWS


@contextmanager
def serving(account: Account) -> Iterator[str]:
    """A server of the account in a process of its own, while inside; gives its base URL."""
    with parts.serving(__name__, f"{account.tickets}", f"{account.start}") as url:
        yield url


async def serve(account: Account) -> None:
    """Serve it on a free port of 127.0.0.1 until standard input ends."""

    async def answer(request: web.Request) -> web.Response:
        query = request.query
        limit = min(int(query["per_page"]), PAGE)
        page = account.page(int(query["start_time"]), limit, str(request.url.with_query(None)))
        packer = zlib.compressobj(1, wbits=31)
        return web.Response(
            body=packer.compress(page) + packer.flush(),
            content_type="application/json",
            headers={"Content-Encoding": "gzip"},
        )

    application = web.Application()
    application.router.add_get("/api/v2/incremental/tickets", answer)
    await parts.serve(application)


if __name__ == "__main__":
    asyncio.run(serve(Account(*map(int, sys.argv[1:]))))
