"""The process: from the command line to an exit code."""

from __future__ import annotations

import sys

from producer.errors import EXIT_CONFIGURATION, EXIT_UNAVAILABLE, Final, ProducerError


def main() -> None:
    """Run a command. Exits with 0 done, 1 bug, 2 usage, 69 far end unavailable, 77 refused credentials, 78 configuration."""
    if not __debug__:
        _complain(
            "this program does not run under `python -O` or PYTHONOPTIMIZE",
            "run it without: aiokafka's transactions rely on assert, and without it would commit what must not be",
        )
        sys.exit(EXIT_CONFIGURATION)
    from producer.cli.app import app

    try:
        app(prog_name="zendesk-producer")
    except ProducerError as error:
        _complain(str(error), error.hint)
        sys.exit(error.exit_code if isinstance(error, Final) else EXIT_UNAVAILABLE)


def _complain(text: str, hint: str) -> None:
    print(f"error: {text}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)


if __name__ == "__main__":
    main()
