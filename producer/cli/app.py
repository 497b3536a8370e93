"""The command line: its global options, and the list of its commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from producer import __version__
from producer.cli import broker, check, checkpoint, config, dead_letters, demo, health, run, simulate, topics, verify

if TYPE_CHECKING:
    from producer.settings import HttpSettings, Settings

app = typer.Typer(
    name="zendesk-producer",
    help="Every version of every Zendesk ticket in Kafka, exactly once.",
    no_args_is_help=True,
    # Python's own traceback for a bug: it shows no local variables, and everybody can read it.
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help takes a third of the CPU of boxes
)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The settings that were asked for, read when a command needs them: one that needs none is not bothered by wrong ones."""

    config: Path | None
    overrides: list[str]
    accounts: list[str]

    def __call__(self) -> Settings:
        """Those of the account that the command is about. Raises Misconfigured where it could be several."""
        from producer.settings import load_settings

        return load_settings(self.config, self.overrides, self.accounts)

    def all(self) -> tuple[Settings, ...]:
        """Those of each account, or of each that was named."""
        from producer.settings import load_accounts

        return load_accounts(self.config, self.overrides, self.accounts)

    def http(self) -> HttpSettings:
        """Those of the endpoint, which are nobody's in particular."""
        from producer.settings import load_http

        return load_http(self.config, self.overrides)


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
    accounts: Annotated[
        list[str] | None,
        typer.Option(
            "--account",
            metavar="NAME",
            help="Which of the list of accounts, where there is one; repeatable for commands that take several.",
            show_default="all, or the only one",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    context.obj = _Wanted(config, overrides or [], accounts or [])


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
