"""The README names tests: each must be where it says."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\[(?:`(?P<test>\w+)`|\*(?P<scene>[^]*]+)\*)\]\((?P<file>tests/\w+\.py)\)")
NAMED = re.compile(r"`(test_\w+)`")


def table() -> list[str]:
    """The lines of "What the export does, and what we do about it"."""
    section = (ROOT / "README.md").read_text().split("## What the export does", 1)[1].split("\n## ", 1)[0]
    return [line for line in section.splitlines() if line.startswith("| ") and not line.startswith(("| the", "| **"))]


def test_every_line_of_the_export_table_links_to_a_test_that_exists() -> None:
    assert len(table()) > 25
    for line in table():
        links = list(LINK.finditer(line))
        assert links, line
        for link in links:
            written = (ROOT / link["file"]).read_text()
            wanted = f"def {link['test']}(" if link["test"] else f'"{link["scene"]}": Scene('
            assert wanted in written, f"{link['file']} has no {link['test'] or link['scene']}"


def test_every_test_that_the_readme_names_exists() -> None:
    written = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    named = NAMED.findall((ROOT / "README.md").read_text())
    assert named
    assert [name for name in named if f"def {name}(" not in written] == []
