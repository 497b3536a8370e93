"""`zendesk-producer run`: the service and what stands around it, wired together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from producer.events import Observer
    from producer.settings import Settings
    from producer.stop import Stop

GRACE = 9.0
"""Seconds that the service has to come to an end when asked to. Docker's `stop` kills after ten."""


def run(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="End when caught up and committed.")] = False,
    give_up_after: Annotated[
        float,
        typer.Option(
            min=1, metavar="SECONDS", help="With --once: end with exit code 69 after so long without progress."
        ),
    ] = 300,
) -> None:
    """Run the service until SIGTERM or SIGINT.

    It publishes every ticket version from the checkpoint on, and waits for an API or a broker that is away. With a list of
    accounts it does so for each of them, or for those named with --account; one that fails does not disturb the others.
    """
    import asyncio  # a quarter of the time that `--help` may take

    asyncio.run(_main(context.obj.all(), once=once, give_up_after=give_up_after if once else None))


async def _main(accounts: Sequence[Settings], *, once: bool, give_up_after: float | None) -> None:
    import gc
    import os
    import secrets
    import socket
    from contextlib import AsyncExitStack

    from producer.observers import fan_out
    from producer.observers.board import Board
    from producer.observers.http import serve
    from producer.observers.log import configure
    from producer.observers.memory import Memory, trim
    from producer.services import run_all
    from producer.stop import Stop, on_signals

    stop, board, memory = Stop(), Board(), Memory(trim)
    watched: dict[tuple[str, str], Observer] = {
        (settings.zendesk.subdomain, stream): fan_out(board.watch(settings, stream), memory)
        for settings in accounts
        for stream in settings.zendesk.streams
    }
    # What is imported stays for ever, as do the series of each service: the collector, which every page sets going, need
    # not walk through it each time (measured: a twelfth of the CPU per ticket, docs/performance.md).
    gc.collect()
    gc.freeze()
    configure(*accounts)
    instance = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
    async with AsyncExitStack() as around:
        around.enter_context(on_signals(stop))
        if (http := accounts[0].http).enabled:  # the same for all
            await around.enter_async_context(serve(http, board))
        await until_stopped(
            lambda: run_all(
                accounts,
                stop,
                lambda settings, stream: watched[settings.zendesk.subdomain, stream.name],
                instance=instance,
                once=once,
                give_up_after=give_up_after,
            ),
            stop,
            board.tell,
        )


async def until_stopped(
    service: Callable[[], Awaitable[None]], stop: Stop, tell: Observer, grace: float = GRACE
) -> None:
    """Run the service to its end, which it reaches by itself, by `stop`, or by force `grace` seconds after `stop`.

    A service that is cancelled tells its position as it goes. One that does not even go then is left behind with the
    whole process: its open transaction is aborted by the broker or by the next instance.

    Raises:
        Whatever the service raised.
    """
    import asyncio
    import os

    from producer.events import Noticed

    running, asked = asyncio.ensure_future(service()), asyncio.ensure_future(stop.wait())
    await asyncio.wait({running, asked}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    await asyncio.wait({running}, timeout=grace)
    if not running.done():
        tell(Noticed("abandoned", f"the page in hand is abandoned: not done {grace:g} s after the request to stop"))
        running.cancel()
        await asyncio.wait({running}, timeout=1)
        if not running.done():
            os._exit(0)
    if not running.cancelled():
        running.result()
