"""`checkpoint` and `topics` as a person uses them, beside a service that lives on."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

from confluent_kafka.admin import AdminClient

from producer.events import Committed, Opened
from producer.sandbox.broker import Cluster
from producer.sandbox.zendesk import Account, Clock, Limits, Rules, Simulator
from producer.settings import Settings, load_settings
from tests.conftest import joined, until
from tests.reader import Reader
from tests.test_service import Run, history, once


async def command(overrides: list[str], *words: str) -> subprocess.CompletedProcess[str]:
    settings = [word for override in overrides for word in ("--set", override)]
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "producer", *settings, *words],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


async def test_the_checkpoint_is_shown_without_disturbing_anybody(
    settings: Settings, overrides: list[str], account: Account, clock: Clock, reader: Reader
) -> None:
    history(account, clock.now())
    await once(settings)
    written = reader.checkpoints()
    shown = await command(overrides, "checkpoint", "show", "--json")
    assert json.loads(shown.stdout) == written[-1]
    assert "page 1" in (await command(overrides, "checkpoint", "show")).stdout
    assert reader.checkpoints() == written


async def test_a_pinned_second_is_shown_as_such(
    account: Account, clock: Clock, kafka: Cluster, names: dict[str, str]
) -> None:
    for _ in range(15):
        account.put(int(clock.now()) - 300)
    rules = Rules(stuck=True)
    async with Simulator(account, clock=clock, limits=Limits.unlimited(), rules=rules) as zendesk:
        overrides = [*joined(kafka, zendesk, names), "zendesk.page_size=10"]
        await once(load_settings(overrides=overrides))
        shown = await command(overrides, "checkpoint", "show")
    assert "behind ticket 15 of second" in shown.stdout
    assert "more tickets than the time-based export moves past" in shown.stdout


async def test_a_moved_checkpoint_is_taken_up_at_once_by_a_living_service(
    settings: Settings, overrides: list[str], account: Account, clock: Clock, reader: Reader
) -> None:
    history(account, clock.now())
    run = Run(settings)
    await until(lambda: run.told(Committed) > 0)
    back = min(version.generated_timestamp for version in account.versions())
    moved = await command(overrides, "checkpoint", "set", "--start-time", str(back), "--yes")
    assert moved.returncode == 0, moved.stderr
    assert "will be published again" in moved.stdout
    await until(lambda: run.told(Committed) > 1 and run.told(Opened) > 1)
    await run.end()
    pages = {message.page[:2] for message in reader.messages()}
    generations = sorted(generation for generation, _ in pages)
    assert len(generations) == 2
    assert generations[0] == 1
    assert generations[1] > 1_600_000_000_000
    assert len(reader.messages()) == 80


async def test_a_jump_ahead_is_recorded_as_skipped_and_a_jump_back_takes_it_up_again(
    settings: Settings, overrides: list[str], account: Account, clock: Clock, reader: Reader
) -> None:
    history(account, clock.now())
    await once(settings)
    position = reader.checkpoints()[-1]["end_time"]
    assert (await command(overrides, "checkpoint", "set", "--start-time", str(position + 50), "--yes")).returncode == 0
    assert reader.checkpoints()[-1]["skipped"] == [[position, position + 50]]
    assert (await command(overrides, "checkpoint", "set", "--start-time", str(position + 20), "--yes")).returncode == 0
    assert reader.checkpoints()[-1]["skipped"] == [[position, position + 20]]


async def test_nobody_to_ask_means_nothing_is_written(
    settings: Settings, overrides: list[str], zendesk: Simulator, reader: Reader
) -> None:
    await once(settings)
    before = reader.checkpoints()
    refused = await command(overrides, "checkpoint", "set", "--start-time", "0")
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    assert reader.checkpoints() == before


async def test_after_a_reset_the_next_start_takes_the_start_time_in_a_new_generation(
    settings: Settings, overrides: list[str], account: Account, clock: Clock, reader: Reader
) -> None:
    history(account, clock.now())
    await once(settings)
    assert (await command(overrides, "checkpoint", "reset", "--yes")).returncode == 0
    assert reader.checkpoints()[-1]["end_time"] is None
    await once(settings)
    assert len(reader.messages()) == 80
    assert len({message.page[0] for message in reader.messages()}) == 2


async def test_a_lost_checkpoint_is_refused_and_set_is_the_way_out(
    settings: Settings,
    overrides: list[str],
    account: Account,
    clock: Clock,
    reader: Reader,
    kafka: Cluster,
    names: dict[str, str],
) -> None:
    history(account, clock.now())
    await once(settings)
    position = reader.checkpoints()[-1]["end_time"]
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    await asyncio.to_thread(admin.delete_topics([names["checkpoints"]])[names["checkpoints"]].result, 10)
    refused = await command(overrides, "run", "--once")
    assert refused.returncode == 78
    assert "checkpoint set" in refused.stderr
    assert (await command(overrides, "topics", "create")).returncode == 0
    moved = await command(overrides, "checkpoint", "set", "--start-time", str(position + 1), "--yes")
    assert moved.returncode == 0, moved.stderr
    account.update(1, int(clock.now()) - 65)
    await once(settings)
    assert len(reader.messages()) == 41


async def test_topics_are_created_once_and_a_dry_run_creates_nothing(
    overrides: list[str], zendesk: Simulator, names: dict[str, str]
) -> None:
    dry = await command(overrides, "topics", "create", "--dry-run")
    assert dry.stdout.count("would create") == 3
    first = await command(overrides, "topics", "create")
    assert first.stdout.count("creating") == 3
    second = await command(overrides, "topics", "create")
    assert second.stdout.count("exists") == 3
    assert "creating" not in second.stdout
