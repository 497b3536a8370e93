"""`zendesk-producer checkpoint`: where an account is, and how to move it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from producer.cli.options import StreamName
from producer.dates import position

if TYPE_CHECKING:
    from producer.model import Checkpoint, Cursor


app = typer.Typer(help="Where the account is, and how to move it.", no_args_is_help=True)

_Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command()
def show(
    context: typer.Context,
    stream: StreamName = "tickets",
    as_json: Annotated[bool, typer.Option("--json", help="The record itself.")] = False,
) -> None:
    """Show the newest committed checkpoint. Disturbs nobody and writes nothing."""
    import asyncio

    from producer.kafka.surgery import newest_checkpoint
    from producer.streams import STREAMS

    checkpoint = asyncio.run(newest_checkpoint(context.obj(), STREAMS[stream]))
    if as_json:
        typer.echo("null" if checkpoint is None else checkpoint.to_bytes().decode())
        return
    if checkpoint is None:
        typer.echo("no checkpoint yet")
        return
    rows = {
        "account": f"{checkpoint.account}/{checkpoint.stream}",
        "position": position(checkpoint.end_time),
        "boundary": f"{len(checkpoint.boundary):,} tickets handled since {position(_since(checkpoint))}",
        "cursor": _cursor(checkpoint.cursor),
        "generation": f"{checkpoint.generation}, page {checkpoint.seq}",
        "from": position(checkpoint.start),
        "skipped": ", ".join(f"{position(low)} to {position(high)}" for low, high in checkpoint.skipped) or "nothing",
        "caught up": "not yet" if checkpoint.caught_up is None else position(int(checkpoint.caught_up[0])),
        "topics": f"{checkpoint.tickets_topic} ({len(checkpoint.ends)} partitions, our appends end at {list(checkpoint.ends)})",
        "instance": checkpoint.instance or "none",
        "written": f"{checkpoint.written_at} by {checkpoint.program}",
    }
    for name, text in rows.items():
        typer.echo(f"{name:<11} {text}")


@app.command("set")
def set_(
    context: typer.Context,
    start_time: Annotated[str, typer.Option(help="ISO 8601 with zone, or Unix seconds.")],
    stream: StreamName = "tickets",
    yes: _Yes = False,
) -> None:
    """Move the account to a position, in a new generation. A living service goes on from there at once."""
    from producer.settings.model import parse_start_time

    try:
        start = parse_start_time(start_time)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--start-time") from None
    _move(context, start, stream, yes)


@app.command()
def reset(context: typer.Context, stream: StreamName = "tickets", yes: _Yes = False) -> None:
    """Forget the position: the next start takes zendesk.start_time, in a new generation."""
    _move(context, None, stream, yes)


def _move(context: typer.Context, start_time: int | None, stream: str, yes: bool) -> None:
    import asyncio
    import sys

    from producer.kafka.surgery import Declined, move_checkpoint
    from producer.streams import STREAMS

    def confirm(old: Checkpoint | None, new: Checkpoint) -> bool:
        typer.echo(f"{position(old.end_time) if old else 'no checkpoint'}  ->  {position(new.end_time)}")
        typer.echo(_consequence(old, new))
        if yes:
            return True
        if not sys.stdin.isatty():
            raise typer.BadParameter("nobody is here to be asked; give --yes to do it all the same")
        return typer.confirm("Write it?")

    try:
        written = asyncio.run(move_checkpoint(context.obj(), start_time, confirm, typer.echo, STREAMS[stream]))
    except Declined as declined:
        typer.echo(str(declined))
        raise typer.Exit(1) from None
    typer.echo(f"written: generation {written.generation}, {position(written.end_time)}")


def _consequence(old: Checkpoint | None, new: Checkpoint) -> str:
    if new.end_time is None:
        return "The next start takes zendesk.start_time; what was published before may be published again."
    if old is None or old.end_time is None:
        return "Everything from there on will be published, whatever the topic already holds."
    if new.end_time < old.end_time:
        return f"Versions stamped from {position(new.end_time)} to {position(old.end_time)} will be published again."
    return f"Versions stamped from {position(old.end_time)} to {position(new.end_time)} will be skipped, and recorded as skipped."


def _since(checkpoint: Checkpoint) -> int | None:
    return checkpoint.since if checkpoint.since is not None else checkpoint.end_time


def _cursor(cursor: Cursor | None) -> str:
    if cursor is None:
        return "none"
    behind = "its beginning" if cursor.last_id is None else f"ticket {cursor.last_id}"
    crowded = ", which has more tickets than the time-based export moves past" if cursor.pinned else ""
    return f"behind {behind} of second {position(cursor.second)}{crowded}"
