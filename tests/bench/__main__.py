"""Boots Kafka, builds pages and serves them, lets service and yardstick take turns, and prints what they cost.

Exit code 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import compileall
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import producer
from producer.sandbox.broker import Cluster, provision
from tests.bench.figures import figures, table
from tests.bench.lab import Lab
from tests.bench.pages import PAGES, TICKETS, serving

ROUND_PAGES = 30


def main() -> int:
    """All of it. Answers the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often service and yardstick take turns (default: 5)")
    wanted: int = parser.parse_args().rounds
    if wanted < 1:
        parser.error("--rounds: at least 1")
    compileall.compile_dir(Path(producer.__file__).parent, quiet=1)  # as it is where it is installed
    kafka = provision()
    say(f"Building {PAGES} pages of {TICKETS:,} tickets.")
    with serving() as url, Cluster(provision=kafka) as cluster:
        lab = Lab(cluster.bootstrap_servers, url)
        helps = [lab.help() for _ in range(2 * wanted + 1)]
        rounds = []
        for number in range(wanted):
            say(f"Round {number + 1} of {wanted}: service and yardstick, 1 page and {ROUND_PAGES}.")
            rounds.append(lab.round(number, ROUND_PAGES))
        say(f"The service, {PAGES} pages.")
        long = lab.run("service", PAGES)
    lines = figures(rounds, long, PAGES, helps)
    parts = kafka.description, f"Python {platform.python_version()}", f"aiokafka {version('aiokafka')}"
    print(f"{time.strftime('%Y-%m-%d')}: {', '.join(parts)}; {wanted} rounds\n")
    print(table(lines))
    return 0 if all(line.met for line in lines) else 1


def say(text: str) -> None:
    """To whoever waits."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
