"""The reference part of docs/cli.md, from the code itself: `python -m tests.cli.reference` rewrites it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import msgspec
import typer

from standby import errors
from standby.cli import failure, plan_results, results
from standby.cli.app import app

DOC = Path(__file__).parents[2] / "docs" / "cli.md"
MARK = "<!-- From here on this page is written by `python -m tests.cli.reference`. -->\n"


def text() -> str:
    return "\n".join([*_statuses(), *_commands(), *_documents()]) + "\n"


def _statuses() -> Iterator[str]:
    yield "## Exit statuses\n"
    yield "| status | error | meaning |\n|---|---|---|"
    yield "| 0 | | done |"
    rows = {2: ("usage", "The command line cannot be understood.")}
    for kind in vars(errors).values():
        if (
            inspect.isclass(kind)
            and issubclass(kind, errors.StandbyError)
            and kind is not errors.StandbyError
        ):
            rows[kind.exit_status] = (f"`{kind.__name__}`", " ".join((kind.__doc__ or "").split()))
    rows[failure.INTERRUPTED] = ("interrupted", "Ctrl-C.")
    for status, (name, meaning) in sorted(rows.items()):
        yield f"| {status} | {name} | {meaning} |"


def _commands() -> Iterator[str]:
    yield "\n## Commands\n"
    yield from _command(typer.main.get_command(app), "standby")


def _command(command, path: str) -> Iterator[str]:
    if hasattr(command, "list_commands"):
        for name in sorted(command.list_commands(None)):
            yield from _command(command.get_command(None, name), f"{path} {name}")
        return
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    shown = " ".join(p.metavar or p.name.upper() for p in arguments)
    yield f"### `{' '.join(filter(None, [path, shown]))}`\n"
    yield inspect.cleandoc(command.help or "") + "\n"
    for option in command.params:
        if option.param_type_name != "option":
            continue
        names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
        needed = " (needed)" if option.required else ""
        yield f"- {names}{needed}: {option.help}"
    yield ""


def _documents() -> Iterator[str]:
    yield "## What `--json` prints\n"
    yield "One document on stdout; lists are arrays, `vm protect` prints a line an event."
    yield "Sizes are bytes, times RFC 3339 in UTC.\n"
    for module in (results, plan_results, failure):
        for name, kind in vars(module).items():
            if (
                inspect.isclass(kind)
                and issubclass(kind, msgspec.Struct)
                and kind.__module__ == module.__name__
            ):
                own = kind.__dict__.get("__doc__") or ""
                keys = ", ".join(f"`{field.name}`" for field in msgspec.structs.fields(kind))
                yield f"- **{name}**: {keys}. {' '.join(own.split())}".rstrip()


if __name__ == "__main__":
    before = DOC.read_text().split(MARK)[0]
    DOC.write_text(before + MARK + "\n" + text())
