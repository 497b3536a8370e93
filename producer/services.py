"""Runs a service for every stream of every account, side by side: what happens to one disturbs no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from producer.errors import Final, ProducerError, Unavailable
from producer.events import Observer, Stopped
from producer.service import run
from producer.settings import Settings
from producer.stop import Stop
from producer.streams import STREAMS, Stream
from producer.zendesk.client import Pool, open_pool
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
        Final, Unavailable: what the worst of those that ended so has raised, naming each of them, once all have ended.
    """
    async with open_pool(accounts) as pool:
        outcomes = await asyncio.gather(
            *(
                _run_account(
                    settings,
                    stop,
                    watch,
                    pool,
                    number / len(accounts),
                    instance=instance,
                    once=once,
                    give_up_after=give_up_after,
                )
                for number, settings in enumerate(accounts)
            ),
            return_exceptions=True,
        )
    names: list[str] = []
    errors: list[BaseException | None] = []
    for settings, outcome in zip(accounts, outcomes, strict=True):
        streams = settings.zendesk.streams
        names += [f"{settings.zendesk.subdomain}/{stream}" for stream in streams]
        errors += [outcome] * len(streams) if isinstance(outcome, BaseException) else outcome
    if failed := [(name, error) for name, error in zip(names, errors, strict=True) if error is not None]:
        raise _worst(failed, len(names))


async def _run_account(
    settings: Settings,
    stop: Stop,
    watch: Watch,
    pool: Pool,
    later: float,
    *,
    instance: str,
    once: bool,
    give_up_after: float | None,
) -> list[BaseException | None]:
    """Run the services of an account; answers how each has ended. Raises, and has told it, where none could be run."""
    streams = [STREAMS[name] for name in settings.zendesk.streams]
    observers = [watch(settings, stream) for stream in streams]
    async with AsyncExitStack() as around:
        try:
            account = await around.enter_async_context(
                open_account(settings, stop, observers[0], pool=pool, later=later)
            )
        except Exception as error:
            for tell in observers:
                tell(Stopped(None, error))
            raise
        return await asyncio.gather(
            *(
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
                for stream, tell in zip(streams, observers, strict=True)
            ),
            return_exceptions=True,
        )


def _worst(failed: Sequence[tuple[str, BaseException]], services: int) -> BaseException:
    """What is raised for all that failed. A bug is worth more than what only a person can mend, and that more than what may pass."""
    failed = sorted(failed, key=lambda each: (isinstance(each[1], ProducerError), not isinstance(each[1], Final)))
    name, error = failed[0]
    if services == 1:
        return error
    if not isinstance(error, Final | Unavailable):
        error.add_note(f"this has ended {name}")
        return error
    if len(failed) == 1:
        return type(error)(f"{name}: {error}", hint=error.hint)
    return type(error)(
        f"{len(failed)} of {services} services have failed:"
        + "".join(f"\n  {name}: {error}" for name, error in failed),
        hint=error.hint,
    )
