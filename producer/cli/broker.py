"""`zendesk-producer broker`: a real Kafka in the foreground, for trying things out."""

import signal
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer


def broker(
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Client port of the first node; default: a free one.")
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, max=5, help="Number of nodes.")] = 1,
    data_dir: Annotated[
        Path | None, typer.Option(file_okay=False, help="Keep data and client ports here; default: a temporary folder.")
    ] = None,
) -> None:
    """Run Apache Kafka on 127.0.0.1 until Ctrl-C or SIGTERM."""
    from producer.sandbox.broker import BrokerError, Cluster

    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a script's background jobs start with it ignored
        signal.signal(number, _interrupt)
    cluster = Cluster(nodes=nodes, data_dir=data_dir, port=port, say=lambda text: typer.echo(text, err=True))
    try:
        with cluster:
            typer.echo(f"bootstrap servers: {cluster.bootstrap_servers}")
            typer.echo(f"log file:          {cluster.log_file}")
            typer.echo("Ctrl-C ends it.")
            while cluster.running:
                time.sleep(0.5)
            raise BrokerError(f"Kafka ended by itself; its last words:\n{cluster.log_tail()}")
    except KeyboardInterrupt:
        typer.echo("stopped")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    except (BrokerError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(69) from error


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
