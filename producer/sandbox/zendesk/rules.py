"""How both exports treat time, seconds that overflow a page, cursors, and links to what comes next."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Rules:
    """How the exports behave where their behaviour has varied; the defaults are today's.

    `excluded_seconds`: changes younger than this are not shown. `too_recent_seconds`: a `start_time` not older than this
    is refused (60 today, 2 in 2023, 300 before 2018), in one of the three forms on record. `stuck`: a second that fills
    the page of the time-based export does not extend it, so that asking on from that second never gets past it: what
    several connectors report. `cursors_expire_seconds`: a cursor last handed out longer ago than this is refused (None:
    never; whether real ones expire is not on record). `links_keep`: parameters of a request that the link in its answer
    has as well; of `per_page` alone this is on record.
    """

    excluded_seconds: float = 60
    too_recent_seconds: float = 60
    too_recent_answer: Literal["400 json", "422 json", "422 text"] = "400 json"
    stuck: bool = False
    cursors_expire_seconds: float | None = None
    links_keep: frozenset[str] = frozenset({"per_page"})
