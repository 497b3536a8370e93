"""The endpoint for probes, metrics and people: /livez, /readyz, /metrics, /status."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson
from aiohttp import web
from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder

from producer.errors import Misconfigured
from producer.observers.board import Board
from producer.observers.status import Verdict
from producer.settings import HttpSettings

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Server": "zendesk-producer",
    "X-Content-Type-Options": "nosniff",
}


async def _add_headers(request: web.BaseRequest, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _json(value: object, status: int = 200) -> web.Response:
    body = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return web.Response(body=body, status=status, content_type="application/json")


@dataclass(frozen=True, slots=True)
class _Collected:
    """What a registry had, for the encoders, which ask one."""

    families: list[Metric]

    def collect(self) -> list[Metric]:
        return self.families


def _application(board: Board) -> web.Application:
    async def livez(request: web.Request) -> web.Response:
        return judged("alive", board.alive())

    async def readyz(request: web.Request) -> web.Response:
        return judged("ready", board.ready())

    async def everything(request: web.Request) -> web.Response:
        return _json(board.snapshot())

    async def metrics(request: web.Request) -> web.Response:
        # With hundreds of services this takes a good part of a second, in which theirs goes on: the loop has its turn after
        # each family, and the text is written beside it.
        names = request.query.getall("name[]", ())
        families = []
        for family in (board.registry.restricted_registry(names) if names else board.registry).collect():
            families.append(family)
            await asyncio.sleep(0)
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        text = await asyncio.to_thread(encode, _Collected(families))
        response = web.Response(body=text, headers={"Content-Type": content_type})
        response.enable_compression()
        return response

    def judged(word: str, verdict: Verdict) -> web.Response:
        return _json({word: bool(verdict), **board.states(), "reasons": verdict.reasons}, 200 if verdict else 503)

    application = web.Application()
    application.on_response_prepare.append(_add_headers)
    # `add_get` also answers HEAD; any other method gets 405: nothing can be changed from here.
    application.router.add_get("/livez", livez)
    application.router.add_get("/readyz", readyz)
    application.router.add_get("/status", everything)
    application.router.add_get("/metrics", metrics)
    return application


@asynccontextmanager
async def serve(settings: HttpSettings, board: Board) -> AsyncIterator[str]:
    """Listen while inside; gives the base URL, with the port that was taken where the setting is 0.

    Raises:
        Misconfigured: the address cannot be listened on.
    """
    # Without an access log: probes every few seconds would be most of what we log. A reader who keeps his connection
    # open does not hold up the end of the process.
    runner = web.AppRunner(_application(board), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, settings.host, settings.port).start()
        except OSError as error:
            raise _unusable(settings, error) from None
        host, port = runner.addresses[0][:2]
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def _unusable(settings: HttpSettings, error: OSError) -> Misconfigured:
    place = f"{settings.host}:{settings.port}"
    match error.errno:
        case errno.EADDRINUSE:
            return Misconfigured(
                f"http.port: {place} is in use by another program",
                hint="set http.port to a free port, to 0 for any, or http.enabled to false",
            )
        case errno.EACCES:
            return Misconfigured(f"http.port: not allowed to listen on {place}", hint="set http.port to 1024 or above")
        case _:
            reason = error.strerror or str(error)
            return Misconfigured(
                f"http.host: cannot listen on {place}: {reason}", hint="set http.host to an address of this machine"
            )
