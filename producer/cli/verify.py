"""`zendesk-producer verify`: does the topic hold what it must, once and in order?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from producer.cli.options import StreamName


def verify(
    context: typer.Context,
    stream: StreamName = "tickets",
    truth: Annotated[
        str | None,
        typer.Option(
            metavar="URL|off",
            help="Ground truth of a simulator to judge by; off asks the API all the same.",
            show_default="that of zendesk.base_url where it is a simulator",
        ),
    ] = None,
    requests_per_minute: Annotated[
        float, typer.Option(min=0.01, help="Share of the export budget that is taken from the service.")
    ] = 2,
    work_dir: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            exists=True,
            help="Where to keep, meanwhile, what was read.",
            show_default="a temporary folder",
        ),
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Examples shown of each fault.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Judge a stream's topic against the API. Exit code 0: clean, 1: something is wrong. Writes nothing."""
    import asyncio
    import json
    import logging
    import sys

    from producer.streams import STREAMS
    from producer.verify import verify
    from producer.verify.report import plain, show

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # our own errors say it, once and with the reason
    verdict = asyncio.run(
        verify(
            context.obj(),
            truth=truth,
            work_dir=work_dir,
            requests_per_minute=requests_per_minute,
            examples=examples,
            say=lambda text: typer.echo(text, err=True),
            stream=STREAMS[stream],
        )
    )
    if as_json:
        typer.echo(json.dumps(verdict.to_dict(), indent=2))
    elif sys.stdout.isatty():
        show(verdict)
    else:
        typer.echo(plain(verdict))
    raise typer.Exit(0 if verdict.clean else 1)
