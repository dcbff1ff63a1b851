"""What a command prints: results on stdout, everything else on stderr; for people, or as JSON."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, NamedTuple, NoReturn

import msgspec
import typer
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from standby.cli.quantities import duration, size

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document (docs/cli.md tells its keys).")]

BROKEN_PIPE: Final = 141
"""As a shell reports a program that SIGPIPE ended."""

_UNBOUND: Final = 200
"""Columns where no terminal sets a limit: nothing is dropped from what goes into a pipe."""


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Whoever read us has seen enough; that is no error of ours, so nothing is said."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(BROKEN_PIPE)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS", "").isdigit() else _UNBOUND
    # Names of machines and files are data: neither markup nor emoji codes in them are ours to interpret.
    return _Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def stdout() -> Console:
    return _console(stderr=False)


def stderr() -> Console:
    return _console(stderr=True)


def print_json(document: Any, *, line: bool = False) -> None:
    """One document on stdout, indented; with `line`, on one line (for commands that go on printing)."""
    encoded = msgspec.json.encode(document)
    text = encoded if line else msgspec.json.format(encoded, indent=2)
    try:
        sys.stdout.write(text.decode() + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(BROKEN_PIPE) from None


def say(console: Console, text: str, *, style: str = "", indent: int = 0) -> None:
    """A paragraph wrapped at words. Paths and commands are left whole, so that they can be copied."""
    for line in text.splitlines() or [""]:
        wrapped = textwrap.fill(
            line,
            console.width,
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        console.print(Text(wrapped, style=style), soft_wrap=True)


class Field(NamedTuple):
    """One line of a description. Without a value it is left out."""

    name: str
    value: str


def fields(console: Console, lines: Sequence[Field], *, margin: int = 0) -> None:
    """Names on the left, values beside them, wrapped below themselves. margin: where values begin at least."""
    shown = [line for line in lines if line.value]
    margin = max(margin, max((len(line.name) for line in shown), default=0) + 2)
    for name, value in shown:
        rows = [
            row
            for line in value.splitlines()
            for row in textwrap.wrap(
                line, max(20, console.width - margin), break_long_words=False, break_on_hyphens=False
            )
        ]
        for number, row in enumerate(rows):
            text = Text((name if not number else "").ljust(margin), style="bold")
            text.append(row, style="not bold")
            console.print(text, soft_wrap=True)


class Column(NamedTuple):
    """priority: 0 always stays; of the others the highest goes first where the terminal is narrow.
    whole: never wrapped, as it is there to be copied."""

    title: str
    priority: int = 0
    right: bool = False
    whole: bool = False


def table(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Rows under headings. Where not all fits, columns go by priority; what stays is wrapped, never cut."""
    widths = [
        max(cell_len(column.title), *(cell_len(row[at]) for row in rows)) if rows else cell_len(column.title)
        for at, column in enumerate(columns)
    ]
    shown = list(range(len(columns)))
    while sum(widths[at] + 2 for at in shown) - 2 > console.width:
        droppable = [at for at in shown if columns[at].priority]
        if not droppable:
            break
        shown.remove(max(droppable, key=lambda at: (columns[at].priority, at)))
    # Only text gives way: numbers, times and short words stay on one line.
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for at in shown:
        column = columns[at]
        grid.add_column(
            column.title,
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=column.right or column.whole or widths[at] <= 12,
        )
    for row in rows:
        grid.add_row(*(Text(row[at]) for at in shown))
    console.print(grid)


class _Remaining(ProgressColumn):
    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        seconds = task.time_remaining
        return Text("" if seconds is None or task.finished else f"{duration(seconds)} left")


class _Done(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{size(int(task.completed))} of {size(int(task.total or 0))}")


def progress(console: Console, *, transient: bool = False) -> Progress:
    """A display of bytes done, for terminals; elsewhere it shows nothing. transient: gone when it is over."""
    narrow = console.width < 80
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=10 if narrow else 30),
        TextColumn("{task.percentage:>3.0f} %", markup=False),
        _Done(),
        *([] if narrow else [_Remaining()]),
        console=console,
        disable=not console.is_terminal,
        transient=transient,
    )


def advance(bar: Progress, task: Any) -> Callable[[int], None]:
    """What block/copy.py and replica/verify.py tell their progress to."""
    return lambda count: bar.advance(task, count)
