"""Errors as an operator reads them, and the exit status that scripts act on. The one place for both."""

from __future__ import annotations

import sys
import tempfile
import traceback
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final

import msgspec
import typer
from rich.text import Text

from standby.cli.machine import show_findings
from standby.cli.output import Field, fields, say, stderr
from standby.cli.quantities import counted
from standby.cli.state import default_state
from standby.errors import StandbyError
from standby.records import Finding
from standby.recovery import prerequisites
from standby.recovery.plan_document import PlanRefused
from standby.replication import enable

USAGE: Final = 2
INTERRUPTED: Final = 130

_CHECKS: Final = (enable.NotReady, prerequisites.NotReady, PlanRefused)


class Failure(msgspec.Struct, kw_only=True):
    """What an error is under --json (stderr). findings: of a prerequisites check that failed."""

    error: str
    subject: str = ""
    cause: str
    tried: str = ""
    hint: str = ""
    exit_status: int
    findings: tuple[Finding, ...] = ()


def of(error: StandbyError) -> Failure:
    return Failure(
        error=type(error).__name__,
        subject=error.subject,
        cause=error.cause,
        tried=error.tried,
        hint=error.hint,
        exit_status=error.exit_status,
        findings=error.findings if isinstance(error, _CHECKS) else (),
    )


def of_usage(error: typer.TyperException, arguments: list[str]) -> Failure:
    """A command line that cannot be understood."""
    words = []
    for word in arguments:
        if word.startswith("-"):
            break
        words.append(word)
    # Of a wrong word only the group before it can help.
    context = getattr(error, "ctx", None)
    command = context.command_path if context else " ".join(["standby", *words[:2]])
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    return Failure(
        error="UsageError",
        subject=" ".join(["standby", *arguments]),
        cause=message.strip().rstrip("."),
        hint=f"{command} --help",
        exit_status=USAGE,
    )


def of_interrupt() -> Failure:
    """Ctrl-C, for programs."""
    return Failure(error="Interrupted", cause="interrupted", exit_status=INTERRUPTED)


def of_bug(error: BaseException) -> Failure:
    """An exception that nobody expected; its traceback goes into a file."""
    where = _write_report(error)
    return Failure(
        error="Bug",
        cause=f"this is a bug in standby: {type(error).__name__}: {error}",
        tried=f"the command was given up; details are in {where}",
        hint=f"report it with {where}",
        exit_status=1,
    )


def show(failure: Failure, *, json: bool) -> None:
    """On stderr."""
    if json:
        sys.stderr.write(msgspec.json.encode(failure).decode() + "\n")
        return
    console = stderr()
    blocking = sum(finding.blocks for finding in failure.findings)
    cause = f"{counted(blocking, 'problem')} in the way" if blocking else failure.cause
    # What is wrong is told of the subject ("it exists already"), so the subject comes first.
    first, *rest = [text for text in (failure.subject, cause) if text]
    console.print(Text(f"Error  {first}", style="bold red"), soft_wrap=True)
    for text in rest:
        say(console, f"       {text}", style="red", indent=7)
    show_findings(console, [finding for finding in failure.findings if finding.blocks])
    fields(console, [Field("Tried", failure.tried), Field("Next", failure.hint)], margin=7)


def _write_report(error: BaseException) -> str:
    now = datetime.now(UTC)
    text = "".join(
        [
            f"standby {version('standby')}, Python {sys.version.split()[0]}, {now.isoformat()}\n",
            f"arguments: {sys.argv[1:]}\n\n",
            *traceback.format_exception(error),
        ]
    )
    name = f"bug-{now:%Y%m%dT%H%M%S%f}.txt"
    for folder in (default_state() / "bugs", None):
        try:
            if folder is None:
                with tempfile.NamedTemporaryFile(
                    "w", prefix="standby-", suffix=f"-{name}", delete=False
                ) as f:
                    f.write(text)
                    return f.name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
            return str(folder / name)
        except OSError:
            continue
    # No file can be written anywhere: what is known must still be seen.
    sys.stderr.write(text)
    return "the lines above"
