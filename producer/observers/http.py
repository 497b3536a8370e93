"""The endpoint for probes, metrics and people: /livez, /readyz, /metrics, /status."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler

from producer.errors import Misconfigured
from producer.observers.status import Status, Verdict
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


def _application(status: Status, registry: CollectorRegistry) -> web.Application:
    async def livez(request: web.Request) -> web.Response:
        return judged("alive", status.alive())

    async def readyz(request: web.Request) -> web.Response:
        return judged("ready", status.ready())

    async def everything(request: web.Request) -> web.Response:
        return _json(status.snapshot())

    def judged(word: str, verdict: Verdict) -> web.Response:
        return _json({word: bool(verdict), "state": status.state, "reasons": verdict.reasons}, 200 if verdict else 503)

    application = web.Application()
    application.on_response_prepare.append(_add_headers)
    # `add_get` also answers HEAD; any other method gets 405: nothing can be changed from here.
    application.router.add_get("/livez", livez)
    application.router.add_get("/readyz", readyz)
    application.router.add_get("/status", everything)
    application.router.add_get("/metrics", make_aiohttp_handler(registry))
    return application


@asynccontextmanager
async def serve(settings: HttpSettings, status: Status, registry: CollectorRegistry) -> AsyncIterator[str]:
    """Listen while inside; gives the base URL, with the port that was taken where the setting is 0.

    Raises:
        Misconfigured: the address cannot be listened on.
    """
    # Without an access log: probes every few seconds would be most of what we log. A reader who keeps his connection
    # open does not hold up the end of the process.
    runner = web.AppRunner(_application(status, registry), access_log=None, shutdown_timeout=0.5)
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
