"""What every benchmark puts together: a far end in a process of its own, and the settings that join it to a broker."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web


def environment(servers: str, url: str, start_time: int, topics: str | None = None, **zendesk: str) -> dict[str, str]:
    """As in production (an endpoint, a log in JSON), but without a limit on requests.

    `topics` tells those of several runs on one broker apart; `zendesk` are more settings of that group.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PRODUCER_")}
    names = {} if topics is None else {name: f"{name}.{topics}" for name in ("tickets", "checkpoints", "dead_letters")}
    return {
        **inherited,
        "PRODUCER_CONFIG": os.devnull,
        "PRODUCER_ZENDESK__SUBDOMAIN": "acme",
        "PRODUCER_ZENDESK__BASE_URL": url,
        "PRODUCER_ZENDESK__ACCESS_TOKEN": "example",
        "PRODUCER_ZENDESK__START_TIME": f"{start_time}",
        "PRODUCER_ZENDESK__REQUESTS_PER_MINUTE": "60000",
        "PRODUCER_KAFKA__BOOTSTRAP_SERVERS": servers,
        "PRODUCER_HTTP__PORT": "0",
        **{f"PRODUCER_TOPICS__{name.upper()}": topic for name, topic in names.items()},
        **{f"PRODUCER_ZENDESK__{name.upper()}": value for name, value in zendesk.items()},
    }


@contextmanager
def serving(module: str, *arguments: str) -> Iterator[str]:
    """`python -m module arguments`, which prints its base URL, while inside; gives that URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the benchmark, which then ends its parts
    )
    with process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError(f"{module} has ended before it listened")
            yield url
        finally:
            process.kill()


async def until_input_ends(url: str) -> None:
    """Say where a far end listens, and stay as long as whoever started it does."""
    print(url, flush=True)
    await asyncio.to_thread(sys.stdin.read)


async def serve(application: web.Application) -> None:
    """Serve it on a free port of 127.0.0.1 until standard input ends."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        await until_input_ends(f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()
