"""`zendesk-producer dead-letters`: the tickets that could not be published, and publishing them after all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from producer.dead_letter_topic import Found
    from producer.settings import Settings

app = typer.Typer(help="Tickets that could not be published.", no_args_is_help=True)

_Share = Annotated[float, typer.Option(min=0.01, help="Share of the export budget that is taken from the service.")]


@app.command("list")
def list_(
    context: typer.Context,
    all_: Annotated[bool, typer.Option("--all", help="Also those that are settled.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per letter.")] = False,
) -> None:
    """List the dead letters that are open, of all streams. Disturbs nobody and writes nothing."""
    from dataclasses import asdict

    import orjson

    found = [letter for letter in _letters(context.obj()) if all_ or not letter.outcome]
    if as_json:
        for letter in found:
            typer.echo(orjson.dumps(asdict(letter)))
        return
    for letter in found:
        typer.echo(_described(letter))
    typer.echo(f"{len(found):,} dead letter{'s'[: len(found) != 1]}{'' if all_ else ' open'}")


@app.command("retry")
def retry_(
    context: typer.Context,
    tickets: Annotated[
        list[int] | None, typer.Argument(metavar="[TICKET]...", help="Ids of the tickets to retry.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="All letters that are open.")] = False,
    requests_per_minute: _Share = 2,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Read the tickets again by the export and publish what can be published now.

    A running service is interrupted for a moment. Exit code 1 when a letter stays open, or a ticket that was named has none.
    """
    import asyncio
    import sys

    if bool(tickets) == all_:
        raise typer.BadParameter("name the tickets to retry, or give --all")
    wanted, settings = set(tickets or ()), context.obj()
    letters = [
        letter
        for letter in _letters(settings)
        if not letter.outcome and (all_ or (letter.source == "tickets" and letter.id in wanted))
    ]
    for letter in letters:
        typer.echo(_described(letter))
    without = sorted(wanted - {letter.id for letter in letters})
    for ticket in without:
        typer.echo(f"ticket {ticket} has no open dead letter")
    if letters and not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("nobody is here to be asked; give --yes to do it all the same")
        if not typer.confirm(f"Retry {len(letters):,}?"):
            raise typer.Exit(1)
    stay = asyncio.run(_retry(settings, letters, requests_per_minute))
    raise typer.Exit(1 if stay or without else 0)


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _letters(settings: Settings) -> list[Found]:
    import asyncio
    import logging

    from producer.dead_letter_topic import dead_letters

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # our own errors say it, once and with the reason
    return asyncio.run(dead_letters(settings, _say))


async def _retry(settings: Settings, letters: Sequence[Found], requests_per_minute: float) -> int:
    """How many stay open."""
    from contextlib import aclosing

    from producer.redelivery import retry

    stay = 0
    async with aclosing(retry(settings, letters, requests_per_minute, _say)) as outcomes:
        async for letter, how, why in outcomes:
            typer.echo(f"{letter.identity}: {how}{': ' if why else ''}{why}")
            stay += how == "stays"
    return stay


def _described(letter: Found) -> str:
    from producer.dates import utc

    state = letter.outcome or "open"
    return (
        f"{utc(letter.appended)}  {letter.number}  {letter.source}  {letter.identity}  {letter.reason}  "
        f"{letter.size:,} bytes  {state}\n"
        f"    {letter.detail}\n"
        f"    {letter.fetch}\n"
        f"    {letter.value} in the topic, at partition {letter.partition} offset {letter.offset}"
    )
