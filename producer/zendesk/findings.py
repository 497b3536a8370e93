"""Judges what a probe heard of an account: each fact with what it means for the service. Pure; quotes no ticket."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Literal

from producer.errors import EXIT_UNAVAILABLE, Final, ProducerError
from producer.events import Answered
from producer.settings import ZendeskSettings
from producer.zendesk.auth import API_TOKENS_END
from producer.zendesk.budget import limit_of
from producer.zendesk.doubts import hosts_of
from producer.zendesk.page import Slice

_HIGH_VOLUME = 30
_AGREE = 2
"""Seconds that clocks may be apart: `Date` has whole ones, and was written somewhere between question and answer."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A fact and what it means for the service. `exit_code`: the command's, unless there is worse."""

    about: str
    level: Literal["ok", "warning", "error"]
    text: str
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Heard:
    """What came with an answer. `asked`: for how many tickets; `at`: our clock when it was here, Unix seconds."""

    request: int
    asked: int
    at: float
    told: Answered
    server_time: float | None
    headers: Mapping[str, str]

    @property
    def limit(self) -> dict[str, int]:
        """The exports' own limit: `total`, `remaining` and `resets`, as far as they are told."""
        value = next((value for name, value in self.told.limits.items() if name.endswith("incremental-exports")), "")
        return limit_of(value)


def fact(about: str, text: str, fine: bool | str = True) -> Finding:
    """A finding that is `fine`, or what is not fine about it: a warning then."""
    return Finding(about, "ok", text) if fine is True else Finding(about, "warning", f"{text}: {fine}")


def failed(about: str, error: ProducerError) -> Finding:
    """The finding that an error comes to."""
    code = error.exit_code if isinstance(error, Final) else EXIT_UNAVAILABLE
    return Finding(about, "error", "; ".join(filter(None, (str(error), error.hint))), code)


def page_findings(page: Slice, heard: Heard, rate: float) -> Iterator[Finding]:
    """What an answer shows."""
    rows, stamps = page.rows, [row.stamp for row in page.rows if row.stamped]
    size, seconds = heard.told.size, heard.told.seconds
    text = f"{len(rows):,} of up to {heard.asked:,} tickets, {size:,} bytes decompressed, in {seconds:.1f} s"
    pace = f"at {rate:g} requests a minute up to {rate * len(rows):,.0f} tickets a minute"
    yield fact("page", f"{text}: {'all there is' if page.ended else pace}")
    if not rows:
        return
    ordered = all(one <= next_ for one, next_ in pairwise(stamps))
    text = f"generated_timestamp is {'' if ordered else 'not '}ascending"
    yield fact("order", text, ordered or "what comes out of order is read again")
    if stamps:
        span, most = max(stamps) - min(stamps) + 1, max(Counter(stamps).values())
        text = f"{len(stamps) / span:.3g} tickets a second over {span:,} s, up to {most:,} in one"
        yield fact("density", f"{text}: pages are extended only for seconds of {heard.asked:,} or more")
    text = f"{len(stamps):,} of {len(rows):,} tickets have a generated_timestamp"
    bare = any(not row.stamped and row.poison is None for row in rows)
    yield fact("stamps", text, not bare or "updated_at is taken for it")
    if poison := [row.poison.reason for row in rows if row.poison is not None]:
        reasons = ", ".join(sorted(set(poison)))
        yield Finding(
            "dead letters", "warning", f"{len(poison):,} of {len(rows):,} tickets cannot be published ({reasons})"
        )


def envelope_findings(page: Slice, zendesk: ZendeskSettings) -> Iterator[Finding]:
    """What an answer says of itself, held against what it shows."""
    count, end_time, rows = page.count, page.end_time, page.rows
    right = count is None or count == len(rows)
    text = "not sent" if count is None else f"{count:,}, and there are {len(rows):,} tickets"
    yield fact("count", text, right or "some may be missing, so that such an answer is asked for up to three times")
    stamps = [row.stamp for row in rows if row.stamped]
    if end_time is None or not stamps:
        yield fact("end_time", "sent" if end_time else "null", not stamps or "the position goes by the tickets")
    else:
        ahead, extended = end_time - max(stamps), not page.ended and min(stamps) == max(stamps)
        right = ahead in (0, int(extended))
        text = f"the last ticket's second{f' {ahead:+,}' if ahead else ', which the next page repeats'}"
        yield fact("end_time", text, right or "the position goes by the tickets")
    text = f"sent, {page.ended}".lower() if page.ended is not None else "not sent"
    right = page.ended is not None
    yield fact("end_of_stream", text, right or "an answer with fewer tickets than asked for is taken for the end")
    host = page.next_host
    ours = host is None or host in hosts_of(zendesk)
    yield fact("next_page", f"at {host}" if host else "null", ours or "links are never followed")


def extension(second: int, there: int, asked: int, cut: Slice | None, page_size: int) -> Finding:
    """How a second of (at least) `there` tickets was treated that was asked for with `asked` at once."""
    if cut is None or not cut.rows:
        return fact("page extension", "not seen: the tickets are gone from their second")
    shown, alone = len(cut.rows), all(row.stamp == second for row in cut.rows)
    moved = cut.end_time is not None and cut.end_time > second
    text = f"per_page={asked} returned {shown:,} tickets of a second with {there:,} or more"
    if moved and alone and shown >= there:
        end = "one second on" if cut.end_time == second + 1 else "further on"
        return fact("page extension", f"{text}, and an end_time {end}: extended, taken in one transaction")
    if not moved and not cut.ended:
        return fact("page extension", f"{text}, and the same end_time: the loop, left by the cursor export")
    if alone and shown < there:
        loses = f"goes on behind it: set zendesk.export to cursor if {page_size:,} tickets may share a second"
        return fact("page extension", text, loses)
    return fact("page extension", f"{text}{'' if alone else ' and of others'}, which tells nothing")


def cursor_findings(page: Slice, heard: Heard) -> Iterator[Finding]:
    yield fact("cursor", f"allowed, {len(page.rows):,} tickets in {heard.told.seconds:.1f} s")
    ordered = all(one < next_ for one, next_ in pairwise(places(page)))
    text = f"(generated_timestamp, id) is {'' if ordered else 'not '}ascending"
    yield fact("cursor order", text, ordered or "a second that only the cursor export gets past stops the account")
    if page.cursor is None:
        yield fact("cursor again", "not seen: none was given", not page.rows or "its second is asked for instead")


def shared_limit(heard: Sequence[Heard]) -> Finding:
    """Whether the last request, the first one by cursor, took from what was left to those by time."""
    before, after = heard[-2:] if len(heard) > 1 else (heard[-1], heard[-1])
    was, now = before.limit, after.limit
    told = after.request == before.request + 1 and {"remaining", "resets"} <= was.keys() & now.keys()
    if not told or now["resets"] > was["resets"] or after.at - before.at >= was["resets"]:
        return fact("cursor limit", "not seen: no limit is told, or a new minute had begun")
    less = was["remaining"] - now["remaining"]
    text = "one limit for both exports" if less > 0 else "a limit of its own"
    others = ", which other programs use as well" if less > 1 else ""
    return fact(
        "cursor limit", f"{text}{others}: {was['remaining']} left before the first one, then {now['remaining']}"
    )


_SIGN_IN = {
    "client_secret": "a token of an OAuth client",
    "access_token": "an OAuth access token",
    "api_token": "an API token",
    "password": "a password",
}


def sign_in(zendesk: ZendeskSettings, granted: str) -> Finding:
    """How we sign in. `granted`: what a token that was given to us is good for, empty where none was."""
    way = next(words for name, words in _SIGN_IN.items() if getattr(zendesk, name) is not None)
    if granted:
        way = f"{way} ({granted})"
    ends = (
        f"API tokens stop working on {API_TOKENS_END}; use an OAuth client (zendesk.client_id, zendesk.client_secret)"
    )
    return fact("sign-in", f"{way} may read the export", not zendesk.api_token or ends)


def header_findings(heard: Sequence[Heard], rate: float) -> Iterator[Finding]:
    """What came beside the answers."""
    limits = ", ".join(f"{name}: {value}" for name, value in heard[0].told.limits.items())
    yield fact("rate limits", limits or "no header tells of any: the budget is all that holds us back")
    if (total := heard[0].limit.get("total")) is not None:
        left, volume = heard[0].limit.get("remaining"), "on" if total >= _HIGH_VOLUME else "off"
        text = f"{total} export requests a minute, {left} left after our first, so that High Volume seems {volume}"
        more = "more than there are, so that some are refused: lower zendesk.requests_per_minute"
        yield fact("budget", f"{text}; we make {rate:g}", rate <= total or more)
    yield _clock([(one.server_time, one.at - one.told.seconds / 2) for one in heard])
    sent = [one.headers.get("X-Runtime", "") for one in heard]
    times = [float(text) for text in sent if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text)]
    yield fact("server time", f"{median(times):.2f} s, at most {max(times):.2f} s" if times else "not sent")


def _clock(times: Sequence[tuple[float | None, float]]) -> Finding:
    skews = [theirs + 0.5 - ours for theirs, ours in times if theirs is not None]
    if not skews:
        return fact("clock", "no Date is sent", "we may ask for seconds that are too recent, and are refused: safe")
    skew = median(skews)
    text = f"the API's Date is {abs(skew):,.0f} s {'ahead of' if skew > 0 else 'behind'} our clock"
    return fact("clock", text, abs(skew) <= _AGREE or "one of them is wrong; waits go by the Date, nothing is lost")


def places(page: Slice) -> list[tuple[int, int]]:
    return [(row.stamp, row.id) for row in page.rows]
