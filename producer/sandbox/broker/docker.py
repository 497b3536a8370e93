"""The same broker without Java on the machine: Kafka's programs inside the official image, started by `docker run`."""

import os
import shlex
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path


def engine_problem() -> str | None:
    """Why Docker cannot be used, or None when an engine answers."""
    if not shutil.which("docker"):
        return "Docker: there is no `docker` on the PATH"
    try:
        command = ["docker", "version", "--format", "{{.Server.Version}}"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"Docker: the engine does not answer ({error})"
    return None if answer.returncode == 0 else f"Docker: {(answer.stderr.strip() or 'no answer').splitlines()[-1]}"


@dataclass(frozen=True)
class DockerImage:
    """`apache/kafka:<version>`, of which only Java and the jars are used: configuration and data come from the data folder.

    The image's own start script takes its configuration from KAFKA_* variables; going around it keeps one way to
    configure, format and run a node, with and without Docker. Docker Desktop needs "host networking" switched on.
    """

    version: str

    @property
    def description(self) -> str:
        return f"Docker image apache/kafka:{self.version}"

    def command(self, name: str, data_dir: Path, options: list[str], program: list[str]) -> list[str]:
        # The host's network, because the nodes find each other, and clients find them, under 127.0.0.1:<port>.
        container = ["--rm", "--name", name, "--network", "host", "--user", f"{os.getuid()}:{os.getgid()}"]
        # Not --volume: where the reaper has just removed the folder, that would make it anew.
        mount = ["--mount", f"type=bind,source={data_dir},target={data_dir}", "--workdir", str(data_dir)]
        image = ["--entrypoint", "java", f"apache/kafka:{self.version}"]
        return ["docker", "run", *container, *mount, *image, *options, "-cp", "/opt/kafka/libs/*", *program]

    def send(self, name: str, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        # STOP and CONT as well: coming from outside the container they reach Java like any other process.
        subprocess.run(["docker", "kill", "--signal", number.name, name], capture_output=True, timeout=30, check=False)

    def reaper(self, names: list[str], data_dir: Path) -> str:
        # The clients first, so that none asks for a container any more; twice, because the engine may be making one.
        remove = f"docker rm --force {shlex.join(names)}"
        return f"kill -9 $(cat {shlex.quote(str(data_dir))}/node-*/pid); {remove}; sleep 1; {remove}"
