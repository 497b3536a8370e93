"""What a broker can be run with on this machine: Java with jars that Maven fetched once, or else Docker."""

import contextlib
import fcntl
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from producer.sandbox.broker.docker import DockerImage, engine_problem
from producer.sandbox.broker.errors import BrokerError, MissingPrerequisite

KAFKA_VERSION = "4.2.2"
_JAVA_AT_LEAST = 17
_POM = Path(__file__).parent / "pom.xml"
_DEPENDENCY_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:2.8:copy-dependencies"


class Provision(Protocol):
    """A way to run Kafka's Java programs, given as the command line that starts them."""

    @property
    def description(self) -> str: ...

    def command(self, name: str, data_dir: Path, options: list[str], program: list[str]) -> list[str]:
        """The command for Java `options` and `program` (main class, arguments) as process `name`.

        The program sees `data_dir` under the same path and listens on this machine's loopback.
        """
        ...

    def send(self, name: str, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        """Delivers a signal to the Java process itself; after SIGSTOP it has stopped."""
        ...

    def reaper(self, names: list[str], data_dir: Path) -> str:
        """Shell commands that end the nodes `names` after their parent died; `node-*/pid` in the data folder helps."""
        ...


@dataclass(frozen=True)
class LocalJava:
    """Java on this machine with Kafka's jars; `archive` holds the classes ready to map (AppCDS), for a quicker start."""

    java: Path
    version: str
    jars: tuple[Path, ...]
    archive: Path

    @property
    def description(self) -> str:
        return f"Apache Kafka {KAFKA_VERSION} on Java {self.version}"

    def command(self, name: str, data_dir: Path, options: list[str], program: list[str]) -> list[str]:
        # An archive is only valid for the class path it was made with, so the path is spelled out and sorted.
        mapped = [f"-XX:SharedArchiveFile={self.archive}"] if self.archive.exists() else []
        return [str(self.java), *mapped, *options, "-cp", os.pathsep.join(map(str, self.jars)), *program]

    def send(self, name: str, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        process.send_signal(number)
        if number is signal.SIGSTOP and hasattr(os, "waitid"):  # macOS has it from Python 3.13
            # Its threads run on until the system has stopped the last of them. WNOWAIT leaves the news to `process`.
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def reaper(self, names: list[str], data_dir: Path) -> str:
        files = f"{shlex.quote(str(data_dir))}/node-*/pid"
        return f'for file in {files}; do [ -f "$file" ] && kill -9 "$(cat "$file")"; rm -f "$file"; done'


def check_prerequisites() -> str:
    """What `provision` would use, in words. Downloads and starts nothing.

    Raises MissingPrerequisite.
    """
    found = _find()
    return found.description if isinstance(found, DockerImage) else f"Apache Kafka {KAFKA_VERSION} on Java {found[1]}"


def say_to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def provision(say: Callable[[str], None] = say_to_stderr) -> Provision:
    """Finds Java and Kafka's jars, fetching the jars on first use (44 MB, told through `say`), or else Docker.

    Several processes may call this at once: one fetches, the others wait for it.

    Raises MissingPrerequisite, or BrokerError with Maven's own words when the download fails.
    """
    found = _find()
    if isinstance(found, DockerImage):
        return found
    java, version = found
    home = cache_dir() / f"kafka-{KAFKA_VERSION}"
    libs = home / "libs"
    if not libs.exists():
        with _lock(home):
            if not libs.exists():
                say(f"Fetching Apache Kafka {KAFKA_VERSION} with Maven into {libs} (44 MB, once)")
                _fetch(libs)
    fingerprint = hashlib.sha256(f"{java.resolve()} {version}".encode()).hexdigest()[:12]
    local = LocalJava(java, version, tuple(sorted(libs.glob("*.jar"))), home / f"classes-{fingerprint}.jsa")
    if not local.archive.exists():
        with _lock(home):
            if not local.archive.exists():
                _train(local, say)
    return local


def cache_dir() -> Path:
    """Where downloads are kept: `$ZENDESK_PRODUCER_CACHE`, `$XDG_CACHE_HOME/zendesk-producer` or `~/.cache/zendesk-producer`."""
    if own := os.environ.get("ZENDESK_PRODUCER_CACHE"):
        return Path(own).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "zendesk-producer"


def _find() -> tuple[Path, str] | DockerImage:
    """Java (executable, version) or Docker; raises MissingPrerequisite."""
    java, problems = _find_java()
    if java:
        return java
    problem = engine_problem()
    if problem is None:
        return DockerImage(KAFKA_VERSION)
    raise MissingPrerequisite(
        "a real Kafka needs Java 17+ with Maven, or Docker, and this machine has neither:\n"
        + "".join(f"  - {text}\n" for text in (*problems, problem))
        + "Install one of the two, for example:\n"
        "  - Debian, Ubuntu: apt install openjdk-17-jre-headless maven\n"
        "  - macOS: brew install --cask temurin && brew install maven\n"
        "  - or Docker: https://docs.docker.com/get-docker/"
    )


def _find_java() -> tuple[tuple[Path, str] | None, list[str]]:
    """The first Java that is new enough, as (executable, version), or what is missing."""
    found = [Path(home) / "bin" / "java"] if (home := os.environ.get("JAVA_HOME")) else []
    if on_path := shutil.which("java"):
        found.append(Path(on_path))
    problems = []
    for java in found:
        try:
            answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)
        except OSError as error:
            problems.append(f"Java: {java} does not run ({error.strerror})")
            continue
        version = re.search(r'version "([^"]+)"', answer.stderr)
        # "17.0.15", "25", and "1.8.0_402" for Java 8; macOS has a `java` that only says that there is none.
        major = re.match(r"(?:1\.)?(\d+)", version[1]) if version else None
        if not version or not major:
            problems.append(f"Java: {java} does not tell its version")
        elif int(major[1]) < _JAVA_AT_LEAST:
            problems.append(f"Java: {java} is version {version[1]}, {_JAVA_AT_LEAST} or newer is needed")
        elif not (cache_dir() / f"kafka-{KAFKA_VERSION}" / "libs").exists() and not shutil.which("mvn"):
            problems.append("Maven: there is no `mvn` on the PATH, and Kafka's jars are not in the cache yet")
        else:
            return (java, version[1]), []
    return None, problems or ["Java: there is no `java` on the PATH, and JAVA_HOME is not set"]


@contextlib.contextmanager
def _lock(home: Path) -> Iterator[None]:
    """One process at a time. The operating system drops the lock with the process, so a crash leaves nothing to clean."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(libs: Path) -> None:
    """Maven into a folder beside, then a rename: `libs` is complete as soon as it exists."""
    partial = libs.with_name("libs.partial")
    shutil.rmtree(partial, ignore_errors=True)
    command = ["mvn", "-q", "-B", "-C", "-f", str(_POM), _DEPENDENCY_PLUGIN]  # -C: a wrong checksum is an error
    arguments = ["-DincludeScope=runtime", f"-DoutputDirectory={partial}"]
    maven = subprocess.run(
        [*command, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if maven.returncode != 0:
        said = "\n".join((maven.stdout + maven.stderr).strip().splitlines()[-15:])
        raise BrokerError(f"Maven could not fetch Apache Kafka {KAFKA_VERSION} (is its repository reachable?):\n{said}")
    partial.rename(libs)


def _train(local: LocalJava, say: Callable[[str], None]) -> None:
    """Runs a broker once and keeps the classes it loaded: every later start takes half the time.

    A JVM that cannot do this costs us the speed only.
    """
    from producer.sandbox.broker.cluster import Cluster  # here, because the training run is itself a cluster

    say("Preparing a quick start of the broker (once)")
    partial = local.archive.with_suffix(".partial")
    try:
        with Cluster(provision=local, java_options=[f"-XX:ArchiveClassesAtExit={partial}"], stop_seconds=60):
            pass
        partial.rename(local.archive)
    except (BrokerError, OSError) as error:
        say(f"Every start of the broker will take a second longer: {error}")
