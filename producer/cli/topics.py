"""`zendesk-producer topics`: the topics as the promise needs them."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="The topics as the promise needs them.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `create` a command of its own while it is the only one."""


@app.command()
def create(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be done.")] = False,
) -> None:
    """Create the topics that are missing, of all accounts, and inspect those that exist. Exit code 78 when one of them is
    unsafe."""
    import asyncio

    from producer.errors import Misconfigured
    from producer.kafka.topics import inspect, open_admin, plans
    from producer.streams import STREAMS

    accounts = context.obj.all()
    streams = [(settings, STREAMS[name]) for settings in accounts for name in settings.zendesk.streams]
    wanted = list({plan.name: plan for settings, stream in streams for plan in plans(settings, stream)}.values())

    async def work() -> None:
        async with open_admin(accounts[0].kafka) as admin:
            survey = await admin.survey()
            missing = [plan for plan in wanted if plan.name not in survey.topics]
            there = [plan.name for plan in wanted if plan.name in survey.topics]
            for plan in missing:
                configs = " ".join(f"{name}={value}" for name, value in plan.configs.items())
                typer.echo(
                    f"{'would create' if dry_run else 'creating'} {plan.name}: {plan.partitions} partitions, {configs}"
                )
            if missing and not dry_run:
                for warning in await admin.create(missing, survey.brokers):
                    typer.echo(f"warning: {warning}")
            configs_there = await admin.configs(*there) if there else {}
            found = [inspect(settings.topics, stream, survey, configs_there) for settings, stream in streams]
            for name in there:
                typer.echo(f"exists: {name}")
            for warning in dict.fromkeys(warning for _, warnings in found for warning in warnings):
                typer.echo(f"warning: {warning}")
            if errors := list(dict.fromkeys(error for errors, _ in found for error in errors)):
                raise Misconfigured("; ".join(errors))

    asyncio.run(work())
