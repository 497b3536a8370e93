"""The demo's story: boot the parts, kill the service again and again while the account lives, then judge the topic."""

from __future__ import annotations

import asyncio
import random
import secrets
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from producer.dates import utc
from producer.kafka.checkpoints import open_reader
from producer.kafka.connection import client_options
from producer.kafka.reading import open_topic
from producer.sandbox.broker import Cluster, check_prerequisites, provision
from producer.sandbox.demo.display import Display, State, display
from producer.sandbox.demo.processes import DemoFailed, Process, told
from producer.settings import Settings, TopicsSettings, load_settings
from producer.verify import Verdict, verify
from producer.verify.report import plain
from producer.verify.verification import PATIENCE

KILLS_AFTER_PAGES = (4, 11, 19, 27)
"""Pages of the backfill after which the service is killed, each at a random moment of the pages that follow."""

_CATCH_UP = 90.0
_SAMPLES = 3


@dataclass(frozen=True)
class Demo:
    """What is played: an account of so many `tickets`, with a clock `speed` times as fast as a real one."""

    tickets: int = 20_000
    speed: int = 60
    page_size: int = 500
    seed: int = 1
    keep: bool = False
    kafka: str | None = None
    """Bootstrap servers of a broker that runs already; None boots one."""


async def play(demo: Demo) -> Verdict:
    """Play it; answers the verdict on what is in the topic. Whatever was started has ended when this returns or raises.

    Raises:
        MissingPrerequisite: neither Java with Maven nor Docker, said before anything is downloaded or started.
        DemoFailed: a part did not do what it had to.
    """
    if demo.kafka is None:
        check_prerequisites()
    show = display()
    try:
        async with parts(demo, show) as (settings, service, zendesk):
            state = await backfill_under_fire(demo, settings, service, zendesk, show)
            await service.stop()
            show.say(
                f"The service has caught up at {state.position}; it survived {state.kills} kills. Now the verdict."
            )
            verdict = await verify(settings, truth=f"{zendesk}/simulator/truth", work_dir=None, say=lambda text: None)
            show.close()
            await print_samples(settings)
            if demo.keep:
                await stay(settings, service, zendesk, verdict)
            return verdict
    finally:
        show.close()


@asynccontextmanager
async def parts(demo: Demo, show: Display) -> AsyncIterator[tuple[Settings, Process, str]]:
    """A real Kafka, the pretend Zendesk, and the service between them, which is not yet started."""
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="zendesk-producer-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        kafka = demo.kafka or await boot(stack, show)
        ready = folder / "zendesk"
        simulator = Process(
            "the pretend Zendesk",
            [
                "simulate",
                f"--tickets={demo.tickets}",
                f"--seed={demo.seed}",
                f"--speed={demo.speed}",
                "--port=0",
                f"--ready-file={ready}",
            ],
            folder / "zendesk.log",
        )
        stack.push_async_callback(simulator.stop)
        await simulator.start()
        while not ready.exists():
            simulator.must_run()
            await asyncio.sleep(0.02)
        zendesk = ready.read_text().strip()
        per_minute = 10 * demo.speed
        show.say(
            f"A pretend Zendesk with {demo.tickets:,} tickets listens on {zendesk}. Its clock runs {demo.speed} times as fast as "
            f"ours,\nso {per_minute} requests a minute are allowed; a real account gives 10."
        )
        # A little under the limit: both clocks count whole minutes, and a request at the edge belongs to either.
        chosen = {
            "zendesk.subdomain": "acme",
            "zendesk.base_url": zendesk,
            "zendesk.access_token": "demo",
            "zendesk.start_time": "0",
            "zendesk.requests_per_minute": f"{per_minute * 0.95:g}",
            "zendesk.page_size": str(demo.page_size),
            "zendesk.poll_interval": "0.5",
            "kafka.bootstrap_servers": kafka,
            **({} if demo.kafka is None else own_topics()),
            "http.enabled": "false",
            "log.format": "json",
        }
        settings = load_settings(Path("/dev/null"), [f"{name}={value}" for name, value in chosen.items()])
        environment = {f"PRODUCER_{name.replace('.', '__').upper()}": value for name, value in chosen.items()}
        service = Process("the service", ["run"], folder / "service.log", environment)
        stack.push_async_callback(service.stop)
        yield settings, service, zendesk


async def boot(stack: AsyncExitStack, show: Display) -> str:
    """A Kafka of our own, until the stack unwinds; answers its bootstrap servers."""
    began = time.monotonic()
    found = await asyncio.to_thread(provision, show.say)
    cluster = Cluster(provision=found, say=show.say)
    stack.push_async_callback(asyncio.to_thread, cluster.stop)
    await asyncio.to_thread(cluster.start)
    show.say(f"A real Apache Kafka listens on {cluster.bootstrap_servers} ({time.monotonic() - began:.1f} s).")
    return cluster.bootstrap_servers


def own_topics() -> dict[str, str]:
    """Topics of this play alone: a broker that runs already may have seen others."""
    prefix = f"demo-{secrets.token_hex(4)}"
    return {
        f"topics.{name}": f"{prefix}.{name.replace('_', '-')}" for name in ("tickets", "checkpoints", "dead_letters")
    }


async def backfill_under_fire(demo: Demo, settings: Settings, service: Process, zendesk: str, show: Display) -> State:
    """Run the service, kill it and start it again while tickets change, and wait until it has caught up with all of it."""
    dice = random.Random(demo.seed)
    state = State(expected=demo.tickets)
    caught_up_at = ""
    moved = asyncio.Event()

    def follow(line: bytes) -> None:
        nonlocal caught_up_at
        event = told(line)
        match event.get("message"):
            case "page committed":
                state.page, state.position = event["seq"], event["position"]
                state.tickets += event["records"]
                caught_up_at = ""
                moved.set()
            case "caught up":
                caught_up_at = event["position"]
                moved.set()
        show.show(state)

    async with aiohttp.ClientSession() as http:
        await service.start(follow)
        for page in KILLS_AFTER_PAGES:
            while state.page < page:
                await _next(moved, service)
                await _change(http, zendesk, state, update=4, create=1)
            await asyncio.sleep(dice.uniform(0, 0.2))
            await service.kill()
            state.kills += 1
            show.say(f"SIGKILL number {state.kills} after page {state.page}; starting again.")
            await _change(http, zendesk, state, update=25, create=5, delete=3, system_update=2)
            await service.start(follow)
        while not caught_up_at:
            await _next(moved, service)
        await _change(http, zendesk, state, update=40, create=10, delete=5, system_update=5)
        last = await _last_change(http, zendesk)
        show.say(
            f"Caught up at {state.position}. {state.changes} tickets have changed meanwhile; waiting for the last of them."
        )
        while state.position < last:
            await _next(moved, service)
    return state


async def _next(moved: asyncio.Event, service: Process) -> None:
    moved.clear()
    deadline = time.monotonic() + _CATCH_UP
    while not moved.is_set():
        service.must_run()
        if time.monotonic() > deadline:
            raise DemoFailed(f"the service has not moved for {_CATCH_UP:g} s; its log is {service.log}")
        try:
            async with asyncio.timeout(0.5):
                await moved.wait()
        except TimeoutError:
            continue


async def _change(http: aiohttp.ClientSession, zendesk: str, state: State, **kinds: int) -> None:
    async with http.post(f"{zendesk}/simulator/changes", json=kinds) as response:
        response.raise_for_status()
        state.changes += sum(len(ids) for ids in (await response.json()).values())


async def _last_change(http: aiohttp.ClientSession, zendesk: str) -> str:
    """The date of the newest stamp in the account, as the service writes positions."""
    newest = 0
    async with http.get(f"{zendesk}/simulator/truth", params={"current": "true"}) as response:
        async for line in response.content:
            newest = max(newest, int(told(line)["generated_timestamp"]))
    return utc(newest)


async def print_samples(settings: Settings) -> None:
    """A few of the messages as any consumer gets them, key and headers included."""
    options = client_options(settings.kafka)
    samples: list[Any] = []
    async with open_reader(options, settings.topics.checkpoints) as reader:
        (end,) = await reader.high_watermarks(settings.topics.tickets, 1)
    async with open_topic(options, settings.topics.tickets) as topic:
        await topic.read({0: (0, min(end, _SAMPLES))}, lambda partition, records: samples.extend(records), PATIENCE)
    print("\nSome of the messages:")
    for record in samples:
        print("\n".join(_sample(record)))


def _sample(record: Any) -> Iterable[str]:
    yield f"\n  topic {record.topic}  partition {record.partition}  offset {record.offset}  key {record.key.decode()}"
    for name, value in record.headers:
        yield f"    {name}: {value.decode()}"
    yield "    " + (
        "(tombstone)" if record.value is None else ascii(record.value[:110].decode(errors="replace")) + " …"
    )


async def stay(settings: Settings, service: Process, zendesk: str, verdict: Verdict) -> None:
    """Leave everything running until Ctrl-C, and say how to look around."""
    await service.start()
    servers = ",".join(settings.kafka.bootstrap_servers)
    chosen = {
        "zendesk.subdomain": "acme",
        "zendesk.access_token": "demo",
        "zendesk.base_url": zendesk,
        "kafka.bootstrap_servers": servers,
        **{f"topics.{name}": topic for name, topic in settings.topics if topic != getattr(TopicsSettings(), name)},
    }
    words = " \\\n    ".join(f"--set {name}={value}" for name, value in chosen.items())
    print(
        f"\n{plain(verdict)}\n\nEverything goes on running until Ctrl-C. To look around:\n\n"
        f"  kcat -b {servers} -C -t {settings.topics.tickets} -o -3 -e -f '%k %h\\n%s\\n'\n"
        f"  curl {zendesk}/simulator                # the pretend Zendesk; /simulator/truth is what it has\n"
        f"  curl -X POST {zendesk}/simulator/changes -d '{{\"update\": 5}}'\n"
        f"  tail -f {service.log}\n"
        f"  {shlex.quote(sys.executable)} -m producer \\\n    {words} \\\n    verify\n",
        flush=True,
    )
    await asyncio.Event().wait()
