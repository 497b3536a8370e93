"""One request to the account's API: asked within deadlines, taken whole, its size capped while it streams."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import aiohttp

from producer import __version__
from producer.errors import BadAnswer, Misconfigured, ProducerError, Refused, TooLarge, Unavailable
from producer.events import Answered, Observer
from producer.settings import Settings
from producer.zendesk import answers
from producer.zendesk.auth import Login
from producer.zendesk.budget import Budget
from producer.zendesk.clock import ServerClock

# Seconds. An extended page of many thousand tickets may take the API a minute before its first byte.
TIMEOUT = aiohttp.ClientTimeout(total=180, connect=15, sock_connect=15, sock_read=90)
TOKEN_TIMEOUT = aiohttp.ClientTimeout(total=30, connect=15, sock_connect=15)

CONNECTIONS = 4
"""Most that an account has at a time: one for each of its streams."""

_CHUNK = 64 * 1024
_ERROR_BODY = 4096


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back with status 200, or a too-recent answer (then `body` is None). `server_time` is its `Date`."""

    body: bytes | bytearray | None = field(repr=False)
    server_time: float | None
    headers: Mapping[str, str] = field(repr=False)


@dataclass(slots=True)
class _Attempt:
    """One request. `began`: when it was sent; until then, when it was begun."""

    began: float


class Pool:
    """The connections of all accounts, and whom to trust at their other ends. Use `open_pool`."""

    def __init__(self, connector: aiohttp.TCPConnector) -> None:
        self.connector = connector
        self._trusted: dict[Path, ssl.SSLContext] = {}

    def trust(self, settings: Settings) -> ssl.SSLContext | bool:
        """The `ssl` of an account's requests. Accounts with the same file share what was read from it.

        Raises:
            Misconfigured: `zendesk.ca_file` cannot be read.
        """
        file = settings.zendesk.ca_file
        if file is None:
            return True
        if file not in self._trusted:
            try:
                self._trusted[file] = ssl.create_default_context(cafile=file)
            except (OSError, ssl.SSLError) as error:
                raise Misconfigured(f"zendesk.ca_file {file} cannot be used: {error}") from None
        return self._trusted[file]


@asynccontextmanager
async def open_pool(accounts: Sequence[Settings]) -> AsyncIterator[Pool]:
    """Connections for the process's lifetime. None of the accounts can be kept waiting by what another one occupies."""
    # Counted by host, and accounts may have the same one: behind a gateway, or in a sandbox.
    together = max(Counter(settings.zendesk.base_url for settings in accounts).values())
    connector = aiohttp.TCPConnector(limit=0, limit_per_host=CONNECTIONS * together)
    async with connector:
        yield Pool(connector)


class Client:
    """Asks one account's API. Credentials go to the configured host only: no redirect, no URL of the server is followed.

    Its `budget` is told of every request sent, and of every answer's headers.
    """

    def __init__(
        self,
        settings: Settings,
        session: aiohttp.ClientSession,
        trust: ssl.SSLContext | bool,
        tell: Observer,
        budget: Budget,
    ) -> None:
        self.clock = ServerClock()
        self._zendesk = settings.zendesk
        self._redact = settings.redact
        self._session = session
        self._trust = trust
        self._tell = tell
        self._budget = budget
        self._login = Login(settings, self._ask_for_token, tell)

    @property
    def granted(self) -> str:
        """What the token that we sign in with is good for, in words; empty without one."""
        return self._login.granted

    def telling(self, tell: Observer) -> Client:
        """The same client, which tells of its answers to somebody else."""
        other = copy(self)
        other._tell = tell
        return other

    async def get(self, path: str, params: Mapping[str, int | str]) -> Answer:
        """One GET below `/api/v2`, one attempt.

        Raises:
            Retriable, Blocked, Refused, Misconfigured: as `answers.judge` says; Unavailable without a whole answer;
                TooLarge as soon as the decompressed body is over `zendesk.max_response_bytes`.
        """
        authorization = await self._login.header()
        attempt = _Attempt(time.monotonic())
        with self._failures(attempt):
            async with self._session.get(
                f"{self._zendesk.base_url}/api/v2/{path}",
                params=params,
                headers={
                    "Accept": "application/json",
                    "Accept-Encoding": "gzip",
                    "Authorization": authorization,
                },
                allow_redirects=False,
                proxy=self._zendesk.proxy,
                ssl=self._trust,
                trace_request_ctx=attempt,
            ) as response:
                return await self._take(response, attempt, authorization)

    @contextmanager
    def _failures(self, attempt: _Attempt) -> Iterator[None]:
        """Let every failure of aiohttp leave as one of ours."""
        try:
            yield
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
                f"{self._zendesk.base_url} after {time.monotonic() - attempt.began:.1f} s: {self._redact(what)}"
            ) from None

    async def _ask_for_token(self, grant: Mapping[str, str | int]) -> bytes:
        """The body of the answer to a request for a token, which counts in no budget of exports."""
        attempt = _Attempt(time.monotonic())
        with self._failures(attempt):
            async with self._session.post(
                f"{self._zendesk.base_url}/oauth/tokens",
                json=grant,
                headers={"Accept": "application/json"},
                allow_redirects=False,
                proxy=self._zendesk.proxy,
                ssl=self._trust,
                timeout=TOKEN_TIMEOUT,
            ) as response:
                body = bytearray()
                async for chunk in response.content.iter_chunked(_CHUNK):
                    body += chunk
                    if len(body) > _CHUNK:
                        raise BadAnswer("the answer to a request for a token does not end")
                if 200 <= response.status < 300:
                    return bytes(body)
                text = bytes(body[:_ERROR_BODY]).decode("utf-8", "replace")
                raise answers.judge_token(response.status, response.headers, text, self._redact)

    async def _take(self, response: aiohttp.ClientResponse, attempt: _Attempt, authorization: str) -> Answer:
        headers = response.headers
        self._budget.hear(headers)
        server_time = self.clock.hear(headers.get("Date"))
        ok = response.status == 200
        body = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK):
            body += chunk
            if len(body) > self._zendesk.max_response_bytes:
                body.clear()  # not kept by the error's traceback until the collector comes by: several would add up
                raise TooLarge(
                    f"the answer is over {self._zendesk.max_response_bytes:,} bytes decompressed",
                    hint="raise zendesk.max_response_bytes",
                )
            if not ok and len(body) > _ERROR_BODY:
                break
        self._tell(Answered(response.status, time.monotonic() - attempt.began, len(body), _limits(headers)))
        if ok:
            self._login.accepted()
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
        error = answers.judge(response.status, headers, text, self._redact)
        if response.status == 401 and await self._login.refused(authorization):
            raise Unavailable(f"{error}; signed in anew, and asking again")
        if response.status == 403:
            self._login.forbidden(authorization)
        raise error


@asynccontextmanager
async def open_client(
    settings: Settings, tell: Observer, budget: Budget, pool: Pool | None = None
) -> AsyncIterator[Client]:
    """A client for the process's lifetime, with connections of its own if not of `pool`. Before each `get` a turn of `budget` is due.

    Raises:
        Misconfigured: `zendesk.ca_file` cannot be read.
    """
    async with AsyncExitStack() as around:
        if pool is None:
            pool = await around.enter_async_context(open_pool([settings]))
        trust = pool.trust(settings)
        session = aiohttp.ClientSession(
            connector=pool.connector,
            connector_owner=False,
            timeout=TIMEOUT,
            headers={"User-Agent": f"zendesk-producer/{__version__}"},
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            trace_configs=[_at_sending(budget)],
        )
        await around.enter_async_context(session)
        # Left on, aiohttp asks a second time by itself when a connection drops: past the budget, and seen by nobody.
        session._retry_connection = False
        yield Client(settings, session, trust, tell, budget)


def _at_sending(budget: Budget) -> aiohttp.TraceConfig:
    """Holds every request to the API, its connection made, until `budget` lets it go: connecting may take long, or no time at all."""

    async def sending(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        attempt = context.trace_request_ctx
        if attempt is not None:  # else it is for a token
            await budget.sending()
            attempt.began = time.monotonic()

    trace = aiohttp.TraceConfig()
    # aiohttp calls it `sent`, but awaits it before it writes the first byte.
    trace.on_request_headers_sent.append(sending)
    return trace


def _limits(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        name.lower(): value
        for name, value in headers.items()
        if "rate-limit" in name.lower() or "ratelimit" in name.lower()
    }
