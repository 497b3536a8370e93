"""The containers, really built and run: the image, the compose file as the README tells it, the sandbox broker by Docker.

Run by `make test-containers`, not by `make test`; skipped where no Docker engine with Compose answers. The image is built
with PIP_INDEX_URL and PIP_TRUSTED_HOST of the environment, for machines that reach a mirror only.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from producer.sandbox.broker import Cluster, check_prerequisites
from producer.sandbox.broker.docker import engine_problem
from producer.sandbox.broker.probe import speaks
from tests.test_broker import create_topic, publish, read, wait_for

REPOSITORY = Path(__file__).parent.parent
KILLS = 5
RESTARTS = 5
HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")

# The simulator as one more service, with a token to insist on and tickets that change. Health is asked for every second,
# so that nobody waits half a minute for it.
OVERRIDE = """
services:
  producer:
    healthcheck: {interval: 1s}
  zendesk:
    image: PROJECT-producer
    pull_policy: never
    profiles: [tests]
    command: [simulate, --host, 0.0.0.0, --port, "8080", --tickets, "4000", --speed, "60", --churn, "10", --client-secret, right]
"""
BACKFILL = {
    "ZENDESK__BASE_URL": "http://zendesk:8080",
    "ZENDESK__START_TIME": "0",
    "ZENDESK__PAGE_SIZE": "100",
    "ZENDESK__REQUESTS_PER_MINUTE": "180",
    "ZENDESK__POLL_INTERVAL": "0.5",
}


def ended(*command: str, timeout: float = 120, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command, which ends within `timeout` seconds, with whatever exit code."""
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=folder, check=False)


def said(*command: str, timeout: float = 120, folder: Path | None = None) -> str:
    """What the command says; it has to succeed."""
    process = ended(*command, timeout=timeout, folder=folder)
    assert process.returncode == 0, f"{' '.join(command)}\n{process.stdout[-3000:]}\n{process.stderr[-3000:]}"
    return process.stdout.strip()


def problem() -> str | None:
    """Why nothing can be tested here, or None."""
    if (text := engine_problem()) is not None:
        return text
    return None if ended("docker", "compose", "version").returncode == 0 else "Docker: there is no `docker compose`"


missing = problem()
pytestmark = [pytest.mark.skipif(missing is not None, reason=str(missing)), pytest.mark.timeout(600)]


class Project:
    """A compose project under a name of its own, in a folder with what a checkout has."""

    def __init__(self, folder: Path) -> None:
        self.name = f"zendesk-producer-test-{secrets.token_hex(4)}"
        self.image = f"{self.name}-producer"
        self.folder = folder
        for name in ("Dockerfile", "docker-compose.yml", ".dockerignore", "requirements.lock"):
            shutil.copy(REPOSITORY / name, folder)
        for name in ("producer", "config"):
            shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "secrets").mkdir()
        (folder / "docker-compose.override.yml").write_text(OVERRIDE.replace("PROJECT", self.name))

    def compose(self, *words: str, timeout: float = 120) -> str:
        """`docker compose …`, which has to succeed."""
        return said("docker", "compose", "-p", self.name, *words, folder=self.folder, timeout=timeout)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`docker compose run --rm …`, with whatever exit code."""
        command = ("docker", "compose", "-p", self.name, "run", "--rm", "-T", *words)
        return ended(*command, folder=self.folder, timeout=240)

    def down(self, *options: str) -> None:
        """Ends and removes everything but the image."""
        profiles = ("--profile", "demo", "--profile", "tests")
        self.compose(*profiles, "down", "--volumes", "--remove-orphans", "--timeout", "5", *options)

    def container(self, service: str) -> str:
        """The id of the service's container, which may have ended."""
        return self.compose("ps", "--all", "--quiet", service)

    def configure(self, secret: str, **settings: str) -> None:
        """Fills in `.env` and the secret file as the README has it."""
        lines = [(REPOSITORY / ".env.example").read_text(), *(f"PRODUCER_{it}={settings[it]}" for it in settings)]
        (self.folder / ".env").write_text("\n".join(lines))
        self.secret.write_text(secret + "\n")
        self.secret.chmod(0o644)

    @property
    def secret(self) -> Path:
        return self.folder / "secrets" / "zendesk__client_secret"

    def requests(self) -> list[dict[str, Any]]:
        """What the simulator was asked and how it answered."""
        ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/simulator/journal').read().decode())"
        journal = self.compose("--profile", "tests", "exec", "-T", "zendesk", "python", "-c", ask)
        return [json.loads(line) for line in journal.splitlines()]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project whose image is built, from sources that their owner alone may read."""
    project = Project(tmp_path_factory.mktemp("checkout"))
    said("chmod", "-R", "go-rwx", str(project.folder / "producer"))
    try:
        project.compose("--profile", "demo", "build", timeout=540)
        yield project
    finally:
        project.down("--rmi", "local")


@pytest.fixture
def project(built: Project) -> Iterator[Project]:
    """The same for one test, which finds nothing running and nothing configured."""
    try:
        yield built
    finally:
        built.down()
        (built.folder / ".env").unlink(missing_ok=True)
        built.secret.unlink(missing_ok=True)


@contextmanager
def started(*words: str) -> Iterator[str]:
    """`docker run --detach …`: the id of a container that is gone at the end whatever happens."""
    container = said("docker", "run", "--detach", *words)
    try:
        yield container
    finally:
        said("docker", "rm", "--force", "--volumes", container)


def inspect(what: str) -> dict[str, Any]:
    """All that the engine knows about a container or an image."""
    (found,) = json.loads(said("docker", "inspect", what))
    assert isinstance(found, dict)
    return found


def state(container: str) -> tuple[str, int, int]:
    """Status, how often the engine has started it again, and the exit code."""
    found = inspect(container)
    return found["State"]["Status"], found["RestartCount"], found["State"]["ExitCode"]


def told(container: str, message: str) -> list[dict[str, Any]]:
    """The lines of its log with this message."""
    lines = said("docker", "logs", container).splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    return [event for event in events if event["message"] == message]


def until(condition: Callable[[], bool], container: str, seconds: float) -> None:
    """Wait for a condition, or show what the container has come to."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            log = ended("docker", "logs", "--tail", "20", container)
            pytest.fail(f"not within {seconds:g} s: {state(container)}\n{log.stdout}{log.stderr}")
        time.sleep(0.1)


def within_ten_seconds(container: str) -> tuple[str, int, int]:
    """The state after `docker stop`, which must not have come to SIGKILL."""
    began = time.monotonic()
    said("docker", "stop", container)
    assert time.monotonic() - began < 10
    return state(container)


# The image


def test_the_image_runs_as_a_user_of_its_own_without_rights_and_with_nothing_to_write_to(built: Project) -> None:
    settings = ("--env", "PRODUCER_ZENDESK__SUBDOMAIN=acme", "--env", "PRODUCER_ZENDESK__ACCESS_TOKEN=secret")
    server = ("--env", "PRODUCER_KAFKA__BOOTSTRAP_SERVERS=kafka:9092")
    run = ("docker", "run", "--rm", *HARDENED)
    assert "exactly once" in said(*run, built.image, "--help")
    assert "https://acme.zendesk.com" in said(*run, *settings, *server, built.image, "config", "show")
    look = "id -u; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status; touch /app/it /tmp/it 2>/dev/null || echo no"
    user, *rights, written = said(*run, "--entrypoint", "sh", built.image, "-c", look).splitlines()
    assert (user, written) == ("10001", "no")
    assert {tuple(line.split()) for line in rights} == {
        ("CapEff:", "0" * 16),
        ("CapBnd:", "0" * 16),
        ("NoNewPrivs:", "1"),
    }
    assert inspect(built.image)["Config"]["StopSignal"] == "SIGTERM"


def test_the_image_holds_no_compiler_and_no_pip(built: Project) -> None:
    look = (
        "for it in cc gcc g++ clang ld make pip pip3; do command -v $it; done; find / -xdev -name pip -type d; "
        'for it in python "$(readlink -f "$(command -v python)")"; do "$it" -m pip; "$it" -m ensurepip; done'
    )
    found = ended("docker", "run", "--rm", "--user", "0", "--entrypoint", "sh", built.image, "-c", look)
    assert found.stdout == ""
    assert found.stderr.count("No module named pip") == found.stderr.count("No module named ensurepip") == 2


def test_a_container_killed_again_and_again_in_mid_backfill_loses_and_repeats_nothing(project: Project) -> None:
    dice = random.Random(KILLS)
    project.configure("right", **BACKFILL)
    project.compose("up", "--detach", "kafka", "zendesk")
    settings = ("--env-file", str(project.folder / ".env"), "--env", "PRODUCER_ZENDESK__CLIENT_SECRET=right")
    service = ("--network", f"{project.name}_default", *settings, project.image)
    with started(*HARDENED, *service) as container:

        def committed() -> int:
            return max((event["seq"] for event in told(container, "page committed")), default=0)

        for _ in range(KILLS):
            enough = committed() + dice.randint(1, 3)
            until(lambda: committed() >= enough, container, 60)  # noqa: B023  # the loop waits for it
            time.sleep(dice.uniform(0, 0.2))
            said("docker", "kill", container)
            assert state(container) == ("exited", 0, 137)
            said("docker", "start", container)
        assert not told(container, "caught up")
        until(lambda: bool(told(container, "caught up")), container, 120)
        assert len(told(container, "started")) == KILLS + 1
        assert within_ten_seconds(container) == ("exited", 0, 0)
        assert within_ten_seconds(container) == ("exited", 0, 0)
    verdict = json.loads(said("docker", "run", "--rm", *HARDENED, "--tmpfs", "/tmp", *service, "verify", "--json"))
    assert verdict["clean"]


# The compose file


def test_the_demo_starts_what_it_needs_and_ends_with_the_verdict(project: Project) -> None:
    demo = project.run("demo")
    assert demo.returncode == 0, demo.stdout[-3000:] + demo.stderr[-3000:]
    assert "it survived 4 kills" in demo.stdout
    assert demo.stdout.splitlines()[-1] == "verdict: clean"
    assert project.compose("ps", "--all", "--services") == "kafka"


def test_the_service_takes_its_settings_from_the_env_file_and_a_secret_file(project: Project) -> None:
    project.configure("right", ZENDESK__SUBDOMAIN="example")
    shown = project.run("--no-deps", "producer", "config", "show").stdout.splitlines()
    rows = [line.split(maxsplit=2) for line in shown]
    found = {row[0]: tuple(row[1:]) for row in rows}
    variable = "environment variable PRODUCER_"
    assert found["zendesk.subdomain"] == ("example", f"{variable}ZENDESK__SUBDOMAIN")
    assert found["kafka.bootstrap_servers"] == ("kafka:9092", f"{variable}KAFKA__BOOTSTRAP_SERVERS")
    assert found["zendesk.client_secret"] == ("**********", "secret file /run/secrets/zendesk__client_secret")
    assert found["zendesk.poll_interval"][1].startswith("config/producer.yaml:")


def test_a_secret_file_that_the_service_may_not_read_is_named_with_the_way_out(project: Project) -> None:
    project.configure("right")
    project.secret.chmod(0o600)
    refused = project.run("--no-deps", "producer", "config", "show")
    assert refused.returncode == 78
    assert "zendesk__client_secret): cannot be read by user id 10001" in refused.stderr
    assert "chown it to 10001 or chmod it to 644" in refused.stderr


def test_a_service_started_first_waits_for_kafka_and_for_zendesk_and_then_works(project: Project) -> None:
    project.configure("right", **BACKFILL)
    project.compose("up", "--detach", "producer")
    producer = project.container("producer")
    until(lambda: len(told(producer, "session failed, will try again")) > 1, producer, 60)
    project.compose("up", "--detach", "kafka")
    until(lambda: len(told(producer, "request failed, will try again")) > 1, producer, 60)
    until(lambda: inspect(producer)["State"]["Health"]["Status"] == "healthy", producer, 30)
    project.compose("up", "--detach", "zendesk")
    until(lambda: len(told(producer, "page committed")) > 2, producer, 60)
    assert within_ten_seconds(producer) == ("exited", 0, 0)
    assert told(producer, "stopped")[-1]["seq"] > 2
    assert not told(producer, "caught up")
    host = inspect(producer)["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"]) == (True, ["ALL"])
    assert host["SecurityOpt"] == ["no-new-privileges:true"]


def test_wrong_settings_end_the_service_after_a_few_tries(project: Project) -> None:
    project.configure("right", ZENDESK__SUBDOMAIN="https://acme.zendesk.com")
    project.compose("up", "--detach", "producer")
    producer = project.container("producer")
    until(lambda: state(producer) == ("exited", RESTARTS, 78), producer, 60)
    assert ended("docker", "logs", producer).stderr.count('try "acme"') == RESTARTS + 1


def test_refused_credentials_end_the_service_after_a_few_tries(project: Project) -> None:
    project.configure("wrong", **BACKFILL)
    project.compose("up", "--detach", "kafka", "zendesk", "producer")
    producer = project.container("producer")
    until(lambda: state(producer) == ("exited", RESTARTS, 77), producer, 120)
    assert len(told(producer, "stopped")) == RESTARTS + 1
    assert project.requests() == []  # for want of a token; one is asked for once a try (tests/test_sign_in.py)


# The sandbox broker without Java


@pytest.fixture
def docker_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with Docker and without Java."""
    for program in ("docker", "sh", "cat", "rm", "sleep"):
        found = shutil.which(program)
        assert found
        (tmp_path / program).symlink_to(found)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)


def left_of(cluster_id: str) -> list[str]:
    """The containers of a sandbox cluster, running or not."""
    names = said("docker", "ps", "--all", "--format", "{{.Names}}").splitlines()
    return [name for name in names if cluster_id in name]


def id_of(data_dir: Path) -> str:
    """The id of the cluster whose data is there."""
    return str(json.loads((data_dir / "cluster.json").read_text())["cluster_id"])


@pytest.mark.usefixtures("docker_only")
async def test_without_java_the_broker_is_a_container_that_can_be_killed_frozen_and_started_again() -> None:
    assert check_prerequisites() == "Docker image apache/kafka:4.2.2"
    cluster = Cluster()
    await asyncio.to_thread(cluster.start)
    try:
        servers, data_dir, cluster_id = cluster.bootstrap_servers, cluster.data_dir, id_of(cluster.data_dir)
        port = int(servers.rpartition(":")[2])
        assert left_of(cluster_id) == [f"zendesk-producer-{cluster_id}-0"]
        await create_topic(servers, "survivor")
        await publish(servers, "survivor", b"1")
        await asyncio.to_thread(cluster.kill)
        assert not left_of(cluster_id)
        await asyncio.to_thread(cluster.restart)
        cluster.freeze()
        assert cluster.running
        assert not speaks(port, tls=False)
        await asyncio.to_thread(cluster.thaw)
        assert speaks(port, tls=False)
        await publish(servers, "survivor", b"2")
        await asyncio.to_thread(cluster.restart)
        assert await read(servers, "survivor", 2) == [b"1", b"2"]
    finally:
        await asyncio.to_thread(cluster.stop)
    assert not left_of(cluster_id)
    assert not data_dir.exists()


@pytest.mark.usefixtures("docker_only")
def test_without_java_nothing_is_left_behind_when_the_parent_is_killed() -> None:
    program = (
        "import time; from producer.sandbox.broker import Cluster; c = Cluster(); c.start();"
        "print(c.data_dir, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout
            data_dir = Path(parent.stdout.readline().strip())
            cluster_id = id_of(data_dir)
            assert len(left_of(cluster_id)) == 1
        finally:
            parent.kill()
    wait_for(lambda: not left_of(cluster_id) and not data_dir.exists())


@pytest.mark.usefixtures("docker_only")
def test_without_java_the_demo_ends_with_the_same_verdict() -> None:
    demo = ended(sys.executable, "-m", "producer", "demo", "--tickets", "5000", timeout=200, folder=REPOSITORY)
    assert demo.returncode == 0, demo.stdout[-3000:] + demo.stderr[-3000:]
    assert demo.stdout.splitlines()[-1] == "verdict: clean"
