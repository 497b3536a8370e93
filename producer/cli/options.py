"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer


def _known_stream(name: str) -> str:
    from producer.streams import STREAMS

    if name not in STREAMS:
        raise typer.BadParameter(f"there is no stream {name}; there are {', '.join(STREAMS)}")
    return name


StreamName = Annotated[str, typer.Option("--stream", help="Which of the account's streams.", callback=_known_stream)]
