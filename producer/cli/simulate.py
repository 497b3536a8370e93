"""`zendesk-producer simulate`: the pretend Zendesk as a process."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Era(StrEnum):
    """The year whose rate-limit headers are sent."""

    Y2023 = "2023"
    Y2024 = "2024"
    Y2026 = "2026"


def simulate(
    tickets: Annotated[int, typer.Option(min=0, help="Tickets in the account at the start.")] = 20_000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same account.")] = 1,
    users: Annotated[int, typer.Option(min=0, help="Users that their own export lists.")] = 0,
    organizations: Annotated[int, typer.Option(min=0, help="Organizations that their own export lists.")] = 0,
    events: Annotated[bool, typer.Option("--events", help="Export what happens to tickets as well.")] = False,
    ai_agents: Annotated[float, typer.Option(min=0, max=1, help="Share of tickets that AI agents handle.")] = 0.0,
    span_days: Annotated[float, typer.Option(min=0.01, help="Days that the account's history spans.")] = 90.0,
    clock_start: Annotated[
        float | None, typer.Option(help="Unix seconds the clock starts at.", show_default="now")
    ] = None,
    speed: Annotated[float, typer.Option(min=0.001, help="How many times as fast as ours its clock runs.")] = 1.0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 takes a free one.")] = 8765,
    requests_per_minute: Annotated[
        int, typer.Option(min=0, help="Export requests per minute of its clock; 0 for no limit at all.")
    ] = 10,
    era: Annotated[Era, typer.Option(help="Spelling of the rate-limit headers.")] = Era.Y2026,
    scenario: Annotated[Path | None, typer.Option(help="YAML file of scripted faults.")] = None,
    churn: Annotated[float, typer.Option(min=0, help="Changes per minute of its clock while it runs.")] = 0.0,
    subdomain: Annotated[str, typer.Option(help="The account's name.")] = "acme",
    email: Annotated[str, typer.Option(help="Login, where --token is given.")] = "agent@acme.example",
    token: Annotated[
        str | None, typer.Option(help="API token and bearer token to insist on.", show_default="any login")
    ] = None,
    client_secret: Annotated[
        str | None,
        typer.Option(help="Secret of the OAuth client zendesk_producer, to insist on it.", show_default="any login"),
    ] = None,
    ready_file: Annotated[Path | None, typer.Option(help="Gets the base URL once it listens.")] = None,
) -> None:
    """Run a pretend Zendesk: one account, its incremental exports, its limits and faults, and the truth about it."""
    import asyncio
    import signal
    import time
    from contextlib import suppress

    from producer.sandbox.zendesk import (
        Account,
        Clock,
        Credentials,
        Limits,
        OAuth,
        Scenario,
        ScenarioError,
        Simulator,
    )

    try:
        script = Scenario.from_yaml(scenario) if scenario is not None else Scenario()
    except ScenarioError as error:
        raise typer.BadParameter(str(error), param_hint="--scenario") from error
    span = span_days * 86_400
    began = time.time() if clock_start is None else clock_start
    try:
        account = Account.generate(
            tickets,
            seed,
            until=began,
            span=span,
            subdomain=subdomain,
            ai_agents=ai_agents,
            keep_events=events,
            users=users,
            organizations=organizations,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--subdomain") from error
    clock = Clock(began, speed)
    limits = Limits.unlimited()
    if requests_per_minute:
        limits = Limits(exports_per_minute=requests_per_minute, era=int(era))  # type: ignore[arg-type]  # one of Era
    credentials = None if token is None else Credentials(email=email, api_token=token, access_token=token)

    oauth = None if client_secret is None else OAuth("zendesk_producer", client_secret)
    login = f"  PRODUCER_ZENDESK__EMAIL={email}\n  PRODUCER_ZENDESK__API_TOKEN={'any' if token is None else '<the --token>'}\n"
    if oauth is not None:
        login = f"  PRODUCER_ZENDESK__CLIENT_ID={oauth.client_id}\n  PRODUCER_ZENDESK__CLIENT_SECRET=<the --client-secret>\n"

    async def serve() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        server = Simulator(
            account,
            clock=clock,
            credentials=credentials,
            oauth=oauth,
            limits=limits,
            scenario=script,
            host=host,
            port=port,
        )
        async with server:
            real_budget = max(1, int(requests_per_minute * speed)) if requests_per_minute else 60_000
            typer.echo(
                f"A pretend Zendesk with {tickets} tickets listens on {server.base_url}\n"
                f"\n"
                f"  PRODUCER_ZENDESK__SUBDOMAIN={subdomain}\n"
                f"  PRODUCER_ZENDESK__BASE_URL={server.base_url}\n"
                f"{login}"
                f"  PRODUCER_ZENDESK__START_TIME={max(0, int(began - span))}\n"
                f"  PRODUCER_ZENDESK__REQUESTS_PER_MINUTE={real_budget}\n"
                f"\n"
                f"Its clock runs {speed:g} times as fast as ours. What it has: {server.base_url}/simulator/truth\n"
                f"What it answered: {server.base_url}/simulator/journal   Ctrl-C ends it."
            )
            if ready_file is not None:
                partial = ready_file.with_name(ready_file.name + ".partial")
                partial.write_text(server.base_url + "\n", encoding="utf-8")
                partial.replace(ready_file)
            changing = asyncio.create_task(server.changes.keep_making(churn)) if churn else None
            await stop.wait()
            if changing is not None:
                changing.cancel()
                with suppress(asyncio.CancelledError):
                    await changing

    try:
        asyncio.run(serve())
    except OSError as error:
        typer.echo(f"cannot listen on {host}:{port} (--host, --port): {error.strerror}", err=True)
        raise typer.Exit(69) from error
