"""Runs a service for every stream of every account, side by side: what happens to one disturbs no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from producer.errors import Final, ProducerError, Unavailable
from producer.events import Observer
from producer.service import run
from producer.settings import Settings
from producer.stop import Stop
from producer.streams import STREAMS, Stream
from producer.zendesk.source import open_account

Watch = Callable[[Settings, Stream], Observer]
"""Answers whom a service tells what happens."""


async def run_all(
    accounts: Sequence[Settings],
    stop: Stop,
    watch: Watch,
    *,
    instance: str,
    once: bool = False,
    give_up_after: float | None = None,
) -> None:
    """Run all services until each has ended, by itself, by `stop`, or by an error; one that has ended by an error has told it.

    Raises:
        Final, Unavailable: of the first service that ended so, once all have ended.
        Misconfigured: as from `open_account`; then none was run.
    """
    async with AsyncExitStack() as around:
        names, running = [], []
        for settings in accounts:
            streams = [STREAMS[name] for name in settings.zendesk.streams]
            observers = [watch(settings, stream) for stream in streams]
            account = await around.enter_async_context(open_account(settings, stop, observers[0]))
            for stream, tell in zip(streams, observers, strict=True):
                names.append(f"{settings.zendesk.subdomain}/{stream.name}")
                running.append(
                    run(
                        settings,
                        stop,
                        tell,
                        instance=instance,
                        once=once,
                        give_up_after=give_up_after,
                        stream=stream,
                        account=account,
                    )
                )
        outcomes = await asyncio.gather(*running, return_exceptions=True)
    failed = [(name, error) for name, error in zip(names, outcomes, strict=True) if error is not None]
    if not failed:
        return
    # A bug is worth more than what only a person can mend, and that more than what may pass.
    name, error = min(failed, key=lambda each: (isinstance(each[1], ProducerError), not isinstance(each[1], Final)))
    if len(names) == 1 or not isinstance(error, Final | Unavailable):
        raise error
    raise type(error)(f"{name}: {error}", hint=error.hint) from None
