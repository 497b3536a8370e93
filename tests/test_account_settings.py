"""The settings of several accounts: what they share, what each has of its own, and what is told where that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st

from producer.errors import Misconfigured
from producer.settings import Settings, load_accounts, load_settings
from producer.settings import sources as sources_module
from producer.settings.sources import load_http, read_again
from tests.test_cli import command
from tests.test_settings import SHIPPED

ZENDESK = {"access_token": "canary-of-all", "start_time": 0}
TOPICS = {"tickets": "tickets.{subdomain}", "dead_letters": "dead-letters.{subdomain}"}


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """Writes a secret file. Nothing else is around."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.setenv("PRODUCER_SECRETS_DIR", str(folder))
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> None:
        (folder / name).write_text(text)

    return write


def file(*accounts: Any, zendesk: dict[str, Any] = ZENDESK, topics: dict[str, str] = TOPICS, **groups: Any) -> Path:
    """A YAML file with these entries of the list."""
    entries = [{"subdomain": account} if isinstance(account, str) else account for account in accounts]
    document = {"zendesk": zendesk, "topics": topics, "kafka": {"bootstrap_servers": "a:1"}, **groups}
    path = Path("settings.yaml")
    path.write_text(yaml.safe_dump({**document, "accounts": entries}, sort_keys=False))
    return path.absolute()


def by_name(path: Path, *overrides: str, only: tuple[str, ...] = ()) -> dict[str, Settings]:
    return {settings.zendesk.subdomain: settings for settings in load_accounts(path, overrides, only)}


def problems(load: Callable[[], object]) -> str:
    """What the user is told."""
    with pytest.raises(Misconfigured) as caught:
        load()
    assert "canary" not in f"{caught.value} {caught.value.hint} {caught.value!r}"
    return f"{caught.value}\n{caught.value.hint}"


def token(settings: Settings) -> str | None:
    secret = settings.zendesk.access_token
    return None if secret is None else secret.get_secret_value()


# --- what is in force


def test_each_entry_is_an_account_and_without_a_list_there_is_the_one() -> None:
    assert [each.zendesk.subdomain for each in load_accounts(file("acme", "beta"))] == ["acme", "beta"]
    single = ["zendesk.subdomain=acme", "zendesk.access_token=x", "kafka.bootstrap_servers=a:1"]
    (only,) = load_accounts(overrides=single)
    assert only.model_dump() == load_settings(overrides=single).model_dump()


NUMBERS = st.none() | st.integers(min_value=1, max_value=1000)


@how(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(common=NUMBERS, own=st.lists(NUMBERS, min_size=1, max_size=4))
def test_an_own_setting_comes_before_the_common_one_and_that_before_the_default(
    common: int | None, own: list[int | None]
) -> None:
    def has(value: int | None) -> dict[str, int]:
        return {} if value is None else {"page_size": value}

    entries = [{"subdomain": f"a{number}", **has(value)} for number, value in enumerate(own)]
    accounts = load_accounts(file(*entries, zendesk={**ZENDESK, **has(common)}))
    assert [each.zendesk.page_size for each in accounts] == [value or common or 1000 for value in own]


def test_each_of_the_sources_comes_before_the_one_below_it(
    monkeypatch: pytest.MonkeyPatch, secrets: Callable[[str, str], None]
) -> None:
    path = file({"subdomain": "acme", "access_token": "of-the-file"}, "beta")
    assert [token(each) for each in load_accounts(path)] == ["of-the-file", "canary-of-all"]
    secrets("accounts__acme__access_token", "of-a-secret-file\n")
    assert token(by_name(path)["acme"]) == "of-a-secret-file"
    monkeypatch.setenv("PRODUCER_ACCOUNTS__ACME__ACCESS_TOKEN", "of-the-environment")
    assert token(by_name(path)["acme"]) == "of-the-environment"
    accounts = by_name(path, "accounts.acme.access_token=of-the-line")
    assert (token(accounts["acme"]), token(accounts["beta"])) == ("of-the-line", "canary-of-all")


def test_hyphens_are_underscores_in_variables_and_the_longer_name_is_meant_where_both_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PRODUCER_ACCOUNTS__ACME_EU__PAGE_SIZE", "7")
    monkeypatch.setenv("PRODUCER_ACCOUNTS__A__B__PAGE_SIZE", "8")
    accounts = by_name(file("acme", "acme-eu", "a", "a--b"))
    sizes = {name: settings.zendesk.page_size for name, settings in accounts.items()}
    assert sizes == {"acme": 1000, "acme-eu": 7, "a": 1000, "a--b": 8}


def test_who_signs_in_by_an_own_secret_leaves_alone_how_the_others_do() -> None:
    common = {"client_id": "us", "client_secret": "canary-secret", "start_time": 0}
    accounts = by_name(file("acme", {"subdomain": "beta", "access_token": "canary-own"}, zendesk=common))
    assert (accounts["acme"].zendesk.client_id, token(accounts["acme"])) == ("us", None)
    assert (accounts["beta"].zendesk.client_id, token(accounts["beta"])) == (None, "canary-own")
    both = {"subdomain": "beta", "access_token": "canary-own", "api_token": "canary-two", "email": "a@acme.example"}
    assert "accounts.beta." in problems(lambda: load_accounts(file("acme", both, zendesk=common)))


def test_a_rotated_secret_is_read_from_the_accounts_own_file(secrets: Callable[[str, str], None]) -> None:
    for name in ("acme", "beta"):
        secrets(f"accounts__{name}__access_token", f"first-of-{name}")
    accounts = by_name(file("acme", "beta"))
    secrets("accounts__beta__access_token", "canary-second")
    renewed = {name: read_again(settings, settings.zendesk).access_token for name, settings in accounts.items()}
    assert {name: secret.get_secret_value() for name, secret in renewed.items() if secret} == {
        "acme": "first-of-acme",
        "beta": "canary-second",
    }
    assert "canary" not in accounts["beta"].redact("canary-second")


def test_the_documented_example_is_valid_once_uncommented() -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    example = text[text.index("\n#accounts:") :].partition("\n\n")[0]
    topics = "".join(f"  {name}: {topic}\n" for name, topic in TOPICS.items())
    path = Path("example.yaml")
    path.write_text(example.replace("\n#", "\n") + f"\ntopics:\n{topics}", encoding="utf-8")
    accounts = load_accounts(path, ["zendesk.access_token=x", "kafka.bootstrap_servers=a:1"])
    assert [each.zendesk.subdomain for each in accounts] == ["acme", "acme-eu"]
    assert [each.zendesk.requests_per_minute for each in accounts] == [10, 30]


# --- topics


@pytest.mark.parametrize(
    ("topics", "zendesk", "wrong"),
    [
        (TOPICS, {}, None),
        ({**TOPICS, "checkpoints": "together"}, {}, None),
        ({**TOPICS, "tickets": "tickets"}, {}, "topics.tickets"),
        ({"tickets": "{subdomain}.tickets"}, {}, "topics.dead_letters"),
        ({**TOPICS, "users": "users"}, {}, None),  # not in use
        ({**TOPICS, "users": "users"}, {"streams": "tickets,users"}, "topics.users"),
        (TOPICS, {"include": "groups"}, "topics.sideloads.groups"),
        ({**TOPICS, "sideloads": {"groups": "groups.{subdomain}"}}, {"include": "groups"}, None),
        ({**TOPICS, "tickets": "beta-checkpoints", "checkpoints": "{subdomain}-checkpoints"}, {}, "topics.tickets"),
    ],
)
def test_no_two_accounts_write_to_one_topic_but_that_of_the_checkpoints(
    topics: dict[str, str], zendesk: dict[str, str], wrong: str | None
) -> None:
    path = file("acme", "beta", topics=topics, zendesk={**ZENDESK, **zendesk})
    if wrong is None:
        assert len(load_accounts(path)) == 2
    else:
        told = problems(lambda: load_accounts(path))
        assert f"\n  {wrong} (" in told
        assert "acme, beta, and a topic belongs to one account: put {subdomain} into the name" in told


def test_the_control_shared_topics_are_told_by_that_check_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_module, "shared_topics", lambda *_: ())
    accounts = load_accounts(file("acme", "beta", topics={}))
    assert {each.topics.tickets for each in accounts} == {"zendesk.tickets"}


# --- what is told


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"page_size": 7}, "accounts[2].subdomain ({path}:11): required in each account"),
        (
            {"subdomain": "acme"},
            "accounts.acme.subdomain ({path}:11): the account is there already ({path}:10); keep one",
        ),
        (
            {"subdomain": "ACME"},
            "accounts.acme.subdomain ({path}:11): the account is there already ({path}:10); keep one",
        ),
        (
            {"subdomain": "beta", "pagesize": 7},
            "accounts.beta.pagesize ({path}:12): an account has no such setting; did you mean accounts.beta.page_size?",
        ),
        ({"subdomain": "beta", "key": "id"}, "accounts.beta.key ({path}:12): an account has no such setting"),
        ({"subdomain": "beta", "page_size": "canary"}, "accounts.beta.page_size ({path}:12): "),
        ({"subdomain": "beta", "page_size": {"a": "canary"}}, "accounts.beta.page_size ({path}:12): a plain value"),
        ({"subdomain": "not a name"}, "subdomain ({path}:11): "),
    ],
)
def test_what_is_wrong_with_an_entry_is_told_with_its_name_and_line(entry: dict[str, Any], told: str) -> None:
    path = file("acme", entry)
    assert told.replace("{path}", str(path)) in problems(lambda: load_accounts(path))


def test_all_that_is_wrong_is_told_at_once() -> None:
    path = file(
        {"subdomain": "acme", "page_size": 0}, {"subdomain": "beta", "export": "both"}, zendesk={"subdomain": "gamma"}
    )
    told = problems(lambda: load_accounts(path))
    for name in ("zendesk.subdomain", "accounts.acme.page_size", "accounts.beta.export", "accounts.acme.client_secret"):
        assert f"\n  {name} (" in told, told
    assert "move this one there" in told


def test_a_name_of_an_account_that_is_not_there_is_told(
    monkeypatch: pytest.MonkeyPatch, secrets: Callable[[str, str], None]
) -> None:
    monkeypatch.setenv("PRODUCER_ACCOUNTS__GAMMA__PAGE_SIZE", "7")
    assert "there is no such account; there are acme, beta" in problems(lambda: load_accounts(file("acme", "beta")))
    monkeypatch.delenv("PRODUCER_ACCOUNTS__GAMMA__PAGE_SIZE")
    secrets("accounts__gamma__access_token", "canary-gone")
    assert "accounts.gamma.access_token" in problems(lambda: load_accounts(file("acme", "beta")))


SECRETS = ("access_token", "api_token", "password", "client_secret")


@pytest.mark.parametrize("name", SECRETS)
def test_no_error_shows_a_secret(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file({"subdomain": "acme", name: "canary-a", "page_size": 0}, zendesk={"start_time": 0, name: "canary-b"})
    problems(lambda: load_accounts(path))
    monkeypatch.setenv(f"PRODUCER_ACCOUNTS__ACME__{name.upper()}", "canary\nwith a line")
    problems(lambda: load_accounts(path))
    problems(lambda: load_accounts(path, [f"accounts.acme.{name}x=canary-c"]))


# --- one of them


def test_only_the_accounts_that_are_asked_for_need_be_complete() -> None:
    path = file({"subdomain": "acme", "access_token": "x"}, "beta", zendesk={"start_time": 0})
    assert list(by_name(path, only=("ACME",))) == ["acme"]
    assert "accounts.beta.access_token" in problems(lambda: load_accounts(path))


def test_who_asks_for_an_account_that_is_not_there_is_told_which_are() -> None:
    path = file("acme", "beta")
    told = problems(lambda: load_accounts(path, only=("acme", "gamma")))
    assert "there is no account gamma in the settings" in told
    assert "known: acme, beta" in told
    single = ["zendesk.subdomain=acme", "zendesk.access_token=x", "kafka.bootstrap_servers=a:1"]
    assert load_settings(None, single, ["acme"]).zendesk.subdomain == "acme"
    assert "known: acme" in problems(lambda: load_settings(None, single, ["beta"]))


def test_who_needs_one_account_is_asked_which() -> None:
    path = file("acme", "beta")
    told = problems(lambda: load_settings(path))
    assert "there are acme, beta" in told
    assert "--account" in told
    assert load_settings(path, only=("beta",)).zendesk.subdomain == "beta"


# --- on the command line


def test_the_settings_are_shown_once_where_they_are_common_and_by_account_where_they_are_not(
    secrets: Callable[[str, str], None], tmp_path: Path
) -> None:
    secrets("accounts__beta__access_token", "canary-own")
    path = file("acme", {"subdomain": "beta", "page_size": 7})
    around = {"PRODUCER_SECRETS_DIR": str(tmp_path / "secrets")}
    plain = command("--config", str(path), "config", "show", **around)
    shown = command("--config", str(path), "config", "show", "--json", **around)
    assert (plain.returncode, shown.returncode) == (0, 0), plain.stderr + shown.stderr
    assert plain.stdout.count("kafka.bootstrap_servers") == 1
    document = json.loads(shown.stdout)
    assert document["kafka.bootstrap_servers"]["value"] == ["a:1"]
    of_beta = document["accounts"]["beta"]
    assert of_beta["zendesk.page_size"]["value"] == 7
    assert of_beta["zendesk.access_token"]["value"] == "**********"
    assert of_beta["zendesk.access_token"]["origin"].endswith("accounts__beta__access_token")
    assert document["accounts"]["acme"]["zendesk.page_size"]["value"] == 1000
    assert "canary" not in plain.stdout + shown.stdout


def test_whether_it_is_alive_is_asked_without_any_account() -> None:
    path = file({"subdomain": "acme", "page_size": 0}, zendesk={}, http={"port": 9})
    assert load_http(path).port == 9
    asked = command("--config", str(path), "health")
    assert asked.returncode == 1
    assert "no answer from http://127.0.0.1:9/livez" in asked.stderr
