"""`zendesk-producer check`: whether the service could run, and with `--probe` how one's own account behaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from producer.kafka.topics import Survey
    from producer.model import Checkpoint
    from producer.settings import Settings
    from producer.streams import Stream
    from producer.zendesk.findings import Finding
    from producer.zendesk.probe import Report


def check(
    context: typer.Context,
    probe: Annotated[bool, typer.Option("--probe", help="Ask the account up to ten times how it behaves.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look whether the service could run. Publishes nothing, creates nothing, fences nobody.

    Exit code 0, or that of the worst error: 77 refused, 78 configuration, 69 a far end is unavailable.
    """
    import asyncio
    import json
    import logging
    import sys
    from dataclasses import asdict

    from producer.errors import EXIT_CONFIGURATION, EXIT_REFUSED, EXIT_UNAVAILABLE

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # our own errors say it, once and with the reason
    report = asyncio.run(_check(context.obj(), probe=probe))
    if as_json:
        typer.echo(json.dumps(asdict(report), indent=2))
    elif sys.stdout.isatty():
        _show(report.findings)
    else:
        wide = max(len(finding.about) for finding in report.findings)
        for finding in report.findings:
            typer.echo(f"{finding.level:<7}  {finding.about:<{wide}}  {finding.text}")
    codes = {finding.exit_code for finding in report.findings}
    worst_first = (EXIT_REFUSED, EXIT_CONFIGURATION, EXIT_UNAVAILABLE)
    raise typer.Exit(next((code for code in worst_first if code in codes), 0))


async def _check(settings: Settings, *, probe: bool) -> Report:
    from producer.errors import ProducerError
    from producer.events import Event, Waiting
    from producer.stop import Stop
    from producer.zendesk import probe as zendesk
    from producer.zendesk.budget import MARGIN, MINUTE, Budget
    from producer.zendesk.findings import fact, failed

    def tell(event: Event) -> None:
        if isinstance(event, Waiting) and event.wait > spacing + 1:
            typer.echo(f"the API wants to be left alone for {event.wait:.0f} s", err=True)

    account = settings.zendesk
    budget = Budget(account.requests_per_minute, Stop(), tell, account.left_to_others)
    spacing, most = MINUTE / budget.per_minute * MARGIN, zendesk.MOST if probe else 1
    typer.echo(
        f"asking {account.base_url} up to {most} time{'s'[: most > 1]}, {budget.per_minute:g} a minute: it may take "
        f"{most * spacing:.0f} s, and counts on the limit that a running service shares",
        err=True,
    )
    findings = [fact("settings", f"account {account.subdomain} at {account.base_url}")]
    checkpoint = await _kafka(settings, findings)
    position = checkpoint.end_time if checkpoint else None
    start = next((second for second in (account.start_time, position) if second is not None), 0)
    try:
        report = await zendesk.probe(settings, budget, start, tell, briefly=not probe)
    except ProducerError as error:
        report = zendesk.Report([failed("zendesk", error)], 0)
    return zendesk.Report(findings + report.findings, report.requests)


async def _kafka(settings: Settings, findings: list[Finding]) -> Checkpoint | None:
    """Add what is found there; answers the checkpoint that the service would go on from, if it would."""
    from producer.errors import Misconfigured, ProducerError
    from producer.kafka.acknowledgements import CAVEAT
    from producer.kafka.topics import inspect, open_admin, plans
    from producer.streams import STREAMS
    from producer.zendesk.findings import Finding, fact, failed

    streams = [STREAMS[name] for name in settings.zendesk.streams]
    needed = list(dict.fromkeys(plan.name for stream in streams for plan in plans(settings, stream)))
    try:
        async with open_admin(settings.kafka) as admin:
            survey = await admin.survey()
            there = [name for name in needed if name in survey.topics]
            configs = await admin.configs(*there) if there else {}
    except ProducerError as error:
        findings.append(failed("kafka", error))
        return None
    findings.append(fact("kafka", f"{survey.brokers} broker{'s'[: survey.brokers != 1]}"))
    if settings.kafka.delivery == "at_least_once":
        findings.append(Finding("delivery", "warning", CAVEAT))
    for name in needed:
        if name in there:
            findings.append(fact("topics", f"{name}: {survey.topics[name].partitions} partitions"))
        elif settings.kafka.create_topics:
            findings.append(fact("topics", f"{name} does not exist: the first start creates it"))
        else:
            hint = "run `zendesk-producer topics create` with the rights to"
            text = f"{name} does not exist, and kafka.create_topics is off"
            findings.append(failed("topics", Misconfigured(text, hint=hint)))
    inspected = [inspect(settings.topics, stream, survey, configs) for stream in streams]
    errors, warnings = (dict.fromkeys(text for found in inspected for text in found[kind]) for kind in (0, 1))
    findings += [failed("topics", Misconfigured(text)) for text in errors]
    findings += [Finding("topics", "warning", text) for text in warnings]
    first: Checkpoint | None = None
    for stream in streams:
        about = "checkpoint" if len(streams) == 1 else f"checkpoint of {stream.name}"
        try:
            checkpoint, text = await _checkpoint(settings, stream, survey)
        except ProducerError as error:
            findings.append(failed(about, error))
            continue
        findings.append(fact(about, text))
        first = first or checkpoint
    return first


async def _checkpoint(settings: Settings, stream: Stream, survey: Survey) -> tuple[Checkpoint | None, str]:
    """What the stream would go on from, and that in words. Raises what the service would at its start."""
    from producer.dates import position
    from producer.kafka import recovery
    from producer.kafka.checkpoints import open_reader
    from producer.kafka.connection import client_options
    from producer.kafka.failures import ASK, within
    from producer.kafka.surgery import newest_checkpoint

    missing = [name for name in (settings.topics.of(stream), settings.topics.checkpoints) if name not in survey.topics]
    if missing:
        async with within(ASK, "look for what the missing topic held"):
            await recovery.refuse_to_start_over(settings, stream, survey, missing)
        return None, f"none yet: it begins at {position(recovery.begin_at(settings, stream))}"
    found = await newest_checkpoint(settings, stream)
    options = client_options(settings.kafka)
    async with open_reader(options, settings.topics.checkpoints) as reader, within(ASK, "read the checkpoint"):
        if found is None:
            first = await recovery.first_checkpoint(settings, stream, survey, reader)
            return None, f"none yet: it begins at {position(first.end_time)}"
        found = await recovery.accept(settings, stream, survey, reader, found)
        return found, f"{position(found.end_time)}, generation {found.generation}, page {found.seq:,}"


def _show(findings: Sequence[Finding]) -> None:
    """The findings on a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "warning": "yellow", "error": "bold red"}
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for finding in findings:
        # As Text, since a square bracket in a string would be taken for markup.
        table.add_row(Text(finding.level, style=colours[finding.level]), finding.about, Text(finding.text))
    Console(highlight=False).print(table)
