"""`zendesk-producer demo` as a user runs it: the verdict, and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_broker import wait_for


def play(home: Path, *arguments: str) -> subprocess.Popen[str]:
    """The demo with a temporary folder of its own, by which its processes can be told."""
    return subprocess.Popen(
        [sys.executable, "-m", "producer", "demo", *arguments],
        env={**os.environ, "TMPDIR": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def processes(home: Path) -> list[str]:
    """What the demo has started: all of it inherits its temporary folder."""
    listed = subprocess.run(["ps", "axeww"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if f"TMPDIR={home}" in line]


def nothing_is_left(home: Path) -> bool:
    return not list(home.iterdir()) and not processes(home)


def test_the_demo_survives_its_kills_and_ends_with_a_clean_verdict(tmp_path: Path) -> None:
    process = play(tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert re.search(r"^verdict: clean$", out, re.MULTILINE)
    assert out.count("SIGKILL number") >= 3
    for count in ("missing", "duplicated", "out of order", "altered", "gaps"):
        assert re.search(rf"^{count} +0\b", out, re.MULTILINE), out
    required = re.search(r"^required +([\d,]+)", out, re.MULTILINE)
    assert required is not None
    assert int(required[1].replace(",", "")) > 19_000
    assert out.count("ce_id: ") >= 2
    assert out.count("  key ") >= 2
    wait_for(lambda: nothing_is_left(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_interrupted_leaves_nothing_running(number: signal.Signals, tmp_path: Path) -> None:
    process = play(tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("SIGKILL number 1"):
            break
    assert len(processes(tmp_path)) >= 4  # the demo, Kafka, the pretend Zendesk, the service
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    wait_for(lambda: nothing_is_left(tmp_path))
