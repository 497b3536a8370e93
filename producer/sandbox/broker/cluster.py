"""A real Kafka cluster on this machine's loopback, to be started, frozen, killed and started again at will."""

import json
import random
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from producer.sandbox.broker.errors import BrokerError
from producer.sandbox.broker.guardian import Guardian
from producer.sandbox.broker.node import Node, Ports
from producer.sandbox.broker.provision import Provision, provision, say_to_stderr
from producer.sandbox.broker.security import Security

# Below the range from which systems serve outgoing connections: nobody is given a broker's port while it is down.
_PORT_RANGE = range(20_000, 32_000)
_ATTEMPTS = 5
_LOG_TAIL_LINES = 15


class _AddressInUse(BrokerError):
    """Somebody took a port between our choice and Kafka's bind."""


class Cluster:
    """`nodes` combined broker and controller nodes, 127.0.0.1 only, as a context manager or with `start` and `stop`.

    Without `data_dir` the data lives in a temporary folder, removed by `stop`. With it, data and client ports are kept:
    a later cluster on the same folder answers under the same `bootstrap_servers`. `port` asks for the first node's
    client port. `advertised_port` is what a single node tells clients to connect to, for a proxy in between.
    `properties` override the broker configuration. `start_seconds` and `stop_seconds` are deadlines.

    Should this process die without `stop`, even by SIGKILL, a guardian ends the nodes and removes temporary data.
    """

    def __init__(
        self,
        *,
        nodes: int = 1,
        data_dir: Path | None = None,
        port: int | None = None,
        advertised_port: int | None = None,
        properties: Mapping[str, str] | None = None,
        security: Security | None = None,
        provision: Provision | None = None,
        java_options: Sequence[str] = (),
        say: Callable[[str], None] = say_to_stderr,
        start_seconds: float = 60,
        stop_seconds: float = 15,
    ) -> None:
        if nodes < 1:
            raise ValueError(f"nodes: {nodes} is too few, a cluster has at least one")
        if advertised_port is not None and nodes > 1:
            raise ValueError("advertised_port: only a single node can be advertised under another port")
        self._size = nodes
        self._kept_data = data_dir.resolve() if data_dir else None
        self._wanted_port = port
        self._advertised_port = advertised_port
        self._properties = dict(properties or {})
        self._security = security
        self._provision = provision
        self._java_options = java_options
        self._say = say
        self._start_seconds = start_seconds
        self._stop_seconds = stop_seconds
        self._data_dir: Path | None = None
        self._ports: list[Ports] = []
        self._nodes: list[Node] = []
        self._guardian: Guardian | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def bootstrap_servers(self) -> str:
        """The client listeners, as `127.0.0.1:port,…`."""
        return ",".join(f"127.0.0.1:{ports.client}" for ports in self._ports)

    @property
    def internal_servers(self) -> str:
        """The nodes' own listeners: always plain, and a super user to the authorizer."""
        return ",".join(f"127.0.0.1:{ports.internal}" for ports in self._ports)

    @property
    def data_dir(self) -> Path:
        if self._data_dir is None:
            raise RuntimeError("the cluster is not started")
        return self._data_dir

    @property
    def log_file(self) -> Path:
        """Warnings and errors of all nodes. In the data folder: temporary data takes it along."""
        return self.data_dir / "kafka.log"

    @property
    def pids(self) -> tuple[int | None, ...]:
        """One process id per node, None where it does not run (with Docker, the Docker client's)."""
        return tuple(node.process.pid if node.process and node.running else None for node in self._nodes)

    @property
    def running(self) -> bool:
        """Whether every node's process lives; a frozen one does."""
        return bool(self._nodes) and all(node.running for node in self._nodes)

    def start(self) -> None:
        """Returns when every node answers and sees every other unfenced.

        Raises BrokerError (MissingPrerequisite among them), and ValueError when the data folder belongs to a cluster of
        another size.
        """
        if self._nodes:
            raise RuntimeError("the cluster is started already")
        runtime = self._provision or provision(self._say)
        self._data_dir = self._kept_data or Path(tempfile.mkdtemp(prefix="zendesk-producer-kafka-")).resolve()
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(__file__).parent / "log4j2.properties", self._data_dir)
            cluster_id, kept_ports = self._identity()
            names = [f"zendesk-producer-{cluster_id}-{id}" for id in range(self._size)]
            self._ports = self._choose_ports(kept_ports)
            self._nodes = [Node(id, names[id], self._data_dir, cluster_id, runtime) for id in range(self._size)]
            self._guardian = self._guard(runtime, names)
            for attempts_left in reversed(range(_ATTEMPTS)):
                try:
                    self._format(self._guardian)
                    self._launch(self._nodes, set(range(self._size)))
                    break
                except _AddressInUse:
                    if not attempts_left:
                        raise
                    for node in self._nodes:
                        node.kill()
                    self._ports = self._choose_ports(kept_ports)
            self._remember_ports()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """An orderly shutdown (SIGTERM) of all nodes, by force after `stop_seconds`. Does nothing when stopped."""
        for node in self._nodes:
            node.send(signal.SIGCONT)  # a frozen process would never see the SIGTERM
            node.send(signal.SIGTERM)
        deadline = time.monotonic() + self._stop_seconds
        for node in self._nodes:
            try:
                node.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                node.kill()
        if self._guardian:
            self._guardian.dismiss()
            self._guardian = None
        if self._data_dir and not self._kept_data:
            shutil.rmtree(self._data_dir)
        self._nodes, self._data_dir = [], None

    def kill(self, node: int = 0) -> None:
        """SIGKILL; returns when the process is gone."""
        self._nodes[node].kill()

    def freeze(self, node: int = 0) -> None:
        """SIGSTOP: connections stay open and nothing is answered."""
        self._nodes[node].send(signal.SIGSTOP)

    def thaw(self, node: int = 0) -> None:
        """SIGCONT; returns when the node answers again. Raises BrokerError."""
        self._nodes[node].send(signal.SIGCONT)
        self._wait_until_ready([self._nodes[node]], {node}, self.log_file.stat().st_size)

    def restart(self, node: int = 0) -> None:
        """Starts the node again on the same data and ports, after an orderly stop if it runs. Raises BrokerError."""
        again = self._nodes[node]
        again.send(signal.SIGCONT)
        again.send(signal.SIGTERM)
        try:
            again.wait(self._stop_seconds)
        except subprocess.TimeoutExpired:
            again.kill()
        self._launch([again], {node})

    def log_tail(self, start: int = 0) -> str:
        """The last lines of the log after byte `start`."""
        with self.log_file.open("rb") as log:
            log.seek(start)
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-_LOG_TAIL_LINES:]) or "(nothing)"

    def _identity(self) -> tuple[str, list[int]]:
        """The cluster id and, once it was up, the client ports that this data folder has had from its first start."""
        if not self._memory.exists():
            # As Kafka's own ids do: none begins with a dash, which its command line would take for an option.
            cluster_id = "k" + urlsafe_b64encode(uuid.uuid4().bytes).decode()[:20] + "A"
            # Kept before formatting, so that a folder whose first start was cut short can still be used.
            self._memory.write_text(json.dumps({"cluster_id": cluster_id, "nodes": self._size, "client_ports": []}))
        memory = json.loads(self._memory.read_text())
        if memory["nodes"] != self._size:
            raise ValueError(f"{self.data_dir} holds a cluster of {memory['nodes']} nodes, {self._size} were asked for")
        return memory["cluster_id"], memory["client_ports"]

    def _remember_ports(self) -> None:
        memory = json.loads(self._memory.read_text())
        self._memory.write_text(json.dumps(memory | {"client_ports": [ports.client for ports in self._ports]}))

    @property
    def _memory(self) -> Path:
        return self.data_dir / "cluster.json"

    def _choose_ports(self, kept: Sequence[int]) -> list[Ports]:
        """Ports for every node: the wanted and the kept client ports, free ones for the rest."""
        clients: list[int | None] = list(kept) or [None] * self._size
        clients[0] = self._wanted_port or clients[0]
        for port in filter(None, clients):
            if not _is_free(port):
                raise BrokerError(
                    f"port {port} of 127.0.0.1 is taken: end the program that listens there "
                    f"(a broker on the same data?), or choose another port or a new data folder"
                )
        chosen = {port for port in clients if port}

        def free() -> int:
            port = next(port for port in iter(_random_port, None) if port not in chosen and _is_free(port))
            chosen.add(port)
            return port

        return [Ports(client or free(), free(), free()) for client in clients]

    def _guard(self, runtime: Provision, names: list[str]) -> Guardian:
        script = runtime.reaper(names, self.data_dir)
        if not self._kept_data:
            folder = shlex.quote(str(self.data_dir))
            script += f"\nrm -rf {folder} || {{ sleep 1; rm -rf {folder}; }}"  # a dying node may still have made a file
        return Guardian(script)

    def _format(self, guardian: Guardian) -> None:
        for node in self._nodes:
            advertised = self._advertised_port or self._ports[node.id].client
            node.configure(self._ports, advertised, self._security, self._properties)
        with self.log_file.open("ab") as log:
            start = log.tell()
            running = [
                node.format(self._security, guardian.lifeline, log) for node in self._nodes if not node.formatted
            ]
            try:
                codes = [process.wait() for process in running]
            finally:
                for process in running:
                    process.kill()
                    process.wait()
        if any(codes):
            raise BrokerError(
                f"Kafka could not format its storage; the end of {self.log_file}:\n{self.log_tail(start)}"
            )

    def _launch(self, nodes: Collection[Node], expected: set[int]) -> None:
        if self._guardian is None:
            raise RuntimeError("the cluster is not started")
        with self.log_file.open("ab") as log:
            start = log.tell()
            for node in nodes:
                node.start(self._java_options, self._guardian.lifeline, log)
        self._wait_until_ready(nodes, expected, start)

    def _wait_until_ready(self, nodes: Collection[Node], expected: set[int], log_from: int) -> None:
        """Until each of `nodes` answers, sees `expected` unfenced and serves its client listener."""
        deadline = time.monotonic() + self._start_seconds
        waiting = list(nodes)
        while waiting:
            for node in waiting:
                if not node.running:
                    tail = self.log_tail(log_from)
                    kind = _AddressInUse if "Address already in use" in tail else BrokerError
                    raise kind(f"Kafka node {node.id} ended before it was ready; the end of {self.log_file}:\n{tail}")
            waiting = [node for node in waiting if not node.sees(expected)]
            if waiting and time.monotonic() > deadline:
                raise BrokerError(
                    f"Kafka node {waiting[0].id} was not ready after {self._start_seconds:.0f} s; "
                    f"the end of {self.log_file}:\n{self.log_tail(log_from)}"
                )
            if waiting:
                time.sleep(0.02)


def _random_port() -> int:
    return random.choice(_PORT_RANGE)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger are no obstacle to Kafka
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
