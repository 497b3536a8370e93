"""`zendesk-producer health`: what a container's health check asks."""

from __future__ import annotations

import typer


def health(context: typer.Context) -> None:
    """Ask the running service whether it is alive.

    Exit code 0 if so, else 1 and the reasons.
    """
    from http.client import HTTPConnection, HTTPException

    from producer.errors import Misconfigured

    settings = context.obj.http()
    if not settings.enabled or settings.port == 0:
        raise Misconfigured(
            f"the service cannot be asked: http.{'port is 0' if settings.enabled else 'enabled is false'}",
            hint="give it a port of its own with http.port",
        )
    # An address that means "all of them" can be listened on, but not asked everywhere.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    # Not urllib: it would ask a proxy that the environment names.
    connection = HTTPConnection(host, settings.port, timeout=5)
    try:
        connection.request("GET", "/livez")
        answer = connection.getresponse()
        text = answer.read(4096).decode("utf-8", "replace").strip()
    except (OSError, HTTPException) as error:
        typer.echo(f"no answer from http://{host}:{settings.port}/livez: {error}", err=True)
        raise typer.Exit(1) from None
    finally:
        connection.close()
    typer.echo(text, err=answer.status != 200)
    if answer.status != 200:
        raise typer.Exit(1)
