"""Controls: deliberately wrong variants of the core, which the oracle of the crash tests must catch.

Each scene runs twice, with the real code and with the wrong one. Were the second run ever clean, the first would prove
nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any

import pytest

import producer.kafka.session as session_module
import producer.zendesk.time_export as export_module
from producer.errors import SessionOver
from producer.events import Committed, Retrying
from producer.kafka.limits import Limits
from producer.kafka.session import Session
from producer.kafka.transactions import TransactionalProducer
from producer.model import Checkpoint, Position, Record, Version
from producer.retry import Setbacks
from producer.sandbox.zendesk import HOSTILE, Account, Clock
from producer.settings import Settings, load_settings
from producer.zendesk.boundary import Advance, Sifted, advance
from tests.conftest import until
from tests.reader import Reader, faults
from tests.test_service import Run, history, once


@pytest.fixture
def settings(overrides: list[str]) -> Settings:
    """Small pages that cut seconds (history has 7 tickets in each), at a pace that leaves time between them."""
    return load_settings(overrides=[*overrides, "zendesk.page_size=10", "zendesk.requests_per_minute=1200"])


# Reading the checkpoint before the fence


async def taken_over(settings: Settings, patient: Settings, wrong: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second instance takes over, and the first commits a page or two just before it is fenced, then stays away."""
    monkeypatch.setattr(Setbacks, "REOPEN", (30.0, 60.0))
    # The look at the checkpoint before a request is a second guard, which is sometimes in time: here the first is on trial.
    monkeypatch.setattr(Session, "check", unseeing)
    first = Run(patient, "first")
    await until(lambda: first.told(Committed) > 1)
    waited = False

    async def one_more_page() -> None:
        nonlocal waited
        before = first.told(Committed)
        if not waited:  # once: the first instance opens sessions of this kind too when it takes its turn again
            waited = True
            # The next to be told may have been committed before we read the checkpoint. The one behind it has not.
            await until(lambda: first.told(Committed) > before + 1)

    monkeypatch.setattr(
        session_module, "TransactionalProducer", fencing_late(one_more_page) if wrong else fencing_first(one_more_page)
    )
    second = Run(settings, "second", once=True)
    await second.task
    await first.end()


async def unseeing(session: Session) -> None:
    pass


def fencing_first(meanwhile: Callable[[], Awaitable[None]]) -> type[TransactionalProducer]:
    """The real order; the first instance's page comes before the fence."""

    class FencesFirst(TransactionalProducer):
        async def start(self) -> None:
            await meanwhile()
            await super().start()

    return FencesFirst


def fencing_late(meanwhile: Callable[[], Awaitable[None]]) -> type[TransactionalProducer]:
    """Wrong: the checkpoint is read, then comes the first instance's page, then the fence."""

    class FencesLate(TransactionalProducer):
        started = False

        async def start(self) -> None:
            pass

        async def warm(self, *topics: str) -> None:
            pass

        async def begin(self) -> None:
            if not self.started:
                await meanwhile()
                await super().start()
                self.started = True
            await super().begin()

    return FencesLate


@pytest.mark.parametrize("wrong", [False, True])
async def test_a_checkpoint_read_before_the_fence_is_caught(
    wrong: bool,
    overrides: list[str],
    account: Account,
    clock: Clock,
    reader: Reader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paced = [*overrides, "zendesk.page_size=10", "zendesk.requests_per_minute=1200"]
    history(account, clock.now(), tickets=1000)  # 100 pages: the first instance is far from its end all the while
    settings, patient = load_settings(overrides=paced), load_settings(overrides=[*paced, "kafka.standby_seconds=30"])
    await taken_over(settings, patient, wrong, monkeypatch)
    found = faults(reader.messages(), account.versions())
    assert any("times" in fault for fault in found) if wrong else found == [], found


# The checkpoint in a transaction of its own


class CrashesAtTheEnd(Session):
    """The real session, which crashes once when the page is sent and only the end of the transaction is missing."""

    crashes = 1

    async def commit(self, records: Mapping[str, Collection[Record]], successor: Checkpoint) -> Checkpoint:
        if records and type(self).crashes:
            type(self).crashes -= 1
            await self._producer.begin()
            await self._append(records, successor)
            raise SessionOver("crashed before the commit")
        return await super().commit(records, successor)


class CommitsTwice(Session):
    """Wrong: the page in one transaction, the checkpoint in the next, and a crash between the two."""

    crashes = 1

    async def commit(self, records: Mapping[str, Collection[Record]], successor: Checkpoint) -> Checkpoint:
        if records:
            await self._producer.begin()
            successor = successor.replace(ends=await self._append(records, successor))
            await self._producer.commit()
            if type(self).crashes:
                type(self).crashes -= 1
                raise SessionOver("crashed between the two")
        return await super().commit({}, successor)


@pytest.mark.parametrize(("session", "wrong"), [(CrashesAtTheEnd, False), (CommitsTwice, True)])
async def test_a_checkpoint_in_a_transaction_of_its_own_is_caught(
    session: Any,
    wrong: bool,
    settings: Settings,
    account: Account,
    clock: Clock,
    reader: Reader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history(account, clock.now())
    monkeypatch.setattr(session_module, "Session", session)
    monkeypatch.setattr(session, "crashes", 1)
    events = await once(settings)
    assert any(isinstance(event, Retrying) for event in events)
    found = faults(reader.messages(), account.versions())
    assert any("times" in fault for fault in found) if wrong else found == [], found


# Dead letters in a transaction of their own


class LettersApart(Session):
    """Wrong: the dead letters in one transaction, the rest of the page in the next, and a crash between the two."""

    crashes = 1

    async def commit(self, records: Mapping[str, Collection[Record]], successor: Checkpoint) -> Checkpoint:
        rest = dict(records)
        if letters := rest.pop(successor.dead_letters_topic, None):
            await self._producer.begin()
            await self._append({successor.dead_letters_topic: letters}, successor)
            await self._producer.commit()
            if type(self).crashes:
                type(self).crashes -= 1
                raise SessionOver("crashed between the two")
        return await super().commit(rest, successor)


@pytest.mark.parametrize(("session", "wrong"), [(CrashesAtTheEnd, False), (LettersApart, True)])
async def test_dead_letters_in_a_transaction_of_their_own_are_caught(
    session: Any,
    wrong: bool,
    settings: Settings,
    account: Account,
    clock: Clock,
    reader: Reader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history(account, clock.now())
    account.rewrite(account.put(int(clock.now()) - 123), HOSTILE["lone_surrogate"])
    monkeypatch.setattr(session_module, "Session", session)
    monkeypatch.setattr(session, "crashes", 1)
    await once(settings)
    found = faults(reader.messages(), account.versions(), reader.letters())
    assert any("times" in fault for fault in found) if wrong else found == [], found


# Acknowledgements not awaited


class DoesNotAwait(Session):
    """Wrong: hands the records over and commits, as aiokafka's own examples do."""

    async def _append(self, records: Mapping[str, Collection[Record]], successor: Checkpoint) -> tuple[int, ...]:
        for topic, of_topic in records.items():
            await self._producer.send(topic, of_topic, self._survey.topics[topic].partitions)
        return successor.ends


@pytest.mark.parametrize(("session", "wrong"), [(Session, False), (DoesNotAwait, True)])
async def test_acknowledgements_that_nobody_awaits_are_caught(
    session: Any,
    wrong: bool,
    settings: Settings,
    account: Account,
    clock: Clock,
    reader: Reader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session_module, "Session", session)
    monkeypatch.setattr(Limits, "told", lambda *_: None)  # only the broker says what is too large, by refusing it
    await once(settings)  # creates the topics, which take 8 MiB; 24 MB of hexadecimal noise are 12 MB compressed
    account.put(int(clock.now()) - 300, id=1)
    account.put(int(clock.now()) - 299, id=2, description=secrets.token_hex(12_000_000))
    account.put(int(clock.now()) - 298, id=3)
    run = Run(settings)
    await until(lambda: run.told(Committed if wrong else Retrying) > 0, 60)
    await run.end()
    # The next session ends the transaction that was left open, which readers would wait for, and publishes what it can.
    await once(settings)
    found = faults(reader.messages(), account.versions(), reader.letters())
    assert [fault for fault in found if fault.startswith("(2, ") and "missing" in fault] if wrong else found == []


# Boundary rows repeated, or dropped


def forgets(position: Position, rows: Iterable[Version], end_time: int, floor: float, key: bytes | None) -> Advance:
    """Wrong: a position is a second and nothing more."""
    return advance(Position(position.end_time), rows, end_time)


def drops(position: Position, rows: Iterable[Version], end_time: int, floor: float, key: bytes | None) -> Advance:
    """Wrong: rows stamped at or before the position are taken for known."""
    fresh = tuple(row for row in rows if row.stamp > position.end_time)
    return Advance(Sifted(fresh, {}, 0, 0), Position(end_time))


@pytest.mark.parametrize(("rule", "caught"), [(advance, ""), (forgets, "times"), (drops, "missing")])
async def test_boundary_rows_repeated_or_dropped_are_caught(
    rule: Any,
    caught: str,
    settings: Settings,
    account: Account,
    clock: Clock,
    reader: Reader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history(account, clock.now())
    monkeypatch.setattr(export_module, "advance", rule)
    await once(settings)
    found = faults(reader.messages(), account.versions())
    assert any(caught in fault for fault in found) if caught else found == [], found
