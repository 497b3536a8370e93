"""One request to the account's API: asked within deadlines, taken whole, its size capped while it streams."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from producer import __version__
from producer.errors import BadAnswer, Misconfigured, ProducerError, Refused, TooLarge, Unavailable
from producer.events import Answered, Noticed, Observer
from producer.settings import Settings
from producer.zendesk import answers
from producer.zendesk.auth import authorization
from producer.zendesk.clock import ServerClock

# Seconds. An extended page of many thousand tickets may take the API a minute before its first byte.
TIMEOUT = aiohttp.ClientTimeout(total=180, connect=15, sock_connect=15, sock_read=90)
_CHUNK = 64 * 1024
_ERROR_BODY = 4096


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back with status 200, or a too-recent answer (then `body` is None). `server_time` is its `Date`."""

    body: bytes | bytearray | None = field(repr=False)
    server_time: float | None
    headers: Mapping[str, str] = field(repr=False)


class Client:
    """Asks one account's API. Credentials go to the configured host only: no redirect, no URL of the server is followed."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession, tell: Observer) -> None:
        self.clock = ServerClock()
        self._noticed: set[str] = set()
        self._zendesk = settings.zendesk
        self._redact = settings.redact
        self._session = session
        self._tell = tell
        self._proxy = settings.zendesk.proxy

    async def get(self, path: str, params: Mapping[str, int | str]) -> Answer:
        """One GET below `/api/v2`, one attempt.

        Raises:
            Retriable, Blocked, Refused, Misconfigured: as `answers.judge` says; Unavailable without a whole answer;
                TooLarge as soon as the decompressed body is over `zendesk.max_response_bytes`.
        """
        started = time.monotonic()
        try:
            async with self._session.get(
                f"{self._zendesk.base_url}/api/v2/{path}",
                params=params,
                headers={
                    "Accept": "application/json",
                    "Accept-Encoding": "gzip",
                    "Authorization": authorization(self._zendesk),
                },
                allow_redirects=False,
                proxy=self._proxy,
            ) as response:
                return await self._take(response, started)
        except ProducerError:
            raise
        except aiohttp.ClientConnectorCertificateError as error:
            raise Misconfigured(
                f"the certificate of {self._zendesk.base_url} is not trusted: {error.certificate_error}",
                hint="behind an inspecting proxy set zendesk.ca_file",
            ) from None
        except aiohttp.InvalidURL as error:
            raise Misconfigured(
                f"not a usable address: {error}", hint="check zendesk.base_url and zendesk.proxy"
            ) from None
        except aiohttp.ClientHttpProxyError as error:
            kind = Refused if error.status == 407 else Unavailable
            raise kind(f"the proxy answered {error.status}", hint="check zendesk.proxy") from None
        except (aiohttp.ClientError, TimeoutError, ConnectionError, asyncio.IncompleteReadError) as error:
            # Without the cause: aiohttp's errors may carry the request, and the request its Authorization header.
            what = "no answer in time" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
            raise Unavailable(
                f"{self._zendesk.base_url} after {time.monotonic() - started:.1f} s: {self._redact(what)}"
            ) from None

    def notice(self, kind: str, text: str) -> None:
        """Tell something odd about this account's answers, once per process."""
        if kind not in self._noticed:
            self._noticed.add(kind)
            self._tell(Noticed(kind, text))

    async def _take(self, response: aiohttp.ClientResponse, started: float) -> Answer:
        headers = response.headers
        server_time = self.clock.hear(headers.get("Date"))
        ok = response.status == 200
        body = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK):
            body += chunk
            if len(body) > self._zendesk.max_response_bytes:
                raise TooLarge(
                    f"the answer is over {self._zendesk.max_response_bytes:,} bytes decompressed",
                    hint="raise zendesk.max_response_bytes",
                )
            if not ok and len(body) > _ERROR_BODY:
                break
        self._tell(Answered(response.status, time.monotonic() - started, len(body), _limits(headers)))
        if ok:
            kind = response.content_type
            if kind != "application/json":
                start = self._redact(" ".join(body[:_ERROR_BODY].decode("utf-8", "replace").split()))[:300]
                raise BadAnswer(
                    f"status 200, but {kind} instead of JSON: {start or 'no body'}",
                    hint="something between here and Zendesk answers in its place: check zendesk.base_url and zendesk.proxy",
                )
            if not body[-16:].rstrip().endswith(b"}"):
                # A gzip stream that is cut inside whole chunks: aiohttp notices nothing.
                raise Unavailable(f"the answer is cut short after {len(body):,} bytes")
            return Answer(body, server_time, headers)
        text = bytes(body[:_ERROR_BODY]).decode("utf-8", "replace")
        if answers.too_recent(response.status, text):
            return Answer(None, server_time, headers)
        raise answers.judge(response.status, headers, text, self._redact)


@asynccontextmanager
async def open_client(settings: Settings, tell: Observer) -> AsyncIterator[Client]:
    """A client for the process's lifetime, with a connection pool of its own.

    Raises:
        Misconfigured: `zendesk.ca_file` cannot be read.
    """
    connector = aiohttp.TCPConnector(limit=4, ssl=_tls(settings))
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=TIMEOUT,
        headers={"User-Agent": f"zendesk-producer/{__version__}"},
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    ) as session:
        # Left on, aiohttp asks a second time by itself when a connection drops: past the budget, and seen by nobody.
        session._retry_connection = False
        yield Client(settings, session, tell)


def _tls(settings: Settings) -> ssl.SSLContext | bool:
    if settings.zendesk.ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=settings.zendesk.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(f"zendesk.ca_file {settings.zendesk.ca_file} cannot be used: {error}") from None


def _limits(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        name.lower(): value
        for name, value in headers.items()
        if "rate-limit" in name.lower() or "ratelimit" in name.lower()
    }
