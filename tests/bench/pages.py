"""A server of prebuilt pages of the time-based export: gzip, in chunks, 1,000 tickets of 4.6 KB each, no row twice.

Run as `python -m tests.bench.pages`: it builds `PAGES` pages, prints its base URL, serves, and ends with its standard
input, so that it never outlives whoever started it.
"""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice

import orjson
from aiohttp import web

from producer.sandbox.zendesk.bodies import CLOSED, HUGE_EVERY, HUGE_ID, LONG_DESCRIPTION_EVERY, Bodies
from tests.bench import parts

PAGES = 300
TICKETS = 1_000
"""Per page, one each second."""

_BEGIN = 1_700_000_000  # Unix seconds: the first page's first ticket
_PIECE = 64 * 1024  # bytes per chunk
_DESCRIPTION = 480  # bytes: makes tickets of 4.6 KB in the mean, and pages that gzip to 0.7 MB
_LETTERS = (b"the parcel was due on monday and the tracking page has not moved since " * 4)[:256]
"""What a random byte becomes: letters as frequent as in words."""


def start_time(pages: int) -> int:
    """Where to begin so that there are so many pages until the end of the stream."""
    return _BEGIN + (PAGES - pages) * TICKETS


@contextmanager
def serving() -> Iterator[str]:
    """A server in a process of its own, its pages built, while inside; gives its base URL."""
    with parts.serving(__name__) as url:
        yield url


def build() -> list[bytes]:
    """All pages, as gzip. Tickets of an extraordinary size are left out: pages are to be alike."""
    bodies, dice = Bodies("acme", seed=1), random.Random(1)
    ids = (id for id in count(1) if id % LONG_DESCRIPTION_EVERY and id % HUGE_EVERY != HUGE_ID)
    return [_page(bodies, list(islice(ids, TICKETS)), number, dice) for number in range(PAGES)]


def _page(bodies: Bodies, ids: list[int], number: int, dice: random.Random) -> bytes:
    begin, end = _BEGIN + number * TICKETS, _BEGIN + (number + 1) * TICKETS
    tickets = [_ticket(bodies, id, stamp, dice) for id, stamp in zip(ids, range(begin + 1, end + 1), strict=True)]
    # `end_time` is the last row's stamp, and yet the page from there on does not repeat it: pages are to be alike.
    envelope = {"count": TICKETS, "end_of_stream": number == PAGES - 1, "next_page": None, "end_time": end}
    packer = zlib.compressobj(wbits=31)
    return packer.compress(b'{"tickets":[' + b",".join(tickets) + b"]," + orjson.dumps(envelope)[1:]) + packer.flush()


def _ticket(bodies: Bodies, id: int, stamp: int, dice: random.Random) -> bytes:
    """One that is not deleted (so it makes one record), described in words that no other ticket has.

    With the sandbox's few sentences a page would shrink to a thirteenth; customers' own words let it come to a seventh.
    """
    body = bodies.render(id, 1, stamp, stamp, stamp, state=id % (CLOSED + 1))
    before, _, rest = body.partition(b'"description":"')
    after = rest[rest.index(b'","priority":') :]
    return before + b'"description":"' + dice.randbytes(_DESCRIPTION).translate(_LETTERS) + after


async def serve(pages: list[bytes]) -> None:
    """Serve them on a free port of 127.0.0.1 until standard input ends."""

    async def answer(request: web.Request) -> web.StreamResponse:
        page = memoryview(pages[(int(request.query["start_time"]) - _BEGIN) // TICKETS])
        response = web.StreamResponse(
            headers={"Content-Type": "application/json; charset=utf-8", "Content-Encoding": "gzip"}
        )
        response.enable_chunked_encoding()
        await response.prepare(request)
        for start in range(0, len(page), _PIECE):
            await response.write(page[start : start + _PIECE])
        await response.write_eof()
        return response

    application = web.Application()
    application.router.add_get("/api/v2/incremental/tickets", answer)
    await parts.serve(application)


if __name__ == "__main__":
    asyncio.run(serve(build()))
