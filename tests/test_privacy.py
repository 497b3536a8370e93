"""Field rules: what is left out or hashed leaves the process nowhere, and everything else stays as it was."""

from __future__ import annotations

import hmac
import json
import re
from pathlib import Path

import pytest

from producer import retry
from producer.errors import BadAnswer, Misconfigured
from producer.events import Retrying
from producer.sandbox.broker import Cluster
from producer.sandbox.zendesk import Account, Clock, Simulator
from producer.sandbox.zendesk.hostile import HOSTILE
from producer.settings import Settings, load_settings
from producer.zendesk.boundary import content_digest
from producer.zendesk.page import Format, slice_page
from tests.conftest import until
from tests.reader import Message, Reader
from tests.test_contents import body, noise
from tests.test_kills import complete
from tests.test_service import Run, history, once

KEY = "0123456789abcdef0123456789abcdef"
CANARY = "canary-4711"
DROP = "tickets.drop_fields=$.description,$.users[*].phone"
HASH = "tickets.hash_fields=$.subject,$.users[*].email"
RULES = (DROP, HASH, f"tickets.hash_key={KEY}")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long before an account is tried again."""
    monkeypatch.setattr(retry.Setbacks, "BLOCKED", (0.05, 0.1))


@pytest.fixture
def clock() -> Clock:
    """A clock that only the test moves."""
    return Clock.manual(1_700_000_000)


@pytest.fixture
def settings(overrides: list[str]) -> Settings:
    """With rules for tickets and for users."""
    return load_settings(overrides=[*overrides, *RULES, "zendesk.include=users", "zendesk.page_size=10"])


def hashed(text: str) -> str:
    return f"hmac-sha256:{hmac.digest(KEY.encode(), text.encode(), 'sha256').hex()}"


def everything(reader: Reader, names: dict[str, str]) -> str:
    """All that is in Kafka, as text."""
    topics = [topic for name, topic in names.items() if name in ("tickets", "checkpoints", "dead_letters")]
    topics.append(names["sideloads.users"])
    return repr([reader.read(topic) for topic in topics])


async def test_what_is_dropped_is_nowhere_and_what_is_hashed_can_be_compared(
    settings: Settings, zendesk: Simulator, account: Account, clock: Clock, reader: Reader, names: dict[str, str]
) -> None:
    history(account, clock.now(), tickets=30)
    special = account.put(int(clock.now()) - 123, subject=CANARY, raw_subject=CANARY, description=CANARY)
    await once(settings)
    await once(settings)
    (message,) = [message for message in reader.messages() if message.key == b"%d" % special]
    ticket, original = json.loads(message.value or b""), json.loads(body(account, special))
    assert ticket["subject"] == ticket["raw_subject"] == hashed(CANARY)
    assert original.keys() - ticket.keys() == {"description"}
    changed = {"subject", "raw_subject"}
    assert {key: ticket[key] for key in ticket.keys() - changed} == {
        key: original[key] for key in ticket.keys() - changed
    }
    users = [json.loads(each.value or b"") for each in reader.read(names["sideloads.users"])]
    assert all("phone" not in user for user in users)
    assert all(user["email"] is None or user["email"].startswith("hmac-sha256:") for user in users)
    assert CANARY not in everything(reader, names)
    assert len(reader.messages()) == 31


async def test_identity_is_keyed_so_that_nobody_can_try_out_what_was_dropped(
    settings: Settings, zendesk: Simulator, account: Account, clock: Clock, reader: Reader
) -> None:
    ticket = account.put(int(clock.now()) - 123)
    await once(settings)
    (message,) = reader.messages()
    original = body(account, ticket)
    assert message.identity[2] == hmac.digest(KEY.encode(), original, "sha256").hex()[:16]
    checkpoint = json.dumps(reader.checkpoints()[-1])
    plain = [digest for digest in re.findall(r'"([0-9a-f]{16})"', checkpoint) if digest in plain_digests(original)]
    assert plain == []


def plain_digests(value: bytes) -> set[str]:
    """What a plain hash would be: of the bytes, and of the content."""
    (row,) = slice_page(b'{"tickets":[' + value + b"]}").rows
    return {row.digest, content_digest(value)}


async def test_a_dead_letter_shows_no_more_than_a_ticket_would(
    settings: Settings,
    zendesk: Simulator,
    account: Account,
    clock: Clock,
    kafka: Cluster,
    reader: Reader,
    names: dict[str, str],
) -> None:
    history(account, clock.now(), tickets=10)
    for number, name in enumerate(
        ("lone_surrogate", "deep_nesting", "invalid_utf8", "id_as_string", "not_an_object_string")
    ):
        ticket = account.put(int(clock.now()) - 125 + number, description=CANARY)
        account.rewrite(ticket, HOSTILE[name])
    account.put(int(clock.now()) - 120, description=CANARY, tags=[noise(1, 24_000_000)])
    await once(settings)
    letters = reader.letters()
    assert len(letters) == 6
    assert all("zendesk-dead-letter-sha256" not in letter.headers for letter in letters)
    assert all(len(letter.headers["zendesk-dead-letter-hmac-sha256"]) == 64 for letter in letters)
    assert CANARY not in everything(reader, names)


async def test_no_error_quotes_an_answer_while_there_are_rules(
    settings: Settings, zendesk: Simulator, account: Account, clock: Clock
) -> None:
    broken = account.put(int(clock.now()) - 300)
    account.rewrite(broken, lambda _: b'{"%s":[}' % CANARY.encode())
    run = Run(settings)
    await until(lambda: run.told(Retrying) > 0)
    await run.end()
    errors = [f"{event.error} {event.error!r}" for event in run.events if isinstance(event, Retrying)]
    assert errors
    assert CANARY not in str(errors)
    with pytest.raises(BadAnswer, match=CANARY):  # the control: without rules it is quoted
        slice_page(b'{"tickets":[{"%s":[}]}' % CANARY.encode())
    with pytest.raises(BadAnswer, match="not shown"):
        slice_page(b'{"tickets":[{"%s":[}]}' % CANARY.encode(), Format(key=b"k"))


async def test_another_key_publishes_once_more_what_the_map_remembers_and_no_more(
    overrides: list[str], zendesk: Simulator, account: Account, clock: Clock, reader: Reader
) -> None:
    history(account, clock.now(), tickets=30)
    paged = [*overrides, "zendesk.page_size=10", "zendesk.late_row_window=0"]
    await once(load_settings(overrides=[*paged, *RULES]))
    remembered = len(reader.checkpoints()[-1]["boundary"])
    await once(load_settings(overrides=[*paged, DROP, HASH, f"tickets.hash_key={KEY[::-1]}"]))
    await once(load_settings(overrides=[*paged, DROP, HASH, f"tickets.hash_key={KEY[::-1]}"]))
    assert len(reader.messages()) == 30 + remembered


async def test_without_rules_not_one_byte_changes_even_with_a_key(
    overrides: list[str], zendesk: Simulator, account: Account, clock: Clock, reader: Reader
) -> None:
    history(account, clock.now(), tickets=10)
    await once(load_settings(overrides=[*overrides, f"tickets.hash_key={KEY}"]))
    published: dict[bytes | None, Message] = {message.key: message for message in reader.messages()}
    assert all(published[b"%d" % ticket].value == body(account, ticket) for ticket in range(1, 11))


async def test_a_canary_key_and_canary_fields_are_in_no_log_at_debug_level(
    overrides: list[str],
    zendesk: Simulator,
    account: Account,
    clock: Clock,
    kafka: Cluster,
    names: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history(account, clock.now(), tickets=10)
    ticket = account.put(int(clock.now()) - 123, description=CANARY, subject=CANARY, raw_subject=CANARY)
    account.rewrite(ticket, HOSTILE["lone_surrogate"])
    secrets, log = tmp_path / "secrets", tmp_path / "log"
    secrets.mkdir()
    (secrets / "tickets__hash_key").write_text(KEY)
    monkeypatch.setenv("PRODUCER_SECRETS_DIR", str(secrets))
    await complete([*overrides, DROP, HASH, "log.level=debug"], log)
    text = log.read_text()
    assert "went to the dead letters" in text
    assert KEY not in text
    assert CANARY not in text


def test_what_is_wrong_with_rules_is_said_at_the_start() -> None:
    required = ["zendesk.subdomain=acme", "zendesk.access_token=x", "kafka.bootstrap_servers=a:1"]

    def told(*more: str) -> str:
        with pytest.raises(Misconfigured) as caught:
            load_settings(overrides=[*required, *more])
        return str(caught.value)

    assert "tickets.hash_key (not set): required with tickets.drop_fields" in told("tickets.drop_fields=$.subject")
    assert "at least 16 characters" in told("tickets.drop_fields=$.subject", "tickets.hash_key=short")
    assert "understood are $.name" in told("tickets.drop_fields=$.tags[0]", f"tickets.hash_key={KEY}")
