"""Positions and moments as a person reads them."""

from __future__ import annotations

from datetime import UTC, datetime


def utc(seconds: float) -> str:
    """Unix seconds as an ISO 8601 date, whole seconds, UTC: `2026-01-31T09:00:00Z`."""
    return f"{datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%dT%H:%M:%SZ}"


def position(end_time: int | None) -> str:
    """A position as a date and as the number that settings and the API take."""
    return "no position" if end_time is None else f"{utc(end_time)} ({end_time})"


def seconds(date: str | None) -> int | None:
    """Unix seconds of an ISO 8601 date; None where it is none. One without a zone counts as UTC."""
    try:
        if date is None:
            return None
        moment = datetime.fromisoformat(date)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return None
