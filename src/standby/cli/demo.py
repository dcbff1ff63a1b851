"""`standby demo`: the main job on a real guest, from nothing to a table of what was measured."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import Progress, TaskID

from standby.cli import results
from standby.cli.machine import show_findings
from standby.cli.output import Field, Json, fields, print_json, progress, say, stderr, stdout
from standby.cli.quantities import counted, duration, size
from standby.cli.state import made
from standby.demo.scenario import NAME, Demo, Outcome, Point
from standby.errors import StandbyError
from standby.records import Finding

_ROW: Final = "{:>7}  {:<11}  {:>9}  {:>9}  {:>6}  {:>6}"


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the machines running and everything in place.")
    ] = False,
    directory: Annotated[
        Path | None,
        typer.Option("--directory", metavar="DIR", help="Where to work; needs 4 GiB. Made if missing."),
    ] = None,
    json: Json = False,
) -> None:
    """Protect a real guest, replicate it as it writes, boot its newest point from the store and check it."""
    folder = made(directory) if directory else Path(tempfile.mkdtemp(prefix="standby-demo-", dir="/var/tmp"))
    console = stderr() if json else stdout()
    told = _Shown(console)
    run = Demo(folder / "run" if directory else folder, _cache(), told)
    began = time.monotonic()
    try:
        outcome = run.run(keep)
    except (StandbyError, KeyboardInterrupt):
        told.end()
        say(console, f"What there is was left in {run.folder}.")
        raise
    told.end()
    if json:
        print_json(_measured(outcome, time.monotonic() - began))
    else:
        _table(console, outcome, time.monotonic() - began)
    if keep:
        _instructions(console, run)
    else:
        run.remove()


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "standby-demo"


class _Shown:
    """What the demo tells, for a person."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._heading = False

    def phase(self, title: str) -> None:
        self.end()
        say(self._console, f"[{time.monotonic() - self._began:5.1f} s] {title}", style="bold", indent=10)

    def note(self, text: str) -> None:
        say(self._console, f"          {text}", indent=10)

    def findings(self, findings: Sequence[Finding]) -> None:
        show_findings(self._console, findings)

    def scanning(self, disk: str, size: int, count: int) -> None:
        if self._bar is None:
            self._bar = progress(self._console)
            self._bar.start()
        if disk not in self._tasks:
            self._tasks[disk] = self._bar.add_task(disk, total=size)
        self._bar.advance(self._tasks[disk], count)

    def point(self, point: Point) -> None:
        self.end()
        if not self._heading:
            self._heading = True
            say(self._console, _ROW.format("POINT", "CONSISTENT", "CHANGED", "SENT", "LAG", "RPO"))
        kind = "application" if point.record.consistency.startswith("application") else "crash"
        row = (point.record.seq, kind, size(point.changed), size(point.sent), duration(point.lag))
        rpo = "" if point.rpo is None else duration(point.rpo)
        say(self._console, _ROW.format(*row, rpo))

    def end(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None


def _measured(outcome: Outcome, seconds: float) -> dict[str, Any]:
    """What --json prints: docs/cli.md tells the keys."""
    deltas = outcome.points
    return {
        "content_bytes": outcome.content,
        "initial_replication": {
            "sent_bytes": outcome.initial_sent,
            "seconds": round(outcome.initial_seconds, 2),
        },
        "deltas": [
            {
                "point": point.record.seq,
                "consistency": point.record.consistency,
                "changed_bytes": point.changed,
                "sent_bytes": point.sent,
                "lag_seconds": round(point.lag, 3),
                "rpo_seconds": round(point.rpo or 0.0, 3),
                "cut_open_seconds": round(point.window, 3),
            }
            for point in deltas
        ],
        "first_instruction_seconds": round(outcome.first_instruction, 3),
        "boot_seconds": round(outcome.booted, 2),
        "stamps": outcome.stamps,
        "files": outcome.files,
        "verified": {"points": outcome.verified_points, "bytes": outcome.verified_bytes},
        "seconds": round(seconds, 1),
    }


def _table(console: Console, outcome: Outcome, seconds: float) -> None:
    changed = sum(point.changed for point in outcome.points)
    rpo = max(point.rpo or 0.0 for point in outcome.points)
    sent = sum(point.sent for point in outcome.points)
    say(console, "")
    fields(
        console,
        [
            Field("Files protected", f"{size(outcome.content)} on two disks, VHDX and qcow2"),
            Field(
                "Initial replication",
                f"{size(outcome.initial_sent)} sent in {duration(outcome.initial_seconds)}",
            ),
            Field("Bytes changed", f"{size(changed)} in {counted(len(outcome.points), 'delta')}"),
            Field("Bytes sent", f"{size(sent)}, compressed"),
            Field(
                "RPO reached",
                f"{duration(rpo)} at worst; a point every 5 s",
            ),
            Field(
                "Time to boot",
                f"{duration(outcome.first_instruction)} to the first instruction, "
                f"{duration(outcome.booted)} to the guest agent's answer, straight from the store",
            ),
            Field(
                "Booted copy",
                f"{outcome.files} files intact, its point is exactly the first {outcome.stamps} writes, on both disks",
            ),
            Field(
                "Points verified",
                f"{outcome.verified_points} of {outcome.verified_points}, every block: {size(outcome.verified_bytes)}",
            ),
            Field("In all", duration(seconds)),
        ],
    )


def _instructions(console: Console, run: Demo) -> None:
    store = run.store
    say(console, "")
    say(console, "Everything was left running. To look around:")
    for command in (
        f"standby replica points {store} {NAME}",
        f"standby replica verify {store} {NAME}",
        f"standby replica serve {store} {NAME} --disk disk0 --socket /tmp/point.sock",
        f"ls {run.folder / 'machine'} {run.tests}",
    ):
        say(console, f"  {command}")
    say(console, f"To end it: standby demo-end {run.folder}")


def demo_end(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `standby demo --keep` named.")],
    json: Json = False,
) -> None:
    """End the machines that `standby demo --keep` left running, and remove its directory."""
    Demo(folder, _cache(), _Shown(stderr())).end()
    if json:
        print_json(results.DemoEnded(directory=str(folder)))
    else:
        say(stdout(), "Ended: nothing of the demo is left.")
