"""`zendesk-producer dead-letters`: the tickets that could not be published, and publishing them after all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from producer.redelivery import Found

app = typer.Typer(help="Tickets that could not be published.", no_args_is_help=True)

_Share = Annotated[float, typer.Option(min=0.01, help="Share of the export budget that is taken from the service.")]


@app.command("list")
def list_(
    context: typer.Context,
    all_: Annotated[bool, typer.Option("--all", help="Also those that are settled.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per letter.")] = False,
) -> None:
    """List the dead letters that are open. Disturbs nobody and writes nothing."""
    import asyncio
    from dataclasses import asdict

    import orjson

    from producer.redelivery import dead_letters

    found = [letter for letter in asyncio.run(dead_letters(context.obj())) if all_ or not letter.outcome]
    if as_json:
        for letter in found:
            typer.echo(orjson.dumps(asdict(letter)))
        return
    for letter in found:
        typer.echo(_line(letter))
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
    """Read the tickets again by the export and publish what can be published now, each in one transaction with a mark that
    settles its letter. A running service is interrupted for a moment. Exit code 1 when a letter stays open.
    """
    import asyncio
    import sys

    from producer.redelivery import dead_letters, retry

    if bool(tickets) == all_:
        raise typer.BadParameter("name the tickets to retry, or give --all")
    wanted = set(tickets or ())
    settings = context.obj()
    letters = [
        letter for letter in asyncio.run(dead_letters(settings)) if not letter.outcome and (all_ or letter.id in wanted)
    ]
    for letter in letters:
        typer.echo(_line(letter))
    for ticket in sorted(wanted - {letter.id for letter in letters}):
        typer.echo(f"ticket {ticket} has no open dead letter")
    if not letters:
        raise typer.Exit(1 if wanted else 0)
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("nobody is here to be asked; give --yes to do it all the same")
        if not typer.confirm(f"Retry {len(letters):,}?"):
            raise typer.Exit(1)
    outcomes = asyncio.run(retry(settings, letters, requests_per_minute, lambda text: typer.echo(text, err=True)))
    for name, outcome in outcomes.items():
        typer.echo(f"{name}: {outcome}")
    raise typer.Exit(1 if any(outcome.startswith("stays") for outcome in outcomes.values()) else 0)


def _line(letter: Found) -> str:
    from producer.dates import utc

    state = letter.outcome or "open"
    return (
        f"{utc(letter.appended)}  {letter.number:<8}  {letter.identity}  {letter.reason}  {letter.size:,} bytes  {state}  "
        f"{letter.detail}"
    )
