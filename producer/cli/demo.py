"""`zendesk-producer demo`: the main job on real parts, verifying itself."""

from __future__ import annotations

from typing import Annotated

import typer


def demo(
    tickets: Annotated[int, typer.Option(min=5_000, help="Tickets of the pretend account.")] = 20_000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same account and the same kills.")] = 1,
    kafka: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="A broker to use instead of booting one; the demo gets topics of its own."
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running until Ctrl-C.")] = False,
) -> None:
    """Publish a pretend account to a real Kafka while being killed again and again, and judge the topic at the end.

    Exit code 0 only if nothing is missing, duplicated, out of order or altered.
    """
    import asyncio
    import signal
    import sys

    from producer.errors import EXIT_UNAVAILABLE
    from producer.sandbox.broker import BrokerError, MissingPrerequisite
    from producer.sandbox.demo import Demo, play
    from producer.sandbox.demo.processes import DemoFailed
    from producer.verify.report import plain, show

    async def until_told() -> int:
        playing = asyncio.ensure_future(play(Demo(tickets=tickets, seed=seed, keep=keep, kafka=kafka)))
        loop, told = asyncio.get_running_loop(), asyncio.Event()

        def end() -> None:
            told.set()
            playing.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, end)
        try:
            verdict = await playing
        except asyncio.CancelledError:
            if not told.is_set():
                raise
            typer.echo("\nended; nothing is left running")
            return 0 if keep else 130
        print()
        if sys.stdout.isatty():
            show(verdict)
        else:
            typer.echo(plain(verdict))
        return 0 if verdict.clean else 1

    try:
        raise typer.Exit(asyncio.run(until_told()))
    except (MissingPrerequisite, BrokerError, DemoFailed, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_UNAVAILABLE) from None
