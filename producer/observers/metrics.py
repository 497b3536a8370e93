"""Counts what happens, for Prometheus."""

from __future__ import annotations

import math
import platform
import re
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)

from producer import __version__
from producer.errors import Throttled
from producer.events import Answered, Committed, Event, Fetched, Noticed, Observer, Retrying, StandingBy, Waiting
from producer.model import REASONS
from producer.observers.status import STATES, Status

_Family = TypeVar("_Family", Counter, Gauge, Histogram)

_NAMESPACE = "zendesk_producer"
_LATENCY = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_FRESHNESS = (60, 90, 120, 180, 300, 600, 1800, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600)
_SIZE = (1e3, 1e4, 1e5, 1e6, 5e6, 1e7, 3e7, 6.4e7)
_COUNT = (0, 1, 10, 100, 500, 1000, 2000, 5000)

# An `increase()` misses the first sample of a new series, so every label value that can be known begins at 0.
_HTTP_STATUSES = (200, 400, 401, 403, 404, 409, 422, 429, 500, 502, 503, 504)
_REQUEST_REASONS = ("Unavailable", "Throttled", "TooLarge", "TooSlow")
_FAILURES = (
    *(("session", reason) for reason in ("SessionOver", "Unavailable", "Throttled")),
    ("sign-in", "SignInRefused"),
    *(("account", reason) for reason in ("BadAnswer", "TooLarge", "TooSlow", "Pinned", "Unpublishable", "Fenced")),
)

# The export's own bucket first: it is the narrow one. Then the account's, in all spellings (zendesk-api.md 6.2).
_BUCKETS = ("zendesk-ratelimit-incremental-exports", "zendesk-rate-limit-incremental-exports")
_LIMIT = ("ratelimit-limit", "rate-limit", "x-rate-limit")
_REMAINING = ("ratelimit-remaining", "rate-limit-remaining", "x-rate-limit-remaining")


def _show(gauge: Gauge, read: Callable[[], float | None]) -> None:
    """Have the gauge ask when Prometheus does. What is not known yet is NaN, which no alert mistakes for 0."""

    def value() -> float:
        known = read()
        return math.nan if known is None else float(known)

    gauge.set_function(value)


class Metrics:
    """All series of the process, in a registry of its own. Those of a service begin with the labels `account`, `stream`."""

    def __init__(self) -> None:
        # Otherwise each counter has a second series that nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        Info(f"{_NAMESPACE}_build", "What runs", registry=self.registry).info(
            {"version": __version__, "python": platform.python_version()}
        )
        self._families: dict[str, Any] = {}

    def watch(self, status: Status) -> Observer:
        """What counts the moments of one service. What its `status` knows is read from it when Prometheus asks."""
        return _Share(self, status)

    def family(self, kind: type[_Family], name: str, text: str, *labels: str, **options: Any) -> _Family:
        """The series of this name of all services; the first who asks creates it."""
        if name not in self._families:
            labels = ("account", "stream", *labels)
            self._families[name] = kind(f"{_NAMESPACE}_{name}", text, labels, registry=self.registry, **options)
        family: _Family = self._families[name]
        return family


class _Share:
    """An observer: the series of one service, each looked up once and not at every event."""

    def __init__(self, metrics: Metrics, status: Status) -> None:
        self._family = metrics.family
        self._service = status.account, status.stream
        self._read_from(status)
        self._tickets_read = self._counter("tickets_read_total", "Rows in the API's answers")
        self._tickets_published = self._counters("tickets_published_total", "Ticket versions committed", "op")
        self._tickets_skipped = self._counters("tickets_skipped_total", "Rows that are no news", "reason")
        self._dead_letters = self._counters("dead_letters_total", "Tickets that could not be published", "reason")
        self._tickets_late = self._counter("tickets_late_total", "Tickets that appeared behind the position, published")
        self._tickets_unstamped = self._counter("tickets_unstamped_total", "Rows without generated_timestamp")
        self._records = self._counter("records_published_total", "Kafka records committed, tombstones included")
        self._bytes = self._counter("published_bytes_total", "Bytes of the committed records' values")
        self._page_tickets = self._histogram("page_tickets", "Rows of a page", _COUNT)
        self._page_bytes = self._histogram("page_bytes", "Decompressed bytes of a page", _SIZE)
        self._transactions = self._counters(
            "transactions_total",
            "Transactions with a page: committed; failed (the next session finds out what they came to); fenced",
            "result",
        )
        self._transaction_seconds = self._histogram(
            "transaction_duration_seconds", "From a page's first record to its commit", _LATENCY
        )
        self._publish_latency = self._histogram(
            "publish_latency_seconds", "Age of a page's newest ticket version when it was committed", _FRESHNESS
        )
        self._requests = self._counters("api_requests_total", "Answers of the API", "status")
        self._request_seconds = self._histogram("api_request_duration_seconds", "Duration of requests", _LATENCY)
        self._retries = self._counters("api_retries_total", "Requests tried again", "reason")
        self._throttled = self._counter("api_throttled_seconds_total", "Seconds waited because the API said 429")
        self._budget = self._counter("api_budget_seconds_total", "Seconds waited for our own budget and for fresh rows")
        self._limit = self._gauge("api_ratelimit_limit", "Requests per minute that the API allows")
        self._remaining = self._gauge("api_ratelimit_remaining", "Requests left in this minute")
        self._failures = self._counters(
            "failures_total",
            "Sessions that ended, and times that an account could not pass its position",
            "what",
            "reason",
        )
        self._notices = self._counters("notices_total", "Oddities that are safe", "kind")
        self._last_ticket = self._gauge(
            "last_ticket_timestamp_seconds", "generated_timestamp of the newest ticket version committed"
        )
        for op in ("changed", "deleted"):
            self._tickets_published(op)
        for reason in ("repeated", "stale", "system_update"):
            self._tickets_skipped(reason)
        for reason in REASONS:
            self._dead_letters(reason)
        for result in ("committed", "failed", "fenced"):
            self._transactions(result)
        for http_status in _HTTP_STATUSES:
            self._requests(str(http_status))
        for reason in _REQUEST_REASONS:
            self._retries(reason)
        for what, reason in _FAILURES:
            self._failures(what, reason)
        for unknown in (self._limit, self._remaining, self._last_ticket):
            unknown.set(math.nan)
        self._page_in_hand = False

    def __call__(self, event: Event) -> None:
        """Count it."""
        match event:
            case Answered():
                self._requests(str(event.status)).inc()
                self._request_seconds.observe(event.seconds)
                self._limits(event.limits)
            case Fetched(page):
                self._page_in_hand = bool(page.versions)
                self._tickets_read.inc(page.rows)
                self._tickets_skipped("repeated").inc(page.repeated)
                self._tickets_skipped("stale").inc(page.stale)
                self._tickets_late.inc(page.late)
                self._tickets_unstamped.inc(page.unstamped)
                self._page_tickets.observe(page.rows)
                self._page_bytes.observe(page.size)
            case Committed(page):
                self._page_in_hand = False
                self._transactions("committed").inc()
                self._transaction_seconds.observe(event.seconds)
                self._records.inc(event.records)
                self._bytes.inc(event.size)
                published = event.shipment.published
                deleted = sum(version.deleted for version in published)
                self._tickets_published("deleted").inc(deleted)
                self._tickets_published("changed").inc(len(published) - deleted)
                self._tickets_skipped("system_update").inc(event.shipment.excluded)
                for letter in event.shipment.letters:
                    self._dead_letters(letter.poison.reason).inc()
                if published:
                    newest = max(version.stamp for version in published)
                    self._last_ticket.set(newest)
                    self._publish_latency.observe(max(0.0, (page.server_time or time.time()) - newest))
            case Waiting():
                self._budget.inc(event.wait)
            case Retrying("request", error):
                self._retries(type(error).__name__).inc()
                if isinstance(error, Throttled):
                    self._throttled.inc(event.wait)
            case Retrying(what, error):
                self._failures(what, type(error).__name__).inc()
                self._dropped("failed")
            case StandingBy():
                self._dropped("fenced")
            case Noticed(kind):
                self._notices(kind).inc()
            case _:
                pass

    def _read_from(self, status: Status) -> None:
        def position() -> float | None:
            return status.checkpoint.end_time if status.checkpoint else None

        def share() -> float | None:
            return backfill.share if (backfill := status.backfill()) else None

        def eta() -> float | None:
            return backfill.eta if (backfill := status.backfill()) else None

        states = self._family(Gauge, "state", "1 for the state that the service is in", "state")
        for state in STATES:
            _show(states.labels(*self._service, state), lambda state=state: status.state == state)  # type: ignore[misc]
        _show(self._gauge("source_lag_seconds", "How far the topic is behind the API; 0 when caught up"), status.lag)
        _show(self._gauge("position_timestamp_seconds", "The committed position"), position)
        _show(
            self._gauge("last_successful_poll_timestamp_seconds", "When the API last gave a page"),
            lambda: status.last_poll,
        )
        _show(
            self._gauge("last_commit_timestamp_seconds", "When a page was last committed"), lambda: status.last_commit
        )
        _show(self._gauge("backfill_active", "1 while the API has more to give"), lambda: status.state == "backfilling")
        _show(self._gauge("backfill_share", "Part of the account's time that is done; only while backfilling"), share)
        _show(self._gauge("backfill_eta_seconds", "Until caught up, as /status explains; only while backfilling"), eta)
        _show(
            self._gauge("pinned", "1 while a second is read by cursor that the time-based export does not move past"),
            lambda: status.checkpoint is not None and status.checkpoint.pinned,
        )
        _show(self._gauge("alive", "1 while /livez says yes"), lambda: bool(status.alive()))
        _show(self._gauge("ready", "1 while /readyz says yes"), lambda: bool(status.ready()))

    def _dropped(self, result: str) -> None:
        if self._page_in_hand:
            self._transactions(result).inc()
        self._page_in_hand = False

    def _limits(self, limits: Mapping[str, str]) -> None:
        sent = {name.lower(): value for name, value in limits.items()}
        for bucket in _BUCKETS:
            if bucket in sent:
                parts = dict(re.findall(r"(total|remaining)=(\d{1,9})", sent[bucket]))
                sent = {"ratelimit-limit": parts.get("total", ""), "ratelimit-remaining": parts.get("remaining", "")}
        for gauge, spellings in ((self._limit, _LIMIT), (self._remaining, _REMAINING)):
            for name in spellings:
                if re.fullmatch(r"\d{1,9}", sent.get(name, "")):
                    gauge.set(int(sent[name]))
                    break

    def _counter(self, name: str, text: str) -> Counter:
        return self._family(Counter, name, text).labels(*self._service)

    def _counters(self, name: str, text: str, *labels: str) -> Callable[..., Counter]:
        """By the values of these labels."""
        return cache(partial(self._family(Counter, name, text, *labels).labels, *self._service))

    def _gauge(self, name: str, text: str) -> Gauge:
        return self._family(Gauge, name, text).labels(*self._service)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return self._family(Histogram, name, text, buckets=buckets).labels(*self._service)
