"""The request budget: never more than asked for in any minute, across restarts too, nothing wasted, and others heeded.

Most of it runs on a loop whose time leaps, against the pretend Zendesk's own limits: hours pass in a moment, exactly.
"""

from __future__ import annotations

import asyncio
import random
import selectors
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeVar

import pytest
import trustme

from producer.errors import ProducerError, Stopping
from producer.events import Event, Noticed, Observer
from producer.sandbox.zendesk import Account, Clock, Fault, Limits, Scenario, Simulator
from producer.sandbox.zendesk.limits import Buckets
from producer.settings import load_settings
from producer.stop import Stop
from producer.zendesk import budget as budget_module
from producer.zendesk.budget import Budget
from producer.zendesk.client import Client, open_client
from tests.test_between import _join, tls_front
from tests.test_service import history

T = TypeVar("T")
Make = Callable[[float], Budget]

SPEED = 25
"""Of the pretend Zendesk's clock, over the wire: its minute is 2.4 seconds of ours."""

EXPORTS = "zendesk-ratelimit-incremental-exports"


class Leaping(asyncio.SelectorEventLoop):
    """An event loop that never waits: it is later at once."""

    def __init__(self) -> None:
        self.now = 0.0
        loop = self

        class Leap(selectors.DefaultSelector):
            def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
                loop.now += timeout or 0
                return super().select(0)

        super().__init__(Leap())

    def time(self) -> float:
        return self.now


def at_once(main: Coroutine[object, object, T]) -> T:
    """Run it on such a loop."""
    with asyncio.Runner(loop_factory=Leaping) as runner:
        return runner.run(main)


def now() -> float:
    return asyncio.get_running_loop().time()


class LeapingClock(Clock):
    """The API's clock on the loop's time."""

    def now(self) -> float:
        return super().now() + now()


class Api:
    """Limits that hold, and when requests were sent and came. `told` is when their headers are made: at once or at last."""

    def __init__(self, limits: Limits, phase: float = 0, told: Literal["at once", "at last"] = "at last") -> None:
        self.sent: list[float] = []
        self.came: list[float] = []
        self.refused = 0
        self._buckets = Buckets(limits, LeapingClock.manual(1_800_000_000 + phase))
        self._told = told

    async def ask(self, budget: Budget, prepare: float = 0.05, way: float = 0.02, page: float = 1.5) -> None:
        """One request, as the service makes it: so many seconds until it could be sent, on its way, and until its page."""
        await budget.turn()
        await asyncio.sleep(prepare)
        await budget.sending()
        self.sent.append(now())
        await asyncio.sleep(way)
        self.came.append(now())
        refused = self._buckets.take("export")
        headers = dict(self._buckets.headers())
        if refused is not None:
            self.refused += 1
            headers["Retry-After"] = f"{self._buckets.retry_after(refused)}"
        else:
            await asyncio.sleep(page)
            headers = headers if self._told == "at once" else dict(self._buckets.headers())
        budget.hear(headers)


def ignore(_: Event) -> None:
    """Nobody listens."""


def most(moments: Sequence[float]) -> int:
    """In any minute, wherever it begins."""
    return max(bisect_left(moments, begin + 60) - number for number, begin in enumerate(moments))


def budget(
    per_minute: float | Literal["auto"], left_to_others: float = 0.2, events: list[Event] | None = None
) -> Budget:
    return Budget(per_minute, Stop(), ignore if events is None else events.append, left_to_others)


def faults(make: Make, seed: int) -> list[str]:
    """What is wrong with a random story: lives that end soon or late, before a request or behind it, slow steps and fast."""
    dice = random.Random(seed)
    allowed = dice.choice((1, 10, 30))

    async def story() -> Api:
        api = Api(Limits(exports_per_minute=allowed), dice.uniform(0, 60))
        while len(api.sent) < 12 * allowed:
            life = make(allowed)
            for _ in range(dice.choice((0, 1, 1, 2, 5, 40))):
                await api.ask(
                    life, dice.choice((0, 0, 0.05, 0.3, 9)), dice.uniform(0, 0.5), dice.choice((0, 0.3, 1.5, 9))
                )
            if dice.random() < 0.3:
                await life.turn()  # and it dies before it has asked
            await asyncio.sleep(dice.choice((0, 0, 0.2, 3)))
        return api

    api = at_once(story())
    found = [f"{api.refused} refused"] if api.refused else []
    for what, moments in (("sent", api.sent), ("came", api.came)):
        if most(moments) > allowed:
            found.append(f"{most(moments)} {what} in a minute of {allowed}")
    return found


@pytest.mark.parametrize("seed", range(20))
def test_no_minute_has_more_than_asked_for_whatever_is_slow_and_however_often_it_starts_again(seed: int) -> None:
    assert faults(budget, seed) == []


class FromTheTurn(Budget):
    """Spaced where a request is prepared, not where it is sent."""

    async def turn(self, stream: str = "tickets", tell: Observer | None = None) -> None:
        await super().turn()
        self._sent = now()

    async def sending(self) -> None:
        pass


class NoWaitAtFirst(Budget):
    """A new process asks at once."""

    def __init__(self, per_minute: float) -> None:
        super().__init__(per_minute, Stop(), ignore)
        self._sent = -60.0


@pytest.mark.parametrize("make", [lambda rate: FromTheTurn(rate, Stop(), ignore), NoWaitAtFirst])
def test_a_wrong_rule_does_not_pass_for_right(make: Make) -> None:
    assert any(faults(make, seed) for seed in range(20))


def test_without_the_margin_what_is_late_on_its_way_would_be_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_module, "MARGIN", 1.0)
    assert any(faults(budget, seed) for seed in range(20))


@pytest.mark.parametrize("told", ["at once", "at last"])
@pytest.mark.parametrize("allowed", [10, 30])
@pytest.mark.parametrize("share", [1.0, 0.8])
def test_a_backlog_alone_takes_98_percent_of_the_budget(
    share: float, allowed: int, told: Literal["at once", "at last"]
) -> None:
    """Of pages that take 1.5 s. No machine's speed is in it."""

    async def story(phase: float) -> Api:
        api, life = Api(Limits(exports_per_minute=allowed), phase, told), budget(allowed if share == 1 else "auto")
        while now() < 3600:
            await api.ask(life)
        return api

    for phase in (0, 20, 59):
        api = at_once(story(phase))
        assert api.refused == 0
        assert most(api.sent) <= allowed * share
        assert len(api.sent) > 0.98 * allowed * share * 60


def test_a_request_that_is_never_sent_counts_from_its_turn() -> None:
    async def story() -> list[float]:
        life, turns = budget(10), list[float]()
        for _ in range(5):
            await life.turn()
            turns.append(now())
        return turns

    turns = at_once(story())
    assert [later - earlier for earlier, later in pairwise(turns)] == pytest.approx([6.06] * 4)


# What the API tells


async def after(headers: dict[str, str], asked: Budget | None = None) -> float:
    """Seconds from hearing this until the next request may be sent."""
    asked = asked or budget(6000)
    await asked.turn()
    await asked.sending()
    heard = now()
    asked.hear(headers)
    await asked.turn()
    await asked.sending()
    return now() - heard


@pytest.mark.parametrize(
    "headers",
    [
        {EXPORTS: "total=10; remaining=0; resets=20"},
        {EXPORTS: "resets=20; total=10; remaining=0"},
        {"zendesk-rate-limit-incremental-exports": "total=10; remaining=0; resets=20"},
        {EXPORTS: "total=10; remaining=3; resets=20", "ratelimit-remaining": "0", "ratelimit-reset": "20"},
        {EXPORTS: "total=10; remaining=0; resets=20", "ratelimit-remaining": "0", "ratelimit-reset": "4"},
        {"x-rate-limit-remaining": "0", "rate-limit-remaining": "0", "rate-limit-reset": "20"},
        {"Retry-After": "21"},
        {"Retry-After": "5", EXPORTS: "total=10; remaining=0; resets=20"},
    ],
    ids=lambda headers: str(headers)[:80],
)
def test_nothing_left_of_either_limit_holds_until_it_is_reset_for_sure(headers: dict[str, str]) -> None:
    assert at_once(after(headers)) == pytest.approx(21)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-rate-limit-remaining": "0"},
        {"ratelimit-remaining": "0", "ratelimit-reset": "soon"},
        {"ratelimit-remaining": "0", "ratelimit-reset": "9" * 5000},
        {EXPORTS: "remaining=0"},
        {EXPORTS: "total=10; remaining=0; resets=99999"},
    ],
    ids=lambda headers: str(headers)[:80],
)
def test_where_the_reset_is_not_told_or_not_believable_it_is_a_window_away(headers: dict[str, str]) -> None:
    assert at_once(after(headers)) == pytest.approx(61)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {EXPORTS: "total=10; remaining=1; resets=20"},
        {EXPORTS: "none"},
        {"ratelimit-remaining": "00x", "ratelimit-reset": "20"},
        {"ratelimit-remaining": "1", "x-rate-limit-remaining": "0"},
        {"Retry-After": "tomorrow"},
    ],
    ids=lambda headers: str(headers)[:80],
)
def test_what_tells_nothing_holds_nothing(headers: dict[str, str]) -> None:
    assert at_once(after(headers)) < 1


def test_auto_follows_the_limit_at_once_in_both_directions_and_tells_each_change() -> None:
    events: list[Event] = []
    asked: list[float] = []

    async def story() -> None:
        auto = budget("auto", 0.2, events)
        await auto.turn()
        await auto.sending()
        asked.append(now())
        told = [f"total={total}; remaining={total - 1}; resets=50" for total in (10, 30, 30, 10)]
        asked.extend([await after({EXPORTS: value}, auto) for value in told])

    at_once(story())
    assert asked == pytest.approx([60.6 / 8, 60.6 / 8, 60.6 / 24, 60.6 / 24, 60.6 / 8])
    told = [event for event in events if isinstance(event, Noticed)]
    assert [event.kind for event in told] == ["budget", "budget"]
    assert told[0].text.startswith(
        "24 requests per minute from now on: the API allows 30, of which 20% are left to others"
    )
    assert told[1].text.startswith("8 requests")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("total=0; remaining=0; resets=10", 0.8),
        ("total=700000; remaining=9; resets=10", 480),
        ("total=ten; remaining=9; resets=10", 8),
        ("remaining=9", 8),
        ("total=25", 20),
    ],
)
def test_auto_takes_no_limit_that_makes_no_sense(value: str, expected: float) -> None:
    async def story() -> float:
        auto = budget("auto")
        auto.hear({EXPORTS: value})
        return auto.per_minute

    assert at_once(story()) == pytest.approx(expected)


def test_a_number_is_kept_whatever_the_api_allows() -> None:
    async def story() -> float:
        fixed = budget(10)
        fixed.hear({EXPORTS: "total=30; remaining=29; resets=10"})
        return fixed.per_minute

    assert at_once(story()) == 10


class Deaf(Budget):
    """Hears nothing."""

    def hear(self, headers: object) -> None:
        pass


@pytest.mark.parametrize("told", ["at once", "at last"])
@pytest.mark.parametrize(("allowed", "neighbour"), [(10, 3), (10, 5), (10, 12), (30, 12), (30, 40)])
def test_beside_a_busy_neighbour_auto_is_neither_refused_nor_starved(
    allowed: int, neighbour: int, told: Literal["at once", "at last"]
) -> None:
    async def story(make: Callable[[], Budget], phase: float) -> Api:
        api, life = Api(Limits(exports_per_minute=allowed, neighbour_per_minute=neighbour), phase, told), make()
        while now() < 1800:
            await api.ask(life)
        return api

    for phase in (0, 20, 59):
        api = at_once(story(lambda: budget("auto"), phase))
        assert api.refused == 0
        assert len(api.sent) >= 30
        assert most(api.sent) <= 0.8 * allowed
    if neighbour > 0.5 * allowed:
        assert at_once(story(lambda: Deaf(0.8 * allowed, Stop(), ignore), 0)).refused > 0


def test_a_request_to_stop_ends_the_last_wait_too() -> None:
    async def story() -> None:
        stop = Stop()
        held = Budget(10, stop, ignore)
        await held.turn()
        stop.set()
        with pytest.raises(Stopping):
            await held.sending()

    at_once(story())


# Over the wire


@asynccontextmanager
async def client(base_url: str, asked: Budget, *overrides: str) -> AsyncIterator[Client]:
    settings = load_settings(
        overrides=[
            "zendesk.subdomain=acme",
            f"zendesk.base_url={base_url}",
            "zendesk.access_token=example",
            "kafka.bootstrap_servers=localhost:9092",
            *overrides,
        ]
    )
    async with open_client(settings, ignore, asked) as opened:
        yield opened


async def ask(asked: Budget, opened: Client) -> None:
    await asked.turn()
    with suppress(ProducerError):  # the journal has it
        await opened.get("incremental/tickets", {"start_time": 0, "per_page": 10})


async def test_in_windows_of_any_phase_and_lives_of_any_length_nothing_is_refused(account: Account) -> None:
    history(account, time.time())

    async def lives(phase: float) -> None:
        # The limit is not told: durations in whole seconds of ours would be most of such a minute.
        clock, dice = Clock(time.time() // 60 * 60 + 3600 + phase, SPEED), random.Random(phase)
        limits = Limits(exports_per_minute=10, era=2024)
        async with Simulator(account, clock=clock, limits=limits, page_seconds=1.5) as zendesk:
            while len(zendesk.journal) < 22:
                life = budget(10 * SPEED)
                async with client(zendesk.base_url, life) as opened:
                    for _ in range(dice.choice((1, 2, 12))):
                        await ask(life, opened)
        assert {served.status for served in zendesk.journal} == {200}
        assert most([served.at for served in zendesk.journal]) <= 10

    await asyncio.gather(*map(lives, (0, 13, 29, 50)))


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """An authority, in `ca.pem`."""
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    return made


@asynccontextmanager
async def slow(url: str, delays: Iterator[float]) -> AsyncIterator[str]:
    """A way to `url` on which each connection is the next delay late with its first byte."""
    port = int(url.rpartition(":")[2])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(next(delays))
        await _join(reader, writer, port)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(("kind", "right"), [(Budget, True), (FromTheTurn, False)])
async def test_a_request_whose_connection_took_long_counts_from_when_it_was_sent(
    kind: type[Budget], right: bool, authority: trustme.CA, account: Account, clock: Clock, tmp_path: Path
) -> None:
    async with (
        Simulator(account, clock=clock, limits=Limits.unlimited()) as zendesk,
        tls_front(zendesk, authority) as direct,
        slow(direct, iter((0.5, 0))) as url,
    ):
        asked = kind(200, Stop(), ignore)
        async with client(url, asked, f"zendesk.ca_file={tmp_path / 'ca.pem'}") as opened:
            for _ in range(3):
                await ask(asked, opened)
    gaps = [later.at - earlier.at for earlier, later in pairwise(zendesk.journal)]
    assert (min(gaps) > 0.28) is right


@pytest.mark.parametrize(("fault", "status"), [("upstream_timeout", 504), ("database_deadlock", 503)])
async def test_every_answer_is_heard_not_only_a_page(fault: str, status: int, account: Account) -> None:
    clock = Clock(time.time(), speed=60)
    scenario = Scenario([Fault(fault, requests=(1,), retry_after=None)])
    limits = Limits(exports_per_minute=1)
    async with Simulator(account, clock=clock, limits=limits, scenario=scenario) as zendesk:
        asked = budget(60_000)
        async with client(zendesk.base_url, asked) as opened:
            for _ in range(2):
                await ask(asked, opened)
    assert [served.status for served in zendesk.journal] == [status, 200]
