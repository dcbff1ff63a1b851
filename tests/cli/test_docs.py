"""docs/ against the code."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from standby.cli.app import app
from tests.cli import reference

NAMED = re.compile(r"(?:`|^|  )(standby (?:(?:replica|vm|store|failover) [a-z]+|demo[-a-z]*))", re.MULTILINE)
ROOT = reference.DOC.parents[1]


def test_the_reference_is_what_the_code_says():
    written = reference.DOC.read_text().split(reference.MARK)[1].strip()
    assert written == reference.text().strip(), "run `python -m tests.cli.reference`"


def commands() -> set[str]:
    def walk(command, path):
        inner = getattr(command, "commands", None)
        if inner is None:
            return {path}
        return {one for name, child in inner.items() for one in walk(child, f"{path} {name}")} | {path}

    return walk(typer.main.get_command(app), "standby")


def test_every_command_that_a_page_or_a_message_names_exists():
    known = commands()
    pages = [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "src").rglob("*.py"),
    ]
    named = {}
    for page in pages:
        text = page.read_text()
        for words in (found.split() for found in NAMED.findall(text)):
            named.setdefault(" ".join(words), page)
    assert named
    for command, page in named.items():
        assert command in known, f"{Path(page).name} names `{command}`"


def test_the_readme_names_its_two_commands():
    text = (ROOT / "README.md").read_text()
    assert "make demo" in text
    assert "make test" in text
    for page in re.findall(r"\]\((docs/[^)#]+|CHANGELOG\.md)", text):
        assert (ROOT / page).exists(), page
