"""Finds out in at most ten requests how one's own account answers: asks and judges, publishes nothing, quotes no ticket."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from producer.dates import utc
from producer.errors import BadAnswer, Final, ProducerError, Refused, Retriable, TooLarge, TooSlow
from producer.events import Answered, Event, Observer
from producer.settings import Settings, ZendeskSettings
from producer.zendesk.asker import SETTLED
from producer.zendesk.budget import Budget
from producer.zendesk.client import Client, open_client
from producer.zendesk.findings import (
    Finding,
    Heard,
    cursor_findings,
    envelope_findings,
    extension,
    fact,
    failed,
    header_findings,
    page_findings,
    places,
    shared_limit,
    sign_in,
)
from producer.zendesk.page import Slice, slice_page

MOST = 10
"""Requests of a probe."""

_SPARE = 3
"""Of these, the ones that are left for asking again when all goes well."""

_TIME, _CURSOR = "incremental/tickets", "incremental/tickets/cursor"


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, and with how many requests."""

    findings: list[Finding]
    requests: int


async def probe(settings: Settings, budget: Budget, start: int, tell: Observer, *, briefly: bool = False) -> Report:
    """How the exports answer from the second `start` on, in at most MOST requests, each in its turn of `budget`.

    A question that fails is a finding, and the others are asked all the same, unless we were refused. `briefly`: only
    whether the export may be read, in one request.

    Raises:
        Misconfigured: `zendesk.ca_file` cannot be read.
    """
    asking = _Asking(settings.zendesk, budget, tell, spare=0 if briefly else _SPARE)
    async with open_client(settings, asking.listen, budget) as asking.client:
        with suppress(Final):
            if briefly:
                await asking.anything(start)
            else:
                await asking.by_time(start)
                await asking.too_recent()
                await asking.by_cursor(start)
    found = asking.findings
    if asking.heard:
        beside = () if briefly else header_findings(asking.heard, budget.per_minute)
        found = [sign_in(settings.zendesk, asking.client.granted), *beside, *found]
    return Report([replace(finding, text=settings.redact(finding.text)) for finding in found], asking.requests)


class _Asking:
    """One look at one account through `client`, of which `listen` is the observer. `spare` questions may be asked again."""

    client: Client

    def __init__(self, zendesk: ZendeskSettings, budget: Budget, tell: Observer, spare: int) -> None:
        self.findings: list[Finding] = []
        self.heard: list[Heard] = []
        self.requests = 0
        self._zendesk = zendesk
        self._budget = budget
        self._tell = tell
        self._spare = spare
        self._told: list[Answered] = []

    def listen(self, event: Event) -> None:
        """Keep what is told of an answer, even of a refusal."""
        if isinstance(event, Answered):
            self._told.append(event)
        self._tell(event)

    async def anything(self, start: int) -> None:
        """A single ticket, if there is one."""
        with self._question("zendesk", vital=True):
            await self._ask(_TIME, {"start_time": start}, 1)

    async def by_time(self, start: int) -> None:
        """A page of the time-based export, and how it treats a second that fills one."""
        page: Slice | None = None
        with self._question("zendesk", vital=True):
            page = await self._ask(_TIME, {"start_time": start}, self._zendesk.page_size)
            if page is None:
                self._note("page", f"{utc(start)} is too recent to be asked for: nothing to see yet")
            else:
                self.findings += page_findings(page, self.heard[-1], self._budget.per_minute)
                self.findings += envelope_findings(page, self._zendesk)
        seconds = Counter(row.stamp for row in page.rows if row.stamped) if page else Counter[int]()
        second = next((second for second, tickets in seconds.items() if tickets > 1), None)
        if second is None:
            return self._note("page extension", "not seen: no second with two tickets")
        for tickets in (1, 2):
            with self._question("page extension", vital=False):
                cut = await self._ask(_TIME, {"start_time": second}, tickets)
                self.findings.append(extension(second, seconds[second], tickets, cut, self._zendesk.page_size))
        return None

    async def too_recent(self) -> None:
        """What the API makes of a second that has just been."""
        with self._question("too recent", vital=False):
            page = await self._ask(_TIME, {"start_time": int(self.client.clock.now() or time.time()) - 5}, 1)
            heard = self.heard[-1]
            kind = heard.headers.get("Content-Type", "nothing").partition(";")[0]
            what = "a refusal that we know" if page is None else f"{len(page.rows):,} tickets"
            text = f"what was 5 s ago is answered with {heard.told.status} and {kind}, {what}"
            self._note("too recent", f"{text}: we wait until a second is {SETTLED} s old")

    async def by_cursor(self, start: int) -> None:
        """Whether the cursor export may be used, and whether it is as a second needs it that is read by cursor alone."""
        needed, page = self._zendesk.export == "cursor", None
        with self._question("cursor", vital=needed):
            try:
                page = await self._ask(_CURSOR, {"start_time": start}, self._zendesk.page_size)
            except Refused as error:
                if needed or not self._answered(403):
                    raise
                wrong = f"{error}; a second that the time-based export does not get past would stop the account"
                return self._note("cursor", "not allowed", wrong)
            self.findings.append(shared_limit(self.heard))
            if page is None:
                return self._note("cursor", f"allowed, but {utc(start)} is too recent to be asked for")
            self.findings += cursor_findings(page, self.heard[-1])
        if page is not None and page.cursor is not None:
            with self._question("cursor again", vital=False):
                one, two = [await self._ask(_CURSOR, {"cursor": page.cursor}, 100) for _ in range(2)]
                same = one is not None and two is not None and places(one) == places(two)
                text = f"asked twice, the pages behind it {'are the same' if same else 'differ'}"
                wrong = "right if tickets there have changed meanwhile, else cursors do not hold"
                self._note("cursor again", text, same or wrong)
        return None

    async def _ask(self, path: str, where: Mapping[str, int | str], tickets: int) -> Slice | None:
        """An answer, taken apart; None when `start_time` is too recent."""
        while True:
            await self._budget.turn()
            self.requests += 1
            self._told.clear()
            try:
                answer = await self.client.get(path, {**where, "per_page": tickets})
                break
            except (Retriable, TooLarge, TooSlow) as error:
                if not self._spare:
                    raise
                self._spare -= 1
                if not isinstance(error, Retriable):
                    tickets = max(1, tickets // 4)
        told, date = self._told[-1], answer.server_time
        self.heard.append(Heard(self.requests, tickets, time.time(), told, date, answer.headers))
        return None if answer.body is None else slice_page(answer.body)

    @contextmanager
    def _question(self, about: str, *, vital: bool) -> Iterator[None]:
        """An answer that does not come is a finding: an error if it is `vital`, else a warning.

        Raises:
            Refused: told, and to be asked no more. Misconfigured: the same, if it is `vital`.
        """
        try:
            yield
        except ProducerError as error:
            found = failed(about, error)
            if isinstance(error, BadAnswer) and self._answered(200):
                # The error quotes the answer, which may be a ticket.
                hint = error.hint or "`run` says more, and may show some of it"
                text = f"{str(error).partition(':')[0]}; {hint}"
                found = Finding(about, "error", text, found.exit_code)
            ends = isinstance(error, Final if vital else Refused)
            self.findings.append(found if vital or ends else fact(about, "not seen", found.text))
            if ends:
                raise

    def _answered(self, status: int) -> bool:
        """Whether the last request got this status."""
        return any(told.status == status for told in self._told)

    def _note(self, about: str, text: str, fine: bool | str = True) -> None:
        self.findings.append(fact(about, text, fine))
