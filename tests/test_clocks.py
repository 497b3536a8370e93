"""Clocks that are wrong: ours, and the API's. Positions come from the API's rows alone, waits from the monotonic clock."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from producer.events import CaughtUp, Committed, Retrying
from producer.kafka import batches
from producer.model import Position, Record
from producer.sandbox.broker import Cluster
from producer.sandbox.zendesk import Account, Clock, Limits, Simulator
from producer.settings import Settings, load_settings
from producer.zendesk import asker
from tests.conftest import joined, until
from tests.reader import Reader, faults
from tests.test_service import Run, configure, history, once
from tests.test_source import BEARER, source

HOUR = 3600


def set_ours(monkeypatch: pytest.MonkeyPatch, off: float) -> None:
    """Let this process believe in a wall clock that is so many seconds ahead; aiokafka's, too, which reads it in C."""
    real, add = time.time, batches.Batch.add

    class Stamped:
        def __init__(self, builder: Any) -> None:
            self._builder = builder

        def append(self, *, timestamp: None, **record: Any) -> Any:
            return self._builder.append(timestamp=int((real() + off) * 1000), **record)

    def stamped(batch: batches.Batch, record: Record) -> bool:
        builder = batch.builder
        batch.builder = Stamped(builder)  # type: ignore[assignment]
        try:
            return add(batch, record)
        finally:
            batch.builder = builder

    monkeypatch.setattr(time, "time", lambda: real() + off)
    monkeypatch.setattr(batches.Batch, "add", stamped)


@pytest.mark.parametrize("off", [-5 * HOUR, 5 * HOUR])
async def test_a_host_whose_clock_is_hours_off_publishes_everything_once(
    off: int, settings: Settings, account: Account, clock: Clock, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    history(account, clock.now())
    set_ours(monkeypatch, off)
    events = await once(settings)
    await once(settings)
    assert not [event for event in events if isinstance(event, Retrying)]
    assert faults(reader.messages(), account.versions()) == []


async def test_a_topic_that_goes_by_a_wrong_clock_of_ours_is_told_and_nothing_is_lost(
    settings: Settings,
    account: Account,
    clock: Clock,
    kafka: Cluster,
    names: dict[str, str],
    reader: Reader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await once(settings)
    # As others create it, by Kafka's default.
    await asyncio.to_thread(
        configure, kafka.bootstrap_servers, names["tickets"], "message.timestamp.type", "CreateTime"
    )
    history(account, clock.now())
    with monkeypatch.context() as wrong:
        set_ours(wrong, 5 * HOUR)
        run = Run(settings)
        await until(lambda: run.told(Retrying) > 1)
        told = next(event.error for event in run.events if isinstance(event, Retrying))
        assert "InvalidTimestampError" in str(told)
        assert "clock of this host" in getattr(told, "hint", "")
    await until(lambda: run.told(Committed) > 0)
    await run.end()
    assert faults(reader.messages(), account.versions()) == []


@pytest.mark.parametrize("skew", [-5 * HOUR, 5 * HOUR, None])
async def test_a_date_of_the_api_that_is_hours_off_or_missing_loses_and_repeats_nothing(
    skew: int | None,
    account: Account,
    clock: Clock,
    kafka: Cluster,
    names: dict[str, str],
    reader: Reader,
    monkeypatch: pytest.MonkeyPatch,
    looking_back_always: None,
) -> None:
    monkeypatch.setattr(asker, "SETTLED", 0.2)  # how long a position is waited for that seems to lie in the future
    history(account, clock.now())
    async with Simulator(
        account, clock=clock, limits=Limits.unlimited(), date_skew=skew or 0, send_date=skew is not None
    ) as zendesk:
        run = Run(load_settings(overrides=[*joined(kafka, zendesk, names), "zendesk.page_size=10"]))
        await until(lambda: run.told(CaughtUp) > 1)
        account.put(int(clock.now()) - 70, id=500)
        clock.advance(HOUR)  # and its clock leaps
        account.put(int(clock.now()) - 70, id=501)
        polls = run.told(CaughtUp)
        await until(lambda: run.told(CaughtUp) > polls + 2)
        await run.end()
    assert faults(reader.messages(), account.versions()) == []


async def test_what_is_stamped_by_a_clock_of_the_api_that_went_back_is_found_within_the_window(
    account: Account,
    clock: Clock,
    kafka: Cluster,
    names: dict[str, str],
    reader: Reader,
    monkeypatch: pytest.MonkeyPatch,
    looking_back_always: None,
) -> None:
    monkeypatch.setattr(asker, "SETTLED", 0.2)
    history(account, clock.now())
    async with Simulator(account, clock=clock, limits=Limits.unlimited()) as zendesk:
        run = Run(load_settings(overrides=[*joined(kafka, zendesk, names), "zendesk.page_size=10"]))
        await until(lambda: run.told(CaughtUp) > 1)
        position = reader.checkpoints()[-1]["end_time"]
        clock.advance(-40)
        account.put(position - 2, id=500)
        polls = run.told(CaughtUp)
        await until(lambda: run.told(CaughtUp) > polls + 4)
        await run.end()
    positions = [checkpoint["end_time"] for checkpoint in reader.checkpoints()]
    assert positions == sorted(positions)
    assert faults(reader.messages(), account.versions()) == []


async def test_a_position_that_seems_to_lie_hours_ahead_is_asked_for_after_a_minute(
    account: Account, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asker, "SETTLED", 0.3)
    history(account, clock.now())
    async with (
        Simulator(account, clock=clock, limits=Limits.unlimited(), date_skew=-5 * HOUR) as zendesk,
        source(zendesk, *BEARER, "zendesk.late_row_window=0") as export,
    ):
        page = await export.fetch(Position(0))
        began = time.monotonic()
        await export.fetch(page.position)
        assert 0.3 <= time.monotonic() - began < 10
