"""The scenario: which request meets which fault."""

import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args

import msgspec
import yaml

from producer.sandbox.zendesk import answers, spoil
from producer.sandbox.zendesk.page import Page

Broken = Literal[
    "reset_before_headers",
    "reset_after_headers",
    "chunked_body_cut",
    "gzip_stream_cut",
    "json_prefix",
    "stalled_body",
    "slow_first_byte",
    "connection_dropped",
    "gzip_bomb",
    "oversized_body",
]
"""Faults of the transport, which break or swell a good answer on its way: see `wire.py`."""

KNOWN: Final = frozenset({*answers.FAULTS, *spoil.FAULTS, *get_args(Broken)})


class ScenarioError(ValueError):
    """A scenario that cannot be played: what is wrong and what is possible."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault and when it happens: at every request to the API that meets all the conditions given.

    `requests`: numbers of requests, counted from 1. `times`: at most so often. `probability`: of each request.
    `per_page_above`: only when more tickets than this are asked for.

    `retry_after`: seconds, for 429 and `database_deadlock`; None sends no header. `retry_after_form`: as seconds or as a
    date. `seconds`: real ones, of `stalled_body` and `slow_first_byte`. `size`: bytes after decompression, of
    `gzip_bomb` and `oversized_body`. `key`: the one that `missing_key` takes away. `by`: how much too high the count is,
    of `wrong_count`.

    A fault waits for what it can happen to, a page, a page of one of the two exports, a request with a cursor: until then
    it does not happen, and does not count.
    """

    name: str
    requests: Collection[int] = ()
    times: int | None = None
    probability: float = 1.0
    per_page_above: int = 0
    retry_after: int | None = 1
    retry_after_form: Literal["seconds", "date"] = "seconds"
    seconds: float = 60.0
    size: int = 128 * 1024 * 1024
    key: str = "end_time"
    by: int = 1

    def __post_init__(self) -> None:
        if self.name not in KNOWN:
            raise ScenarioError(f"there is no fault {self.name!r}; known ones: {', '.join(sorted(KNOWN))}")
        if not 0 <= self.probability <= 1:
            raise ScenarioError(f"fault {self.name}: probability is {self.probability}, use 0 to 1")

    def fits(self, page: Page | None, cursor: str | None) -> bool:
        """Whether it can happen to a request with this cursor, which this page would answer (None: a refusal)."""
        if self.name in answers.FAULTS:
            return self.name != "cursor_refused" or cursor is not None
        if page is None:
            return self.name in ("reset_before_headers", "slow_first_byte")
        return self.name not in spoil.FAULTS or spoil.fits(self, page)


class Scenario:
    """Faults in order of precedence: a request meets the first whose conditions it fulfils."""

    def __init__(self, faults: Iterable[Fault] = (), seed: int = 1) -> None:
        self.faults = list(faults)
        self._left = [fault.times for fault in self.faults]
        self._rng = random.Random(f"scenario {seed}")

    @classmethod
    def from_yaml(cls, path: Path) -> "Scenario":
        """Read `seed` and `faults`, a list of `Fault` fields, from a file. Raises ScenarioError."""
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ScenarioError(f"scenario {path} cannot be read: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ScenarioError(f"scenario {path} is not YAML: {error}") from error
        if not isinstance(content, dict) or not isinstance(content.get("faults"), list):
            raise ScenarioError(f"scenario {path}: expected a mapping with a list `faults` (and maybe a `seed`)")
        _refuse_unknown(f"scenario {path}", content, {"faults", "seed"})
        faults = [_fault(f"scenario {path}, fault {n}", entry) for n, entry in enumerate(content["faults"], 1)]
        return cls(faults, seed=content.get("seed", 1))

    def meet(self, number: int, per_page: int, page: Page | None, cursor: str | None) -> Fault | None:
        """The fault that the request of this number, with this cursor, meets; `page` would answer it, None refuses it."""
        for n, fault in enumerate(self.faults):
            if fault.requests and number not in fault.requests:
                continue
            if per_page <= fault.per_page_above or self._left[n] == 0 or not fault.fits(page, cursor):
                continue
            if fault.probability < 1 and self._rng.random() >= fault.probability:
                continue
            left = self._left[n]
            self._left[n] = None if left is None else left - 1
            return fault
        return None


def _fault(where: str, entry: Any) -> Fault:
    if not isinstance(entry, dict):
        raise ScenarioError(f"{where}: expected a mapping such as `name: database_deadlock`")
    _refuse_unknown(where, entry, {field.name for field in fields(Fault)})
    try:
        return msgspec.convert(entry, Fault)
    except (msgspec.ValidationError, ScenarioError) as error:
        raise ScenarioError(f"{where}: {error}") from error


def _refuse_unknown(where: str, entry: dict[Any, Any], known: set[str]) -> None:
    unknown = sorted(str(key) for key in entry if key not in known)
    if unknown:
        raise ScenarioError(f"{where}: unknown {', '.join(unknown)}; known: {', '.join(sorted(known))}")
