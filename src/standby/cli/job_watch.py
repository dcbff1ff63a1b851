"""Following a job of a vault to its end: live on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from standby.cli.output import print_json, say
from standby.cli.quantities import duration, instant
from standby.cli.vault_client import Client
from standby.errors import Recoverable, StandbyError
from standby.link.requests import Refused

EVERY: Final = 1.0
"""Seconds between looks, as agents report while something is asked of them."""

_MARKS: Final = {
    "pending": (" ", "dim"),
    "in progress": (">", "bold"),
    "succeeded": ("+", "green"),
    "failed": ("x", "red"),
    "skipped": ("-", "dim"),
}


def follow(
    client: Client,
    job: str,
    console: Console,
    *,
    json: bool = False,
    pause: Callable[[float], None] = time.sleep,
) -> Any:
    """The job as it ended. Ctrl-C ends the watching, not the job. json: one line for each change.

    A vault that is away is waited for: the job goes on at its agent.
    """
    show = _Json() if json else _live(console)
    with show:
        while True:
            try:
                found = client.get("jobs", job)
            except Recoverable as error:
                show.away(error)
                pause(EVERY)
                continue
            show.job(found)
            if found["ended"]:
                return found
            pause(EVERY)


def end_of(job: Any) -> StandbyError | None:
    """The error that the job ended with, if it did not succeed."""
    if job["state"] == "succeeded":
        return None
    if job["error"]:
        return Refused(
            **{name: job["error"][name] for name in ("kind", "subject", "cause", "tried", "hint")}
        ).error()
    return Recoverable(
        f"the job was {job['state']}",
        subject=f"{job['title']} of {job['subject']}",
        hint=f"`standby job restart {job['id']}` begins it once more",
    )


def task_lines(job: Any) -> list[tuple[str, str]]:
    """Its tasks, each with a style."""
    lines = []
    for task in job["tasks"]:
        mark, style = _MARKS.get(task["state"], ("?", ""))
        text = f"{mark} {task['name']}"
        if task["state"] == "in progress" and task["progress"] is not None:
            text += f"  {100 * task['progress']:.0f} %"
        if task["began"] and task["ended"]:
            text += (
                f"  {duration(max(0.0, (instant(task['ended']) - instant(task['began'])).total_seconds()))}"
            )
        lines.append((text, style))
        if task["detail"]:
            lines.append((f"    {task['detail']}", style))
    return lines


class _Show(ABC):
    def __enter__(self) -> _Show:
        return self

    def __exit__(self, *_: object) -> None:  # noqa: B027 - most have nothing to end
        pass

    @abstractmethod
    def job(self, job: Any) -> None: ...

    @abstractmethod
    def away(self, error: StandbyError) -> None: ...


class _Json(_Show):
    def __init__(self) -> None:
        self._last: Any = None

    def job(self, job: Any) -> None:
        if job != self._last:
            self._last = job
            print_json(job, line=True)

    def away(self, error: StandbyError) -> None:
        pass


class _Lines(_Show):
    """Each task once for each of its states; its progress every tenth."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: set[str] = set()
        self._state = ""
        self._away = False

    def job(self, job: Any) -> None:
        self._away = False
        for task in job["tasks"]:
            tenth = int(10 * (task["progress"] or 0)) if task["state"] == "in progress" else 0
            key = f"{task['name']}: {task['state']}{f' {tenth * 10} %' if tenth else ''}"
            if task["state"] != "pending" and key not in self._told:
                self._told.add(key)
                self._say(key)
        state = job["state"] + (f": {job['waiting']}" if job["waiting"] else "")
        if state != self._state:
            self._state = state
            self._say(f"{job['title']} of {job['subject']}: {state}")

    def away(self, error: StandbyError) -> None:
        if not self._away:
            self._away = True
            self._say(str(error))

    def _say(self, text: str) -> None:
        say(self._console, f"{datetime.now(UTC).astimezone():%H:%M:%S}  {text}", indent=10)


class _Terminal(_Show):
    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> _Show:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def job(self, job: Any) -> None:
        text = Text(f"{job['title']} of {job['subject']}: {job['state']}", style="bold")
        if job["began"]:
            until = instant(job["ended"]) if job["ended"] else datetime.now(UTC)
            text.append(
                f"  {duration(max(0.0, (until - instant(job['began'])).total_seconds()))}", style="dim"
            )
        if job["waiting"]:
            text.append(f"\n{job['waiting']}\nNext  `standby job continue {job['id']}`", style="yellow")
        for line, style in task_lines(job):
            text.append(f"\n  {line}", style=style)
        self._live.update(text, refresh=True)

    def away(self, error: StandbyError) -> None:
        self._live.update(Text(str(error), style="yellow"), refresh=True)


def _live(console: Console) -> _Show:
    return _Terminal(console) if console.is_terminal else _Lines(console)
