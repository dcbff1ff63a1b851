"""What `standby vm protect` shows of an engine at work: for people, or as lines of JSON."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.text import Text

from standby.cli.machine import show_findings
from standby.cli.output import print_json, progress, say
from standby.cli.quantities import counted, duration, instant, size
from standby.cli.results import Event
from standby.errors import StandbyError
from standby.records import Finding
from standby.replica.documents import Record
from standby.replication.relationship import Relationship
from standby.replication.source import CycleReport
from standby.replication.states import State

CHECK: Final = "Prerequisites check"
CREATE: Final = "Create relationship"
START: Final = "Start replication"
FINALIZE: Final = "Finalize"
RESYNCHRONIZE: Final = "Resynchronize"

_SCANNING: Final = (State.INITIAL_REPLICATION, State.RESYNCHRONIZING)
_HEADER_EVERY: Final = 20
_ROW: Final = "{:>7}  {:8}  {:>9}  {:>9}  {:>7}  {:>7}"


class Watch(ABC):
    """An engine's Observer. Called from the engine's two threads.

    relationship: asked for what the books say now.
    """

    def __init__(self, relationship: Callable[[], Relationship]) -> None:
        self._relationship = relationship
        self._lock = threading.Lock()
        self._cycles: dict[str, CycleReport] = {}
        self._newest: datetime | None = None
        self._task = ""
        self._shown: State | None = None

    def begin(self, newest: Record | None) -> None:
        """Show where things stand before the engine runs. newest: the newest point in the store."""
        self._newest = instant(newest.at) if newest else None
        self.state(self._relationship().status.state)

    def state(self, state: State) -> None:
        with self._lock:
            if state is not self._shown and state is not State.DELTA:
                self._shown = state
                self.show_state(state)
            tasks = {
                State.INITIAL_REPLICATION: START,
                State.FINALIZING: FINALIZE,
                State.RESYNCHRONIZING: RESYNCHRONIZE,
            }
            task = tasks.get(state, "")
            if task == self._task and state in _SCANNING:
                # What was tracked is lost: the scan begins anew.
                self.scan_ended()
                self.scan_began(task)
            elif task != self._task:
                if self._task in (START, RESYNCHRONIZE):
                    self.scan_ended()
                if self._task and state is not State.RESYNC_REQUIRED:
                    self.task_done(self._task)
                self._task = task
                if task in (START, RESYNCHRONIZE):
                    self.scan_began(task)

    def scanned(self, disk: str, count: int) -> None:
        with self._lock:
            self.show_scanned(disk, count)

    def cycle(self, report: CycleReport) -> None:
        with self._lock:
            self._cycles[report.entry.nonce] = report

    def committed(self, record: Record) -> None:
        if not record.is_point:
            return
        with self._lock:
            now, at = datetime.now(UTC), instant(record.at)
            # Until this moment a failover would have gone back to the point before.
            rpo = (now - (self._newest or at)).total_seconds()
            self._newest = at
            report = self._cycles.pop(record.nonce, None)
            self.show_point(record, report, rpo)

    def failed(self, error: StandbyError) -> None:
        with self._lock:
            relationship = self._relationship()
            trouble = next(
                (one for one in (relationship.send, relationship.capture) if one and one.error == str(error)),
                None,
            )
            retry_at = trouble.retry_at if trouble else None
            self.show_failed(error, datetime.fromtimestamp(retry_at, UTC) if retry_at else None)

    @abstractmethod
    def findings(self, findings: Sequence[Finding]) -> None:
        """The prerequisites check is done."""

    @abstractmethod
    def task_done(self, task: str, remark: str = "") -> None: ...

    @abstractmethod
    def stopping(self) -> None:
        """Somebody asked to stop: `stopped` follows."""

    @abstractmethod
    def stopped(self) -> None:
        """The engine has stopped, as it was told to."""

    @abstractmethod
    def scan_began(self, task: str) -> None: ...

    @abstractmethod
    def scan_ended(self) -> None: ...

    @abstractmethod
    def show_state(self, state: State) -> None: ...

    @abstractmethod
    def show_scanned(self, disk: str, count: int) -> None: ...

    @abstractmethod
    def show_point(self, record: Record, report: CycleReport | None, rpo: float) -> None: ...

    @abstractmethod
    def show_failed(self, error: StandbyError, retry_at: datetime | None) -> None: ...


class Told(Watch):
    """For people: tasks and points on stdout, progress bars and troubles on stderr."""

    def __init__(self, relationship: Callable[[], Relationship], out: Console, err: Console) -> None:
        super().__init__(relationship)
        self._out = out
        self._err = err
        self._bars: Progress | None = None
        self._disks: dict[str, TaskID] = {}
        self._based: set[str] = set()
        self._points = 0
        self._trouble = ""

    def findings(self, findings: Sequence[Finding]) -> None:
        blocking = sum(finding.blocks for finding in findings)
        remarks = len(findings) - blocking
        if blocking:
            say(self._out, f"{CHECK}: {counted(blocking, 'problem')}, {counted(remarks, 'remark')}")
        else:
            self.task_done(CHECK, counted(remarks, "remark") if remarks else "")
        # Those that block are listed by the error that follows.
        show_findings(self._out, [finding for finding in findings if not finding.blocks])

    def task_done(self, task: str, remark: str = "") -> None:
        say(self._out, f"{task}: done{f', {remark}' if remark else ''}", style="green")

    def stopped(self) -> None:
        self.scan_ended()
        say(self._out, "Stopped. Changes go on being tracked; the same command goes on from here.")

    def stopping(self) -> None:
        if self._err.is_terminal:
            # The terminal has echoed ^C: begin below it.
            self._err.print()
        say(self._err, "Stopping after the step at work. Ctrl-C again: at once; nothing is lost.")

    def scan_began(self, task: str) -> None:
        self._bars = progress(self._err)
        self._based = set()
        disks = [disk for disk in self._relationship().disks if disk.scan]
        width = max((len(disk.id) for disk in disks), default=0)
        total = sum(disk.size - disk.scanned for disk in disks)
        say(self._out, f"{task}: {counted(len(disks), 'disk')}, {size(total)} to compare")
        self._disks = {
            disk.id: self._bars.add_task(f"  {disk.id:{width}}", total=disk.size, completed=disk.scanned)
            for disk in disks
        }
        self._bars.start()

    def scan_ended(self) -> None:
        if self._bars:
            self._bars.stop()
            self._bars = None

    def show_state(self, state: State) -> None:
        """People are told tasks, points and troubles."""

    def show_scanned(self, disk: str, count: int) -> None:
        if self._bars is None or disk not in self._disks:
            return
        if disk not in self._based:
            # Where tracking was lost before the first byte, the scan begins at 0 and not where it was.
            self._based.add(disk)
            self._bars.update(self._disks[disk], completed=self._relationship().disk(disk).scanned)
        self._bars.advance(self._disks[disk], count)

    def show_point(self, record: Record, report: CycleReport | None, rpo: float) -> None:
        if self._trouble:
            self._trouble = ""
            say(self._err, "It works again.", style="green")
        if self._points % _HEADER_EVERY == 0:
            self._out.print(
                Text(_ROW.format("Point", "Time", "Changed", "Sent", "Window", "RPO"), style="bold")
            )
        self._points += 1
        sent = sum(log.size for disk in record.disks for log in disk.logs)
        row = _ROW.format(
            record.seq,
            f"{instant(record.at).astimezone():%H:%M:%S}",
            size(report.changed) if report else "-",
            size(sent),
            duration(report.window) if report and report.window else "-",
            duration(rpo),
        )
        self._out.print(Text(row), soft_wrap=True)
        if record.consistency != "crash-consistent":
            say(self._out, f"         {record.consistency}", style="green")
        if record.note:
            say(self._out, f"         {record.note}", style="yellow", indent=9)

    def show_failed(self, error: StandbyError, retry_at: datetime | None) -> None:
        text = str(error).rstrip(".") + "."
        if text == self._trouble and retry_at is None:
            return
        self._trouble = text
        if retry_at:
            text += f" Again at {retry_at.astimezone():%H:%M:%S}."
        say(self._err, f"{datetime.now().astimezone():%H:%M:%S}  {text}", style="yellow", indent=10)


class Lines(Watch):
    """For programs: each event is one line of JSON on stdout."""

    def findings(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            self._print("finding", finding=finding)
        if not any(finding.blocks for finding in findings):
            self.task_done(CHECK)

    def task_done(self, task: str, remark: str = "") -> None:
        self._print("task", task=task, outcome="done")

    def stopped(self) -> None:
        self._print("stopped")

    def stopping(self) -> None:
        """The line of `stopped` is enough."""

    def scan_began(self, task: str) -> None:
        self._print("task", task=task, outcome="started")
        self._done: dict[str, int] = {}

    def scan_ended(self) -> None:
        """The task's own line tells."""

    def show_state(self, state: State) -> None:
        self._print("state", state=state.value)

    def show_scanned(self, disk: str, count: int) -> None:
        book = self._relationship().disk(disk)
        before = self._done.setdefault(disk, book.scanned)
        done = self._done[disk] = before + count
        # A line for every hundredth, as a program that reads them may well print each.
        if done >= book.size or done * 100 // book.size != before * 100 // book.size:
            self._print("progress", disk=disk, done=done, size=book.size)

    def show_point(self, record: Record, report: CycleReport | None, rpo: float) -> None:
        self._print(
            "point",
            point=record.seq,
            consistency=record.consistency,
            note=record.note,
            changed=report.changed if report else None,
            sent=sum(log.size for disk in record.disks for log in disk.logs),
            window=report.window if report else None,
            rpo=rpo,
            at=record.at,
        )

    def show_failed(self, error: StandbyError, retry_at: datetime | None) -> None:
        self._print(
            "failed",
            error=type(error).__name__,
            subject=error.subject,
            cause=error.cause,
            hint=error.hint,
            retry_at=retry_at.isoformat() if retry_at else "",
        )

    def _print(self, event: str, *, at: str = "", **rest: object) -> None:
        when = at or datetime.now(UTC).isoformat()
        print_json(Event(event=event, at=when, **rest), line=True)  # type: ignore[arg-type]
