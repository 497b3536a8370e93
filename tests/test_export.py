"""What the export does, scene by scene, and what arrives in the topic: every version once, whatever the API tells."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from producer import retry
from producer.errors import BadAnswer, Pinned
from producer.events import CaughtUp, LateRow, Retrying
from producer.sandbox.broker import Cluster
from producer.sandbox.zendesk import Account, Clock, Fault, Limits, Rules, Scenario, Simulator
from producer.settings import Settings, load_settings
from producer.zendesk import boundary
from tests.conftest import joined, said, until
from tests.reader import Reader, faults
from tests.test_service import Run, history, once

PER_PAGE = 10


@dataclass(frozen=True)
class Scene:
    """What the API does (`rules`, `script`), in an account of `tickets`, and how we are set."""

    rules: Rules = field(default_factory=Rules)
    script: tuple[Fault, ...] = ()
    tickets: Callable[[Account, float], None] = history
    overrides: tuple[str, ...] = ()
    said: frozenset[str] = frozenset()


def crowded(account: Account, now: float) -> None:
    """Seconds of 35 tickets between seconds of seven."""
    for number in range(150):
        second = min(number // 7, 6) if number < 84 else 7 + number // 7
        account.put(int(now) - 400 + second, id=number + 1, description="x" * 500)


def crowded_at_the_end(account: Account, now: float) -> None:
    """The newest second is the crowded one."""
    for number in range(60):
        account.put(int(now) - 400 + min(number // 7, 3), id=number + 1)


TOO_LARGE = ("zendesk.max_response_bytes=160KiB",)  # 35 of these tickets are more, ten are less
BY_CURSOR = ("zendesk.export=cursor",)

SCENES: dict[str, Scene] = {
    "a second that extends its page": Scene(tickets=crowded),
    "a second that is never left": Scene(Rules(stuck=True), tickets=crowded, said=frozenset({"pinned"})),
    "a second too large for an answer": Scene(tickets=crowded, overrides=TOO_LARGE, said=frozenset({"pinned"})),
    "idle behind a second that is never left": Scene(
        Rules(stuck=True), tickets=crowded_at_the_end, said=frozenset({"pinned"})
    ),
    "a pinned second whose cursors are refused": Scene(
        Rules(stuck=True),
        (Fault("cursor_refused", requests=range(1, 60, 2)),),
        tickets=crowded,
        said=frozenset({"pinned", "cursor_refused"}),
    ),
    "a pinned second without cursors": Scene(
        Rules(stuck=True),
        (Fault("null_cursor", times=2),),
        tickets=crowded,
        said=frozenset({"pinned", "null_cursor"}),
    ),
    "by cursor": Scene(tickets=crowded, overrides=BY_CURSOR),
    "by cursor, expiring": Scene(
        Rules(cursors_expire_seconds=0), overrides=BY_CURSOR, said=frozenset({"cursor_refused"})
    ),
    "by cursor, never given": Scene(
        script=(Fault("null_cursor"),), overrides=BY_CURSOR, said=frozenset({"null_cursor"})
    ),
    "by cursor, nothing in mid-stream": Scene(
        script=(Fault("empty_midstream", requests=(1, 3, 4)),), overrides=BY_CURSOR
    ),
    "pages too slow to build": Scene(script=(Fault("upstream_timeout", per_page_above=3),)),
    "a count that disagrees": Scene(script=(Fault("wrong_count"),), said=frozenset({"count"})),
    "an end_time in the future": Scene(script=(Fault("future_end_time"),), said=frozenset({"end_time_ahead"})),
    "an end_time that goes backwards": Scene(
        script=(Fault("end_time_backwards"),), said=frozenset({"end_time_behind"})
    ),
    "no end_time": Scene(script=(Fault("null_end_time"),)),
    "no end_of_stream": Scene(script=(Fault("missing_key", key="end_of_stream"),), said=frozenset({"end_of_stream"})),
    "no end_of_stream, by cursor": Scene(
        script=(Fault("missing_key", key="end_of_stream"),), overrides=BY_CURSOR, said=frozenset({"end_of_stream"})
    ),
    "a next page elsewhere": Scene(script=(Fault("foreign_next_page"),), said=frozenset({"next_page"})),
    "a page in the wrong order": Scene(script=(Fault("shuffled", requests=(2, 4)),), said=frozenset({"order"})),
    "a page in the wrong order, by cursor": Scene(
        script=(Fault("shuffled", requests=(2, 4)),), overrides=BY_CURSOR, said=frozenset({"order"})
    ),
    "every ticket twice": Scene(script=(Fault("duplicate_ids"),), said=frozenset({"duplicate_ids"})),
    "every ticket twice, by cursor": Scene(
        script=(Fault("duplicate_ids"),), overrides=BY_CURSOR, said=frozenset({"duplicate_ids"})
    ),
    "the same page again and again": Scene(script=(Fault("same_page", requests=(2, 3, 4)),)),
    "a ticket before the start_time, by cursor": Scene(
        script=(Fault("before_start_time", requests=(3,)),), overrides=BY_CURSOR
    ),
    "a ticket before the start_time": Scene(script=(Fault("before_start_time", requests=(3,)),)),
}


@asynccontextmanager
async def scene(
    play: Scene, account: Account, clock: Clock, kafka: Cluster, names: dict[str, str], *overrides: str
) -> AsyncIterator[tuple[Simulator, Settings]]:
    play.tickets(account, clock.now())
    async with Simulator(
        account, clock=clock, limits=Limits.unlimited(), rules=play.rules, scenario=Scenario(list(play.script))
    ) as zendesk:
        paged = f"zendesk.page_size={PER_PAGE}"
        yield zendesk, load_settings(overrides=[*joined(kafka, zendesk, names), paged, *play.overrides, *overrides])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long before an account is tried again."""
    monkeypatch.setattr(retry.Setbacks, "BLOCKED", (0.05, 0.1))


@pytest.mark.parametrize("name", SCENES)
async def test_whatever_the_export_does_every_version_is_in_the_topic_once(
    name: str, account: Account, clock: Clock, kafka: Cluster, names: dict[str, str], reader: Reader
) -> None:
    play = SCENES[name]
    async with scene(play, account, clock, kafka, names) as (_, settings):
        events = await once(settings)
        await once(settings)  # an idle poll on top, in another life
    assert faults(reader.messages(), account.versions()) == []
    assert len(reader.messages()) == len(account)
    assert play.said <= set(said(events)), said(events)
    assert len(said(events)) == len(set(said(events)))


async def test_an_idle_account_behind_a_pinned_second_is_polled_by_cursor_until_there_is_a_newer_ticket(
    account: Account, clock: Clock, kafka: Cluster, names: dict[str, str], reader: Reader
) -> None:
    play = SCENES["idle behind a second that is never left"]
    async with scene(play, account, clock, kafka, names) as (zendesk, settings):
        run = Run(settings)
        await until(lambda: run.told(CaughtUp) > 3)
        assert {served.path for served in zendesk.journal[-3:]} == {"/api/v2/incremental/tickets/cursor"}
        assert reader.checkpoints()[-1]["cursor"]["pinned"]
        assert reader.checkpoints()[-1]["boundary"] == {}
        account.put(int(clock.now()) - 70, id=99)
        await until(lambda: zendesk.journal[-1].path == "/api/v2/incremental/tickets")
        await run.end()
    assert reader.checkpoints()[-1]["cursor"] is None
    assert faults(reader.messages(), account.versions()) == []


async def test_a_boundary_second_too_large_for_a_checkpoint_is_read_by_cursor(
    account: Account,
    clock: Clock,
    kafka: Cluster,
    names: dict[str, str],
    reader: Reader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(boundary, "REMEMBERED", 20)
    play = Scene(tickets=crowded_at_the_end, overrides=("zendesk.page_size=1000",))
    async with scene(play, account, clock, kafka, names) as (_, settings):
        await once(settings)
        await once(settings)
    assert max(len(checkpoint["boundary"]) for checkpoint in reader.checkpoints()) <= 20
    assert faults(reader.messages(), account.versions()) == []


@pytest.mark.parametrize("rules", [Rules(), Rules(stuck=True)])
async def test_switching_between_the_exports_on_a_living_checkpoint_loses_and_repeats_nothing(
    rules: Rules, account: Account, clock: Clock, kafka: Cluster, names: dict[str, str], reader: Reader
) -> None:
    async with scene(Scene(rules, tickets=crowded), account, clock, kafka, names) as (zendesk, settings):
        for number in range(8):
            mode = "cursor" if number % 2 else "time"
            switched = settings.model_copy(update={"zendesk": settings.zendesk.model_copy(update={"export": mode})})
            run, asked = Run(switched), len(zendesk.journal)
            await until(lambda asked=asked: len(zendesk.journal) > asked + 2)  # type: ignore[misc]
            await run.end()
            account.update(number + 1, clock.now() - 100)
        await once(settings)
    assert faults(reader.messages(), account.versions()) == []


async def test_the_same_content_in_other_bytes_is_published_once(
    account: Account, clock: Clock, kafka: Cluster, names: dict[str, str], reader: Reader
) -> None:
    play = Scene(script=(Fault("other_bytes", requests=range(15, 999)),))
    async with scene(play, account, clock, kafka, names) as (zendesk, settings):
        run = Run(settings)
        await until(lambda: len(zendesk.journal) > 17)
        await run.end()
        assert zendesk.journal[-1].fault == "other_bytes"
    assert faults(reader.messages(), account.versions()) == []


async def test_other_content_under_the_same_stamp_is_published_as_well(
    account: Account, clock: Clock, kafka: Cluster, names: dict[str, str], reader: Reader
) -> None:
    async with scene(Scene(), account, clock, kafka, names) as (_, settings):
        await once(settings)
        newest = max(account.versions(), key=lambda version: version.generated_timestamp)
        account.put(newest.generated_timestamp, id=newest.id, subject="changed within the same second")
        await once(settings)
    assert len(reader.messages()) == len(account) + 1
    assert faults(reader.messages(), account.versions()) == []


@pytest.mark.parametrize(
    ("rules", "script", "more"),
    [
        (Rules(), [Fault("same_page")], ()),
        (Rules(), [Fault("same_page")], BY_CURSOR),
        (Rules(), [Fault("same_page")], ("zendesk.late_row_window=0",)),
        (Rules(stuck=True), [Fault("null_cursor")], ()),  # from the crowded second's beginning, again and again
    ],
)
async def test_the_same_page_for_ever_stops_the_account_loudly_and_repeats_nothing(
    rules: Rules,
    script: list[Fault],
    more: tuple[str, ...],
    account: Account,
    clock: Clock,
    kafka: Cluster,
    names: dict[str, str],
    reader: Reader,
) -> None:
    play = Scene(rules, tuple(script), tickets=crowded)
    async with scene(play, account, clock, kafka, names, *more) as (_, settings):
        run = Run(settings)
        await until(lambda: run.told(Retrying) > 1)
        await run.end()
    assert {type(event.error) for event in run.events if isinstance(event, Retrying)} <= {Pinned, BadAnswer}
    assert [fault for fault in faults(reader.messages(), account.versions()) if "missing" not in fault] == []


# Late rows


@pytest.mark.parametrize("export", ["time", "cursor"])
@pytest.mark.parametrize("window", [300, 0])
async def test_a_row_that_appears_behind_the_position_is_published_once_and_told(
    window: int,
    export: str,
    account: Account,
    clock: Clock,
    kafka: Cluster,
    names: dict[str, str],
    reader: Reader,
    looking_back_always: None,
) -> None:
    overrides = f"zendesk.late_row_window={window}", f"zendesk.export={export}"
    async with scene(Scene(), account, clock, kafka, names, *overrides) as (_, settings):
        behind = int(clock.now()) - 123
        account.put(behind, id=3, visible_at=clock.now() + 100)  # a change of a ticket that was published
        account.put(behind, id=500, visible_at=clock.now() + 100)
        run = Run(settings)
        await until(lambda: run.told(CaughtUp) > 2)
        clock.advance(100)
        polls = run.told(CaughtUp)
        await until(lambda: run.told(CaughtUp) > polls + 3)
        await run.end()
        await once(settings)
    found = faults(reader.messages(), account.versions())
    told = {event.id for event in run.events if isinstance(event, LateRow)}
    if window:
        assert (found, told) == ([], {3, 500})
    else:  # the control: whoever does not look back loses them
        assert ("missing" in "".join(found), told) == (True, set())


async def test_a_service_that_runs_now_and_then_finds_late_rows_as_well(
    account: Account, clock: Clock, kafka: Cluster, names: dict[str, str], reader: Reader
) -> None:
    async with scene(Scene(), account, clock, kafka, names) as (_, settings):
        account.put(int(clock.now()) - 123, id=500, visible_at=clock.now() + 100)
        await once(settings)
        clock.advance(3600)  # far more than the window: a row of then is final now, but nobody has looked since
        await once(settings)
    assert faults(reader.messages(), account.versions()) == []


async def test_nothing_from_before_the_start_of_a_history_is_taken_for_a_late_row(
    account: Account, clock: Clock, kafka: Cluster, names: dict[str, str], reader: Reader, looking_back_always: None
) -> None:
    start = int(clock.now()) - 123
    async with scene(Scene(), account, clock, kafka, names, f"zendesk.start_time={start}") as (_, settings):
        run = Run(settings)
        await until(lambda: run.told(CaughtUp) > 3)
        await run.end()
    assert min(message.identity[1] for message in reader.messages()) == start


async def test_an_overfull_window_is_shortened_and_told(
    account: Account,
    clock: Clock,
    kafka: Cluster,
    names: dict[str, str],
    reader: Reader,
    monkeypatch: pytest.MonkeyPatch,
    looking_back_always: None,
) -> None:
    monkeypatch.setattr(boundary, "REMEMBERED", 12)
    async with scene(Scene(), account, clock, kafka, names) as (_, settings):
        run = Run(settings)
        await until(lambda: run.told(CaughtUp) > 3)
        await run.end()
    assert "late_row_window" in said(run.events)
    assert max(len(checkpoint["boundary"]) for checkpoint in reader.checkpoints()) <= 12
    assert faults(reader.messages(), account.versions()) == []


async def test_looking_back_in_vain_writes_nothing(
    account: Account, clock: Clock, kafka: Cluster, names: dict[str, str], reader: Reader, looking_back_always: None
) -> None:
    async with scene(Scene(), account, clock, kafka, names) as (zendesk, settings):
        run = Run(settings)
        await until(lambda: run.told(CaughtUp) > 2)
        written = len(reader.checkpoints())
        asked = len(zendesk.journal)
        await until(lambda: len(zendesk.journal) > asked + 5)
        await run.end()
        starts = [served.start_time or 0 for served in zendesk.journal[asked:]]
        assert min(starts) < max(starts)
    assert len(reader.checkpoints()) == written
    assert not [event for event in run.events if isinstance(event, Retrying)]
