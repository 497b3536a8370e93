"""One Kafka node, broker and controller in one process: its configuration, its storage, its life."""

import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from producer.sandbox.broker.probe import speaks, unfenced_nodes
from producer.sandbox.broker.provision import Provision
from producer.sandbox.broker.security import Security

# A small heap and the quickest compiler: a sandbox starts often, lives briefly and shares its machine.
_JAVA_OPTIONS = ["-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]


@dataclass(frozen=True)
class Ports:
    """Where one node listens on 127.0.0.1: for clients, for the other nodes and us (always plain), for the quorum."""

    client: int
    internal: int
    controller: int


@dataclass
class Node:
    """A node of a cluster. Its configuration, storage and pid file live in `<data_dir>/node-<id>`."""

    id: int
    name: str
    data_dir: Path
    cluster_id: str
    provision: Provision
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _ports: Ports = field(init=False)
    _tls: bool = field(default=False, init=False)

    @property
    def folder(self) -> Path:
        return self.data_dir / f"node-{self.id}"

    def __post_init__(self) -> None:
        self._forget_pid()  # one from an earlier life may be anybody's by now

    @property
    def running(self) -> bool:
        if self.process is None:
            return False
        if self.process.poll() is None:
            return True
        self._forget_pid()
        return False

    @property
    def formatted(self) -> bool:
        return (self.folder / "data" / "meta.properties").exists()

    def configure(
        self, ports: Sequence[Ports], advertised_port: int, security: Security | None, overrides: Mapping[str, str]
    ) -> None:
        """Writes server.properties; `ports` has one entry per node of the cluster."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._ports = ports[self.id]
        self._tls = security is not None and security.tls
        properties = _properties(self.id, ports, advertised_port, security)
        properties["log.dirs"] = str(self.folder / "data")
        if security:
            properties |= security.properties("CLIENT", self.folder)
        self._config.touch(mode=0o600)  # it may hold passwords
        lines = (f"{key}={_escape(value)}\n" for key, value in (properties | dict(overrides)).items())
        self._config.write_text("".join(lines), encoding="ascii")

    def format(self, security: Security | None, lifeline: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Starts `kafka-storage format`. It holds `lifeline` to its end: the guardian clears up after it, not under it."""
        program = ["kafka.tools.StorageTool", "format", "-t", self.cluster_id, "-c", str(self._config)]
        program += security.scram_credentials() if security else []
        command = self.provision.command(f"{self.name}-format", self.data_dir, _JAVA_OPTIONS, program)
        return subprocess.Popen(command, stdin=lifeline, stdout=log, stderr=log, start_new_session=True)

    def start(self, java_options: Sequence[str], lifeline: int, log: IO[bytes]) -> None:
        """Starts the server. It holds the guardian's `lifeline` until its pid file is written.

        So even if this process dies right here, the guardian finds the pid file.
        """
        logging = [f"-Dlog4j2.configurationFile={self.data_dir / 'log4j2.properties'}", f"-Dsandbox.node={self.id}"]
        options = [*_JAVA_OPTIONS, *logging, *java_options]
        command = self.provision.command(self.name, self.data_dir, options, ["kafka.Kafka", str(self._config)])
        # `exec` keeps the pid: signals reach Java (or the Docker client), not a shell.
        shell = ["sh", "-c", 'echo $$ >"$0" && exec "$@" </dev/null', str(self._pid_file), *command]
        self.process = subprocess.Popen(
            shell, stdin=lifeline, stdout=log, stderr=log, cwd=self.data_dir, start_new_session=True
        )

    def sees(self, nodes: set[int]) -> bool:
        """Whether the node takes all of `nodes` for alive and unfenced, and its client listener is served."""
        unfenced = unfenced_nodes(self._ports.internal, self.cluster_id)
        return unfenced is not None and unfenced >= nodes and speaks(self._ports.client, self._tls)

    def send(self, number: signal.Signals) -> None:
        if self.process is not None and self.running:
            self.provision.send(self.name, self.process, number)

    def wait(self, timeout: float | None = None) -> None:
        """Waits until the process has ended. Raises subprocess.TimeoutExpired."""
        if self.process is not None:
            self.process.wait(timeout)
            self._forget_pid()

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.wait()

    def _forget_pid(self) -> None:
        self._pid_file.unlink(missing_ok=True)

    @property
    def _config(self) -> Path:
        return self.folder / "server.properties"

    @property
    def _pid_file(self) -> Path:
        return self.folder / "pid"


def _properties(node: int, ports: Sequence[Ports], advertised_port: int, security: Security | None) -> dict[str, str]:
    own = ports[node]
    replicas = str(min(3, len(ports)))
    in_sync = str(min(2, len(ports)))
    return {
        "process.roles": "broker,controller",
        "node.id": str(node),
        # A static quorum: the voters' addresses live in the configuration alone, so every start may choose new ports.
        "controller.quorum.voters": ",".join(f"{id}@127.0.0.1:{each.controller}" for id, each in enumerate(ports)),
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "INTERNAL",
        "listeners": f"CLIENT://127.0.0.1:{own.client},INTERNAL://127.0.0.1:{own.internal},"
        f"CONTROLLER://127.0.0.1:{own.controller}",
        "advertised.listeners": f"CLIENT://127.0.0.1:{advertised_port},INTERNAL://127.0.0.1:{own.internal}",
        "listener.security.protocol.map": f"CLIENT:{security.protocol if security else 'PLAINTEXT'},"
        "INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "auto.create.topics.enable": "false",
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": replicas,
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": "4",
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        # A killed node may come back only after its old session has run out: the default of 9 s would be every restart's.
        "broker.session.timeout.ms": "2000",
        "broker.heartbeat.interval.ms": "200",
        "group.initial.rebalance.delay.ms": "0",
        # The default of 128 MB would not fit into our heap.
        "log.cleaner.dedupe.buffer.size": "2097152",
        "log.cleaner.threads": "1",
        "num.network.threads": "1",
        "num.io.threads": "2",
    }


def _escape(value: str) -> str:
    """A value as `java.util.Properties` reads it: Latin-1, of which we use ASCII, with backslash escapes by UTF-16 unit."""
    units = value.replace("\\", "\\\\").encode("utf-16-be")
    codes = (int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2))
    return "".join(chr(code) if code < 128 else f"\\u{code:04x}" for code in codes)
