"""One protected machine: asks what to do next, does it, and notes what came of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, NamedTuple, Protocol

from standby.clock import Clock
from standby.errors import Fenced, NeedsPerson, Recoverable, ResyncRequired, StandbyError
from standby.hypervisor.base import Consistency
from standby.replica.documents import Record
from standby.replication.books import UNKNOWN, Books, Relationship
from standby.replication.decide import SourceAction, TargetAction, View, source_action, target_action
from standby.replication.retry import wait_seconds
from standby.replication.source import CycleReport, Source
from standby.replication.states import Event, State, after
from standby.replication.target import Target

POLL: Final = 0.2
"""Seconds between two looks at the world while there is nothing to do."""


_MAY_SCAN: Final = (State.INITIAL_REPLICATION, State.RESYNC_REQUIRED, State.RESYNCHRONIZING)
"""The states in which a disk may wait for its scan."""


class Observer(Protocol):
    """Told what happens; never asked."""

    def state(self, state: State) -> None: ...

    def scanned(self, disk: str, count: int) -> None: ...

    def cycle(self, report: CycleReport) -> None: ...

    def committed(self, record: Record) -> None: ...

    def failed(self, error: StandbyError) -> None: ...


class Step(NamedTuple):
    source: SourceAction
    target: TargetAction


class Engine:
    """Runs one relationship. `step` does the next thing and returns; `run` goes on until told to stop."""

    def __init__(
        self,
        books: Books,
        relationship: str,
        source: Source,
        target: Target,
        clock: Clock,
        observer: Observer,
    ) -> None:
        self._books = books
        self._id = relationship
        self._source = source
        self._target = target
        self._clock = clock
        self._observer = observer
        self._next_cycle = clock.monotonic()
        self._wanted = Consistency.CRASH
        self._next_application = clock.monotonic()
        self._lock = threading.Lock()

    def request_application_consistent(self) -> None:
        """Make the next point application-consistent, and make it now."""
        self._wanted = Consistency.APPLICATION
        self._next_cycle = self._clock.monotonic()

    def pause(self) -> None:
        """Stop cycles and uploads; changes go on being tracked. Raises InvalidRequest if paused already."""
        self._apply(Event.PAUSED)

    def resume(self) -> None:
        self._apply(Event.RESUMED)

    def step(self) -> Step:
        """Do what is next on either side, one after the other."""
        return Step(self.source_step(), self.target_step())

    def run(self, stop: threading.Event) -> None:
        """Go on until `stop` is set; captures go on while an upload is under way (log swap).

        Raises what is a bug or needs the caller (Fenced, NeedsPerson); what can be waited for is waited for.
        """
        with ThreadPoolExecutor(1) as shipping:
            upload: Future[TargetAction] | None = None
            while not stop.is_set():
                if upload and upload.done():
                    upload.result()
                    upload = None
                if upload is None:
                    action = target_action(self.view())
                    if action is TargetAction.SHIP:
                        upload = shipping.submit(self.target_step)
                    elif action is not TargetAction.WAIT:
                        # These change what the source builds on, so they never run beside it.
                        self.target_step()
                if self.source_step() is SourceAction.WAIT:
                    stop.wait(POLL)

    def close(self) -> None:
        self._source.let_go()
        self._target.let_go()

    def view(self) -> View:
        relationship = self._books.get(self._id)
        queue = self._books.queue(self._id)
        return View(
            state=relationship.status.state,
            tracked=self._source.ready,
            attached=self._target.attached,
            unknown=any(disk.learned == UNKNOWN for disk in relationship.disks),
            unlearned=any(
                disk.logs and queue[0].ordinal > relationship.disk(disk.id).learned
                for disk in (queue[0].disks if queue else ())
            ),
            scanning=any(disk.scan and disk.scanned < disk.size for disk in relationship.disks),
            queued=len(queue),
            queued_scans=sum(entry.kind == "scan" for entry in queue),
            cycle_due=self._clock.monotonic() >= self._next_cycle,
            ship_due=relationship.retry_at is None or self._clock.now().timestamp() >= relationship.retry_at,
        )

    def source_step(self) -> SourceAction:
        action = source_action(self.view())
        doing: dict[SourceAction, Callable[[], None]] = {
            SourceAction.RECOVER: self._recover,
            SourceAction.SCAN: self._scan,
            SourceAction.CYCLE: self._cycle,
        }
        if action in doing:
            try:
                doing[action]()
            except ResyncRequired as error:
                self._observer.failed(error)
                self._apply(Event.TRACKING_LOST)
            except Recoverable as error:
                # The cycle is missed; the next one takes what it would have taken.
                self._observer.failed(error)
                self._schedule_cycle()
        return action

    def target_step(self) -> TargetAction:
        action = target_action(self.view())
        doing: dict[TargetAction, Callable[[], None]] = {
            TargetAction.ATTACH: self._attach,
            TargetAction.REFILL: self._refill,
            TargetAction.SHIP: self._ship,
        }
        if action in doing:
            try:
                doing[action]()
            except Recoverable as error:
                self._retry_later(error)
            except Fenced as error:
                self._note(error)
                self._apply(Event.FENCED)
                self._target.let_go()
                raise
            except NeedsPerson as error:
                self._note(error)
                raise
        return action

    def _recover(self) -> None:
        self._source.recover()
        # Asked of the books, not of what was lost just now: a kill may have come between noting it and here.
        if self.view().scanning and self._state() not in _MAY_SCAN:
            self._apply(Event.TRACKING_LOST)
        if self._state() is State.RESYNC_REQUIRED:
            self._apply(Event.RESYNC_STARTED)

    def _scan(self) -> None:
        disk = next(d for d in self._books.get(self._id).disks if d.scan and d.scanned < d.size)
        self._source.scan(disk.id, self._observer.scanned)
        if not self.view().scanning and self._state() is State.INITIAL_REPLICATION:
            self._apply(Event.SCANNED)

    def _cycle(self) -> None:
        began = self._clock.monotonic()
        if self._state() is State.PROTECTED:
            self._apply(Event.CYCLE_BEGAN)
        hours = self._relationship().policy.application_consistent_hours
        wanted, self._wanted = self._wanted, Consistency.CRASH
        if hours and began >= self._next_application:
            wanted = Consistency.APPLICATION
        try:
            report = self._source.cycle(wanted)
        except StandbyError:
            self._wanted = wanted
            raise
        if wanted is Consistency.APPLICATION:
            self._next_application = began + hours * 3600
        if self._state() is State.DELTA:
            self._apply(Event.CYCLE_ENDED)
        self._observer.cycle(report)
        self._schedule_cycle(began)

    def _attach(self) -> None:
        if not self._target.attach():
            self._source_anew()
            if self._state() is not State.INITIAL_REPLICATION:
                self._apply(Event.TRACKING_LOST)

    def _refill(self) -> None:
        self._target.refill(self._source.known_path)
        self._source_anew()

    def _source_anew(self) -> None:
        """What the source builds on has changed: it brings itself in order again, and at once."""
        self._source.let_go()
        self._next_cycle = self._clock.monotonic()

    def _ship(self) -> None:
        entry = self._books.queue(self._id)[0]
        record = self._target.ship(entry)
        relationship = self._books.get(self._id)
        if relationship.failures or relationship.error:
            self._books.set_error(self._id, "", 0, None, None)
        if relationship.status.state in (State.FINALIZING, State.RESYNCHRONIZING) and self._closed(
            relationship
        ):
            self._apply(Event.CLOSED)
        self._observer.committed(record)

    def _closed(self, relationship: Relationship) -> bool:
        """Whether the point that closes the scan is committed, and not one that was queued before the loss."""
        waiting = any(entry.kind == "point" for entry in self._books.queue(self._id))
        return not waiting and not any(disk.scan for disk in relationship.disks)

    def _retry_later(self, error: Recoverable) -> None:
        now = self._clock.now().timestamp()
        relationship = self._books.get(self._id)
        failures = relationship.failures + 1
        first = relationship.first_failure or now
        self._books.set_error(self._id, str(error), failures, first, now + wait_seconds(failures))
        self._observer.failed(error)

    def _note(self, error: StandbyError) -> None:
        relationship = self._books.get(self._id)
        self._books.set_error(
            self._id, str(error), relationship.failures, relationship.first_failure, relationship.retry_at
        )
        self._observer.failed(error)

    def _schedule_cycle(self, began: float | None = None) -> None:
        """The next cycle is due one interval after this one began, or at once if it took longer."""
        start = self._clock.monotonic() if began is None else began
        self._next_cycle = start + self._relationship().policy.frequency

    def _relationship(self) -> Relationship:
        return self._books.get(self._id)

    def _state(self) -> State:
        return self._relationship().status.state

    def _apply(self, event: Event) -> None:
        with self._lock:
            status = after(self._relationship().status, event, self._relationship().machine)
            self._books.set_status(self._id, status)
        self._observer.state(status.state)
