"""Settings: where a value comes from, what is right, and what a wrong one is told."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from producer.errors import Misconfigured
from producer.settings import NAMES, Settings, load_settings

REQUIRED = ("zendesk.subdomain=acme", "zendesk.access_token=canary-access", "kafka.bootstrap_servers=localhost:9092")
SHIPPED = Path(__file__).parent.parent / "config" / "producer.yaml"


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in list(os.environ):
        if variable.startswith("PRODUCER_"):
            monkeypatch.delenv(variable)
    (tmp_path / "secrets").mkdir()
    monkeypatch.setenv("PRODUCER_SECRETS_DIR", str(tmp_path / "secrets"))
    monkeypatch.chdir(tmp_path)


def load(*overrides: str) -> Settings:
    """With the required settings, and these over them."""
    return load_settings(overrides=[*REQUIRED, *overrides])


def problems(load: Callable[[], object]) -> str:
    """What the user is told."""
    with pytest.raises(Misconfigured) as caught:
        load()
    return f"{caught.value}\n{caught.value.hint}"


def yaml(text: str, name: str = "settings.yaml") -> Path:
    path = Path(name)
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text, encoding="utf-8")
    return path


# --- sources ---------------------------------------------------------------------------------------------------------


def test_the_nearest_source_wins_and_every_value_knows_its_origin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = yaml(
        "zendesk:\n  subdomain: from-yaml\n  page_size: 1\n  poll_interval: 1\n  requests_per_minute: 1\n"
        "kafka:\n  bootstrap_servers: [a:1, 'b:2']\n"
    )
    for name, value in (
        ("access_token", "t"),
        ("page_size", "2"),
        ("poll_interval", "2"),
        ("requests_per_minute", "2"),
    ):
        (tmp_path / "secrets" / f"zendesk__{name}").write_text(f"{value}\n")
    monkeypatch.setenv("PRODUCER_ZENDESK__POLL_INTERVAL", "3")
    monkeypatch.setenv("PRODUCER_ZENDESK__REQUESTS_PER_MINUTE", "3")
    settings = load_settings(path, ["zendesk.requests_per_minute=4"])

    zendesk = settings.zendesk
    assert (zendesk.subdomain, zendesk.page_size, zendesk.poll_interval, zendesk.requests_per_minute) == (
        ("from-yaml", 2, 3, 4)
    )
    assert settings.kafka.bootstrap_servers == ("a:1", "b:2")
    assert settings.origin("zendesk.subdomain") == "settings.yaml:2"
    assert settings.origin("zendesk.page_size") == f"secret file {tmp_path}/secrets/zendesk__page_size"
    assert settings.origin("zendesk.poll_interval") == "environment variable PRODUCER_ZENDESK__POLL_INTERVAL"
    assert settings.origin("zendesk.requests_per_minute") == "--set"
    assert settings.origin("http.port") == "default"


def test_the_default_file_is_read_where_it_exists_and_another_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    yaml("http:\n  port: 1\n", "config/producer.yaml")
    assert load().http.port == 1
    monkeypatch.setenv("PRODUCER_CONFIG", str(yaml("http:\n  port: 2\n", "other.yaml")))
    assert load().http.port == 2
    assert load_settings(yaml("http:\n  port: 3\n", "third.yaml"), REQUIRED).http.port == 3


def test_an_empty_value_counts_as_not_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRODUCER_ZENDESK__PAGE_SIZE", "")
    (tmp_path / "secrets" / "kafka__sasl_password").write_text("\n")
    settings = load_settings(yaml("zendesk:\n  page_size: 7\n  proxy:\n  ca_file: null\nlog:\n"), REQUIRED)
    assert settings.zendesk.page_size == 7
    assert (settings.zendesk.proxy, settings.zendesk.ca_file, settings.kafka.sasl_password) == (None, None, None)


def test_yaml_values_are_the_text_that_was_written() -> None:
    path = yaml(
        "zendesk:\n  subdomain: 007\n  email: a@b\n  password: 0123\n  start_time: 2024-01-01T00:00:00+01:00\n"
        "tickets:\n  tombstones: no\n"
    )
    settings = load_settings(path, ["kafka.bootstrap_servers=a:1"])
    assert settings.zendesk.subdomain == "007"
    assert settings.zendesk.password is not None
    assert settings.zendesk.password.get_secret_value() == "0123"
    assert settings.zendesk.start_time == 1704063600
    assert settings.tickets.tombstones is False


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("zendesk: [", "not valid YAML at settings.yaml:1"),
        ("zendesk:\n  password: *canary-alias\n", "not valid YAML at settings.yaml:2"),
        ("- a\n", "does not consist of groups"),
        ("zendesk: acme\n", "zendesk (settings.yaml:1): a group of settings is expected"),
        ("zendesk:\n  page_size: {a: 1}\n", "zendesk.page_size (settings.yaml:2): a plain value is expected"),
        ("http:\n  port: 1\n  port: 2\n", "http.port (settings.yaml:3): given twice"),
        ("http:\n  port: 1\nhttp:\n  host: x\n", "http (settings.yaml:3): given twice"),
    ],
)
def test_a_broken_file_is_told_with_its_line_and_without_its_values(text: str, told: str) -> None:
    said = problems(lambda: load_settings(yaml(text), REQUIRED))
    assert told in said
    assert "canary" not in said


def test_a_file_that_is_named_must_exist() -> None:
    assert "nowhere.yaml cannot be read" in problems(lambda: load_settings(Path("nowhere.yaml"), REQUIRED))


# --- unknown names ---------------------------------------------------------------------------------------------------


def test_an_unknown_name_in_any_source_is_an_error_with_a_suggestion(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PRODUCER_ZENDEKS__SUBDOMAIN", "canary")
    monkeypatch.setenv("PRODUCER_ZENDESK_START_TIME", "canary")
    (tmp_path / "secrets" / "kafka__sasl_pasword").write_text("canary")
    path = yaml("zendesk:\n  pagesize: 5\nzendisk:\n  email: x\nhttpd:\n")
    said = problems(lambda: load_settings(path, [*REQUIRED, "topic.ticket=canary"]))
    for line in (
        "zendeks.subdomain (environment variable PRODUCER_ZENDEKS__SUBDOMAIN): there is no such setting; "
        "did you mean zendesk.subdomain (PRODUCER_ZENDESK__SUBDOMAIN)?",
        "did you mean zendesk.start_time (PRODUCER_ZENDESK__START_TIME)?",
        "kafka__sasl_pasword): there is no such setting; did you mean kafka.sasl_password?",
        "zendesk.pagesize (settings.yaml:2): there is no such setting; did you mean zendesk.page_size?",
        "zendisk.email (settings.yaml:4): there is no such setting; did you mean zendesk.email?",
        "httpd (settings.yaml:5)",
        "topic.ticket (--set): there is no such setting; did you mean topics.tickets?",
    ):
        assert line in said
    assert "canary" not in said


def test_what_kubernetes_adds_for_a_service_named_producer_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_8080_TCP", "PORT_8080_TCP_ADDR"):
        monkeypatch.setenv(f"PRODUCER_{name}", "10.0.0.1")
    load()


def test_secret_files_of_other_programs_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "secrets" / "postgres__password").write_text("x")
    (tmp_path / "secrets" / "rhsm").mkdir()
    load()


# --- secret files ----------------------------------------------------------------------------------------------------


def test_an_unreadable_secret_file_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "zendesk__access_token"
        file.write_text("canary")
        file.chmod(0)
        Path(directory).chmod(0o755)
        monkeypatch.setenv("PRODUCER_SECRETS_DIR", directory)
        root = os.geteuid() == 0
        try:
            if root:  # for whom nothing is unreadable
                os.seteuid(65534)
            uid = os.geteuid()
            said = problems(
                lambda: load_settings(Path(os.devnull), ["zendesk.subdomain=acme", "kafka.bootstrap_servers=a:1"])
            )
        finally:
            if root:
                os.seteuid(0)
    assert f"zendesk.access_token (secret file {file}): cannot be read by user id {uid}" in said
    assert "one problem" in said
    assert "canary" not in said


def test_a_secret_that_docker_made_a_directory_is_the_only_thing_complained_of(tmp_path: Path) -> None:
    (tmp_path / "secrets" / "zendesk__access_token").mkdir()
    said = problems(lambda: load_settings(None, ["zendesk.subdomain=acme", "kafka.bootstrap_servers=a:1"]))
    assert "is a directory: Docker makes one when the file is missing on the host" in said
    assert "one problem" in said


def test_a_secrets_directory_that_is_named_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRODUCER_SECRETS_DIR", "/nowhere/secrets")
    assert "PRODUCER_SECRETS_DIR" in problems(load)


# --- values ----------------------------------------------------------------------------------------------------------


def test_all_problems_are_told_at_once_also_those_between_settings() -> None:
    said = problems(
        lambda: load_settings(
            overrides=[
                "zendesk.subdomain=https://acme.zendesk.com/",
                "zendesk.page_size=1001",
                "kafka.security_protocol=SASL_SSL",
                "kafka.bootstrap_servers=localhost",
                "log.level=loud",
                "nonsense",
            ]
        )
    )
    for line in (
        "8 problems",
        'zendesk.subdomain (--set): only the account\'s name is expected, the part before .zendesk.com; try "acme"',
        "zendesk.page_size (--set): Input should be less than or equal to 1000",
        "zendesk.client_secret (not set): no way to sign in",
        "kafka.sasl_username (not set): required with kafka.security_protocol SASL_SSL",
        "kafka.bootstrap_servers (--set): host:port is expected, not 'localhost'; try \"localhost:9092\"",
        "log.level (--set): Input should be 'debug', 'info', 'warning' or 'error'",
        "--set number 6 (command line): group.name=value is expected",
    ):
        assert line in said


def test_required_settings_are_named_with_their_variables() -> None:
    said = problems(load_settings)
    assert "zendesk.subdomain (not set): required; set it as PRODUCER_ZENDESK__SUBDOMAIN" in said
    assert "kafka.bootstrap_servers (not set): required; set it as PRODUCER_KAFKA__BOOTSTRAP_SERVERS" in said


@pytest.mark.parametrize(
    "wrong", ["https://acme.zendesk.com/", "acme.zendesk.com", "http://acme", "acme/x", "acme@evil", "acme:1"]
)
def test_a_subdomain_with_more_than_the_name_gets_the_name_suggested(wrong: str) -> None:
    assert 'try "acme"' in problems(lambda: load(f"zendesk.subdomain={wrong}"))


def test_the_subdomain_is_in_lower_case_wherever_it_goes() -> None:
    settings = load("zendesk.subdomain=ACME", "topics.tickets={subdomain}.tickets")
    assert settings.zendesk.subdomain == "acme"
    assert settings.zendesk.base_url == "https://acme.zendesk.com"
    assert settings.topics.tickets == "acme.tickets"


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://{subdomain}.zendesk.com/", "https://acme.zendesk.com"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ("http://[::1]:80", "http://[::1]:80"),
        ("http://Simulator:8765", "http://simulator:8765"),
        ("http://localhost:1", "http://localhost:1"),
    ],
)
def test_plain_http_goes_to_this_machine_or_a_container(url: str, normal: str) -> None:
    assert load(f"zendesk.base_url={url}").zendesk.base_url == normal


@pytest.mark.parametrize(
    "url",
    [
        "http://acme.zendesk.com",
        "http://169.254.169.254",
        "http://2130706433",
        "http://0x7f000001",
        "http://[2001:db8::1]",
        "ftp://localhost",
        "acme.zendesk.com",
        "https://",
        "https://a:99999",
        "https://acme.zendesk.com/api/v2",
        "https://acme.zendesk.com?x=1",
        "https://acme.zendesk.com/#x",
        "https://user:canary@acme.zendesk.com",
        "https://user:canary@acme.zendesk.com/path",
        "https://аcme.zendesk.com",
    ],
)
def test_a_base_url_that_could_leak_the_credentials_is_refused(url: str) -> None:
    said = problems(lambda: load(f"zendesk.base_url={url}"))
    assert "zendesk.base_url (--set)" in said
    assert "canary" not in said


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            [],
            "zendesk.client_secret (not set): no way to sign in; set it with zendesk.client_id, or set zendesk.access_token",
        ),
        (["email=a@b"], "zendesk.email (--set): needs zendesk.api_token (or zendesk.password) beside it"),
        (["api_token=canary"], "zendesk.email (not set): required with zendesk.api_token"),
        (
            ["email=a@b", "api_token=canary", "password=canary"],
            "zendesk.password (--set): one way to sign in is expected",
        ),
        (
            ["access_token=canary", "api_token=canary"],
            "zendesk.api_token (--set): one way to sign in is expected, not 2",
        ),
        (["access_token=canary", "email=a@b"], "zendesk.email (--set): belongs to zendesk.api_token"),
        (["email=a@b/token", "api_token=canary"], 'zendesk.email (--set): "/token" is added by itself; try "a@b"'),
        (["access_token=canary\nX-Header: 1"], "zendesk.access_token (--set): holds a line break"),
    ],
)
def test_there_is_exactly_one_way_to_sign_in(given: list[str], told: str) -> None:
    said = problems(
        lambda: load_settings(
            overrides=["zendesk.subdomain=acme", "kafka.bootstrap_servers=a:1", *(f"zendesk.{it}" for it in given)]
        )
    )
    assert told in said
    assert "canary" not in said


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("1704067200", 1704067200),
        ("2024-01-01T00:00:00Z", 1704067200),
        ("2024-01-01T02:00+02:00", 1704067200),
    ],
)
def test_a_start_time_is_unix_seconds_or_a_date_with_a_zone(text: str, seconds: int) -> None:
    assert load(f"zendesk.start_time={text}").zendesk.start_time == seconds


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("2024-01-01", 'has no zone; try "2024-01-01T00:00:00Z"'),
        ("2024-01-01T10:00:00", 'has no zone; try "2024-01-01T10:00:00Z"'),
        ("yesterday", "ISO 8601"),
        ("1704067200000", "look like milliseconds; try 1704067200"),
        ("4102444800", "is in the future"),
        ("2999-01-01T00:00:00Z", "is in the future"),
        ("-1", "is before 1970"),
    ],
)
def test_a_start_time_that_is_unclear_or_not_yet_is_refused(text: str, told: str) -> None:
    assert told in problems(lambda: load(f"zendesk.start_time={text}"))


@pytest.mark.parametrize(("text", "size"), [("64MiB", 64 * 2**20), ("1000", 1000), ("1.5 kB", 1500)])
def test_sizes_may_have_units(text: str, size: int) -> None:
    assert load(f"zendesk.max_response_bytes={text}").zendesk.max_response_bytes == size


@pytest.mark.parametrize(
    "server", ["kafka", "kafka:", ":9092", "kafka:0", "kafka:70000", "kafka://kafka:9092", "::1", ","]
)
def test_a_bootstrap_server_is_a_host_and_a_port(server: str) -> None:
    assert "kafka.bootstrap_servers (--set)" in problems(lambda: load(f"kafka.bootstrap_servers={server}"))


def test_bootstrap_servers_are_split_at_commas() -> None:
    assert load("kafka.bootstrap_servers=a:1, [::1]:2").kafka.bootstrap_servers == ("a:1", "[::1]:2")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["security_protocol=sasl_plaintext"], "kafka.sasl_password (not set): required with kafka.security_protocol"),
        (["sasl_username=u"], "kafka.sasl_username (--set): has no effect with kafka.security_protocol PLAINTEXT"),
        (["security_protocol=SSL", "sasl_password=canary"], "that should be SASL_SSL or SASL_PLAINTEXT"),
        (["ssl_cafile={file}"], "that should be SSL or SASL_SSL"),
        (["security_protocol=SSL", "ssl_certfile={file}"], "kafka.ssl_certfile (--set): needs kafka.ssl_keyfile"),
        (["security_protocol=SSL", "ssl_keyfile={file}"], "kafka.ssl_keyfile (--set): needs kafka.ssl_certfile"),
        (["security_protocol=SSL", "ssl_password=canary"], "kafka.ssl_password (--set): needs kafka.ssl_keyfile"),
        (["security_protocol=SSL", "ssl_cafile=/nowhere.pem"], "there is no file /nowhere.pem"),
        (["security_protocol=TLS"], "Input should be 'PLAINTEXT', 'SSL', 'SASL_PLAINTEXT' or 'SASL_SSL'"),
    ],
)
def test_the_security_settings_of_kafka_must_go_together(tmp_path: Path, given: list[str], told: str) -> None:
    file = tmp_path / "some.pem"
    file.write_text("x")
    said = problems(lambda: load(*(f"kafka.{it.replace('{file}', str(file))}" for it in given)))
    assert told in said
    assert "canary" not in said


def test_a_complete_sasl_setup_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("x")
    kafka = load(
        "kafka.security_protocol=sasl_ssl", "kafka.sasl_mechanism=scram-sha-512", "kafka.sasl_username=u",
        "kafka.sasl_password=p", f"kafka.ssl_cafile={file}",
    ).kafka  # fmt: skip
    assert (kafka.security_protocol, kafka.sasl_mechanism, kafka.ssl_cafile) == ("SASL_SSL", "SCRAM-SHA-512", file)


@pytest.mark.parametrize("name", ["a b", "tick/ets", "..", "x" * 250, "{account}.tickets"])
def test_a_topic_name_that_kafka_would_refuse_is_refused(name: str) -> None:
    assert "topics.tickets (--set): a Kafka topic name" in problems(lambda: load(f"topics.tickets={name}"))


def test_two_topics_with_one_name_are_refused_also_once_the_account_is_filled_in() -> None:
    assert "each of them needs a topic of its own" in problems(
        lambda: load("topics.tickets={subdomain}.a", "topics.checkpoints=acme.a")
    )


def test_topics_of_sideloads_are_a_group_within_the_group_of_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    path = yaml("topics:\n  sideloads:\n    users: a\n    groups: b\n")
    monkeypatch.setenv("PRODUCER_TOPICS__SIDELOADS__GROUPS", "c")
    settings = load_settings(path, [*REQUIRED, "topics.sideloads.brands=d"])
    assert [settings.topics.beside(name) for name in ("users", "groups", "brands")] == ["a", "c", "d"]
    assert settings.origin("topics.sideloads.users") == "settings.yaml:3"
    assert "topics.sideloads.usrs (--set): there is no such setting; did you mean topics.sideloads.users?" in problems(
        lambda: load("topics.sideloads.usrs=x")
    )


@pytest.mark.parametrize(
    ("include", "told"),
    [
        ("users,grps", "there is no sideload 'grps'; there are users, groups, organizations"),
        ("last_audits", "last_audits cannot be had: the incremental exports do not support it"),
        ("slas", "slas cannot be had: it tells hours left"),
        ("users,users", "names something twice"),
    ],
)
def test_a_sideload_that_cannot_be_had_is_refused_with_what_there_is(include: str, told: str) -> None:
    assert told in problems(lambda: load(f"zendesk.include={include}"))


def test_a_stream_that_does_not_exist_is_refused_with_those_that_do() -> None:
    text = problems(lambda: load("zendesk.streams=tickets,macros"))
    assert "'tickets', 'users', 'organizations' or 'ticket_events'" in text


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_secrets_are_listed_with_the_forms_they_travel_in_and_shown_nowhere() -> None:
    settings = load_settings(
        overrides=[
            "zendesk.subdomain=acme",
            "zendesk.email=agent@acme.example",
            "zendesk.api_token=canary-api",
            "zendesk.proxy=http://user:canary%2Fproxy@proxy:3128",
            "kafka.bootstrap_servers=a:1",
            "kafka.security_protocol=SASL_PLAINTEXT",
            "kafka.sasl_username=u",
            "kafka.sasl_password=canary-sasl",
        ]
    )
    basic = "YWdlbnRAYWNtZS5leGFtcGxlL3Rva2VuOmNhbmFyeS1hcGk="
    proxy = "dXNlcjpjYW5hcnkvcHJveHk="
    assert set(settings.secrets()) == {"canary-api", basic, "canary/proxy", "canary%2Fproxy", proxy, "canary-sasl"}
    assert "canary" not in f"{settings!r}{settings}"
    assert settings.redact(f"got canary-api and {basic} via canary%2Fproxy") == "got *** and *** via ***"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().http.port = 1


# --- the documented file ---------------------------------------------------------------------------------------------


def test_the_documented_file_lists_exactly_the_settings_with_their_defaults() -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    listed, group = [], ""
    for line in text.splitlines():
        if match := re.match(r"(\w+):$", line):
            group = match[1]
        elif match := re.match(r"  (\w+):$", line):
            group = f"{group.partition('.')[0]}.{match[1]}"
        elif match := re.match(r"(?:  )+#?(\w+): ", line):
            listed.append(f"{group}.{match[1]}")
    assert sorted(listed) == sorted(NAMES)

    documented, bare = load_settings(SHIPPED, REQUIRED), load()
    assert documented.model_dump() == bare.model_dump()
    set_there = {name for name in NAMES if documented.origin(name).startswith(str(SHIPPED))}
    without_default = {name for name in NAMES if f"#{name.partition('.')[2]}: " in text}
    assert set_there == set(NAMES) - without_default - {item.partition("=")[0] for item in REQUIRED}


def test_the_documented_examples_are_valid_once_uncommented(tmp_path: Path) -> None:
    text = re.sub(r"(?m)^  #(\w+: )", r"  \1", SHIPPED.read_text(encoding="utf-8"))
    text = re.sub(
        r"(?m)^  (client_id|client_secret|access_token|password|ssl_\w+|sasl_username|sasl_password|ca_file): .*\n",
        "",
        text,
    )
    settings = load_settings(yaml(text))
    assert settings.zendesk.start_time == 1704067200
    assert len(settings.kafka.bootstrap_servers) == 2
