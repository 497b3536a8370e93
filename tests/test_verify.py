"""`verify` against a real broker and the pretend Zendesk: a true history is clean, and whatever is done to it is found."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from msgspec.structs import replace
from typer.testing import CliRunner

from producer import service
from producer.cli.verify import verify as verify_command
from producer.dates import seconds
from producer.errors import Misconfigured, Unavailable
from producer.kafka.batches import partition_of
from producer.model import Record, Version
from producer.records import Records
from producer.sandbox.broker import Cluster
from producer.sandbox.zendesk import Account, Clock, Limits, Rules, Simulator, server
from producer.sandbox.zendesk.server import _lines
from producer.settings import Settings, load_settings
from producer.stop import Stop
from producer.streams import STREAMS
from producer.verify import Verdict, verify
from tests.conftest import joined
from tests.reader import Message, Reader
from tests.test_contents import steadily
from tests.test_service import Run

PARTITIONS = 12


async def publish(settings: Settings) -> None:
    """Let the service catch up."""
    await service.run(settings, Stop(), lambda event: None, instance="one", once=True, give_up_after=60)


async def judged(
    settings: Settings, truth: str | None = None, patience: float = 30, stream: str = "tickets"
) -> Verdict:
    return await verify(
        settings,
        truth=truth,
        work_dir=None,
        requests_per_minute=60_000,
        say=lambda text: None,
        patience=patience,
        stream=STREAMS[stream],
    )


def wrong(verdict: Verdict) -> dict[str, int]:
    """The numbers that ought to be 0 and are not."""
    names = ("missing", "duplicated", "out_of_order", "altered", "gaps", "inconsistent")
    counted = {name: getattr(verdict, name) for name in names}
    counted |= {"stuck": len(verdict.stuck), "disagreements": len(verdict.disagreements)}
    return {name: number for name, number in counted.items() if number}


def record_of(ticket: int, stamp: int, value: bytes | None = None) -> Record:
    """A record that is what its headers say, as a page of its own."""
    value = value or json.dumps({"id": ticket, "generated_timestamp": stamp}).encode()
    version = Version(ticket, stamp, hashlib.sha256(value).hexdigest()[:16], value)
    (record,) = Records([version], account="acme", generation=1, seq=1, tombstones=False)
    return record


def copies(reader: Reader, *, ticket: int) -> list[Record]:
    """What the topic holds of a ticket."""
    return [again(message) for message in reader.messages() if message.key == b"%d" % ticket]


def again(message: Message) -> Record:
    """The record that this was read from."""
    return Record(message.key, message.value, [(name, value.encode()) for name, value in message.headers.items()])


@asynccontextmanager
async def writer(kafka: Cluster, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, **options)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def send(producer: AIOKafkaProducer, settings: Settings, *records: Record) -> None:
    for record in records:
        await producer.send_and_wait(
            settings.topics.tickets,
            record.value,
            key=record.key,
            partition=partition_of(record.key or b"", PARTITIONS),
            headers=record.headers,
        )


async def append(kafka: Cluster, settings: Settings, *records: Record) -> None:
    async with writer(kafka) as producer:
        await send(producer, settings, *records)


@pytest.fixture
async def published(settings: Settings, account: Account, clock: Clock) -> int:
    """Forty tickets in the topic, of which number 7 is deleted; answers the Unix second that the history begins at."""
    begin = int(clock.now()) - 1_000
    for ticket in range(1, 41):
        account.put(begin + ticket, id=ticket, status="deleted" if ticket == 7 else "open")
    await publish(settings)
    return begin


@pytest.mark.parametrize("truth", [None, "off"])
async def test_a_true_history_is_clean(settings: Settings, published: int, truth: str | None) -> None:
    verdict = await judged(settings, truth)
    assert wrong(verdict) == {}
    assert verdict.clean
    # The last ticket is stamped at the position itself: it is there, but nobody could demand it.
    assert (verdict.required, verdict.present, verdict.tombstones, verdict.superseded) == (39, 40, 1, 0)
    assert verdict.generations == {1: 1}
    assert bool(verdict.notes) is (truth == "off")


@pytest.mark.parametrize("truth", [None, "off"])
async def test_replaced_versions_are_superseded_and_fine(
    settings: Settings, account: Account, published: int, truth: str | None
) -> None:
    for ticket in range(1, 6):
        account.put(published + 100 + ticket, id=ticket)
    await publish(settings)
    verdict = await judged(settings, truth)
    assert wrong(verdict) == {}
    assert (verdict.present, verdict.superseded) == (45, 5)


async def test_a_service_that_goes_on_publishing_is_clean(settings: Settings, account: Account, published: int) -> None:
    stop = Stop()
    running = asyncio.create_task(service.run(settings, stop, lambda event: None, instance="two"))

    async def change() -> None:
        for number in range(10_000):
            account.put(published + 100 + number // 20, id=1 + number % 40)
            await asyncio.sleep(0.002)

    changing = asyncio.create_task(change())
    try:
        for truth in (None, "off", None):
            verdict = await judged(settings, truth)
            assert wrong(verdict) == {}, verdict.to_dict()
    finally:
        changing.cancel()
        stop.set()
        await asyncio.gather(changing, running, return_exceptions=True)


@pytest.mark.parametrize("truth", [None, "off"])
async def test_a_version_that_the_service_passed_without_publishing_is_missing(
    settings: Settings, account: Account, published: int, truth: str | None
) -> None:
    account.put(published + 10, id=77)
    verdict = await judged(settings, truth)
    assert wrong(verdict) == {"missing": 1}
    assert f"id 77 stamped {published + 10}" in verdict.examples["missing"][0]


async def test_a_version_at_the_position_is_not_demanded(settings: Settings, account: Account, published: int) -> None:
    account.put(published + 40, id=77)
    assert (await judged(settings)).clean


async def test_records_appended_again_are_duplicated(
    settings: Settings, kafka: Cluster, reader: Reader, published: int
) -> None:
    await append(kafka, settings, *copies(reader, ticket=7), *copies(reader, ticket=8))
    verdict = await judged(settings)
    assert wrong(verdict) == {"duplicated": 3}  # number 7 has a tombstone


async def test_the_same_content_in_other_bytes_is_a_duplicate(
    settings: Settings, kafka: Cluster, reader: Reader, published: int
) -> None:
    (original,) = copies(reader, ticket=8)
    shuffled = json.dumps(dict(reversed(json.loads(original.value or b"").items()))).encode()
    again = record_of(8, published + 8, shuffled)
    await append(kafka, settings, replace(again, headers=[*again.headers[:-1], original.headers[-1]]))
    assert wrong(await judged(settings, "off")) == {"duplicated": 1}


async def test_a_version_that_the_api_shows_in_other_bytes_is_not_missing(
    settings: Settings, account: Account, clock: Clock
) -> None:
    stamp = int(clock.now()) - 1_000
    account.put(stamp, id=1, raw=b'{"id":1,"score":1.50,"generated_timestamp":%d}' % stamp)
    account.put(stamp + 9, id=2)
    await publish(settings)
    account.put(stamp, id=1, raw=b'{"score": 1.50, "generated_timestamp": %d, "id": 1}' % stamp)
    verdict = await judged(settings, "off")
    assert (wrong(verdict), verdict.required, verdict.superseded) == ({}, 1, 0)
    account.put(stamp, id=1, raw=b'{"score": 1.51, "generated_timestamp": %d, "id": 1}' % stamp)
    assert wrong(await judged(settings, "off")) == {"missing": 1}


async def test_an_old_version_behind_a_new_one_is_out_of_order(
    settings: Settings, kafka: Cluster, account: Account, reader: Reader, published: int
) -> None:
    old = copies(reader, ticket=8)
    account.put(published + 100, id=8)
    await publish(settings)
    await append(kafka, settings, *old)
    assert wrong(await judged(settings)) == {"out_of_order": 1}


async def test_a_value_that_is_not_what_its_headers_say_is_altered(
    settings: Settings, kafka: Cluster, published: int
) -> None:
    await append(kafka, settings, replace(record_of(90, published), value=b"{}"))
    for truth in (None, "off"):
        verdict = await judged(settings, truth)
        assert verdict.altered == 1, truth


async def test_a_value_that_was_never_offered_is_altered_where_the_truth_is_known(
    settings: Settings, kafka: Cluster, published: int
) -> None:
    await append(kafka, settings, record_of(90, published))
    assert (await judged(settings)).altered == 1
    assert (await judged(settings, "off")).altered == 0


async def test_records_that_are_not_ours_are_reported_and_do_no_harm(
    settings: Settings, kafka: Cluster, published: int
) -> None:
    ours = record_of(1, published)
    other_account = [(name, value.replace(b"acme", b"zzz")) for name, value in ours.headers]
    broken = [(name, b"1/x/0/1" if name == "zendesk-page" else value) for name, value in ours.headers]
    await append(
        kafka,
        settings,
        Record(b"1", b"hello", []),
        replace(ours, headers=other_account),
        replace(ours, headers=broken),
    )
    verdict = await judged(settings)
    assert wrong(verdict) == {}
    assert (verdict.foreign, len(verdict.examples["foreign"])) == (3, 3)


async def test_an_aborted_transaction_is_invisible(
    settings: Settings, kafka: Cluster, reader: Reader, published: int
) -> None:
    async with writer(kafka, transactional_id="aborting") as producer:
        await producer.begin_transaction()
        await send(producer, settings, *copies(reader, ticket=8), replace(record_of(90, published), value=b"{}"))
        await producer.abort_transaction()
    verdict = await judged(settings)
    assert (wrong(verdict), verdict.present) == ({}, 40)


async def test_a_transaction_that_stays_open_is_stuck_and_what_lies_before_it_is_judged(
    settings: Settings, kafka: Cluster, published: int
) -> None:
    async with writer(kafka, transactional_id="hanging") as producer:
        await producer.begin_transaction()
        await send(producer, settings, record_of(8, published))
        verdict = await judged(settings, patience=1)
        assert (wrong(verdict), verdict.present) == ({"stuck": 1}, 40)
        assert f"partition {partition_of(b'8', PARTITIONS)} of {settings.topics.tickets}" in verdict.stuck[0]
        await producer.abort_transaction()
    assert (await judged(settings, patience=1)).clean


async def test_a_transaction_that_ends_meanwhile_is_waited_for(
    settings: Settings, kafka: Cluster, published: int
) -> None:
    async with writer(kafka, transactional_id="slow") as producer:
        await producer.begin_transaction()
        await send(producer, settings, record_of(8, published))
        judging = asyncio.create_task(judged(settings))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(judging), 1)
        await producer.abort_transaction()
    assert wrong(await judging) == {}


async def test_an_open_transaction_in_the_checkpoint_topic_is_stuck(
    settings: Settings, kafka: Cluster, published: int
) -> None:
    async with writer(kafka, transactional_id="neighbour") as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(
            settings.topics.checkpoints, b"{}", key=b"other/tickets", partition=partition_of(b"acme", PARTITIONS)
        )
        assert wrong(await judged(settings, patience=1)) == {"stuck": 1}
        await producer.abort_transaction()


async def test_a_page_that_is_not_whole_is_a_gap(settings: Settings, kafka: Cluster, published: int) -> None:
    record = record_of(8, published + 8)
    headers = [(name, b"0/1/0/2" if name == "zendesk-page" else value) for name, value in record.headers]
    await append(kafka, settings, replace(record, headers=headers))  # the first of two, in a generation before ours
    assert (await judged(settings, "off")).gaps == 1


async def test_a_topic_that_was_created_anew_disagrees_with_the_checkpoint(
    settings: Settings, kafka: Cluster, published: int
) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    try:
        await admin.delete_topics([settings.topics.tickets])
        await listed(admin, settings.topics.tickets, wanted=False)
        await create_topic(admin, settings.topics.tickets, {"retention.ms": "-1"})
    finally:
        await admin.close()
    verdict = await judged(settings)
    assert verdict.missing == 39
    assert any("truncated or created anew" in text for text in verdict.disagreements)
    assert any("newest page of this generation in the topic is 0" in text for text in verdict.disagreements)


async def create_topic(admin: AIOKafkaAdminClient, name: str, configs: dict[str, str]) -> None:
    await admin.create_topics([NewTopic(name, PARTITIONS, 1, topic_configs=configs)])
    await listed(admin, name, wanted=True)


async def listed(admin: AIOKafkaAdminClient, name: str, *, wanted: bool) -> None:
    async with asyncio.timeout(20):
        while True:
            if (name in await admin.list_topics()) is wanted:
                return
            await asyncio.sleep(0.05)


async def test_what_compaction_removes_is_excused_and_what_is_lost_is_not(
    zendesk: Simulator, account: Account, clock: Clock, names: dict[str, str]
) -> None:
    begin = int(clock.now()) - 100_000
    configs = {
        "cleanup.policy": "compact",
        "segment.ms": "100",
        "min.cleanable.dirty.ratio": "0.01",
        "min.compaction.lag.ms": "0",
        "delete.retention.ms": "600000",
        "max.message.bytes": str(8 * 2**20),
    }
    with Cluster(properties={"log.cleaner.backoff.ms": "100"}) as kafka:
        settings = load_settings(overrides=joined(kafka, zendesk, names))
        reader = Reader(kafka.bootstrap_servers, names["tickets"], names["checkpoints"])
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
        await admin.start()
        try:
            await create_topic(admin, names["tickets"], configs)
            for ticket in range(1, 41):
                account.put(begin + ticket, id=ticket, status="deleted" if ticket == 7 else "open")
            appended = 41
            await publish(settings)

            def first_deletion_is_compacted() -> bool:
                seen = [message.value for message in reader.messages() if message.key == b"7"]
                return seen == [None]

            # The cleaner leaves the newest segment alone; changes of the others roll it, until the cleaner came by.
            for change in range(1, 200):
                await asyncio.sleep(0.2)
                for ticket in (*range(1, 7), *range(8, 41)):
                    account.put(begin + 100 * change + ticket, id=ticket)
                await publish(settings)
                appended += 39
                if await asyncio.to_thread(first_deletion_is_compacted):
                    break
            verdict = await judged(settings)
            assert wrong(verdict) == {}, verdict.to_dict()
            assert verdict.compacted == 1
            assert verdict.present + verdict.tombstones < appended
            assert wrong(await judged(settings, "off")) == {}

            # The cleaner may remove anything here, but the newest version of a living ticket is nothing to remove.
            account.put(begin + 50, id=77)
            assert wrong(await judged(settings)) == {"missing": 1}
        finally:
            await admin.close()


async def test_an_account_without_a_checkpoint_is_told_so(settings: Settings, published: int, kafka: Cluster) -> None:
    other = settings.model_copy(update={"zendesk": settings.zendesk.model_copy(update={"subdomain": "other"})})
    with pytest.raises(Misconfigured, match="no checkpoint of other/tickets"):
        await judged(other)


async def test_topics_that_do_not_exist_are_told_so_and_not_created(settings: Settings, kafka: Cluster) -> None:
    with pytest.raises(Misconfigured, match=f"topic {settings.topics.tickets} does not exist"):
        await judged(settings)


async def test_a_work_folder_that_cannot_be_used_is_told_so(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured) as refused:
        await verify(settings, truth=None, work_dir=tmp_path / "nowhere", say=lambda text: None)
    assert "--work-dir" in refused.value.hint


async def test_a_truth_that_cannot_be_read_is_unavailable(settings: Settings, published: int) -> None:
    with pytest.raises(Unavailable, match="ground truth"):
        await judged(settings, truth="http://127.0.0.1:1/")


async def test_nothing_is_written_and_nothing_is_left_behind(
    settings: Settings, reader: Reader, published: int, tmp_path: Path
) -> None:
    before = await asyncio.to_thread(reader.checkpoints), await asyncio.to_thread(reader.messages)
    told: list[str] = []
    verdict = await verify(settings, truth="off", work_dir=tmp_path, requests_per_minute=60_000, say=told.append)
    assert verdict.clean
    assert list(tmp_path.iterdir()) == []
    assert (await asyncio.to_thread(reader.checkpoints), await asyncio.to_thread(reader.messages)) == before
    assert any("requests at 60000 a minute" in text for text in told)


@pytest.mark.parametrize("options", [[], ["--json"]])
async def test_the_command_prints_the_verdict_and_exits_with_it(
    settings: Settings, account: Account, published: int, options: list[str]
) -> None:
    async def run() -> Any:
        app = typer.Typer()
        app.command("verify")(verify_command)
        return await asyncio.to_thread(CliRunner().invoke, app, options, obj=lambda: settings)

    result = await run()
    assert result.exit_code == 0, result.output
    account.put(published + 10, id=77)
    broken = await run()
    assert broken.exit_code == 1
    if options:
        told = json.loads(result.stdout), json.loads(broken.stdout)
        assert [(each["clean"], each["missing"]) for each in told] == [(True, 0), (False, 1)]
    else:
        assert result.stdout.splitlines()[-1] == "verdict: clean"
        assert broken.stdout.splitlines()[-1] == "verdict: NOT CLEAN: 1 missing"


async def test_truth_and_api_agree_on_a_history_of_full_seconds(
    account: Account, clock: Clock, kafka: Cluster, names: dict[str, str]
) -> None:
    # Many versions within a second, cut and extended pages.
    begin = int(clock.now()) - 1_000
    for number in range(400):
        account.put(begin + number // 90, id=1 + number % 150)
    async with Simulator(account, clock=clock, limits=Limits.unlimited()) as zendesk:
        settings = load_settings(overrides=[*joined(kafka, zendesk, names), "zendesk.page_size=20"])
        await publish(settings)
        verdicts = [await judged(settings, truth) for truth in (None, "off")]
    assert [wrong(verdict) for verdict in verdicts] == [{}, {}]
    assert verdicts[0].required == verdicts[1].required > 0


@pytest.mark.parametrize(
    ("rules", "more"),
    [
        (Rules(stuck=True), ()),
        (Rules(), ("zendesk.max_response_bytes=200KiB",)),
        (Rules(stuck=True), ("zendesk.export=cursor",)),
    ],
)
async def test_the_api_is_read_past_seconds_that_the_time_based_export_does_not_leave(
    rules: Rules, more: tuple[str, ...], account: Account, clock: Clock, kafka: Cluster, names: dict[str, str]
) -> None:
    begin = int(clock.now()) - 1_000
    for number in range(400):
        account.put(begin + number // 90, id=1 + number)
    async with Simulator(account, clock=clock, limits=Limits.unlimited(), rules=rules) as zendesk:
        settings = load_settings(overrides=[*joined(kafka, zendesk, names), "zendesk.page_size=20", *more])
        await publish(settings)
        verdicts = [await judged(settings, truth) for truth in (None, "off")]
    assert [wrong(verdict) for verdict in verdicts] == [{}, {}]
    assert verdicts[0].required == verdicts[1].required >= 360


# --- what settings leave out, and what they change --------------------------------------------------------------------


async def left_out(settings: Settings, account: Account, clock: Clock) -> None:
    """Ten tickets, published; and when that has been certain for long, a system update of the third."""
    begin = int(clock.now()) - 3_000
    for ticket in range(1, 11):
        account.put(begin + ticket, id=ticket)
    run = Run(settings)
    await steadily(run, clock, 800)
    account.update(1, clock.now())
    await steadily(run, clock, 200)
    account.system_update(3, clock.now())
    await steadily(run, clock, 200)
    account.update(2, clock.now())
    await steadily(run, clock, 200)
    await run.end()


@pytest.mark.parametrize("truth", [None, "off"])
async def test_what_was_left_out_as_a_system_update_is_excluded_and_without_that_setting_missing(
    truth: str | None, overrides: list[str], account: Account, steady_zendesk: Clock
) -> None:
    settings = load_settings(overrides=[*overrides, "tickets.system_updates=exclude"])
    await left_out(settings, account, steady_zendesk)
    verdict = await judged(settings, truth)
    assert (wrong(verdict), verdict.excluded) == ({}, 1)
    assert wrong(await judged(load_settings(overrides=overrides), truth)) == {"missing": 1}


@pytest.fixture
def steady_zendesk(zendesk: Simulator, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of a pretend Zendesk, which only the test moves from now on."""
    manual = Clock.manual(1_700_000_000)
    monkeypatch.setattr(zendesk, "clock", manual)
    return manual


@pytest.mark.parametrize("truth", [None, "off"])
async def test_an_edit_that_was_left_out_is_no_system_update_and_missing(
    truth: str | None, settings: Settings, account: Account, published: int, overrides: list[str]
) -> None:
    account.put(published + 10, id=3, updated_at="2026-01-01T00:00:00Z")
    excluding = load_settings(overrides=[*overrides, "tickets.system_updates=exclude"])
    verdict = await judged(excluding, truth)
    assert (wrong(verdict), verdict.excluded) == ({"missing": 1}, 0)


VIEWS = {
    "deletions left out": ("zendesk.exclude_deleted=true",),
    "tickets of AI agents": ("zendesk.support_type_scope=all",),
    "tickets of AI agents alone": ("zendesk.support_type_scope=ai_agent",),
    "more in each ticket": ("zendesk.include=metric_sets,comment_count",),
    "all of that": (
        "zendesk.exclude_deleted=true",
        "zendesk.support_type_scope=all",
        "zendesk.include=comment_count,users",
    ),
}


@pytest.mark.parametrize("name", VIEWS)
async def test_the_truth_is_asked_for_what_the_service_was_shown(
    name: str, overrides: list[str], zendesk: Simulator, account: Account, clock: Clock
) -> None:
    begin = int(clock.now()) - 1_000
    for ticket in range(1, 21):
        account.put(begin + ticket, id=ticket, support_type="ai_agent" if ticket % 2 else "agent")
    for ticket in (7, 8):
        account.delete(ticket, begin + 100)
    account.put(begin + 200, id=21)
    settings = load_settings(overrides=[*overrides, *VIEWS[name]])
    await publish(settings)
    verdicts = [await judged(settings, truth) for truth in (None, "off")]
    assert [wrong(verdict) for verdict in verdicts] == [{}, {}]
    assert verdicts[0].required == verdicts[1].required > 5
    # The control: what another view shows is not what is there.
    assert wrong(await judged(load_settings(overrides=overrides))) != {}


async def test_a_truth_without_updated_at_is_understood(
    settings: Settings, published: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lines(*arguments: Any) -> Any:
        for line in _lines(*arguments):
            told = json.loads(line)
            del told["updated_at"]
            yield json.dumps(told).encode() + b"\n"

    monkeypatch.setattr(server, "_lines", lines)
    verdict = await judged(settings)
    assert (wrong(verdict), verdict.required) == ({}, 39)


def test_the_truth_tells_each_versions_own_updated_at() -> None:
    account = Account.generate(300, 1, until=1_700_000_000, span=1e7, users=20, organizations=20, keep_events=True)
    account.system_update(5, 1_700_000_100)
    account.put(1_700_000_200, id=6, updated_at="2020-01-01T00:00:00Z")
    account.put(1_700_000_200, id=7, updated_at=None)
    account.put(1_700_000_200, id=8, via={"updated_at": "2020-01-01T00:00:00Z"})
    account.put(1_700_000_200, id=9, raw=b'{"id":9,"updated_at":"2020-01-01T00:00:00Z"}')
    account.put(1_700_000_200, id=10, raw=b'{"id":10,"updated_at":17}')
    account.put(1_700_000_200, id=11, raw=b"17")
    for stream in account.streams.values():
        told = [offered.updated_at for offered in stream.versions()]
        bodies = [json.loads(stream.body(version)) for version in range(len(told))]
        assert told == [seconds(own_date(body)) for body in bodies]
        assert stream is account.events or len(set(told)) > 10


def own_date(body: Any) -> str | None:
    """Its `updated_at`, if it has one that is a text."""
    date = body.get("updated_at") if isinstance(body, dict) else None
    return date if isinstance(date, str) else None


async def test_with_field_rules_a_true_history_is_clean_and_says_what_it_cannot_judge(
    overrides: list[str], zendesk: Simulator, account: Account, clock: Clock, kafka: Cluster, reader: Reader
) -> None:
    begin = int(clock.now()) - 1_000
    for ticket in range(1, 11):
        account.put(begin + ticket, id=ticket, status="deleted" if ticket == 7 else "open")
    rules = ("tickets.drop_fields=$.description", "tickets.hash_key=0123456789abcdef")
    settings = load_settings(overrides=[*overrides, *rules])
    await publish(settings)
    verdict = await judged(settings)
    assert (wrong(verdict), verdict.required, verdict.present) == ({}, 9, 10)
    assert "field rules are on: whether a value is what they leave is not judged" in verdict.notes
    await append(kafka, settings, *copies(reader, ticket=8))
    account.put(begin + 5, id=77)
    assert wrong(await judged(settings)) == {"duplicated": 1, "missing": 1}
