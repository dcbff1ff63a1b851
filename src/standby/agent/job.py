"""One order while it is carried out: its tasks as they come and go, and whether it was cancelled."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Final

import msgspec

from standby.clock import Clock
from standby.errors import InvalidRequest, NeedsPerson
from standby.link.messages import Order, TaskReport, TaskState, WorkReport, WorkState


class OrderCancelled(InvalidRequest):
    """Somebody cancelled the order; what it had begun is taken back."""


class OrderWaits(NeedsPerson):
    """Somebody has to do something; then the order comes again."""


NOT_CANCELLED: Final = "It can no longer be cancelled: what it did is not taken back by half"


class Job:
    """Written by the thread that carries it out, read and cancelled by others.

    facts: what was so before it was begun, kept durably. begun: it may have touched the world. again: a process that
    has died had begun it. result: what the vault keeps of it, also where it fails.
    """

    def __init__(self, order: Order, clock: Clock, *, facts: Mapping[str, str] | None = None) -> None:
        self.order = order
        self.facts: Mapping[str, str] = facts or {}
        self.begun = self.again = facts is not None
        self.result: dict[str, str] = {}
        self._clock = clock
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskReport] = {}
        self._cancelled = False
        self._may_cancel = True

    @property
    def tag(self) -> str:
        """Of the run directory that it makes: of the job's id, so that who carries it out after a kill finds it."""
        return blake2b(self.order.job.encode(), digest_size=8).hexdigest()

    def expect(self, names: Iterable[str]) -> None:
        """Tasks that will come, in order."""
        with self._lock:
            for name in names:
                self._tasks.setdefault(name, TaskReport(name=name, state=TaskState.PENDING))

    def task(self, name: str) -> None:
        """The task begins; the one before has succeeded. Nothing if it is the one that is at work."""
        with self._lock:
            known = self._tasks.get(name)
            if known is not None and known.state is TaskState.IN_PROGRESS:
                return
            self._settle(TaskState.SUCCEEDED)
            self._tasks[name] = TaskReport(name=name, state=TaskState.IN_PROGRESS, began=self._now())

    def progress(self, share: float | None, detail: str = "") -> None:
        """Of the task at work. share: 0 to 1."""
        self._change(progress=share, detail=detail)

    def detail(self, text: str) -> None:
        """Of the task at work."""
        self._change(detail=text)

    def failed(self, name: str, why: str) -> None:
        """A task has failed; others may follow, that take back what was begun."""
        with self._lock:
            known = self._tasks.get(name) or TaskReport(name=name, state=TaskState.PENDING)
            self._tasks[name] = msgspec.structs.replace(
                known, state=TaskState.FAILED, ended=self._now(), detail=why
            )

    def cancel(self) -> None:
        """Asked for; honoured where `point_of_return` is passed next."""
        with self._lock:
            self._cancelled = True
            if not self._may_cancel:
                self._refuse_cancel()

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def point_of_return(self) -> None:
        """Between two steps that can both be taken back. Raises OrderCancelled."""
        if self._cancelled and self._may_cancel:
            raise OrderCancelled(
                "it was cancelled", subject=self.order.title, tried="what it had begun was taken back"
            )

    def no_return(self) -> None:
        """From here on it is not cancelled."""
        with self._lock:
            self._may_cancel = False
            if self._cancelled:
                self._refuse_cancel()

    def report(self) -> WorkReport:
        with self._lock:
            return WorkReport(
                job=self.order.job,
                lease=self.order.lease,
                state=WorkState.IN_PROGRESS,
                tasks=tuple(self._tasks.values()),
            )

    def end(self, state: WorkState) -> tuple[TaskReport, ...]:
        """Its tasks at the end: what was at work shares its fate, what did not come is skipped."""
        with self._lock:
            if state is WorkState.WAITING:
                return tuple(self._tasks.values())
            self._settle(TaskState.SUCCEEDED if state is WorkState.SUCCEEDED else TaskState.FAILED)
            return tuple(
                msgspec.structs.replace(task, state=TaskState.SKIPPED)
                if task.state is TaskState.PENDING
                else task
                for task in self._tasks.values()
            )

    def _settle(self, state: TaskState) -> None:
        for name, task in self._tasks.items():
            if task.state is TaskState.IN_PROGRESS:
                done = 1.0 if state is TaskState.SUCCEEDED and task.progress is not None else task.progress
                self._tasks[name] = msgspec.structs.replace(
                    task, state=state, ended=self._now(), progress=done
                )

    def _refuse_cancel(self) -> None:
        for name, task in self._tasks.items():
            if task.state is TaskState.IN_PROGRESS:
                self._tasks[name] = msgspec.structs.replace(task, detail=NOT_CANCELLED)

    def _change(self, **changes: object) -> None:
        with self._lock:
            for name, task in self._tasks.items():
                if task.state is TaskState.IN_PROGRESS:
                    kept = {**changes, "detail": changes.get("detail") or task.detail}
                    self._tasks[name] = msgspec.structs.replace(task, **kept)

    def _now(self) -> str:
        return self._clock.now().isoformat()
