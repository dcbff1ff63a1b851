"""docs/ against the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer

from standby.cli.app import app
from standby.cli.demo import _measured
from standby.demo.scenario import Outcome, Point
from standby.objects.directory import DirectoryStore
from standby.replica.journal import ReplicaLog
from tests.cli import reference

NAMED = re.compile(
    r"(?:`|^|  )(standby (?:(?:replica|vm|store|failover|key|agent|plan|job|site|host|policy|vault) [a-z-]+"
    r"|demo[-a-z]*|status|login|logout|check))",
    re.MULTILINE,
)
ROOT = reference.DOC.parents[1]


def test_the_reference_is_what_the_code_says():
    written = reference.DOC.read_text().split(reference.MARK)[1].strip()
    assert written == reference.text().strip(), "run `python -m tests.cli.reference`"


def walked(command, path: str):
    """Every command below it, with its whole name; nouns that are loaded when they are used among them."""
    yield path, command
    if hasattr(command, "list_commands"):
        for name in command.list_commands(None):
            yield from walked(command.get_command(None, name), f"{path} {name}")


def commands() -> set[str]:
    return {path for path, _ in walked(typer.main.get_command(app), "standby")}


def leaves() -> dict[str, Any]:
    """Every command that does something, by its whole name."""
    return {
        path: one
        for path, one in walked(typer.main.get_command(app), "standby")
        if not hasattr(one, "list_commands")
    }


def test_every_option_that_the_guide_uses_exists():
    text = (ROOT / "docs" / "operator-guide.md").read_text()
    used = [
        line for line in re.findall(r"^standby .+$|`(?=standby )[^`]+`", text, re.MULTILINE) if "--" in line
    ]
    assert len(used) >= 5
    for line in (one.strip("`") for one in used):
        name = next(known for known in leaves() if line.startswith(f"{known} "))
        options = {option for param in leaves()[name].params for option in param.opts}
        assert set(re.findall(r"--[a-z-]+", line)) <= options, line


def test_every_key_of_the_demo_is_documented(disk, store):
    record = ReplicaLog.read(DirectoryStore(store), "web").point("newest")
    point = Point(record, lag=1.0, rpo=2.0, changed=3, sent=4, window=0.5)
    outcome = Outcome(1, 2, 3.0, (point,), 4.0, 5.0, 6, 7, 8, 9)
    said = _measured(outcome, 10.0)
    keys = {*said, *said["initial_replication"], *said["deltas"][0], *said["verified"]}
    (paragraph,) = re.findall(r"`standby demo --json` prints.*?\n\n", reference.DOC.read_text(), re.DOTALL)
    assert keys == set(re.findall(r"`([a-z_]+)`", paragraph))


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
