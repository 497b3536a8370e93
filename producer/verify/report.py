"""The verdict: its numbers, examples of what is wrong, and how a person or a program gets to see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from producer.model import Checkpoint
from producer.streams import TICKETS, Stream

Counted = Literal[
    "missing",
    "dead_lettered",
    "letters_gone",
    "excluded",
    "compacted",
    "cleaned",
    "duplicated",
    "out_of_order",
    "altered",
    "gaps",
    "inconsistent",
    "foreign",
]

_FAULTS = {
    "missing": "required, and not there",
    "duplicated": "appended again",
    "out_of_order": "appended behind a newer version of their {record}",
    "altered": "not what the API gave",
    "gaps": "absences in the numbering of pages and their records",
    "inconsistent": "pages that contradict themselves",
}
_FACTS = {
    "required": "shown by the API, passed by the checkpoint",
    "present": "events that a read_committed reader sees",
    "tombstones": "of deleted {record}s",
    "superseded": "in the topic, no longer at the API",
    "dead_lettered": "required, and in the dead letters",
    "letters_gone": "required, and in dead letters that retention has removed",
    "excluded": "required, and left out as system updates of what is there",
    "compacted": "required, and removed by compaction for a later record",
    "cleaned": "required, deleted long ago, and removed with their tombstones",
    "foreign": "records that are not ours",
}


@dataclass(slots=True)
class Verdict:
    """What `verify` found. Numbers count versions or records; `examples` has up to `most_examples` of each kind.

    `delivery` is the setting by which it is judged. `generations` has the newest page of each generation in the topic;
    `disagreements` of topic and checkpoint, and `stuck` transactions, are a line each.
    """

    account: str
    topic: str
    stream: Stream = TICKETS
    delivery: Literal["exactly_once", "at_least_once"] = "exactly_once"
    most_examples: int = 5
    required: int = 0
    present: int = 0
    tombstones: int = 0
    superseded: int = 0
    missing: int = 0
    dead_lettered: int = 0
    letters_gone: int = 0
    excluded: int = 0
    compacted: int = 0
    cleaned: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    altered: int = 0
    gaps: int = 0
    inconsistent: int = 0
    foreign: int = 0
    generations: dict[int, int] = field(default_factory=dict)
    checkpoint: dict[str, Any] = field(default_factory=dict)
    disagreements: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    examples: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def judged_by(self, checkpoint: Checkpoint) -> None:
        """Remember which checkpoint the topic is judged by."""
        self.checkpoint = {
            "generation": checkpoint.generation,
            "seq": checkpoint.seq,
            "from": checkpoint.start,
            "end_time": checkpoint.end_time,
            "instance": checkpoint.instance,
            "written_at": checkpoint.written_at,
        }

    def count(self, what: Counted, example: str) -> None:
        """One more of a kind."""
        setattr(self, what, getattr(self, what) + 1)
        shown = self.examples.setdefault(what, [])
        if len(shown) < self.most_examples:
            shown.append(example)

    def found_stuck(self, topic: str, partition: int, stable: int) -> None:
        """A transaction that stays open keeps readers from going on; judged is what lies before it."""
        text = (
            f"no reader gets past offset {stable} of partition {partition} of {topic}; "
            "look with `kafka-transactions.sh find-hanging`"
        )
        if text not in self.stuck:
            self.stuck.append(text)

    def note(self, text: str) -> None:
        """Something that a reader of the numbers must know."""
        self.notes.append(text)

    @property
    def faults(self) -> list[str]:
        """What is wrong, a few words each."""
        counted = [f"{number:,} {_words(name)}" for name in self._forbidden if (number := getattr(self, name))]
        counted = ["1 gap" if text == "1 gaps" else text for text in counted]
        if self.stuck:
            counted.append(f"{len(self.stuck):,} stuck")
        if self.disagreements:
            counted.append("checkpoint and topic disagree")
        return counted

    @property
    def _forbidden(self) -> list[str]:
        return [name for name in _FAULTS if name != "duplicated" or self.delivery == "exactly_once"]

    @property
    def clean(self) -> bool:
        """Whether the promise is kept."""
        return not self.faults

    @property
    def summary(self) -> str:
        """The last line of the report."""
        if not self.clean:
            return f"verdict: NOT CLEAN: {', '.join(self.faults)}"
        repeats = f"; {self.duplicated:,} appended again, as {self.delivery} allows" if self.duplicated else ""
        return f"verdict: clean{repeats}"

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "clean": self.clean,
            "account": self.account,
            "stream": self.stream.name,
            "topic": self.topic,
            "delivery": self.delivery,
            **{name: getattr(self, name) for name in (*_FACTS, *_FAULTS)},
            "generations": {str(generation): seq for generation, seq in self.generations.items()},
            "checkpoint": self.checkpoint,
            "disagreements": self.disagreements,
            "stuck": self.stuck,
            "examples": self.examples,
            "notes": self.notes,
        }

    def rows(self) -> list[tuple[str, int, str]]:
        """The numbers with their names and meanings: facts first, then what must be 0. Facts that are 0 are left out."""
        always = ("required", "present", "superseded")
        facts = [row for row in _FACTS.items() if row[0] in always or getattr(self, row[0])]
        record = _words(self.stream.record)
        allowed = dict.fromkeys(_FAULTS.keys() - self._forbidden, f"; {self.delivery} allows it")
        return [
            (_words(name), getattr(self, name), meaning.format(record=record) + allowed.get(name, ""))
            for name, meaning in (*facts, *_FAULTS.items())
        ]

    def details(self) -> list[str]:
        """Lines below the numbers: pages, examples, disagreements, stuck transactions, notes."""
        pages = ", ".join(f"generation {generation} up to page {seq:,}" for generation, seq in self.generations.items())
        lines = [f"pages in the topic: {pages or 'none'}"]
        lines += [f"{_words(what)}: {example}" for what, examples in self.examples.items() for example in examples]
        lines += [f"checkpoint: {text}" for text in self.disagreements]
        lines += [f"stuck: {text}" for text in self.stuck]
        lines += [f"note: {text}" for text in self.notes]
        return lines


def plain(verdict: Verdict) -> str:
    """The report as lines of text."""
    rows = verdict.rows()
    wide = max(len(f"{number:,}") for _, number, _ in rows)
    lines = [f"{name:<13}{number:>{wide},}  {meaning}" for name, number, meaning in rows]
    return "\n".join([*lines, *verdict.details(), verdict.summary])


def show(verdict: Verdict) -> None:
    """The report on a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    for name, number, meaning in verdict.rows():
        wrong = number and name in map(_words, verdict._forbidden)
        table.add_row(name, Text(f"{number:,}", style="bold red" if wrong else ""), meaning)
    console.print(table)
    for line in verdict.details():
        console.print(Text(line))
    console.print(Text(verdict.summary, style="bold green" if verdict.clean else "bold red"))


def _words(name: str) -> str:
    return name.replace("_", " ")
