"""The sandbox broker: real Kafka that can be killed, frozen and secured, and that leaves nothing behind."""

# mypy: untyped-calls-exclude=aiokafka

import asyncio
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from confluent_kafka import admin as confluent_admin
from cryptography.hazmat.primitives import serialization

from producer.sandbox.broker import BrokerError, Cluster, MissingPrerequisite, Security, check_prerequisites, provision
from tests.proxy import Proxy

acl: Any = confluent_admin  # re-exports the ACL names in a way that type checkers do not follow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as running:
        yield running


async def create_topic(servers: str, topic: str, replicas: int = 1) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 1, replicas)])
    finally:
        await admin.close()


async def publish(servers: str, topic: str, *values: bytes, **client: Any) -> None:
    """All values in one transaction, each acknowledgement awaited."""
    producer = AIOKafkaProducer(bootstrap_servers=servers, transactional_id=f"writer.{topic}", **client)
    try:
        await producer.start()
        async with producer.transaction():
            await asyncio.gather(*[await producer.send(topic, value, partition=0) for value in values])
    finally:
        await producer.stop()


async def read(servers: str, topic: str, count: int) -> list[bytes | None]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        async with asyncio.timeout(20):
            return [(await consumer.getone()).value for _ in range(count)]
    finally:
        await consumer.stop()


async def log_in(servers: str, **client: Any) -> None:
    """A Metadata round trip as the given client. Raises KafkaError when refused."""
    admin = AIOKafkaAdminClient(bootstrap_servers=servers, **client)
    try:
        await admin.start()
        await admin.list_topics()
    finally:
        await admin.close()


def wait_for(condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


def processes_naming(text: str) -> list[str]:
    lines = subprocess.run(
        ["ps", "-ww", "-eo", "stat,args"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [line for line in lines if text in line and not line.startswith("Z")]


async def test_a_transaction_is_published_and_read_committed(cluster: Cluster) -> None:
    await create_topic(cluster.bootstrap_servers, "plain")
    await publish(cluster.bootstrap_servers, "plain", b"1", b"2")
    assert await read(cluster.bootstrap_servers, "plain", 2) == [b"1", b"2"]


async def test_a_killed_broker_comes_back_with_its_data_under_the_same_address(cluster: Cluster) -> None:
    before, pid = cluster.bootstrap_servers, cluster.pids[0]
    await create_topic(before, "killed")
    await publish(before, "killed", b"1")
    cluster.kill()
    while_down = cluster.pids
    assert while_down == (None,)
    with pytest.raises(KafkaError):
        await log_in(before)
    await asyncio.to_thread(cluster.restart)
    assert cluster.pids[0] not in (None, pid)
    assert cluster.bootstrap_servers == before
    await publish(before, "killed", b"2")
    assert await read(before, "killed", 2) == [b"1", b"2"]


async def test_a_frozen_broker_answers_only_after_the_thaw(cluster: Cluster) -> None:
    await create_topic(cluster.bootstrap_servers, "frozen")
    producer = AIOKafkaProducer(bootstrap_servers=cluster.bootstrap_servers)
    await producer.start()
    try:
        await producer.send_and_wait("frozen", b"1", partition=0)
        cluster.freeze()
        answer = await producer.send("frozen", b"2", partition=0)
        await asyncio.wait({answer}, timeout=1)
        assert not answer.done()
        assert cluster.running
        await asyncio.to_thread(cluster.thaw)
        async with asyncio.timeout(20):
            assert (await answer).offset == 1
    finally:
        cluster.thaw()
        await producer.stop()


async def test_kept_data_keeps_topics_and_address(tmp_path: Path) -> None:
    with Cluster(data_dir=tmp_path / "data") as first:
        servers = first.bootstrap_servers
        await create_topic(servers, "kept")
    async with Proxy() as proxy:
        proxy.upstream = int(servers.rpartition(":")[2])
        with Cluster(data_dir=tmp_path / "data", advertised_port=proxy.port) as second:
            assert second.bootstrap_servers == servers
            seen = await asyncio.to_thread(topics_at, servers)
            assert "kept" in seen.topics
            assert [broker.port for broker in seen.brokers.values()] == [proxy.port]
            internal = await asyncio.to_thread(topics_at, second.internal_servers)
            assert [broker.port for broker in internal.brokers.values()] != [proxy.port]
    with pytest.raises(ValueError, match="holds a cluster of 1 nodes, 3 were asked for"):
        Cluster(data_dir=tmp_path / "data", nodes=3).start()


def topics_at(servers: str) -> Any:
    return confluent_admin.AdminClient({"bootstrap.servers": servers}).list_topics(timeout=10)


async def test_three_nodes_form_a_cluster_that_survives_the_loss_of_one() -> None:
    cluster = Cluster(nodes=3, stop_seconds=1)
    await asyncio.to_thread(cluster.start)
    try:
        assert len(set(cluster.pids)) == 3
        await create_topic(cluster.bootstrap_servers, "replicated", replicas=3)
        await publish(cluster.bootstrap_servers, "replicated", b"1")
        await asyncio.to_thread(cluster.kill, 0)
        async with asyncio.timeout(30):
            await publish(cluster.bootstrap_servers, "replicated", b"2")
        assert await read(cluster.bootstrap_servers, "replicated", 2) == [b"1", b"2"]
    finally:
        await asyncio.to_thread(cluster.stop)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_files(authority: trustme.CA, folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key in PKCS#8, the only form that Kafka reads."""
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(folder / "broker.crt")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    encoding = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "broker.key").write_bytes(key.private_bytes(*encoding))
    return folder / "broker.crt", folder / "broker.key"


def client_context(authority: trustme.CA, identity: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if identity:
        identity.configure_cert(context)
    return context


@pytest.fixture(scope="module")
def sasl_cluster(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    certificate, private_key = server_files(authority, tmp_path_factory.mktemp("tls"))
    security = Security(
        "SASL_SSL",
        certificate=certificate,
        private_key=private_key,
        mechanisms=("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"),
        users={"admin": "admin-secret", "alice": "alice-secret"},
        authorizer=True,
        super_users=("User:admin",),
    )
    assert "alice-secret" not in repr(security)
    with Cluster(security=security) as running:
        yield running


def sasl_client(authority: trustme.CA, mechanism: str, user: str, password: str) -> dict[str, Any]:
    return {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": mechanism,
        "sasl_plain_username": user,
        "sasl_plain_password": password,
        "ssl_context": client_context(authority),
    }


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_sasl_admits_the_right_password_only(
    sasl_cluster: Cluster, authority: trustme.CA, mechanism: str
) -> None:
    await log_in(sasl_cluster.bootstrap_servers, **sasl_client(authority, mechanism, "alice", "alice-secret"))
    with pytest.raises(KafkaError):
        await log_in(sasl_cluster.bootstrap_servers, **sasl_client(authority, mechanism, "alice", "wrong"))


async def test_the_authorizer_refuses_until_an_acl_allows(sasl_cluster: Cluster, authority: trustme.CA) -> None:
    servers = sasl_cluster.bootstrap_servers
    alice = sasl_client(authority, "SCRAM-SHA-512", "alice", "alice-secret")
    await create_topic(sasl_cluster.internal_servers, "guarded")
    with pytest.raises(KafkaError):
        await publish(servers, "guarded", b"refused", **alice)
    await publish(servers, "guarded", b"1", **sasl_client(authority, "PLAIN", "admin", "admin-secret"))
    write = (acl.AclOperation.WRITE, acl.AclPermissionType.ALLOW)
    admin = confluent_admin.AdminClient({"bootstrap.servers": sasl_cluster.internal_servers})
    bindings = [
        acl.AclBinding(acl.ResourceType.TOPIC, "guarded", acl.ResourcePatternType.LITERAL, "User:alice", "*", *write),
        acl.AclBinding(
            acl.ResourceType.TRANSACTIONAL_ID, "writer.", acl.ResourcePatternType.PREFIXED, "User:alice", "*", *write
        ),
    ]
    for done in admin.create_acls(bindings, request_timeout=10).values():
        done.result(timeout=10)
    await publish(servers, "guarded", b"2", **alice)
    assert await read(sasl_cluster.internal_servers, "guarded", 2) == [b"1", b"2"]


async def test_mutual_tls_admits_certificates_of_its_authority_only(authority: trustme.CA, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate, private_key = server_files(authority, tmp_path)
    security = Security("SSL", certificate=certificate, private_key=private_key, client_ca=tmp_path / "ca.pem")
    cluster = Cluster(security=security)
    await asyncio.to_thread(cluster.start)
    try:
        for identity, admitted in (
            (authority.issue_cert("producer@acme.example"), True),
            (trustme.CA().issue_cert("producer@acme.example"), False),
            (None, False),
        ):
            client = {"security_protocol": "SSL", "ssl_context": client_context(authority, identity)}
            if admitted:
                await log_in(cluster.bootstrap_servers, **client)
            else:
                with pytest.raises(KafkaError):
                    await log_in(cluster.bootstrap_servers, **client)
    finally:
        await asyncio.to_thread(cluster.stop)


def test_a_key_that_kafka_cannot_read_is_refused_with_the_way_out(authority: trustme.CA, tmp_path: Path) -> None:
    certificate, private_key = server_files(authority, tmp_path)
    private_key.write_bytes(authority.issue_cert("127.0.0.1").private_key_pem.bytes())
    with pytest.raises(ValueError, match="openssl pkcs8"):
        Security("SSL", certificate=certificate, private_key=private_key)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(BrokerError, match=f"port {port} of 127.0.0.1 is taken"):
            Cluster(port=port).start()


def test_a_port_lost_between_choice_and_bind_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        stolen = other.getsockname()[1]
        free = Cluster._choose_ports

        def one_stolen(cluster: Cluster, kept: list[int]) -> Any:
            first, *rest = free(cluster, kept)
            monkeypatch.setattr(Cluster, "_choose_ports", free)
            return [type(first)(stolen, first.internal, first.controller), *rest]

        monkeypatch.setattr(Cluster, "_choose_ports", one_stolen)
        with Cluster() as cluster:
            assert cluster.bootstrap_servers != f"127.0.0.1:{stolen}"
            asyncio.run(log_in(cluster.bootstrap_servers))


def test_a_broker_that_dies_at_the_start_shows_its_last_words_and_leaves_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(BrokerError, match="banana"):
        Cluster(properties={"num.io.threads": "banana"}).start()
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_behind_when_the_parent_is_killed() -> None:
    program = (
        "import json, time; from producer.sandbox.broker import Cluster; c = Cluster(); c.start();"
        "print(json.dumps([str(c.data_dir), c.bootstrap_servers]), flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        try:
            assert parent.stdout
            data_dir, servers = json.loads(parent.stdout.readline())
            assert len(processes_naming(data_dir)) >= 2  # Java (with Docker its client, too) and the guardian
        finally:
            parent.kill()
    wait_for(lambda: not processes_naming(data_dir) and not Path(data_dir).exists())
    wait_for(lambda: refused(servers))  # a process that ends gives up its name before its sockets


def refused(servers: str) -> bool:
    host, port = servers.split(":")
    try:
        socket.create_connection((host, int(port))).close()
    except ConnectionRefusedError:
        return True
    return False


def test_the_command_runs_until_sigterm_and_ends_cleanly() -> None:
    program = "import typer; from producer.cli.broker import broker; typer.run(broker)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as command:
        try:
            assert command.stdout
            servers = command.stdout.readline().removeprefix("bootstrap servers: ").strip()
            log_file = Path(command.stdout.readline().removeprefix("log file:").strip())
            asyncio.run(log_in(servers))
            assert log_file.exists()
            command.send_signal(signal.SIGTERM)
            assert command.wait(20) == 0
        finally:
            command.kill()
    assert not log_file.parent.exists()
    assert not processes_naming(str(log_file.parent))


def executable(file: Path, script: str) -> None:
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def test_a_machine_with_neither_java_nor_docker_is_told_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(MissingPrerequisite, match=r"(?s)no `java` on the PATH.*no `docker`.*apt install openjdk"):
        check_prerequisites()
    executable(tmp_path / "java", "echo 'openjdk version \"11.0.2\" 2019-01-15' >&2")
    executable(tmp_path / "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    with pytest.raises(MissingPrerequisite, match=r"(?s)version 11.0.2, 17 or newer.*Cannot connect to the Docker"):
        Cluster().start()
    executable(tmp_path / "java", "echo 'openjdk version \"21\" 2023-09-19' >&2")
    monkeypatch.setenv("ZENDESK_PRODUCER_CACHE", str(tmp_path / "empty"))
    with pytest.raises(MissingPrerequisite, match="no `mvn` on the PATH"):
        check_prerequisites()
    executable(tmp_path / "docker", "echo 28.0.0")
    assert check_prerequisites() == "Docker image apache/kafka:4.2.2"


def test_two_that_provision_at_once_fetch_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(tmp_path / "java", "echo 'openjdk version \"21\" 2023-09-19' >&2")
    executable(
        tmp_path / "mvn",
        f'echo call >>{tmp_path}/calls; for last; do :; done; out="${{last#*=}}"; mkdir -p "$out"; touch "$out/a.jar"',
    )
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("ZENDESK_PRODUCER_CACHE", str(tmp_path / "cache"))
    said: list[str] = []
    with ThreadPoolExecutor(2) as two:
        first, second = two.map(provision, [said.append] * 2)
    assert first == second
    assert (tmp_path / "calls").read_text() == "call\n"
    assert any("Fetching Apache Kafka 4.2.2" in text for text in said)


def test_a_failed_download_speaks_and_leaves_nothing_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(tmp_path / "java", "echo 'openjdk version \"21\" 2023-09-19' >&2")
    executable(tmp_path / "mvn", "echo 'repository unreachable'; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("ZENDESK_PRODUCER_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BrokerError, match="repository unreachable"):
        provision(lambda text: None)
    assert not (tmp_path / "cache" / "kafka-4.2.2" / "libs").exists()
