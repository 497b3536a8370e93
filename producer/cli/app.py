"""The command line: its global options, and the list of its commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from producer import __version__
from producer.cli import broker, check, checkpoint, config, dead_letters, demo, health, run, simulate, topics, verify

if TYPE_CHECKING:
    from producer.settings import Settings

app = typer.Typer(
    name="zendesk-producer",
    help="Every version of every Zendesk ticket in Kafka, exactly once.",
    no_args_is_help=True,
    # Python's own traceback for a bug: it shows no local variables, and everybody can read it.
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help takes a third of the CPU of boxes
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"zendesk-producer {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", help="YAML file of settings.", show_default="config/producer.yaml where it exists"
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="GROUP.NAME=VALUE", help="A setting that overrides all other sources; repeatable."
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    def settings() -> Settings:
        from producer.settings import load_settings

        return load_settings(config, overrides or ())

    context.obj = settings  # a command that needs no settings is not bothered by wrong ones


# Each module imports only typer and the standard library at its top, so that `--help` stays fast.
app.command("run")(run.run)
app.command("check")(check.check)
app.command("health")(health.health)
app.add_typer(topics.app, name="topics")
app.add_typer(checkpoint.app, name="checkpoint")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(config.app, name="config")
app.command("verify")(verify.verify)
app.command("demo")(demo.demo)
app.command("simulate")(simulate.simulate)
app.command("broker")(broker.broker)
