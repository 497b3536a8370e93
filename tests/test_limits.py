"""How large a record and a batch may be: every refusal leads to something smaller, and what grows again is used."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

import producer.kafka.limits as limits_module
from producer.dead_letters import Letter, Letters
from producer.events import CaughtUp, Committed, Opened
from producer.kafka.batches import BATCH_BYTES, into_batches, size_alone
from producer.kafka.limits import SLACK, Limits
from producer.model import Poison, Record, Version
from producer.sandbox.broker import Cluster
from producer.sandbox.zendesk import Account, Clock
from producer.settings import Settings
from tests.conftest import until
from tests.reader import Reader, faults
from tests.test_contents import noise
from tests.test_service import Run, configure, history, once

TOPIC = "a-topic"
ROUNDS = 40
"""Refusals after which somebody would call it a loop: halving a full batch down to single records takes twenty."""


def with_longest_headers(value: bytes) -> Record:
    """The record of ours with the most around its value: a dead letter, and all names as long as can be."""
    version = Version(2**63 - 1, 2**33 - 1, "f" * 16, value, updated_at="2026-01-01T00:00:00Z")
    poison = Poison("too_large", f"compressed it is over 99999999 bytes, the most that topic {'t' * 249} takes")
    (record,) = Letters(
        [Letter(version, poison, "tickets?include=sharing_agreements", value)],
        account="a" * 63,
        generation=1_800_000_000_000,
        seq=10**9,
        number=10**9,
        takes=lambda _: True,
        head=0,
        key=b"k",
    )
    return record


def published(limits: Limits, values: Sequence[bytes], most: int) -> list[bytes]:
    """What of these values gets into a topic that takes batches of `most` bytes: tried again after each refusal, as the
    service does, with less of one thing or the other each time."""
    for _ in range(ROUNDS):
        fitting = [value for value in values if limits.takes(TOPIC, value)]
        batches = into_batches(map(with_longest_headers, fitting), 3, limits.batch(TOPIC))
        refused = next((batch for batch in batches if batch.size > most), None)
        if refused is None:
            return fitting
        before = limits.record(TOPIC), limits.batch(TOPIC)
        limits.refused(TOPIC, refused.records, refused.size)
        after = limits.record(TOPIC), limits.batch(TOPIC)
        assert after != before
        assert after[0] <= before[0]
        assert after[1] <= before[1]
    raise AssertionError("the page loops")


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Noise, text that shrinks to nothing, or something in between."""
    size, seed = draw(st.integers(0, 60_000)), draw(st.integers(0, 9))
    rng = random.Random(seed)
    return draw(st.sampled_from([rng.randbytes(size), b"x" * size, rng.randbytes(size // 2).hex().encode()]))


@hypothesis(deadline=None, max_examples=60)
@given(
    st.lists(contents(), max_size=12),
    st.integers(2 * SLACK, 80_000),
    st.none() | st.integers(2 * SLACK, 200_000),
)
def test_every_refusal_leads_to_less_no_page_loops_and_only_what_does_not_fit_is_left_out(
    values: list[bytes], most: int, told: int | None
) -> None:
    limits = Limits()
    if told is not None:  # maybe wrong: the limit was lowered since, or the broker has one of its own
        limits.told(TOPIC, max(told, most))
    fitting = published(limits, values, most)
    assert all(size_alone(Record(b"", value, [])) + SLACK > most for value in values if value not in fitting)


@pytest.mark.parametrize(("slack", "loops"), [(SLACK, False), (1024, True)])
def test_the_longest_names_do_not_make_a_page_loop(slack: int, loops: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "SLACK", slack)
    values = [random.Random(1).randbytes(50_000 - slack)]
    if loops:
        with pytest.raises(AssertionError, match="loops"):
            published(Limits(), values, 50_000)
    else:
        assert published(Limits(), values, 50_000) == values


@pytest.mark.parametrize("size", [0, 10, 1_000, 30_000_000])
def test_what_is_around_a_value_is_less_than_the_slack(size: int) -> None:
    value = os.urandom(size)
    assert size_alone(with_longest_headers(value)) - len(value) < SLACK
    assert size_alone(with_longest_headers(value)) - size_alone(Record(b"", value, [])) < SLACK


def test_a_refusal_is_remembered_as_long_as_the_setting_is_the_same() -> None:
    limits = Limits()
    limits.told(TOPIC, 8_000_000)
    limits.refused(TOPIC, 1, 5_000_000)
    limits.refused(TOPIC, 100, 900_000)
    limits.told(TOPIC, 8_000_000)
    assert (limits.record(TOPIC), limits.batch(TOPIC)) == (4_999_999, BATCH_BYTES // 2)
    assert limits.record("another") > 2**40


@pytest.mark.parametrize("told", [6_000_000, 10_000_000])
def test_a_changed_setting_counts_from_then_on_for_records_and_batches(told: int) -> None:
    limits = Limits()
    limits.told(TOPIC, 8_000_000)
    limits.refused(TOPIC, 1, 5_000_000)
    limits.refused(TOPIC, 100, 900_000)
    limits.told(TOPIC, told)
    assert (limits.record(TOPIC), limits.batch(TOPIC)) == (told, BATCH_BYTES)


def test_a_refusal_never_lets_more_through_than_before() -> None:
    limits = Limits()
    limits.refused(TOPIC, 1, 1_000)
    limits.refused(TOPIC, 1, 5_000)
    assert limits.record(TOPIC) < 999


async def test_a_limit_that_was_raised_is_used_from_the_next_session_on(
    settings: Settings,
    account: Account,
    clock: Clock,
    kafka: Cluster,
    names: dict[str, str],
    reader: Reader,
) -> None:
    async def takes(bytes_: int) -> None:
        await asyncio.to_thread(configure, kafka.bootstrap_servers, names["tickets"], "max.message.bytes", str(bytes_))

    await once(settings)
    await takes(1_100_000)
    run = Run(settings)
    await until(lambda: run.told(CaughtUp) > 0)
    history(account, clock.now())
    account.put(int(clock.now()) - 110, id=77, description=noise(77, 2_400_000))
    await until(lambda: run.told(Committed) > 0)
    await takes(8 * 2**20)
    account.put(int(clock.now()) - 100, id=78, description=noise(78, 2_400_000))
    await until(lambda: run.told(Committed) > 1)
    opened = run.told(Opened)
    await Run(settings, "another", once=True).task  # the first one opens a new session behind it
    await until(lambda: run.told(Opened) > opened)
    account.put(int(clock.now()) - 90, id=79, description=noise(79, 2_400_000))
    await until(lambda: run.told(Committed) > 2)
    await run.end()
    assert [letter.key for letter in reader.letters()] == [b"77", b"78"]
    assert faults(reader.messages(), account.versions(), reader.letters()) == []
