"""The command line as a process: what it prints, how it ends, and with which exit code."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from producer import __version__
from producer.cli.run import until_stopped
from producer.errors import Refused
from producer.events import Event, Noticed
from producer.stop import Stop

SETTINGS = {
    "PRODUCER_ZENDESK__SUBDOMAIN": "acme",
    "PRODUCER_ZENDESK__EMAIL": "agent@acme.example",
    "PRODUCER_ZENDESK__API_TOKEN": "canary-api",
    "PRODUCER_ZENDESK__START_TIME": "2024-01-01T00:00:00Z",
    "PRODUCER_ZENDESK__PROXY": "http://user:canary-proxy@127.0.0.1:9",
    "PRODUCER_KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT",
    "PRODUCER_KAFKA__SASL_USERNAME": "u",
    "PRODUCER_KAFKA__SASL_PASSWORD": "canary-sasl",
    "PRODUCER_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",  # where nobody listens
}


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PRODUCER_")}
    return {**kept, "PRODUCER_CONFIG": os.devnull, **more}


def command(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run to the end, with settings from the environment alone."""
    return subprocess.run(
        [sys.executable, "-m", "producer", *arguments],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_help_is_quick_and_lists_the_commands() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = command("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    for name in ("run", "health", "config", "dead-letters", "simulate", "broker"):
        assert f"\n  {name} " in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime <= 0.3


def test_the_version_is_the_packages() -> None:
    assert command("--version").stdout == f"zendesk-producer {__version__}\n"


@pytest.mark.parametrize("arguments", [("fly",), ("run", "--twice"), ("config", "show", "extra")])
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    done = command(*arguments, **SETTINGS)
    assert done.returncode == 2
    assert "Usage:" in done.stderr


def test_wrong_settings_exit_with_78_a_hint_and_no_traceback() -> None:
    done = command("--set", "zendesk.pagesize=1", "run", **SETTINGS)
    assert done.returncode == 78
    assert done.stderr.startswith("error: the settings have one problem:\n  zendesk.pagesize (--set): there is no such")
    assert "\nhint: " in done.stderr
    assert done.stdout == ""


def test_it_does_not_run_with_assertions_switched_off() -> None:
    done = command("--version", PYTHONOPTIMIZE="1")
    assert done.returncode == 78
    assert "python -O" in done.stderr


def test_a_bug_shows_a_traceback_and_exits_with_1() -> None:
    # There is none that we know, so one is made.
    script = "import producer.settings, producer.__main__ as m; producer.settings.load_accounts = None; m.main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "config", "show"], env=environment(), capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "TypeError" in done.stderr


def test_the_shown_settings_have_masked_secrets_and_their_origins(tmp_path: Path) -> None:
    (tmp_path / "kafka__ssl_password").write_text("")
    done = command("--set", "http.port=0", "config", "show", PRODUCER_SECRETS_DIR=str(tmp_path), **SETTINGS)
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "zendesk.api_token ********** environment variable PRODUCER_ZENDESK__API_TOKEN" in lines
    assert (
        "zendesk.start_time 2024-01-01T00:00:00Z (1704067200) environment variable PRODUCER_ZENDESK__START_TIME"
        in lines
    )
    assert "zendesk.poll_interval 10 default" in lines
    assert "http.port 0 --set" in lines
    assert "http://user:***@127.0.0.1:9" in done.stdout
    as_json = command("config", "show", "--json", **SETTINGS)
    assert json.loads(as_json.stdout)["kafka.sasl_password"] == {
        "value": "**********",
        "origin": "environment variable PRODUCER_KAFKA__SASL_PASSWORD",
    }
    assert "canary" not in done.stdout + as_json.stdout


def test_the_schema_describes_every_group_and_requires_nothing_of_the_file() -> None:
    schema = json.loads(command("config", "schema").stdout)
    assert set(schema["properties"]) == {"zendesk", "kafka", "topics", "tickets", "http", "log", "accounts"}
    assert "required" not in json.dumps(list(schema))
    for model in schema["$defs"].values():
        assert "required" not in model
        assert all("description" in setting for setting in model["properties"].values())


# --- the service as a process ----------------------------------------------------------------------------------------


@contextmanager
def service(*arguments: str, port: int) -> Iterator[subprocess.Popen[str]]:
    """`run` against a broker that is not there; killed at the end if need be."""
    process = subprocess.Popen(
        [sys.executable, "-m", "producer", "--set", f"http.port={port}", *arguments],
        env=environment(**SETTINGS),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str], message: str) -> dict[str, object]:
    """The first log line with this message."""
    assert process.stdout is not None
    for text in process.stdout:
        line: dict[str, object] = json.loads(text)
        if line["message"] == message:
            return line
    raise AssertionError(f"it ended without saying {message!r}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_service_with_0(number: signal.Signals) -> None:
    with service("run", port=0) as process:
        first_line(process, "session failed, will try again")
        process.send_signal(number)
        out, err = process.communicate(timeout=15)
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["message"] == "stopped"


def test_the_health_check_asks_the_running_service_and_no_secret_gets_out() -> None:
    port = free_port()
    assert command("--set", f"http.port={port}", "health", **SETTINGS).returncode == 1
    with service("--set", "log.level=debug", "run", port=port) as process:
        line = first_line(process, "session failed, will try again")
        assert line["level"] == "warning"
        # A proxy of the environment must not be asked.
        healthy = command("--set", f"http.port={port}", "health", http_proxy="http://127.0.0.1:9", **SETTINGS)
        assert healthy.returncode == 0, healthy.stderr
        assert json.loads(healthy.stdout)["alive"] is True
        seen = ""
        for path, code in (("status", 200), ("metrics", 200), ("readyz", 503)):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", f"/{path}")
            answer = connection.getresponse()
            seen += answer.read().decode()
            connection.close()
            assert (path, answer.status) == (path, code)
        process.terminate()
        out, err = process.communicate(timeout=15)
    assert '"state": "retrying"' in seen
    assert "canary" not in seen + out + err + json.dumps(line)


def test_a_port_in_use_ends_the_service_with_78() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = command("--set", f"http.port={taken.getsockname()[1]}", "run", **SETTINGS)
    assert done.returncode == 78
    assert "http.port" in done.stderr


def test_once_gives_up_with_69() -> None:
    done = command("--set", "http.enabled=false", "run", "--once", "--give-up-after", "1", **SETTINGS)
    assert done.returncode == 69
    assert "error: no progress for 1 s" in done.stderr
    assert "hint: check kafka.bootstrap_servers" in done.stderr
    assert "canary" not in done.stdout + done.stderr


# --- how the end is awaited ------------------------------------------------------------------------------------------


async def test_a_service_that_does_not_end_when_asked_is_cancelled_after_the_grace() -> None:
    told: list[Event] = []
    stop, cancelled = Stop(), asyncio.Event()

    async def stubborn() -> None:
        stop.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    await asyncio.wait_for(until_stopped(stubborn, stop, told.append, grace=0.05), 5)
    assert cancelled.is_set()
    assert [event.kind for event in told if isinstance(event, Noticed)] == ["abandoned"]


async def test_a_service_that_ends_when_asked_is_given_the_time() -> None:
    told: list[Event] = []
    stop, finished = Stop(), asyncio.Event()

    async def orderly() -> None:
        stop.set()
        await asyncio.sleep(0.05)
        finished.set()

    await asyncio.wait_for(until_stopped(orderly, stop, told.append, grace=5), 5)
    assert finished.is_set()
    assert told == []


async def test_what_the_service_raises_is_raised() -> None:
    async def refused() -> None:
        raise Refused("401")

    with pytest.raises(Refused):
        await until_stopped(refused, Stop(), lambda event: None)


def test_a_service_that_not_even_cancelling_ends_is_left_behind() -> None:
    script = """
import asyncio
from producer.cli.run import until_stopped
from producer.stop import Stop

async def immortal(stop):
    stop.set()
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

async def main():
    stop = Stop()
    await until_stopped(lambda: immortal(stop), stop, print, grace=0.05)

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=20, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
