"""`check`: what it finds out about an account and a cluster, and that it asks little, changes nothing and quotes nothing."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Any

import pytest
from aiohttp import web
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from producer.errors import BadAnswer
from producer.events import Committed, Opened, Retrying
from producer.kafka.connection import client_options
from producer.kafka.session import transactional_id
from producer.kafka.transactions import TransactionalProducer
from producer.sandbox.broker import Cluster
from producer.sandbox.zendesk import Account, Clock, Credentials, Fault, Limits, Rules, Scenario, Simulator
from producer.sandbox.zendesk.answers import Answer
from producer.sandbox.zendesk.page import Page
from producer.settings import Settings, load_settings
from producer.stop import Stop
from producer.zendesk.budget import Budget
from producer.zendesk.page import slice_page
from producer.zendesk.probe import MOST, Report, probe
from tests.conftest import joined, until
from tests.reader import Reader
from tests.test_checkpoint_command import command
from tests.test_recovery import Owner, topics
from tests.test_service import Run, history, once

CANARY, TICKET = "canary-7be2", "canary-1d90"
"""A secret, and what stands in a ticket."""

BEARER = (f"zendesk.access_token={CANARY}",)
QUESTIONS = {"zendesk": 1, "page extension": 2, "too recent": 4, "cursor": 5, "cursor again": 6}
"""What is asked, and by which request first when all goes well."""


async def probed(
    zendesk: Simulator, *overrides: str, sign_in: tuple[str, ...] = BEARER, start: int = 0, briefly: bool = False
) -> Report:
    """A probe of the account, without waiting. It never asks more often than it says, nor more often than it may."""
    settings = load_settings(
        overrides=[
            "zendesk.subdomain=acme",
            f"zendesk.base_url={zendesk.base_url}",
            "zendesk.requests_per_minute=60000",
            "kafka.bootstrap_servers=localhost:9092",
            *sign_in,
            *overrides,
        ]
    )

    def tell(_: object) -> None:
        """Nobody listens."""

    report = await probe(settings, Budget(60_000, Stop(), tell), start, tell, briefly=briefly)
    assert report.requests == len(zendesk.journal) <= (1 if briefly else MOST)
    return report


def about(report: Report, *names: str) -> list[str]:
    """What was found about these, each with its level."""
    return [f"{finding.level} {finding.text}" for finding in report.findings if finding.about in names]


def warnings(report: Report) -> list[str]:
    """What there are warnings about; the budget is left out, since these tests take more than there is."""
    return [finding.about for finding in report.findings if finding.level != "ok" and finding.about != "budget"]


def one(report: Report, name: str) -> str:
    (found,) = about(report, name)
    return found


# --- the account -----------------------------------------------------------------------------------------------------


async def test_an_account_as_it_is_on_record_is_found_fine_in_seven_requests(account: Account) -> None:
    clock = Clock(start=1_800_000_000)  # the beginning of a minute, which ours is not: so the clocks differ
    history(account, clock.now())
    async with Simulator(account, clock=clock) as zendesk:
        report = await probed(zendesk)
    assert report.requests == 7
    assert warnings(report) == ["clock"]
    assert one(report, "sign-in") == "ok an OAuth access token may read the export"
    assert one(report, "page").startswith("ok 40 of up to 1,000 tickets, ")
    assert one(report, "density").startswith("ok 6.67 tickets a second over 6 s, up to 7 in one")
    assert one(report, "cursor").startswith("ok allowed, 40 tickets")
    assert one(report, "cursor limit") == "ok one limit for both exports: 6 left before the first one, then 5"
    assert "remaining=9; resets=" in one(report, "rate limits")


async def test_a_second_that_is_extended_is_told_from_one_that_is_never_left(account: Account, clock: Clock) -> None:
    history(account, clock.now())
    told = []
    for rules in (Rules(), Rules(stuck=True)):
        async with Simulator(account, clock=clock, rules=rules) as zendesk:
            told.append(about(await probed(zendesk), "page extension"))
    returned = "tickets of a second with 7 or more, and"
    assert told == [
        [
            f"ok per_page={n} returned 7 {returned} an end_time one second on: extended, taken in one transaction"
            for n in (1, 2)
        ],
        [
            f"ok per_page={n} returned {n} {returned} the same end_time: the loop, left by the cursor export"
            for n in (1, 2)
        ],
    ]


async def test_an_api_that_would_lose_tickets_of_a_crowded_second_is_warned_of(account: Account, clock: Clock) -> None:
    history(account, clock.now())
    ahead = Scenario([Fault("future_end_time", requests=(2, 3))])
    async with Simulator(account, clock=clock, rules=Rules(stuck=True), scenario=ahead) as zendesk:
        found = about(await probed(zendesk), "page extension")
    assert [text.startswith("warning") and "set zendesk.export to cursor" in text for text in found] == [True, True]


async def test_where_no_second_has_two_tickets_an_extension_is_not_seen(account: Account, clock: Clock) -> None:
    for number in range(3):
        account.put(int(clock.now()) - 300 + number)
    async with Simulator(account, clock=clock) as zendesk:
        report = await probed(zendesk)
    assert one(report, "page extension") == "ok not seen: no second with two tickets"
    assert report.requests == 5


@pytest.mark.parametrize("start", [0, 4_102_444_800])
async def test_where_there_is_nothing_to_see_that_is_said(start: int, account: Account, clock: Clock) -> None:
    async with Simulator(account, clock=clock) as zendesk:
        report = await probed(zendesk, start=start)
    assert warnings(report) == []
    assert one(report, "page extension") == "ok not seen: no second with two tickets"
    assert one(report, "cursor").startswith("ok allowed, ")


ODD = {
    "shuffled": (Fault("shuffled", requests=(1, 5)), ["order", "cursor order"]),
    "wrong_count": (Fault("wrong_count", requests=(1,)), ["count"]),
    "null_end_time": (Fault("null_end_time", requests=(1,)), ["end_time"]),
    "future_end_time": (Fault("future_end_time", requests=(1,)), ["end_time"]),
    "missing_key": (Fault("missing_key", requests=(1,), key="end_of_stream"), ["end_of_stream"]),
    "foreign_next_page": (Fault("foreign_next_page", requests=(1,)), ["next_page"]),
    "null_cursor": (Fault("null_cursor", requests=(5,)), ["cursor again"]),
    "another page": (Fault("empty_midstream", requests=(7,)), ["cursor again"]),
}


@pytest.mark.parametrize("fault", ODD)
async def test_what_is_not_as_on_record_is_warned_of(fault: str, account: Account, clock: Clock) -> None:
    history(account, clock.now())
    odd, warned_of = ODD[fault]
    async with Simulator(account, clock=clock, scenario=Scenario([odd])) as zendesk:
        report = await probed(zendesk, "zendesk.page_size=20")
    assert warnings(report) == warned_of


async def test_tickets_without_a_stamp_are_warned_of(account: Account, clock: Clock) -> None:
    history(account, clock.now())
    account.put(int(clock.now()) - 300, raw=b'{"id":41,"updated_at":"2026-01-01T00:00:00Z"}')
    async with Simulator(account, clock=clock) as zendesk:
        report = await probed(zendesk)
    assert one(report, "stamps").startswith("warning 40 of 41 tickets have a generated_timestamp")


# --- what comes beside the pages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("skew", "said"),
    [
        (0.0, "ok the API's Date is 0 s"),
        (7200.0, "warning the API's Date is 7,200 s ahead of our clock"),
        (-7200.0, "warning the API's Date is 7,200 s behind our clock"),
        (None, "warning no Date is sent"),
    ],
)
async def test_the_clocks_are_compared(skew: float | None, said: str, account: Account, clock: Clock) -> None:
    history(account, clock.now())
    async with Simulator(account, clock=clock, date_skew=skew or 0.0, send_date=skew is not None) as zendesk:
        report = await probed(zendesk)
    found = one(report, "clock")
    for second in ("7,199", "7,201"):  # a Date has whole seconds
        found = found.replace(second, "7,200")
    assert found.replace(" 1 s", " 0 s").startswith(said)


@pytest.mark.parametrize("era", [2023, 2024, 2026])
async def test_limits_are_shown_as_they_are_told(era: Any, account: Account, clock: Clock) -> None:
    history(account, clock.now())
    async with Simulator(account, clock=clock, limits=Limits(exports_per_minute=30, era=era)) as zendesk:
        report = await probed(zendesk)
    prefix = "rate-limit" if era == 2023 else "ratelimit"
    assert f"x-rate-limit: 700, x-rate-limit-remaining: 699, {prefix}" in one(report, "rate limits")
    told = [text.partition(",")[0] for text in about(report, "budget")]
    assert told == (["warning 30 export requests a minute"] if era == 2026 else [])
    assert ("seems on" in "".join(about(report, "budget"))) is (era == 2026)


async def test_an_account_that_tells_of_no_limit_is_said_to(zendesk: Simulator) -> None:
    report = await probed(zendesk)
    assert one(report, "rate limits").startswith("ok no header tells of any")
    assert about(report, "budget") == []
    assert one(report, "cursor limit").startswith("ok not seen")


class OwnLimit(Simulator):
    """Requests by cursor take nothing from what is left to those by time."""

    def _answer(self, request: web.Request) -> Page | Answer:
        answer = super()._answer(request)
        if request.path.endswith("/cursor"):
            self._buckets._exports -= 1
        return answer


async def test_a_cursor_export_with_a_limit_of_its_own_is_found_out(account: Account) -> None:
    clock = Clock(start=1_800_000_000)  # a minute begins
    history(account, clock.now())
    async with OwnLimit(account, clock=clock) as zendesk:
        report = await probed(zendesk)
    assert one(report, "cursor limit") == "ok a limit of its own: 6 left before the first one, then 6"


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (Rules(), "400 and application/json, a refusal that we know"),
        (Rules(too_recent_answer="422 json"), "422 and application/json, a refusal that we know"),
        (Rules(too_recent_answer="422 text"), "422 and text/plain, a refusal that we know"),
        (Rules(too_recent_seconds=2, excluded_seconds=0), "200 and application/json, 1 tickets"),
    ],
)
async def test_what_is_too_recent_is_tried_once(rules: Rules, said: str, account: Account, clock: Clock) -> None:
    account.put(int(clock.now()) - 2)
    async with Simulator(account, clock=clock, rules=rules) as zendesk:
        report = await probed(zendesk)
        young = [served for served in zendesk.journal if (served.start_time or 0) > clock.now() - 60]
    assert said in one(report, "too recent")
    assert len(young) == 1


# --- what fails ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("briefly", [True, False])
@pytest.mark.parametrize("fault", ["not_authenticated", "invalid_token", "forbidden", "missing_scope", "no_help_desk"])
async def test_a_refusal_ends_it_at_once_in_the_services_own_words(
    fault: str, briefly: bool, account: Account, clock: Clock
) -> None:
    async with Simulator(account, clock=clock, scenario=Scenario([Fault(fault)])) as zendesk:
        report = await probed(zendesk, briefly=briefly)
    (finding,) = report.findings
    assert (report.requests, finding.level) == (1, "error")
    assert finding.exit_code == (78 if fault == "no_help_desk" else 77)
    words = {
        "not_authenticated": "Couldn't authenticate you",
        "invalid_token": "expired, revoked, malformed",
        "forbidden": "You do not have access to this page",
        "missing_scope": "missing the following required scopes: read",
        "no_help_desk": "No help desk at acme.zendesk.com",
    }
    assert words[fault] in finding.text
    assert "zendesk." in finding.text or "need an admin" in finding.text


@pytest.mark.parametrize("export", ["time", "cursor"])
async def test_a_cursor_export_that_is_refused_matters_to_whoever_needs_it(
    export: str, account: Account, clock: Clock
) -> None:
    history(account, clock.now())
    refused = Scenario([Fault("forbidden", requests=range(5, 99))])
    async with Simulator(account, clock=clock, scenario=refused) as zendesk:
        report = await probed(zendesk, f"zendesk.export={export}")
    assert report.requests == 5
    assert "You do not have access" in one(report, "cursor")
    assert [finding.exit_code for finding in report.findings if finding.about == "cursor"] == [
        77 if export == "cursor" else 0
    ]


@pytest.mark.parametrize("question", QUESTIONS)
async def test_a_question_without_an_answer_is_a_finding_and_the_others_are_asked(
    question: str, account: Account, clock: Clock
) -> None:
    history(account, clock.now())
    number = QUESTIONS[question]
    failing = Fault("bad_gateway", requests=range(number, number + 4))  # the first time, and three times more
    async with Simulator(account, clock=clock, scenario=Scenario([failing])) as zendesk:
        report = await probed(zendesk)
    failed = [finding for finding in report.findings if "Zendesk answered 502" in finding.text]
    assert [finding.about for finding in failed] == [question]
    assert (failed[0].level, failed[0].exit_code) == (("error", 69) if number == 1 else ("warning", 0))
    assert {"too recent", "cursor"} <= {finding.about for finding in report.findings}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "fault", ["bad_gateway", "reset_before_headers", "too_many_exports", "json_prefix", "html_page"]
)
async def test_a_server_that_fails_often_is_asked_ten_times_at_most(
    fault: str, seed: int, account: Account, clock: Clock
) -> None:
    history(account, clock.now())
    failing = Scenario([Fault(fault, probability=0.5, retry_after=0)], seed=seed)
    async with Simulator(account, clock=clock, limits=Limits.unlimited(), scenario=failing) as zendesk:
        report = await probed(zendesk)
    assert {"too recent", "cursor"} <= {finding.about for finding in report.findings}


async def test_a_page_that_is_too_much_is_asked_for_with_fewer_tickets(account: Account, clock: Clock) -> None:
    history(account, clock.now())
    slow = Scenario([Fault("upstream_timeout", per_page_above=100)])
    async with Simulator(account, clock=clock, scenario=slow) as zendesk:
        report = await probed(zendesk)
    assert one(report, "page").startswith("ok 40 of up to 62 tickets")


# --- what is not to be seen ------------------------------------------------------------------------------------------


async def test_no_ticket_is_quoted(account: Account, clock: Clock) -> None:
    history(account, clock.now())
    account.put(int(clock.now()) - 300, id=1, subject=TICKET, description=TICKET)
    raw = b'{"subject":"%s","id":[}' % TICKET.encode()
    account.put(int(clock.now()) - 299, raw=raw)
    with pytest.raises(BadAnswer, match=TICKET):  # the control: whoever prints the error prints the ticket
        slice_page(b'{"tickets":[' + raw + b"]}")
    async with Simulator(account, clock=clock) as zendesk:
        report = await probed(zendesk)
    assert one(report, "zendesk").startswith("error the ")
    assert TICKET not in json.dumps([finding.text for finding in report.findings])


@pytest.mark.parametrize(
    ("ticket", "reason"), [(b'{"subject":"%s","id":"none"}', "no_id"), (b'{"id":41,"updated_at":"%s"}', "no_stamp")]
)
async def test_tickets_that_cannot_be_published_are_told_and_not_quoted(
    ticket: bytes, reason: str, account: Account, clock: Clock
) -> None:
    history(account, clock.now())
    account.put(int(clock.now()) - 299, raw=ticket % TICKET.encode())
    async with Simulator(account, clock=clock) as zendesk:
        report = await probed(zendesk)
    assert one(report, "dead letters") == f"warning 1 of 41 tickets cannot be published ({reason})"
    assert TICKET not in json.dumps([finding.text for finding in report.findings])


async def test_a_secret_that_the_far_end_echoes_is_taken_out(account: Account, clock: Clock) -> None:
    class Echoing(Simulator):
        async def _sign(self, request: web.Request, response: web.StreamResponse) -> None:
            await super()._sign(request, response)
            response.headers["X-Rate-Limit"] = request.headers["Authorization"]

    async with Echoing(account, clock=clock) as zendesk:
        report = await probed(zendesk)
    assert "x-rate-limit: Bearer ***" in one(report, "rate limits")
    assert CANARY not in json.dumps([finding.text for finding in report.findings])


async def test_an_api_token_is_reminded_of_its_end(account: Account, clock: Clock) -> None:
    basic = Credentials(email="agent@acme.example", api_token=CANARY)
    sign_in = ("zendesk.email=agent@acme.example", f"zendesk.api_token={CANARY}")
    async with Simulator(account, clock=clock, credentials=basic) as zendesk:
        report = await probed(zendesk, sign_in=sign_in)
    assert one(report, "sign-in").startswith(
        "warning an API token may read the export: API tokens stop working on 2027"
    )
    assert "agent@" not in json.dumps([finding.text for finding in report.findings])


# --- the command -----------------------------------------------------------------------------------------------------


def state(kafka: Cluster) -> dict[str, int]:
    """Every partition of the cluster, with its end. Asked for without a consumer, for which topics would be created."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    known = admin.list_topics(timeout=30).topics
    partitions = [TopicPartition(name, number) for name, topic in known.items() for number in topic.partitions]
    asked = admin.list_offsets({partition: topics.OffsetSpec.latest() for partition in partitions})
    return {f"{one.topic}/{one.partition}": end.result().offset for one, end in asked.items()}


@pytest.mark.parametrize("words", [("check",), ("check", "--probe")])
async def test_it_creates_and_writes_nothing_where_there_is_nothing(
    words: tuple[str, ...], kafka: Cluster, overrides: list[str], zendesk: Simulator, names: dict[str, str]
) -> None:
    before = state(kafka)
    done = await command(overrides, *words)
    assert (done.returncode, state(kafka)) == (0, before), done.stdout + done.stderr
    assert f"{names['tickets']} does not exist: the first start creates it" in done.stdout
    assert "none yet: it begins at 1970-01-01T00:00:00Z (0)" in done.stdout
    assert f"up to {'10 times' if '--probe' in words else '1 time'}, 60000 a minute" in done.stderr
    assert (len(zendesk.journal) == 1) is ("--probe" not in words)


async def test_it_disturbs_no_service_beside_it(
    kafka: Cluster, settings: Settings, overrides: list[str], account: Account, clock: Clock, reader: Reader
) -> None:
    history(account, clock.now())
    run = Run(settings)
    await until(lambda: run.told(Committed) > 0)
    checkpoints = reader.checkpoints()
    before = state(kafka)
    done = await command(overrides, "check", "--probe", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        state(kafka) == before
    )  # of __transaction_state, too, where a transactional producer would have left its mark
    assert reader.checkpoints() == checkpoints
    assert (run.told(Opened), run.told(Retrying)) == (1, 0)
    account.put(int(clock.now()) - 61)
    await until(lambda: run.told(Committed) > 1)
    await run.end()
    report = json.loads(done.stdout)
    assert {finding["level"] for finding in report["findings"]} == {"ok"}
    assert report["requests"] == 7
    (found,) = [finding["text"] for finding in report["findings"] if finding["about"] == "checkpoint"]
    assert "generation 1, page 1" in found


async def test_a_transactional_producer_would_have_been_seen(kafka: Cluster, settings: Settings) -> None:
    """The control of the test above."""
    before = state(kafka)
    async with aclosing(
        TransactionalProducer(client_options(settings.kafka), transactional_id(settings, "tickets"))
    ) as it:
        await it.start()
    assert state(kafka) != before


async def test_each_finding_is_one_line(overrides: list[str], account: Account, clock: Clock) -> None:
    history(account, clock.now())
    account.put(int(clock.now()) - 300, subject=TICKET, description=TICKET)
    done = await command([*overrides, *BEARER], "check", "--probe")
    levels, columns = zip(*(line.split(maxsplit=1) for line in done.stdout.splitlines()), strict=True)
    assert set(levels) == {"ok"}
    assert columns[0].startswith("settings ")
    assert not any(canary in done.stdout + done.stderr for canary in (CANARY, TICKET))


async def test_a_wait_that_the_api_asks_for_is_told(
    kafka: Cluster, account: Account, clock: Clock, names: dict[str, str]
) -> None:
    busy = Scenario([Fault("too_many_exports", requests=(1,), retry_after=2)])
    async with Simulator(account, clock=clock, scenario=busy) as zendesk:
        overrides = [*joined(kafka, zendesk, names), "zendesk.requests_per_minute=60000"]
        done = await command(overrides, "check", "--probe")
    assert "the API wants to be left alone for 2 s" in done.stderr
    assert "warning" not in done.stdout.replace("warning  budget", "")


async def test_the_exit_code_is_that_of_the_worst_error(
    kafka: Cluster, account: Account, clock: Clock, names: dict[str, str]
) -> None:
    async with Simulator(account, clock=clock, credentials=Credentials(access_token="example")) as zendesk:
        good = [*joined(kafka, zendesk, names), "zendesk.requests_per_minute=60000"]
        away, refused, off = (
            "kafka.bootstrap_servers=127.0.0.1:1",
            "zendesk.access_token=other",
            "kafka.create_topics=false",
        )
        wrong, no_file = "zendesk.page_size=0", f"zendesk.ca_file={__file__}"
        codes = {
            words: (await command([*good, *words], "check")).returncode
            for words in [(), (away,), (off,), (refused,), (away, refused), (off, refused), (wrong,), (no_file,)]
        }
    assert codes == {
        (): 0,
        (away,): 69,
        (off,): 78,
        (refused,): 77,
        (away, refused): 77,
        (off, refused): 77,
        (wrong,): 78,
        (no_file,): 78,
    }


async def test_what_the_service_would_refuse_at_its_start_is_an_error(
    kafka: Cluster, settings: Settings, overrides: list[str], account: Account, clock: Clock, names: dict[str, str]
) -> None:
    history(account, clock.now())
    await once(settings)
    owner = Owner(kafka.bootstrap_servers)
    await owner.delete(names["checkpoints"])
    gone = await command(overrides, "check")
    await owner.create(names["checkpoints"], cleanup_policy="delete")
    unsafe = await command(overrides, "check")
    for done in (gone, unsafe):
        assert done.returncode == 78, done.stdout + done.stderr
        assert "going on would publish everything again" in done.stdout
    assert "the checkpoint would be deleted by age" not in gone.stdout
    assert "the checkpoint would be deleted by age" in unsafe.stdout
