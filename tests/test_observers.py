"""Observers: what the log, the metrics, the status and the HTTP endpoint tell of the moments they are told."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import io
import json
import logging
import math
import platform
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from time import thread_time
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.aiohttp import make_aiohttp_handler
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from producer.dead_letters import Letter
from producer.errors import BadAnswer, Misconfigured, Refused, SessionOver, Throttled, Unavailable
from producer.events import (
    Answered,
    CaughtUp,
    Committed,
    Event,
    Fetched,
    LateRow,
    Noticed,
    Observer,
    Opened,
    Retrying,
    StandingBy,
    Started,
    Stopped,
    Waiting,
)
from producer.model import Checkpoint, Cursor, Page, Position, Version
from producer.observers import fan_out
from producer.observers.board import Board
from producer.observers.http import serve
from producer.observers.log import HEARTBEAT, PROGRESS, configure
from producer.observers.memory import PAGES, Memory, trim
from producer.observers.metrics import Metrics
from producer.observers.status import GRACE, Status
from producer.records import Records
from producer.settings import HttpSettings, Settings, load_settings
from producer.shipment import Shipment

SERVER_NOW = 1_704_067_300.0
END_TIME = 1_704_067_200  # 2024-01-01T00:00:00Z
DAY = 86_400


def settings(*overrides: str) -> Settings:
    return load_settings(
        overrides=[
            "zendesk.subdomain=acme",
            "zendesk.email=agent@acme.example",
            "zendesk.api_token=canary-token",
            "kafka.bootstrap_servers=127.0.0.1:1",
            "kafka.security_protocol=SASL_PLAINTEXT",
            "kafka.sasl_username=u",
            "kafka.sasl_password=canary-sasl",
            *overrides,
        ]
    )


class Time:
    """A monotonic clock that tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def status(time: Time) -> Status:
    return Status(settings(), "tickets", monotonic=time, clock=lambda: SERVER_NOW)


@pytest.fixture
def board(time: Time) -> Board:
    return Board(monotonic=time, clock=lambda: SERVER_NOW)


ACCOUNTS, STREAMS = ("acme", "beta"), ("tickets", "users")


def watch_all(board: Board) -> dict[str, Observer]:
    """Whom the services of two accounts with two streams each tell, by `account/stream`."""
    return {
        f"{account}/{stream}": board.watch(settings(f"zendesk.subdomain={account}"), stream)
        for account in ACCOUNTS
        for stream in STREAMS
    }


def checkpoint(seq: int = 1, end_time: int | None = END_TIME) -> Checkpoint:
    return Checkpoint(
        account="acme",
        stream="tickets",
        tickets_topic="zendesk.tickets",
        dead_letters_topic="zendesk.tickets.dead-letters",
        checkpoints_topic="zendesk.checkpoints",
        checkpoints_partitions=12,
        ends=(0,),
        generation=1,
        seq=seq,
        instance="host/1/a",
        start=0,
        end_time=end_time,
    )


def page(*versions: Version, caught_up: bool = False, rows: int = 0, repeated: int = 0) -> Page:
    return Page(
        versions,
        Position(END_TIME),
        caught_up,
        rows=rows,
        size=5000,
        repeated=repeated,
        stale=1,
        server_time=SERVER_NOW,
    )


def version(id_: int, stamp: int = END_TIME - 10, *, deleted: bool = False) -> Version:
    return Version(id_, stamp, "0" * 16, b"{}", deleted=deleted)


OPENED = Opened(checkpoint(0), 0.5)
STARTED = Started("acme", "host/1/a", {"topic": "zendesk.tickets"})


def shipment(*versions: Version, letters: tuple[Letter, ...] = (), excluded: int = 0) -> Shipment:
    records = Records(versions, account="acme", generation=1, seq=1, tombstones=True)
    return Shipment({"zendesk.tickets": records}, checkpoint(), versions, letters, excluded)


def committed(*versions: Version, caught_up: bool = False, letters: tuple[Letter, ...] = ()) -> Committed:
    walked = page(*versions, *(letter.version for letter in letters), caught_up=caught_up)
    return Committed(walked, shipment(*versions, letters=letters), checkpoint(), 0.2)


def caught_up(wait: float = 10) -> CaughtUp:
    return CaughtUp(checkpoint(), SERVER_NOW, wait)


def failed(error: BaseException, what: str = "session", wait: float = 2, attempt: int = 1) -> Retrying:
    return Retrying(what, error, wait, attempt)


def backfilled(seconds: int) -> tuple[Event, Event]:
    """A page of one ticket in a backfill that began a day ago, by which so many seconds of that day are walked."""
    end_time = int(SERVER_NOW) - DAY + seconds
    walked = Page((version(1, end_time),), Position(end_time), False, rows=1, server_time=SERVER_NOW)
    after = checkpoint(end_time=end_time).replace(start=int(SERVER_NOW) - DAY)
    return Fetched(walked), Committed(walked, shipment(*walked.versions), after, 0.2)


BACKFILL = Opened(checkpoint(end_time=int(SERVER_NOW) - DAY).replace(start=int(SERVER_NOW) - DAY), 0.5)


def tell(observer: Observer, *events: Event) -> None:
    for event in events:
        observer(event)


def state(status: Status) -> str:
    return status.state


# --- the status ------------------------------------------------------------------------------------------------------


def test_it_is_ready_once_recovered_and_not_before(status: Status) -> None:
    tell(status, STARTED)
    assert not status.ready()
    assert state(status) == "starting"
    tell(status, OPENED)
    assert status.ready()
    assert state(status) == "backfilling"
    tell(status, committed(version(1)), caught_up())
    assert status.ready()
    assert state(status) == "caught_up"


def test_a_failure_that_lasts_makes_it_unready_until_a_page_is_committed(status: Status, time: Time) -> None:
    tell(status, OPENED, failed(Unavailable("canary-token is gone")))
    assert status.ready()
    assert state(status) == "retrying"
    time.now += 61
    tell(status, failed(Unavailable("broker gone, canary-sasl"), attempt=2), OPENED)
    assert not status.ready()
    assert "failing for 61 s: session: Unavailable: broker gone, ***" in status.ready().reasons[0]
    tell(status, committed(version(1)))
    assert status.ready()


def test_patience_is_three_poll_intervals_when_those_are_long(time: Time) -> None:
    status = Status(settings("zendesk.poll_interval=100"), "tickets", monotonic=time)
    tell(status, OPENED, failed(BadAnswer("?"), "account"))
    assert state(status) == "blocked"
    time.now += 299
    assert status.ready()
    time.now += 2
    assert not status.ready()


def test_standing_by_is_not_ready_at_once_and_ends_with_a_session(status: Status) -> None:
    tell(status, OPENED, committed(version(1)), StandingBy("other/1/b", 30))
    assert state(status) == "standing_by"
    assert status.ready().reasons == ("standing by: instance other/1/b holds the account",)
    tell(status, OPENED)
    assert status.ready()


def test_polls_that_stay_away_longer_than_announced_make_it_unready(status: Status, time: Time) -> None:
    tell(status, OPENED, Waiting("budget", 120))
    time.now += 179
    assert status.ready()
    time.now += 2
    assert "no successful poll" in status.ready().reasons[0]
    tell(status, Fetched(page()))
    assert status.ready()


def test_it_is_alive_while_events_come_within_what_was_announced(status: Status, time: Time) -> None:
    tell(status, STARTED, failed(Throttled("429", retry_after=3600), "request", wait=3600))
    tell(status, Answered(200, 0.1, 1, {}))  # of a look-ahead: takes nothing back of the longer wait
    time.now += 3600 + GRACE
    assert status.alive()
    time.now += 1
    assert not status.alive()
    assert "nothing has happened" in status.alive().reasons[0]
    tell(status, OPENED)
    assert status.alive()


def test_a_service_that_has_ended_says_why_and_owes_no_more_events(status: Status, time: Time) -> None:
    tell(status, OPENED, Stopped(checkpoint(), Refused("401 for canary-token", hint="mend it")))
    time.now += 100 * GRACE
    assert status.alive()
    assert status.ready().reasons == ("the service has stopped: Refused: 401 for ***",)


def test_the_lag_is_the_age_of_the_position_by_the_apis_clock(status: Status, time: Time) -> None:
    assert status.lag() is None
    tell(status, Opened(checkpoint(0, end_time=None), 0.1))
    assert status.lag() is None
    tell(status, Fetched(page(version(1))), committed(version(1)))
    assert status.lag() == SERVER_NOW - END_TIME
    time.now += 5
    assert status.lag() == SERVER_NOW - END_TIME + 5


def test_the_lag_of_a_service_that_was_caught_up_grows_when_polls_fail(status: Status, time: Time) -> None:
    tell(status, OPENED, caught_up(wait=10))
    time.now += 10
    assert status.lag() == 0
    tell(status, failed(Unavailable("away")))
    time.now += 600
    assert status.lag() == 600


def test_the_snapshot_has_it_all_and_no_secret(status: Status, time: Time) -> None:
    tell(status, STARTED, OPENED, Fetched(page(version(1), rows=3, repeated=2)), committed(version(1)))
    tell(status, failed(Refused("401 for canary-token", hint="look at canary-token")), caught_up())
    time.now += 7
    snapshot = status.snapshot()
    assert json.loads(json.dumps(snapshot)) == snapshot
    assert "canary" not in json.dumps(snapshot)
    assert snapshot["position"] == {"unix_seconds": END_TIME, "date": "2024-01-01T00:00:00Z"}
    assert snapshot["last_poll"] == snapshot["last_commit"] == "2024-01-01T00:01:40Z"
    assert (snapshot["generation"], snapshot["seq"], snapshot["uptime_seconds"]) == (1, 1, 7)
    assert snapshot["last_error"]["text"] == "401 for ***"
    assert snapshot["counts"]["tickets_read"] == 3
    assert snapshot["counts"]["records_published"] == 1


def test_a_backfill_tells_how_far_it_is_until_it_is_caught_up(status: Status, time: Time) -> None:
    tell(status, BACKFILL)
    assert status.snapshot()["backfill"] is None
    for number in range(21):
        tell(status, *backfilled(1000 + 100 * number))
        time.now += 10
    time.now -= 10
    backfill = status.snapshot()["backfill"]
    # The first ticket came after 1,000 s of the day. 2,000 s of history took 200 s, in which 20 tickets were read.
    assert backfill["share"] == pytest.approx(2000 / (DAY - 1000), abs=0.001)
    assert backfill["tickets_left"] == pytest.approx((DAY - 3000) / 100, rel=0.01)
    assert backfill["tickets_per_minute"] == 6
    assert backfill["eta_seconds"] == pytest.approx((DAY - 3000) / 9, rel=0.01)
    assert backfill["eta_range"][0] < backfill["eta_seconds"] < backfill["eta_range"][1]
    assert (backfill["sure"], backfill["assumes"]) == ("unsure", "tickets as dense, and read as fast, as so far")
    assert json.loads(json.dumps(backfill)) == backfill
    tell(status, failed(Unavailable("away")))
    assert status.snapshot()["backfill"] is not None
    tell(status, StandingBy("other/1/b", 30))
    assert status.snapshot()["backfill"] is None
    tell(status, Opened(status.checkpoint or checkpoint(), 0.5), caught_up())
    assert status.snapshot()["backfill"] is None


# --- metrics ---------------------------------------------------------------------------------------------------------


def samples(metrics: Metrics | Board, account: str = "acme", stream: str = "tickets") -> dict[str, float]:
    """One service's, by name with the other labels, as Prometheus reads them, without our prefix."""
    found = {}
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        for sample in family.samples:
            if (sample.labels.pop("account", None), sample.labels.pop("stream", None)) == (account, stream):
                labels = "".join(f"[{value}]" for value in sample.labels.values())
                found[sample.name.removeprefix("zendesk_producer_") + labels] = sample.value
    return found


def test_counters_are_zero_before_anything_happened_and_unknown_moments_are_no_number(status: Status) -> None:
    metrics = Metrics()
    metrics.watch(status)
    before = samples(metrics)
    for name in (
        "tickets_read_total",
        "tickets_published_total[changed]",
        "tickets_published_total[deleted]",
        "tickets_skipped_total[repeated]",
        "transactions_total[committed]",
        "transactions_total[fenced]",
        "api_requests_total[401]",
        "api_retries_total[Throttled]",
        "failures_total[Pinned][account]",
        "backfill_active",
    ):
        assert before[name] == 0, name
    assert before["state[starting]"] == 1
    assert math.isnan(before["source_lag_seconds"])
    assert math.isnan(before["backfill_share"])
    assert math.isnan(before["backfill_eta_seconds"])
    assert math.isnan(before["last_successful_poll_timestamp_seconds"])


def test_every_moment_is_counted(status: Status) -> None:
    metrics = Metrics()
    both = fan_out(status, metrics.watch(status))
    limits = {"zendesk-ratelimit-incremental-exports": "total=10; remaining=7; resets=2", "x-rate-limit": "700"}
    for event in (
        STARTED,
        OPENED,
        Waiting("budget", 6),
        Answered(200, 0.3, 5000, limits),
        Fetched(page(version(1), version(2, deleted=True), rows=4, repeated=1)),
        committed(version(1), version(2, deleted=True)),
        failed(Throttled("slow down"), "request", wait=30),
        Fetched(page(version(3))),
        failed(SessionOver("broker gone")),
        failed(SessionOver("broker gone")),
        Fetched(page(version(3))),
        StandingBy("other", 30),
        Noticed("late_row", "a row came late"),
        OPENED,
        caught_up(),
        Stopped(checkpoint(), None),
    ):
        both(event)
    after = samples(metrics)
    expected = {
        "api_budget_seconds_total": 6,
        "api_requests_total[200]": 1,
        "api_ratelimit_limit": 10,
        "api_ratelimit_remaining": 7,
        "api_request_duration_seconds_count": 1,
        "tickets_read_total": 4,
        "tickets_skipped_total[repeated]": 1,
        "tickets_skipped_total[stale]": 3,
        "tickets_published_total[changed]": 1,
        "tickets_published_total[deleted]": 1,
        "records_published_total": 3,
        "published_bytes_total": 4,
        "transactions_total[committed]": 1,
        "transactions_total[failed]": 1,  # the second failure had no page in hand
        "transactions_total[fenced]": 1,
        "publish_latency_seconds_sum": 110,
        "api_retries_total[Throttled]": 1,
        "api_throttled_seconds_total": 30,
        "notices_total[late_row]": 1,
        "last_ticket_timestamp_seconds": END_TIME - 10,
        "position_timestamp_seconds": END_TIME,
        "last_commit_timestamp_seconds": SERVER_NOW,
        "source_lag_seconds": 0,
        "state[stopped]": 1,
        "state[starting]": 0,
    }
    assert {name: after[name] for name in expected} == expected


def test_late_rows_oddities_and_a_pinned_second_are_counted_each_time(status: Status) -> None:
    metrics = Metrics()
    both = fan_out(status, metrics.watch(status))
    assert samples(metrics)["pinned"] == samples(metrics)["tickets_late_total"] == 0
    late = dataclasses.replace(page(version(1)), late=1)
    oddities = (Noticed("count", "an answer lies"), Noticed("count", "an answer lies", again=True))
    pinned = checkpoint().replace(cursor=Cursor("c", END_TIME, 7, pinned=True))
    tell(both, Fetched(late), Fetched(late), *oddities, Opened(pinned, 0.1))
    after = samples(metrics)
    assert (after["tickets_late_total"], after["notices_total[count]"], after["pinned"]) == (2, 2, 1)
    assert status.snapshot()["pinned"] is True


def test_share_and_eta_of_a_backfill_are_metrics_while_it_lasts(status: Status, time: Time) -> None:
    metrics = Metrics()
    metrics.watch(status)
    tell(status, BACKFILL, *backfilled(1))
    assert samples(metrics)["backfill_share"] == 0
    assert math.isnan(samples(metrics)["backfill_eta_seconds"])
    for number in range(1, 21):
        time.now += 10
        tell(status, *backfilled(DAY // 40 * number))
    during = samples(metrics)
    assert during["backfill_share"] == pytest.approx(0.5, abs=0.002)
    assert during["backfill_eta_seconds"] == pytest.approx(201, abs=1)  # 20 pages more, and what comes meanwhile
    tell(status, caught_up())
    assert math.isnan(samples(metrics)["backfill_share"])
    assert math.isnan(samples(metrics)["backfill_eta_seconds"])


@pytest.mark.parametrize(
    ("limits", "limit", "remaining"),
    [
        ({"X-Rate-Limit": "700", "X-Rate-Limit-Remaining": "699"}, 700, 699),
        ({"rate-limit": "400", "rate-limit-remaining": "1"}, 400, 1),
        ({"ratelimit-limit": "200", "ratelimit-remaining": "soon"}, 200, math.nan),
        ({}, math.nan, math.nan),
    ],
)
def test_rate_limits_are_read_in_all_spellings(
    status: Status, limits: dict[str, str], limit: float, remaining: float
) -> None:
    metrics = Metrics()
    metrics.watch(status)(Answered(200, 0.1, 1, limits))
    after = samples(metrics)
    read = after["api_ratelimit_limit"], after["api_ratelimit_remaining"]
    assert read == pytest.approx((limit, remaining), nan_ok=True)


def test_what_one_service_does_is_counted_for_no_other(board: Board) -> None:
    told = watch_all(board)
    before = {name: samples(board, *name.split("/")) for name in told}
    tell(told["beta/users"], OPENED, Answered(200, 0.3, 5000, {}), Fetched(page(version(1), rows=3)))
    tell(told["beta/users"], committed(version(1)), failed(SessionOver("broker gone")), Noticed("odd", "?"))
    after = {name: samples(board, *name.split("/")) for name in told}
    for name in ("acme/tickets", "acme/users", "beta/tickets"):
        assert after[name] == pytest.approx(before[name], nan_ok=True)
    assert before["beta/users"].keys() == before["acme/tickets"].keys()
    expected = {
        "api_requests_total[200]": 1,
        "tickets_read_total": 3,
        "transactions_total[committed]": 1,
        "failures_total[SessionOver][session]": 1,
        "notices_total[odd]": 1,
        "position_timestamp_seconds": END_TIME,
        "state[retrying]": 1,
    }
    assert {name: after["beta/users"][name] for name in expected} == expected


def test_the_series_of_a_service_have_its_account_and_stream_and_those_of_the_process_have_neither(
    board: Board,
) -> None:
    watch_all(board)
    of_process, of_services = set(), set()
    for family in board.registry.collect():
        for sample in family.samples:
            names = list(sample.labels)
            if names[:2] == ["account", "stream"]:
                of_services.add(family.name)
            else:
                assert not {"account", "stream"} & set(names)
                of_process.add(family.name)
    assert "zendesk_producer_build" in of_process
    assert {name for name in of_process if not name.startswith("process_")} == {"zendesk_producer_build"}
    assert not of_process & of_services
    assert all(name.startswith("zendesk_producer_") for name in of_services)


def test_no_series_is_looked_up_again_for_a_page(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = []
    labels = MetricWrapperBase.labels

    def noted(self: Any, *values: str) -> Any:
        looked_up.append(values)
        return labels(self, *values)

    monkeypatch.setattr(MetricWrapperBase, "labels", noted)
    told = watch_all(board)["beta/tickets"]
    looked_up.clear()
    tell(told, OPENED, Answered(200, 0.1, 1, {}), Fetched(page(version(1))), committed(version(1)), caught_up())
    assert samples(board, "beta")["tickets_published_total[changed]"] == 1
    assert looked_up == []
    tell(told, Noticed("odd", "a kind that nobody can know beforehand"), Noticed("odd", "?"))
    assert looked_up == [("beta", "tickets", "odd")]


def test_a_service_has_at_most_150_series(board: Board) -> None:
    watch_all(board)
    assert 50 < len(samples(board, "beta", "users")) <= 150


def test_an_observer_that_fails_does_not_keep_the_others_from_hearing(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Event] = []

    def broken(event: Event) -> None:
        raise RuntimeError("a bug")

    fan_out(broken, heard.append)(STARTED)
    assert heard == [STARTED]
    assert "an observer failed at Started" in caplog.text


# --- the log ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def _logging_restored() -> Iterator[None]:
    root, library = logging.getLogger(), logging.getLogger("aiokafka")
    before = root.handlers[:], root.level, library.level
    yield
    root.handlers[:], level, library_level = before
    root.setLevel(level)
    library.setLevel(library_level)


class Told:
    """A log that can be read."""

    def __init__(self, time: Time, *overrides: str) -> None:
        chosen = settings(*overrides)
        self.stream = io.StringIO()
        configure(chosen, output=self.stream)
        self.board = Board(monotonic=time, clock=lambda: SERVER_NOW)
        self.tell = self.board.watch(chosen, "tickets")

    def __call__(self, *events: Event) -> str:
        for event in events:
            self.tell(event)
        text = self.stream.getvalue()
        self.stream.truncate(0)
        self.stream.seek(0)
        return text

    def lines(self, *events: Event) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self(*events).splitlines()]


@pytest.mark.usefixtures("_logging_restored")
class TestLog:
    """Lines for machines unless a terminal or the settings say otherwise."""

    def test_a_late_row_is_told_with_how_late_it_was_and_an_oddity_once(self, time: Time) -> None:
        late = LateRow(7, END_TIME - 30, END_TIME, SERVER_NOW)
        lines = Told(time).lines(late, Noticed("count", "odd"), Noticed("count", "odd", again=True))
        assert [line["level"] for line in lines] == ["warning", "warning"]
        assert lines[0].items() >= {"ticket": 7, "stamp": "2023-12-31T23:59:30Z", "seconds_late": 70}.items()

    def test_each_moment_that_matters_is_one_line(self, time: Time) -> None:
        told = Told(time)
        lines = told.lines(
            STARTED,
            OPENED,
            Waiting("budget", 6),
            Answered(200, 0.1, 1, {}),
            Fetched(page(version(1))),
            committed(version(1)),
            failed(Unavailable("no answer", hint="wait"), "request", 2.04, 3),
            StandingBy("other", 30),
            StandingBy("other", 60),
            Noticed("late_row", "a row came late"),
            Stopped(checkpoint(), Refused("401", hint="check zendesk.api_token")),
        )
        assert [(line["level"], line["message"]) for line in lines] == [
            ("info", "started"),
            ("info", "session opened"),
            ("info", "page committed"),
            ("warning", "request failed, will try again"),
            ("warning", "standing by: another instance holds the account"),
            ("warning", "a row came late"),
            ("error", "stopped"),
        ]
        assert lines[2].items() >= {
            "account": "acme", "seq": 1, "records": 1, "position": "2024-01-01T00:00:00Z", "lag_seconds": 100
        }.items()  # fmt: skip
        assert lines[3].items() >= {"error": "no answer", "hint": "wait", "attempt": 3, "wait_seconds": 2.0}.items()
        assert lines[6].items() >= {"error_type": "Refused", "hint": "check zendesk.api_token"}.items()

    def test_quiet_polls_are_silent_but_for_a_heartbeat(self, time: Time) -> None:
        told = Told(time)
        told(OPENED)
        assert [
            line["message"] for line in told.lines(caught_up(), caught_up(), committed(caught_up=True), caught_up())
        ] == ["caught up"]
        time.now += HEARTBEAT
        (line,) = told.lines(caught_up(), caught_up())
        assert (line["message"], line["polls"]) == ("still caught up", 3)

    def test_a_backfill_tells_how_far_it_is_at_most_every_half_minute(self, time: Time) -> None:
        told = Told(time)
        told(BACKFILL)
        lines = []
        for number in range(1, 21):
            time.now += PROGRESS / 3
            lines += told.lines(*backfilled(100 * number))
        told_of = [line for line in lines if line["message"] == "backfilling"]
        assert len(told_of) == 6
        assert told_of[0]["sure"] == "too early to say"
        last = told_of[-1]
        assert (last["position"], last["sure"]) == ("2023-12-31T00:31:40Z", "unsure")
        assert last["eta_range"][0] < last["eta_seconds"] < last["eta_range"][1]
        time.now += 10 * PROGRESS
        after = told.lines(caught_up(), *backfilled(DAY))
        assert "backfilling" not in {line["message"] for line in after}

    def test_an_orderly_end_tells_the_position(self, time: Time) -> None:
        (line,) = Told(time).lines(Stopped(checkpoint(), None))
        assert (line["level"], line["message"], line["position"]) == ("info", "stopped", "2024-01-01T00:00:00Z")

    def test_a_bug_shows_its_traceback_without_local_variables(self, time: Time) -> None:
        def buggy() -> None:
            local = "local " + "value"
            raise ZeroDivisionError(len(local))

        try:
            buggy()
        except ZeroDivisionError as error:
            text = Told(time)(Stopped(None, error)) + Told(time, "log.format=console")(Stopped(None, error))
        assert text.count("in buggy") == 2
        assert "local value" not in text

    @pytest.mark.parametrize("format_", ["json", "console"])
    def test_secrets_are_masked_whoever_logs_them(self, time: Time, format_: str) -> None:
        told = Told(time, f"log.format={format_}", "log.level=debug")
        basic = "YWdlbnRAYWNtZS5leGFtcGxlL3Rva2VuOmNhbmFyeS10b2tlbg=="
        logging.getLogger("aiohttp.client").warning("sent %s", {"x": "canary-token"})
        logging.getLogger("aiokafka").error("auth %r", b"\x00u\x00canary-sasl", extra={"password": "canary-extra"})
        try:
            raise RuntimeError(f"Basic {basic} and canary-sasl")
        except RuntimeError:
            logging.getLogger("asyncio").exception("oh")
        text = told(
            failed(Unavailable("canary-token", hint="canary-sasl")),
            Noticed("k", "canary-token"),
            Answered(200, 0.1, 1, {"x-authorization": "canary-header"}),
            Stopped(None, Refused("canary-token", hint="canary-token")),
        )
        assert "canary" not in text
        assert basic not in text
        assert text.count("***") >= 8

    @pytest.mark.parametrize("format_", ["json", "console"])
    def test_foreign_text_cannot_make_lines_or_move_the_cursor(self, time: Time, format_: str) -> None:
        hostile = "a\nerror forged\r\x1b[2J\x00\x85\u2028\u202eb\ud800"
        text = Told(time, f"log.format={format_}")(Noticed("k", hostile), failed(BadAnswer(hostile)))
        assert text.count("\n") == 2
        assert all(character == "\n" or character.isprintable() for character in text)
        assert "\\x1b" in text

    def test_lines_of_a_foreign_traceback_are_indented(self, time: Time) -> None:
        text = Told(time, "log.format=console")(Stopped(None, RuntimeError("x\n2024-01-01 [info] forged")))
        assert "\n    2024-01-01 [info] forged" in text

    def test_aiokafka_is_quiet_unless_debugging(self, time: Time) -> None:
        for level, heard in (("info", False), ("debug", True)):
            told = Told(time, f"log.level={level}")
            logging.getLogger("aiokafka.producer.sender").error("broker gone")
            logging.getLogger("aiokafka.conn").debug("Request: everything")
            text = told()
            assert ("broker gone" in text) is heard
            assert "everything" not in text

    def test_the_level_is_obeyed(self, time: Time) -> None:
        told = Told(time, "log.level=warning")
        assert [line["message"] for line in told.lines(STARTED, OPENED, Noticed("k", "odd"))] == ["odd"]

    def test_the_lines_of_a_service_alone_name_its_account_and_no_stream(self, time: Time) -> None:
        lines = Told(time).lines(STARTED, OPENED, committed(version(1)), Noticed("k", "odd"))
        assert [list(line)[:4] for line in lines] == [["timestamp", "level", "message", "account"]] * 4
        assert all("stream" not in line for line in lines)
        assert "account=" not in Told(time, "log.format=console")(OPENED, committed(version(1)))

    @pytest.mark.parametrize("several", ["accounts", "streams"])
    def test_each_line_of_several_services_names_the_account_and_the_stream(self, time: Time, several: str) -> None:
        told = Told(time)
        if several == "accounts":
            others = settings("zendesk.subdomain=beta"), "tickets"
            configure(settings(), others[0], output=told.stream)
        else:
            others = settings(), "users"
        other = told.board.watch(*others)
        events = STARTED, OPENED, committed(version(1)), Noticed("k", "odd"), Stopped(checkpoint(), Refused("401"))
        tell(told.tell, *events)
        tell(other, *(dataclasses.replace(STARTED, account=others[0].zendesk.subdomain), *events[1:]))
        lines = told.lines()
        named = [(line["account"], line["stream"]) for line in lines]
        assert named == [("acme", "tickets")] * 5 + [(others[0].zendesk.subdomain, others[1])] * 5
        assert {tuple(line)[:5] for line in lines} == {("timestamp", "level", "message", "account", "stream")}

    def test_people_see_which_service_a_line_is_of(self, time: Time) -> None:
        told = Told(time, "log.format=console")
        tell(told.board.watch(settings("zendesk.subdomain=beta"), "users"), OPENED)
        told.tell(OPENED)
        first, second = told().splitlines()
        assert "account=beta stream=users" in first
        assert "account=acme stream=tickets" in second

    def test_with_several_accounts_a_librarys_line_names_none(self, time: Time) -> None:
        told = Told(time)
        logging.getLogger("asyncio").warning("slow")
        configure(settings(), settings("zendesk.subdomain=beta"), output=told.stream)
        logging.getLogger("asyncio").warning("slow")
        alone, beside = told.lines()
        assert alone["account"] == "acme"
        assert "account" not in beside

    def test_the_secrets_of_every_account_are_masked_even_where_one_begins_another(self, time: Time) -> None:
        accounts = [
            settings(f"zendesk.subdomain={account}", f"zendesk.api_token=canary-{token}")
            for account, token in (("acme", "a"), ("beta", "a-longer-one"), ("gamma", "c"))
        ]
        hostile = "a canary-c, a canary-a-longer-one, a canary-a"
        told = Told(time)
        configure(*accounts, output=told.stream)
        (line,) = told.lines(Noticed("k", hostile))
        assert line["message"] == "a ***, a ***, a ***"
        configure(accounts[1], accounts[2], output=told.stream)
        assert told.lines(Noticed("k", hostile))[0]["message"] == "a ***, a ***, a canary-a"
        # What is masked account by account, in their order, leaves the rest of the longer one.
        for each in accounts:
            hostile = each.redact(hostile)
        assert hostile == "a ***, a ***-longer-one, a ***"

    def test_a_cancelled_service_tells_its_position(self, time: Time) -> None:
        (line,) = Told(time).lines(Stopped(checkpoint(), asyncio.CancelledError()))
        assert "abandoned" in line["message"]
        assert line["position"] == "2024-01-01T00:00:00Z"


# --- the board -------------------------------------------------------------------------------------------------------


def test_of_one_service_the_board_says_what_its_status_says(board: Board, status: Status, time: Time) -> None:
    told = fan_out(board.watch(settings(), "tickets"), status)
    tell(told, STARTED, OPENED, committed(version(1)), StandingBy("other/1/b", 30))
    time.now += 10 * GRACE
    assert board.snapshot() == status.snapshot()
    assert (board.alive(), board.ready()) == (status.alive(), status.ready())
    assert board.states() == {"state": "standing_by"}
    assert board.snapshot().items() >= {"account": "acme", "stream": "tickets", "alive": False, "ready": False}.items()


def test_of_several_services_the_board_says_how_each_is_and_names_it_where_something_is_wrong(
    board: Board, time: Time
) -> None:
    told = watch_all(board)
    time.now += 3
    for each in told.values():
        tell(each, OPENED, committed(version(1)))
    tell(told["acme/users"], caught_up(wait=10 * GRACE))
    assert board.ready()
    tell(told["beta/users"], StandingBy("other/1/b", 10 * GRACE))
    assert board.ready().reasons == ("beta/users: standing by: instance other/1/b holds the account",)
    assert board.states() == {"states": {"backfilling": 2, "caught_up": 1, "standing_by": 1}}
    snapshot = board.snapshot()
    assert json.loads(json.dumps(snapshot)) == snapshot
    assert [(each["account"], each["stream"]) for each in snapshot["services"]] == [
        ("acme", "tickets"), ("acme", "users"), ("beta", "tickets"), ("beta", "users")
    ]  # fmt: skip
    assert [each["ready"] for each in snapshot["services"]] == [True, True, True, False]
    assert list(snapshot) == ["version", "alive", "ready", "reasons", "uptime_seconds", "services"]
    assert (snapshot["alive"], snapshot["ready"], snapshot["uptime_seconds"]) == (True, False, 3)
    time.now += 2 * GRACE
    assert [reason.partition(" for ")[0] for reason in board.alive().reasons] == [
        "acme/tickets: nothing has happened",
        "beta/tickets: nothing has happened",
    ]
    assert board.snapshot()["reasons"] == [*board.alive().reasons, *board.ready().reasons]


def test_a_refused_account_makes_the_process_unready_and_not_dead(board: Board, time: Time) -> None:
    told = watch_all(board)
    for each in told.values():
        tell(each, OPENED, caught_up(wait=100 * GRACE))
    tell(told["beta/tickets"], Stopped(checkpoint(), Refused("401 for canary-token")))
    time.now += 50 * GRACE
    assert board.alive()
    assert board.ready().reasons == ("beta/tickets: the service has stopped: Refused: 401 for ***",)
    # One that hangs instead is what the process is restarted for.
    hanging = board.watch(settings("zendesk.subdomain=gamma"), "tickets")
    tell(hanging, OPENED)
    time.now += 2 * GRACE
    assert [reason.partition(":")[0] for reason in board.alive().reasons] == ["gamma/tickets"]


def test_each_backfill_is_foretold_from_its_own_pages(board: Board, time: Time) -> None:
    told = watch_all(board)
    slow, fast = told["acme/tickets"], told["beta/tickets"]
    for each in (slow, fast):
        tell(each, BACKFILL)
    for number in range(1, 41):
        time.now += 10
        tell(slow, *backfilled(100 * number))
        tell(fast, *backfilled(1000 * number))
    of_slow, none, of_fast, _ = (each["backfill"] for each in board.snapshot()["services"])
    assert none is None
    assert of_slow["share"] == pytest.approx(0.1 * of_fast["share"], rel=0.2)
    assert of_slow["eta_seconds"] == pytest.approx((DAY - 4000) / 9, rel=0.02)
    assert of_fast["eta_seconds"] == pytest.approx((DAY - 40_000) / 99, rel=0.02)


# --- the endpoint ----------------------------------------------------------------------------------------------------


async def get(url: str, method: str = "GET") -> tuple[int, dict[str, str], str]:
    async with aiohttp.ClientSession() as session, session.request(method, url) as response:
        return response.status, dict(response.headers), await response.text()


async def test_the_endpoint_tells_the_truth(board: Board, time: Time) -> None:
    told = board.watch(settings(), "tickets")
    async with serve(HttpSettings(port=0), board) as url:
        code, _, text = await get(f"{url}/readyz")
        assert code == 503
        assert "no Kafka session" in json.loads(text)["reasons"][0]
        tell(told, STARTED, OPENED, committed(version(1)))
        code, _, text = await get(f"{url}/readyz")
        assert (code, json.loads(text)) == (200, {"ready": True, "state": "backfilling", "reasons": []})
        code, _, text = await get(f"{url}/status")
        assert (code, json.loads(text)) == (200, board.snapshot())
        code, _, text = await get(f"{url}/metrics")
        assert code == 200
        assert 'zendesk_producer_source_lag_seconds{account="acme",stream="tickets"} 100.0' in text
        assert (await get(f"{url}/livez"))[0] == 200
        time.now += 10 * GRACE
        code, _, text = await get(f"{url}/livez")
        assert code == 503
        assert json.loads(text)["reasons"]


async def test_the_endpoint_can_only_be_read_and_says_so_with_safe_headers(board: Board) -> None:
    board.watch(settings(), "tickets")
    async with serve(HttpSettings(port=0), board) as url:
        for path in ("/livez", "/readyz", "/metrics", "/status", "/nowhere"):
            code, headers, _ = await get(url + path)
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Content-Security-Policy"].startswith("default-src 'none'")
            assert headers["Server"] == "zendesk-producer"
            assert (await get(url + path, "HEAD"))[0] == code
            assert (await get(url + path, "POST"))[0] == (404 if path == "/nowhere" else 405)


async def test_a_port_in_use_is_named(board: Board) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(Misconfigured, match=r"http\.port: 127\.0\.0\.1:\d+ is in use"),
    ):
        async with serve(HttpSettings(port=taken.getsockname()[1]), board):
            pass
    with pytest.raises(Misconfigured, match=r"http\.host: cannot listen on 192\.0\.2\.1:0"):
        async with serve(HttpSettings(host="192.0.2.1", port=0), board):
            pass


async def test_the_endpoint_names_the_refused_account_and_lets_the_process_live(board: Board) -> None:
    told = watch_all(board)
    for each in told.values():
        tell(each, OPENED, committed(version(1)))
    tell(told["beta/users"], Stopped(checkpoint(), Refused("401")))
    states = {"backfilling": 3, "stopped": 1}
    reason = "beta/users: the service has stopped: Refused: 401"
    async with serve(HttpSettings(port=0), board) as url:
        code, _, text = await get(f"{url}/livez")
        assert (code, json.loads(text)) == (200, {"alive": True, "states": states, "reasons": []})
        code, _, text = await get(f"{url}/readyz")
        assert (code, json.loads(text)) == (503, {"ready": False, "states": states, "reasons": [reason]})
        code, _, text = await get(f"{url}/status")
        assert (code, json.loads(text)) == (200, board.snapshot())
        code, _, text = await get(f"{url}/metrics")
        assert code == 200
        for service, stopped in (("beta", "users"), 1), (("beta", "tickets"), 0):
            labels = 'account="{}",state="stopped",stream="{}"'.format(*service)
            assert f"zendesk_producer_state{{{labels}}} {stopped:.1f}" in text


async def test_metrics_come_in_the_format_and_the_selection_that_were_asked_for(board: Board) -> None:
    watch_all(board)
    openmetrics = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "Accept-Encoding": "gzip"}
    async with serve(HttpSettings(port=0), board) as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/metrics", headers=openmetrics) as response:
            assert response.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
            assert response.headers["Content-Encoding"] == "gzip"
            assert (await response.text()).endswith("# EOF\n")
        _, headers, text = await get(f"{url}/metrics?name[]=zendesk_producer_pinned")
        assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert [line.partition("{")[0] for line in text.splitlines() if line[0] != "#"] == [
            "zendesk_producer_pinned"
        ] * 4


@contextlib.asynccontextmanager
async def whole(registry: CollectorRegistry) -> AsyncIterator[str]:
    """A server whose handler writes all metrics at one go."""
    application = web.Application()
    application.router.add_get("/metrics", make_aiohttp_handler(registry))
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def held_up(url: str) -> float:
    """Seconds of CPU that the loop spent at one stretch, at most, while `url` was read."""
    longest, reading = 0.0, asyncio.ensure_future(get(url))
    while not reading.done():
        before = thread_time()
        await asyncio.sleep(0)
        longest = max(longest, thread_time() - before)
    code, _, text = await reading
    assert code == 200
    assert text.count('account="acme-49"') > 200
    return longest


async def test_a_scrape_of_two_hundred_services_leaves_the_loop_to_them(board: Board) -> None:
    for number in range(50):
        chosen = settings(f"zendesk.subdomain=acme-{number}")
        for stream in ("tickets", "users", "organizations", "ticket_events"):
            board.watch(chosen, stream)
    gc.collect()
    gc.freeze()  # as `run` does, or the collector comes between
    try:
        # The control is the handler that comes with the client library: the loop is its own as long as the scrape takes.
        async with serve(HttpSettings(port=0), board) as url, whole(board.registry) as control:
            assert await held_up(f"{url}/metrics") < await held_up(f"{control}/metrics") / 3
    finally:
        gc.unfreeze()


# --- memory ----------------------------------------------------------------------------------------------------------


def test_memory_is_given_back_with_every_tenth_page_of_whichever_service() -> None:
    given_back: list[int] = []
    told = 0
    memory = Memory(lambda: given_back.append(told))
    for told in range(1, 2 * PAGES + 1):
        memory(committed(version(told)))
        memory(OPENED)
    assert given_back == [PAGES, 2 * PAGES]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked")
def test_what_pages_leave_behind_in_pieces_is_given_back() -> None:
    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    tickets = [bytes(5_000) for _ in range(20_000)]
    kept, full = tickets[::1000], resident()
    del tickets
    left = resident()  # what is kept between them holds the rest: the control
    trim()
    assert full - left < 50_000_000 < full - resident()
    assert len(kept) == 20


def test_a_c_library_that_cannot_give_memory_back_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.observers.memory.ctypes.CDLL", lambda _: object())
    trim()
