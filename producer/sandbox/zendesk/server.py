"""The pretend Zendesk over HTTP: the export under `/api`, and the truth about it under `/simulator`."""

import asyncio
import uuid
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from email.utils import formatdate
from hashlib import blake2b
from itertools import islice
from time import perf_counter
from typing import Any, Final, Self
from urllib.parse import urlencode

import orjson
from aiohttp import web

from producer.sandbox.zendesk import answers
from producer.sandbox.zendesk.access import Credentials, refusal
from producer.sandbox.zendesk.account import Account
from producer.sandbox.zendesk.answers import Answer
from producer.sandbox.zendesk.changes import KINDS, Changes
from producer.sandbox.zendesk.clock import Clock
from producer.sandbox.zendesk.cursor_export import CursorExport
from producer.sandbox.zendesk.endpoints import ENDPOINTS, view_of, warning
from producer.sandbox.zendesk.export import Export, TimePage
from producer.sandbox.zendesk.faults import Fault, Scenario
from producer.sandbox.zendesk.history import History, View
from producer.sandbox.zendesk.limits import Bucket, Buckets, Limits
from producer.sandbox.zendesk.page import MAX_PER_PAGE, Page
from producer.sandbox.zendesk.rules import Rules
from producer.sandbox.zendesk.spoil import Spoiler
from producer.sandbox.zendesk.tokens import OAuth
from producer.sandbox.zendesk.wire import deliver, pause

_EXPORT_PATH: Final = "/api/v2/incremental/tickets"
_TRUTH_BLOCK = 200  # lines rendered between two looks at other requests
_STARTED = web.RequestKey("started", float)
_REQUEST_ID = web.RequestKey("request_id", str)


@dataclass(frozen=True, slots=True)
class Served:
    """One request to the API and what it got. `number` counts from 1, `at` is simulated Unix seconds.

    `start_time` and `per_page` are None when not sent or not numbers, `cursor` when not sent, `status` when the connection
    was reset before it. `tickets` (how many rows, of whatever stream), `end_time` (None for the cursor export) and
    `end_of_stream` are the page's before a fault spoils it.
    """

    number: int
    at: float
    path: str
    start_time: int | None
    cursor: str | None
    per_page: int | None
    status: int | None
    tickets: int
    end_time: int | None
    end_of_stream: bool | None
    request_id: str
    fault: str | None


class Simulator:
    """A faithful far end on loopback: `async with Simulator(account, clock=clock) as server`.

    Without `credentials` and `oauth` any well-formed Basic or Bearer login is accepted; `token_scenario` has the faults of
    requests for a token. The answers' Date is the clock's now plus
    `date_skew` seconds, or missing without `send_date`. A page takes `page_seconds` of the clock before its first byte,
    while other requests are served. `port` 0 takes a free one.
    """

    def __init__(
        self,
        account: Account,
        *,
        clock: Clock,
        credentials: Credentials | None = None,
        oauth: OAuth | None = None,
        token_scenario: Scenario | None = None,
        limits: Limits | None = None,
        scenario: Scenario | None = None,
        rules: Rules | None = None,
        date_skew: float = 0.0,
        send_date: bool = True,
        page_seconds: float = 0.0,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.account = account
        self.clock = clock
        self.changes = Changes(account, clock)
        self.journal: list[Served] = []
        self.base_url = ""
        self.oauth = oauth
        self._credentials = Credentials() if credentials is None and oauth is not None else credentials
        self._token_scenario = token_scenario or Scenario()
        self._token_requests = 0
        self._scenario = scenario or Scenario()
        self._spoiler = Spoiler()
        self._rules = rules or Rules()
        self._exports = {name: Export(stream, self._rules) for name, stream in account.streams.items()}
        self._cursor_exports = {name: CursorExport(stream, self._rules) for name, stream in account.streams.items()}
        self._buckets = Buckets(limits or Limits(), clock)
        self._date_skew = date_skew
        self._send_date = send_date
        self._page_seconds = page_seconds
        self._host = host
        self._port = port
        self._stopping = asyncio.Event()

        app = web.Application()
        app.router.add_get("/simulator", self._summary)
        app.router.add_get("/simulator/truth", self._truth)
        app.router.add_get("/simulator/journal", self._journal)
        app.router.add_get("/simulator/clock", self._time)
        app.router.add_post("/simulator/changes", self._change)
        app.router.add_route("*", "/{path:.*}", self._api)
        app.on_response_prepare.append(self._sign)
        # A handler whose client has gone is cancelled, so that a stalled body does not outlive its reader.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=2.0)

    async def __aenter__(self) -> Self:
        """Listen. Raises OSError when the port is taken."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError:
            await self._runner.cleanup()
            raise
        host, port = self._runner.addresses[0][:2]
        self.base_url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        await self._runner.cleanup()

    async def _api(self, request: web.Request) -> web.StreamResponse:
        """One request to Zendesk: met by a fault, or answered and perhaps broken on the way."""
        request[_STARTED] = perf_counter()
        request[_REQUEST_ID] = str(uuid.uuid4())
        if self.oauth is not None and (request.method, request.path) == ("POST", "/oauth/tokens"):
            return await self._grant(request, self.oauth)
        number = len(self.journal) + 1
        per_page = _integer(request.query.get("per_page"))
        asked = MAX_PER_PAGE if per_page is None else min(per_page, MAX_PER_PAGE)
        answer = self._answer(request)
        page = answer if isinstance(answer, Page) else None
        fault = self._scenario.meet(number, asked, page, request.query.get("cursor"))
        if fault is not None and fault.name in answers.FAULTS:
            answer, page = answers.FAULTS[fault.name](self._retry_after(fault)), None
        if isinstance(answer, Page):
            body = answer.to_bytes() if fault is None else self._spoiler.spoil(answer, fault)
            answer = Answer(200, body, headers={"ETag": f'W/"{blake2b(body, digest_size=16).hexdigest()}"'})
            if (warned := warning(request.query, ENDPOINTS[request.path].stream)) is not None:
                answer.headers["X-Zendesk-Api-Warn"] = warned
        self.journal.append(
            Served(
                number=number,
                at=self.clock.now(),
                path=request.path,
                start_time=_integer(request.query.get("start_time")),
                cursor=request.query.get("cursor"),
                per_page=per_page,
                status=None if fault is not None and fault.name == "reset_before_headers" else answer.status,
                tickets=0 if page is None else len(page.rows),
                end_time=page.end_time if isinstance(page, TimePage) else None,
                end_of_stream=None if page is None else page.end_of_stream,
                request_id=request[_REQUEST_ID],
                fault=None if fault is None else fault.name,
            )
        )
        if page is not None and self._page_seconds:
            await pause(self.clock.real_seconds(self._page_seconds), self._stopping)
        return await deliver(request, answer, fault, self._stopping)

    async def _grant(self, request: web.Request, oauth: OAuth) -> web.StreamResponse:
        """One request for a token, met by a fault or answered."""
        self._token_requests += 1
        fault = self._token_scenario.meet(self._token_requests, 1, None, None)
        if fault is not None and fault.name in answers.FAULTS:
            answer = answers.FAULTS[fault.name](self._retry_after(fault))
        else:
            asked: Any = None
            with suppress(orjson.JSONDecodeError):
                asked = orjson.loads(await request.read())
            answer = oauth.grant(asked if isinstance(asked, dict) else {}, self.clock.now())
        return await deliver(request, answer, fault, self._stopping)

    def _refused(self, request: web.Request) -> Answer | None:
        """What Zendesk says to who may not read; None: the request may go on."""
        authorization = request.headers.get("Authorization")
        scheme = refusal(authorization, self._credentials)
        if scheme == "bearer" and self.oauth is not None and authorization is not None:
            endpoint = ENDPOINTS.get(request.path)
            stream = "tickets" if endpoint is None else endpoint.stream
            found = self.oauth.judge(authorization.partition(" ")[2], stream, self.clock.now())
            if found == "good":
                return None
            if found == "lacks a scope":
                return answers.FAULTS["missing_scope"](None)
        return None if scheme is None else answers.not_authenticated(scheme)

    def _answer(self, request: web.Request) -> Page | Answer:
        """What Zendesk says: is it you, is there such a path, is it your turn; a page."""
        if (not_you := self._refused(request)) is not None:
            return not_you
        if request.method != "GET" or request.path not in ENDPOINTS:
            return answers.invalid_endpoint()
        refused = self._buckets.take(ENDPOINTS[request.path].bucket)
        return self._page(request) if refused is None else self._too_many(refused)

    def _page(self, request: web.Request) -> Page | Answer:
        """The page that the parameters ask for, or what is wrong with them."""
        query, now, endpoint = request.query, self.clock.now(), ENDPOINTS[request.path]
        per_page = _integer(query.get("per_page", f"{MAX_PER_PAGE}"))
        if per_page is None or per_page < 1:
            return answers.invalid_value("per_page", query["per_page"])
        per_page = min(per_page, MAX_PER_PAGE)
        view = view_of(query, endpoint.stream)
        if isinstance(view, Answer):
            return view

        def after_url(cursor: str) -> str:
            return _link(request, self._rules.links_keep, cursor=cursor)

        def next_page(end_time: int) -> str:
            return _link(request, self._rules.links_keep, start_time=f"{end_time}")

        export, cursor_export = self._exports[endpoint.stream], self._cursor_exports[endpoint.stream]
        by_cursor = endpoint.way == "cursor"
        if by_cursor and "cursor" in query:
            page = cursor_export.after(query["cursor"], per_page, now, after_url, view)
            return answers.cursor_refused() if page is None else page
        start_time = self._start_time(query, now)
        if isinstance(start_time, Answer):
            return start_time
        if by_cursor:
            return cursor_export.first(start_time, per_page, now, after_url, view)
        if endpoint.way == "sample":
            return export.sample(start_time, now, next_page, view)
        return export.page(start_time, per_page, now, next_page, view)

    def _start_time(self, query: Mapping[str, str], now: float) -> int | Answer:
        if "start_time" not in query:
            return answers.missing_start_time()
        start_time = _integer(query["start_time"])
        if start_time is None or start_time < 0:
            return answers.invalid_value("start_time", query["start_time"])
        if start_time >= now - self._rules.too_recent_seconds:
            return answers.too_recent(self._rules.too_recent_answer, self._rules.too_recent_seconds)
        return start_time

    def _too_many(self, bucket: Bucket) -> Answer:
        seconds = self._buckets.retry_after(bucket)
        retry_after = None if seconds is None else f"{seconds}"
        return answers.too_many_requests(retry_after) if bucket == "account" else answers.too_many_exports(retry_after)

    def _retry_after(self, fault: Fault) -> str | None:
        if fault.retry_after is None:
            return None
        if fault.retry_after_form == "date":
            return formatdate(self.clock.now() + self._date_skew + fault.retry_after, usegmt=True)
        return f"{fault.retry_after}"

    async def _sign(self, request: web.Request, response: web.StreamResponse) -> None:
        """The headers that every answer of the API carries."""
        headers = response.headers
        if not self._send_date:
            headers.pop("Date", None)
        else:
            headers["Date"] = formatdate(self.clock.now() + self._date_skew, usegmt=True)
        if _REQUEST_ID not in request:
            return
        headers["Server"] = "cloudflare"
        headers["Cache-Control"] = "max-age=0, private, must-revalidate"
        headers["X-Zendesk-Api-Version"] = "v2"
        headers["X-Zendesk-Origin-Server"] = "simulator"
        headers["X-Runtime"] = f"{perf_counter() - request[_STARTED]:.6f}"
        for _ in range(2):  # the real one sends it twice
            headers.add("X-Request-Id", request[_REQUEST_ID])
        endpoint = ENDPOINTS.get(request.path)
        headers.extend(self._buckets.headers("export" if endpoint is None else endpoint.bucket))

    async def _summary(self, _: web.Request) -> web.Response:
        """`GET /simulator`."""
        return _json(
            {
                "subdomain": self.account.subdomain,
                "seed": self.account.seed,
                **{name: len(stream) for name, stream in self.account.streams.items()},
                "requests": len(self.journal),
                "now": self.clock.now(),
                "speed": self.clock.speed,
                "export": self.base_url + _EXPORT_PATH,
                "cursor_export": f"{self.base_url}{_EXPORT_PATH}/cursor",
                "truth": f"{self.base_url}/simulator/truth",
                "journal": f"{self.base_url}/simulator/journal",
            }
        )

    async def _truth(self, request: web.Request) -> web.StreamResponse:
        """`GET /simulator/truth`: one line per version offered until now; with `current=true` the current ones.

        `stream` is another one than `tickets`; `include`, `exclude_deleted` and `support_type_scope` mean the same as in
        an export: what was offered to whoever asked so.
        """
        only_current = request.query.get("current") == "true"
        stream = request.query.get("stream", "tickets")
        view = view_of(request.query, stream)
        if stream not in self.account.streams or isinstance(view, Answer):
            return _json({"error": "InvalidValue", "streams": [*self.account.streams]}, status=400)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        lines = _lines(self.account.streams[stream], self.clock.now(), view, only_current)
        while block := b"".join(islice(lines, _TRUTH_BLOCK)):
            await response.write(block)
            await asyncio.sleep(0)
        await response.write_eof()
        return response

    async def _journal(self, _: web.Request) -> web.Response:
        """`GET /simulator/journal`: one line per request to the API."""
        body = b"".join(orjson.dumps(asdict(served), option=orjson.OPT_APPEND_NEWLINE) for served in self.journal)
        return web.Response(body=body, content_type="application/x-ndjson")

    async def _time(self, _: web.Request) -> web.Response:
        """`GET /simulator/clock`."""
        return _json({"now": self.clock.now(), "speed": self.clock.speed})

    async def _change(self, request: web.Request) -> web.Response:
        """`POST /simulator/changes`: how many changes of which kind; answers the ids that changed."""
        counts: Any = None
        with suppress(orjson.JSONDecodeError):
            counts = orjson.loads(await request.read())
        if not isinstance(counts, dict) or not all(
            kind in KINDS and type(count) is int and count >= 0 for kind, count in counts.items()
        ):
            text = f"expected a JSON object of how many changes of each kind, of the kinds {', '.join(KINDS)}"
            return _json({"error": "InvalidValue", "description": text}, status=400)
        return _json(self.changes.make(**counts))


def _integer(text: str | None) -> int | None:
    """Whole numbers, and as the real one takes them, such with a fraction: `1532034771.0`."""
    try:
        return None if text is None else int(float(text))
    except (ValueError, OverflowError):
        return None


def _link(request: web.Request, keep: Container[str], **position: str) -> str:
    """The request's URL from this position on, with its form of the path and those parameters that links `keep`."""
    echoed = {key: value for key, value in request.query.items() if key in keep}
    return f"{request.scheme}://{request.host}{request.path}?{urlencode(sorted({**echoed, **position}.items()))}"


def _lines(stream: History, now: float, view: View, only_current: bool) -> Iterator[bytes]:
    for offered in stream.versions(now, view):
        if offered.current or not only_current:
            yield orjson.dumps(offered, option=orjson.OPT_APPEND_NEWLINE)


def _json(body: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")
