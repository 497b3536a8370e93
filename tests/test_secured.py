"""Kafka behind SASL, TLS and an authorizer: who is let in, and what is said to those who are not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme
from confluent_kafka import admin as confluent_admin

from producer.errors import Final, Misconfigured, Refused, Unavailable
from producer.sandbox.broker import Cluster, Security
from producer.sandbox.zendesk import Account, Clock, Simulator
from producer.settings import Settings, load_settings
from tests.conftest import joined
from tests.reader import Reader, faults
from tests.test_broker import server_files
from tests.test_service import Run, history, once

acl: Any = confluent_admin  # re-exports the ACL names in a way that type checkers do not follow

CANARY = "canary-4f1c"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Authority, broker's certificate and key, and a client's (`client.pem`, its key with and without a password)."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other-ca.pem")
    server_files(authority, folder)
    client = authority.issue_cert("producer@acme.example")
    client.cert_chain_pems[0].write_to_path(folder / "client.pem")
    client.private_key_pem.write_to_path(folder / "client.key")
    return folder


@pytest.fixture(scope="module")
def sasl(files: Path) -> Iterator[Cluster]:
    """TLS, all mechanisms, and an authorizer that nobody but admin has passed yet."""
    security = Security(
        "SASL_SSL",
        certificate=files / "broker.crt",
        private_key=files / "broker.key",
        mechanisms=("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"),
        users={"admin": "admin-secret", "producer": "producer-secret"},
        authorizer=True,
        super_users=("User:admin",),
    )
    with Cluster(security=security) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def mutual(files: Path) -> Iterator[Cluster]:
    """TLS that asks for a certificate."""
    security = Security(
        "SSL", certificate=files / "broker.crt", private_key=files / "broker.key", client_ca=files / "ca.pem"
    )
    with Cluster(security=security) as cluster:
        yield cluster


def login(files: Path, mechanism: str = "PLAIN", user: str = "admin", password: str = "admin-secret") -> list[str]:
    return [
        "kafka.security_protocol=SASL_SSL",
        f"kafka.ssl_cafile={files / 'ca.pem'}",
        f"kafka.sasl_mechanism={mechanism}",
        f"kafka.sasl_username={user}",
        f"kafka.sasl_password={password}",
    ]


async def publishes(
    overrides: Sequence[str], plain: str, account: Account, clock: Clock, names: dict[str, str]
) -> None:
    """A backfill through the secured listener, judged through the broker's own."""
    history(account, clock.now())
    await once(load_settings(overrides=overrides))
    messages = await asyncio.to_thread(Reader(plain, names["tickets"], names["checkpoints"]).messages)
    assert len(messages) == 40
    assert faults(messages, account.versions()) == []


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_with_sasl_and_tls_every_version_is_published_once(
    mechanism: str,
    sasl: Cluster,
    files: Path,
    zendesk: Simulator,
    account: Account,
    clock: Clock,
    names: dict[str, str],
) -> None:
    overrides = [*joined(sasl, zendesk, names), *login(files, mechanism)]
    await publishes(overrides, sasl.internal_servers, account, clock, names)


async def test_with_a_client_certificate_every_version_is_published_once(
    mutual: Cluster, files: Path, zendesk: Simulator, account: Account, clock: Clock, names: dict[str, str]
) -> None:
    tls = [f"kafka.ssl_{name}={files / file}" for name, file in (("cafile", "ca.pem"), ("certfile", "client.pem"))]
    overrides = [
        *joined(mutual, zendesk, names),
        "kafka.security_protocol=SSL",
        *tls,
        f"kafka.ssl_keyfile={files / 'client.key'}",
    ]
    await publishes(overrides, mutual.internal_servers, account, clock, names)


async def refusal(overrides: Sequence[str]) -> Final:
    """How a service ends that may not in; it must not try again."""
    with pytest.raises(Final) as caught:
        await asyncio.wait_for(once(load_settings(overrides=overrides)), 40)
    assert CANARY not in f"{caught.value} {caught.value.hint} {caught.value!r}"
    return caught.value


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_wrong_password_ends_the_service_with_77_and_is_not_shown(
    mechanism: str, sasl: Cluster, files: Path, zendesk: Simulator, names: dict[str, str]
) -> None:
    error = await refusal([*joined(sasl, zendesk, names), *login(files, mechanism, password=CANARY)])
    assert isinstance(error, Refused)
    assert error.exit_code == 77
    assert "kafka.sasl_password" in error.hint


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("kafka.ssl_cafile={files}/other-ca.pem", "kafka.ssl_cafile"),
        ("kafka.security_protocol=SSL", "kafka.security_protocol"),
    ],
)
async def test_a_tls_set_up_that_cannot_be_right_ends_the_service_with_78(
    change: str, named: str, mutual: Cluster, files: Path, zendesk: Simulator, names: dict[str, str]
) -> None:
    base = [*joined(mutual, zendesk, names), "kafka.security_protocol=SSL", f"kafka.ssl_cafile={files / 'ca.pem'}"]
    error = await refusal([*base, change.format(files=files)])
    assert isinstance(error, Misconfigured)
    assert named in error.hint


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SASL_PLAINTEXT"])
async def test_a_listener_that_speaks_tls_is_no_broker_to_who_does_not(
    protocol: str, sasl: Cluster, zendesk: Simulator, names: dict[str, str]
) -> None:
    sasl_settings = ["kafka.sasl_username=admin", f"kafka.sasl_password={CANARY}"] * (protocol != "PLAINTEXT")
    settings = load_settings(
        overrides=[*joined(sasl, zendesk, names), f"kafka.security_protocol={protocol}", *sasl_settings]
    )
    error = await unavailable(settings)
    assert sasl.bootstrap_servers in str(error)
    assert "kafka.security_protocol" in error.hint


async def test_bootstrap_servers_that_are_not_there_are_each_told_with_the_reason(
    overrides: list[str], zendesk: Simulator
) -> None:
    nowhere = "127.0.0.1:9,no-such-host.invalid:9092"
    error = await unavailable(load_settings(overrides=[*overrides, f"kafka.bootstrap_servers={nowhere}"]))
    for server in nowhere.split(","):
        assert server in str(error)
    assert "kafka.bootstrap_servers" in error.hint


async def test_something_else_at_the_address_of_a_broker_is_told(overrides: list[str], zendesk: Simulator) -> None:
    http = zendesk.base_url.removeprefix("http://")
    error = await unavailable(load_settings(overrides=[*overrides, f"kafka.bootstrap_servers={http}"]))
    assert http in str(error)


async def unavailable(settings: Settings) -> Unavailable:
    """How `run --once` gives up on a cluster that it cannot use."""
    run = Run(settings, once=True, give_up_after=1)
    with pytest.raises(Unavailable) as caught:
        await asyncio.wait_for(run.task, 60)
    assert CANARY not in f"{caught.value} {caught.value.hint}"
    return caught.value


Right = tuple[str, str, str]
"""Resource type, name (a prefix for transactional ids), operation."""


def rights(names: dict[str, str]) -> list[Right]:
    """What the README's table of ACLs lists for a service whose topics exist."""
    return [
        ("TOPIC", names["tickets"], "DESCRIBE"),
        ("TOPIC", names["tickets"], "WRITE"),
        ("TOPIC", names["dead_letters"], "DESCRIBE"),
        ("TOPIC", names["dead_letters"], "WRITE"),
        ("TOPIC", names["checkpoints"], "READ"),
        ("TOPIC", names["checkpoints"], "WRITE"),
        ("TRANSACTIONAL_ID", "zendesk-producer.", "WRITE"),
    ]


async def allow(cluster: Cluster, *allowed: Right) -> None:
    """Give the user these rights and no other, and wait until the broker knows."""
    admin = confluent_admin.AdminClient({"bootstrap.servers": cluster.internal_servers})
    theirs = acl.AclBindingFilter(
        acl.ResourceType.ANY,
        None,
        acl.ResourcePatternType.ANY,
        "User:producer",
        None,
        acl.AclOperation.ANY,
        acl.AclPermissionType.ANY,
    )
    bindings = [
        acl.AclBinding(
            acl.ResourceType[kind],
            name,
            acl.ResourcePatternType.PREFIXED if kind == "TRANSACTIONAL_ID" else acl.ResourcePatternType.LITERAL,
            "User:producer",
            "*",
            acl.AclOperation[operation],
            acl.AclPermissionType.ALLOW,
        )
        for kind, name, operation in allowed
    ]
    known: set[Any] | None = None
    for done in admin.delete_acls([theirs], request_timeout=10).values():
        await asyncio.to_thread(done.result, 10)
    for done in admin.create_acls(bindings, request_timeout=10).values():
        await asyncio.to_thread(done.result, 10)
    deadline = time.monotonic() + 20
    while known != set(bindings):
        assert time.monotonic() < deadline, "the broker does not know the ACLs"
        known = set(await asyncio.to_thread(admin.describe_acls(theirs, request_timeout=10).result, 10))


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("none", ""),
        ("TOPIC tickets DESCRIBE WRITE", "ACL Describe and Write"),
        ("TOPIC tickets WRITE", "Write on topic {tickets}"),
        ("TOPIC checkpoints READ", "on topic {checkpoints} (Read and Write"),
        ("TOPIC checkpoints WRITE", "Write on topic {checkpoints}"),
        ("TRANSACTIONAL_ID zendesk-producer. WRITE", "Write on transactional id"),
    ],
)
async def test_a_right_that_is_missing_is_named(
    missing: str,
    named: str,
    sasl: Cluster,
    files: Path,
    zendesk: Simulator,
    account: Account,
    clock: Clock,
    names: dict[str, str],
) -> None:
    base = joined(sasl, zendesk, names)
    await once(load_settings(overrides=[*base, *login(files)]))  # with all rights: the topics and a checkpoint
    kind, topic, *operations = [*missing.split(), "", ""]
    taken = {(kind, names.get(topic, topic), operation) for operation in operations}
    await allow(sasl, *(right for right in rights(names) if right not in taken))
    limited = [*base, *login(files, "SCRAM-SHA-512", "producer", "producer-secret")]
    if missing == "none":
        await publishes(limited, sasl.internal_servers, account, clock, names)
        return
    history(account, clock.now())
    error = await refusal(limited)
    assert error.exit_code == (78 if "DESCRIBE" in missing else 77)  # a topic that may not be seen may be gone
    assert named.format(**names) in error.hint
