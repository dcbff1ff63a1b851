"""One protected machine: asks what to do next, does it, and notes what came of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from datetime import tzinfo
from typing import Final, NamedTuple, Protocol

from standby import failpoints
from standby.clock import Clock
from standby.errors import Fenced, InvalidRequest, NeedsPerson, Recoverable, ResyncRequired, StandbyError
from standby.hypervisor.base import Consistency
from standby.hypervisor.meeting import Meeting
from standby.objects.base import ObjectStore
from standby.replica.documents import Record
from standby.replication.agenda import turn
from standby.replication.books import Books, BooksUnwritable
from standby.replication.chronicle import Chronicler
from standby.replication.classification import Outcome, outcome
from standby.replication.decide import SourceAction, TargetAction, View, source_action, target_action
from standby.replication.entries import Entry
from standby.replication.followers import Follower, Followers
from standby.replication.hours import host_zone
from standby.replication.policy import Policy
from standby.replication.relationship import Relationship, Side, Trouble
from standby.replication.resync import Reason
from standby.replication.retry import wait_seconds
from standby.replication.room import crowded, full
from standby.replication.source import CycleReport, Source
from standby.replication.standing import resync_opens
from standby.replication.states import Event, State, after
from standby.replication.target import Target

_PROMOTED: Final = failpoints.declare("follow.promoted")

LOOK: Final = 5.0
"""Seconds after which an engine that waits looks again at what nobody tells it: room, windows."""


_CLOSING: Final = (State.FINALIZING, State.RESYNCHRONIZING)
_SCANNING: Final = (State.INITIAL_REPLICATION, State.RESYNC_REQUIRED, State.RESYNCHRONIZING)


class Observer(Protocol):
    """Told what happens; never asked."""

    def state(self, state: State) -> None: ...

    def scanned(self, disk: str, count: int) -> None: ...

    def cycle(self, report: CycleReport) -> None: ...

    def committed(self, record: Record) -> None: ...

    def failed(self, error: StandbyError) -> None: ...


class HostBusy(Recoverable):
    """The host is short of memory, space or connections for now."""


class HostRefused(NeedsPerson):
    """The host's file system refuses what was asked of it, or its device fails."""


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
        *,
        first_cycle: float = 0.0,
        tz: tzinfo | None = None,
        stores: Callable[[str], ObjectStore] | None = None,
    ) -> None:
        """first_cycle: seconds until the first cycle is due. tz: of the host's clock (its own). stores: opens the
        store of an address, for a machine with several targets.

        `changed` is called when somebody asked for something.
        """
        self._books = books
        self._id = relationship
        self._source = source
        self._target = target
        self._clock = clock
        self._observer = observer
        self._tz = tz or host_zone()
        self._stores = stores
        self._followers = Followers(books)
        self._chronicler = Chronicler(books, relationship, source.volumes, clock, self._tz)
        self._next_cycle = clock.monotonic() + first_cycle
        self._no_work_before = dict.fromkeys(Side, clock.monotonic())
        self._stopping = threading.Event()
        self.changed: Callable[[], None] = lambda: None
        self._wanted = Consistency.CRASH
        self._queue_damaged = False
        self._next_application = clock.monotonic()
        self._lock = threading.Lock()

    def request_application_consistent(self) -> None:
        """Make the next point application-consistent, and make it now."""
        self._wanted = Consistency.APPLICATION
        self._next_cycle = self._clock.monotonic()
        self.changed()

    def pause(self) -> None:
        """Stop cycles and uploads; changes go on being tracked. Raises InvalidRequest if paused already."""
        self._apply(Event.PAUSED)
        self.changed()

    def resume(self) -> None:
        """Go on after a pause. Raises InvalidRequest if it is not paused."""
        self._apply(Event.RESUMED)
        self.changed()

    def retry_now(self) -> None:
        """Try again at once what waits for its time, or for a person."""
        self._books.clear_troubles(self._id)
        self._followers.clear_troubles(self._id)
        self._no_work_before = dict.fromkeys(Side, self._clock.monotonic())
        self._next_cycle = self._clock.monotonic()
        self.changed()

    def set_policy(self, policy: Policy) -> None:
        """Use another policy from now on."""
        self._books.set_policy(self._id, policy)
        self._next_cycle = min(self._next_cycle, self._clock.monotonic() + policy.frequency)
        self.changed()

    def resync_now(self, disks: Collection[str]) -> None:
        """Compare these disks with the replica now, with those that wait already; all if none is named.

        While nothing is under way with the machine. Raises InvalidRequest where there is nothing to compare yet.
        """
        relationship = self._relationship()
        state = relationship.status.state
        if state in (State.NEW, State.INITIAL_REPLICATION, State.FINALIZING, State.FENCED, State.SEALED):
            raise InvalidRequest(
                f"it cannot be resynchronized in the state {state.value}", subject=relationship.machine
            )
        waiting = {disk.id for disk in relationship.disks if disk.scan}
        wanted = set(disks) or ({disk.id for disk in relationship.disks} if not waiting else set())
        if new := wanted - waiting:
            self._books.require_scan(self._id, dict.fromkeys(new, Reason.ASKED.value))
            self._apply(Event.TRACKING_LOST)
        self._books.set_resync(self._id, "now")
        self.changed()

    def cancel_resync(self) -> None:
        """Hold a resynchronization until somebody asks for it; it goes on from where it is then.

        While nothing is under way with the machine. Raises InvalidRequest if there is none.
        """
        relationship = self._relationship()
        if relationship.status.state not in (State.RESYNC_REQUIRED, State.RESYNCHRONIZING):
            raise InvalidRequest(
                f"no resynchronization waits or runs: it is {relationship.status.state.value}",
                subject=relationship.machine,
            )
        self._books.set_resync(self._id, "cancelled")
        self.changed()

    def leave_out(self, disk: str) -> None:
        """Protect a disk no longer; points that have it stay. While nothing is under way with the machine.

        Raises InvalidRequest if it is the last one.
        """
        relationship = self._relationship()
        if [one.id for one in relationship.disks] == [disk]:
            raise InvalidRequest(
                f"{disk} is its only protected disk",
                subject=relationship.machine,
                hint=f"`standby vm unprotect {relationship.machine}` ends protection",
            )
        self._books.leave_out(self._id, disk)
        self._source_anew()
        self.changed()

    def take_in(self, disk: str) -> None:
        """Protect a disk that was left out. While nothing is under way with the machine."""
        self._books.set_excluded(self._id, [one for one in self._relationship().excluded if one != disk])
        self._source_anew()
        self.changed()

    def fenced_elsewhere(self) -> None:
        """Another writer took the replica of a further target: the machine may run elsewhere, so it is captured
        no more."""
        if self._state() not in (State.FENCED, State.SEALED):
            self._apply(Event.FENCED)
        self.changed()

    @property
    def last_cut(self) -> float | None:
        """Seconds that the last cut was open."""
        return self._chronicler.last_cut

    def step(self) -> Step:
        """Do what is next on either side, one after the other."""
        return Step(self.source_step(), self.target_step())

    def hurry(self, on: bool = True) -> None:
        """End a scan that is under way at its next step, with what it has; as long as `on`."""
        if on:
            self._stopping.set()
        else:
            self._stopping.clear()

    def close(self) -> None:
        """Raises BooksUnwritable; everything is let go of before."""
        self._source.let_go()
        self._target.let_go()
        self._chronicler.keep()

    def view(self) -> View:
        relationship = self._books.get(self._id)
        queue = self._books.queued(self._id)
        sizes = {disk.id: disk.size for disk in relationship.disks}
        volumes = self._source.volumes()
        oldest = queue.oldest
        filled = full(relationship.policy, sizes, queue.bytes, volumes)
        pressed = bool(crowded(relationship.policy, queue.bytes, volumes))
        late, heir = self._giving_way() if filled or pressed else (None, None)
        return View(
            state=relationship.status.state,
            tracked=self._source.ready,
            attached=self._target.attached,
            unknown=relationship.unknown,
            unlearned=self._queue_damaged or (oldest is not None and _unlearned(oldest, relationship)),
            scanning=relationship.scanning,
            queued=queue.length,
            queued_scans=queue.scans,
            resync_open=self._resync_open(relationship),
            full=filled,
            crowded=late is not None or (pressed and heir is None),
            yields=heir is not None,
            closing=relationship.closing > 0,
            capture_due=self._due(relationship, Side.CAPTURE),
            cycle_due=self._due(relationship, Side.CAPTURE) and self._clock.monotonic() >= self._next_cycle,
            ship_due=self._due(relationship, Side.SEND),
        )

    def next_look(self) -> float:
        """Monotonic seconds at which there may be something to do, if nobody asks for anything before."""
        now = self._clock.monotonic()
        times = [
            now + LOOK,
            *(time for time in (self._next_cycle, *self._no_work_before.values()) if time > now),
        ]
        send = self._relationship().send
        if send and send.retry_at is not None:
            times.append(now + max(0.0, send.retry_at - self._clock.now().timestamp()))
        return min(times)

    @property
    def cycle_due_at(self) -> float:
        """Monotonic seconds."""
        return self._next_cycle

    @property
    def id(self) -> str:
        return self._id

    @property
    def frequency(self) -> int:
        return self._relationship().policy.frequency

    def source_step(self) -> SourceAction:
        """Do what is next with the machine. Raises Bug."""
        action = source_action(self.view())
        doing: dict[SourceAction, Callable[[], None]] = {
            SourceAction.RECOVER: self._recover,
            SourceAction.SCAN: self._scan,
            SourceAction.CYCLE: self._cycle_alone,
            SourceAction.MISS: self._miss,
            SourceAction.MAKE_ROOM: self._make_room,
            SourceAction.RESYNCHRONIZE: lambda: self._apply(Event.RESYNC_STARTED),
            SourceAction.HOLD: lambda: self._apply(Event.RESYNC_HELD),
        }
        if action in doing:
            self._capture(doing[action])
        return action

    def common_point(self, meeting: Meeting) -> bool:
        """Make a point at the instant that other machines have too, application-consistent; whether it is.

        While nothing is under way with the machine. Where it is not, it is a point of this machine alone, or none: what
        went wrong is noted as of any cycle. Raises InvalidRequest where no point can be made of it now.
        """
        relationship = self._relationship()
        if source_action(self.view()._replace(cycle_due=True)) is not SourceAction.CYCLE:
            meeting.leave(relationship.machine, f"is {relationship.status.state.value}")
            raise InvalidRequest(
                f"no point can be made of it now: it is {relationship.status.state.value}",
                subject=relationship.machine,
                hint=f"`standby vm show {relationship.machine}` tells what it waits for",
            )
        reached: list[bool] = []
        try:
            self._capture(lambda: reached.append(self._cycle(meeting)))
        finally:
            if not any(reached):
                meeting.leave(relationship.machine, self._relationship().error or "made no point")
        return any(reached)

    def _capture(self, work: Callable[[], None]) -> None:
        """Do something with the machine, and note what came of it. Raises Bug."""
        try:
            try:
                work()
            except ResyncRequired as error:
                self._met(error)
                self._apply(Event.TRACKING_LOST)
            else:
                self._clear(Side.CAPTURE)
        except (Recoverable, NeedsPerson, InvalidRequest) as error:
            # The cycle is missed; the next one takes what it would have taken.
            self._note(Side.CAPTURE, error)
        except (OSError, MemoryError) as error:
            self._note(Side.CAPTURE, of_host(error, self._relationship().machine))

    def target_step(self) -> TargetAction:
        """Do what is next with the store. Raises Fenced, Bug."""
        action = target_action(self.view())
        doing: dict[TargetAction, Callable[[], None]] = {
            TargetAction.ATTACH: self._attach,
            TargetAction.REFILL: self._refill,
            TargetAction.SHIP: self._ship,
            TargetAction.YIELD: self._yield,
        }
        if action in doing:
            try:
                doing[action]()
                self._clear(Side.SEND)
            except (Recoverable, NeedsPerson, InvalidRequest) as error:
                # Captures go on meanwhile.
                self._note(Side.SEND, error)
            except (OSError, MemoryError) as error:
                self._note(Side.SEND, of_host(error, self._relationship().machine))
            except ResyncRequired as error:
                # Nothing is sent until the source has looked through the queue.
                self._queue_damaged = True
                self._met(error)
            except Fenced as error:
                self._note(Side.SEND, error)
                self._apply(Event.FENCED)
                self._target.let_go()
                raise
        return action

    def _recover(self) -> None:
        self._queue_damaged = False
        lost = self._source.recover()
        # What the books say of scans decides: a kill may have come before the state that follows from it.
        scanning, state = self.view().scanning, self._state()
        if (lost and state is not State.INITIAL_REPLICATION) or (scanning and state not in _SCANNING):
            self._apply(Event.TRACKING_LOST)
        elif not scanning and state is State.INITIAL_REPLICATION:
            self._apply(Event.SCANNED)

    def _make_room(self) -> None:
        relationship = self._relationship()
        late, _ = self._giving_way()
        if late is not None:
            why = "what waited for it took the room that logs may take"
            for path in self._followers.fall_behind(self._id, late.id, why):
                path.unlink(missing_ok=True)
            return
        queue = self._books.queued(self._id)
        disks = crowded(relationship.policy, queue.bytes, self._source.volumes())
        self._source.drop(disks, Reason.BACKLOG)
        if relationship.status.state is not State.INITIAL_REPLICATION:
            self._apply(Event.TRACKING_LOST)

    def _scan(self) -> None:
        disk = next(d for d in self._books.get(self._id).disks if d.scan and d.scanned < d.size)
        self._source.scan(disk.id, self._observer.scanned, self._stopping.is_set)
        if not self.view().scanning and self._state() is State.INITIAL_REPLICATION:
            self._apply(Event.SCANNED)

    def _cycle_alone(self) -> None:
        self._cycle()

    def _cycle(self, meeting: Meeting | None = None) -> bool:
        """Whether the point is of an instant in common."""
        began = self._clock.monotonic()
        relationship = self._relationship()
        if relationship.status.state is State.PROTECTED:
            self._apply(Event.CYCLE_BEGAN)
        hours = relationship.policy.application_consistent_hours
        wanted, self._wanted = self._wanted, Consistency.CRASH
        if meeting or (hours and began >= self._next_application):
            wanted = Consistency.APPLICATION
        try:
            report = self._source.cycle(wanted, meeting=meeting)
        except StandbyError:
            self._wanted = wanted
            raise
        if wanted is Consistency.APPLICATION:
            self._next_application = began + hours * 3600
        relationship = self._relationship()
        if relationship.status.state is State.DELTA:
            self._apply(Event.CYCLE_ENDED)
        elif relationship.status.state in _CLOSING and not relationship.closing:
            self._books.set_closing(self._id, report.entry.ordinal)
        self._chronicler.captured(relationship, report, wanted)
        self._observer.cycle(report)
        self._turn(began)
        return bool(report.entry.group)

    def _miss(self) -> None:
        """A cycle is due and may not be made."""
        self._chronicler.missed(self._relationship(), 1)
        self._turn(self._clock.monotonic())

    def _giving_way(self) -> tuple[Follower | None, Follower | None]:
        """The follower that keeps what no other target waits for; or, if the first target is that one, the
        follower that may come first instead."""
        late = self._followers.laggard(self._id)
        return late, None if late or self._stores is None else self._followers.heir(self._id)

    def _yield(self) -> None:
        _, heir = self._giving_way()
        if heir is None or self._stores is None:
            return
        why = "what waited for it took the room that logs may take, and another target came first"
        freed = self._followers.promote(heir, why)
        _PROMOTED.reach()
        for path in freed:
            path.unlink(missing_ok=True)
        self._target.move(self._stores(heir.store))

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
        entry = self._books.queued(self._id).oldest
        if entry is None:
            return
        record = self._target.ship(entry)
        relationship = self._books.get(self._id)
        if relationship.closing and entry.ordinal >= relationship.closing:
            # And not one that was queued before the loss.
            self._apply(Event.CLOSED)
            self._books.set_closing(self._id, 0)
            self._books.set_resync(self._id, "")
        self._chronicler.committed(relationship, record)
        self._observer.committed(record)

    def _due(self, relationship: Relationship, side: Side) -> bool:
        """Whether no error stands in the way of this side now."""
        trouble = relationship.trouble(side)
        if trouble and trouble.retry_at is None:
            return False
        # The machine is asked at the next cycle, whose time an agent that was restarted does not wait for.
        if trouble and side is Side.SEND and self._clock.now().timestamp() < (trouble.retry_at or 0):
            return False
        return self._clock.monotonic() >= self._no_work_before[side]

    def _note(self, side: Side, error: StandbyError) -> None:
        """Note the error and when, if ever, that is tried again which met it (Azure Site Recovery: retry logic).

        What the machine is asked is asked again at each interval: that is what the frequency says, and costs
        next to nothing.
        """
        relationship = self._relationship()
        before = relationship.trouble(side)
        now = self._clock.now().timestamp()
        failures = before.failures + 1 if before else 1
        if side is Side.CAPTURE:
            wait = relationship.policy.frequency
            self._no_work_before[side] = self._clock.monotonic() + wait
            self._turn(self._clock.monotonic(), missed=1)
        else:
            wait = wait_seconds(failures)
        trouble = Trouble(
            error=str(error),
            kind=type(error).__name__,
            failures=failures,
            first=before.first if before else now,
            retry_at=now + wait if isinstance(error, Recoverable) else None,
        )
        try:
            self._books.set_trouble(self._id, side, trouble)
        except BooksUnwritable as unwritable:
            self._no_work_before[side] = self._clock.monotonic() + wait_seconds(1)
            if not isinstance(error, BooksUnwritable):
                self._observer.failed(unwritable)
        self._met(error)

    def _met(self, error: StandbyError) -> None:
        self._chronicler.failed(self._relationship(), error)
        self._observer.failed(error)

    def _clear(self, side: Side) -> None:
        if self._relationship().trouble(side):
            self._books.set_trouble(self._id, side, None)

    def _turn(self, began: float, missed: int = 0) -> None:
        """The cycle that was due has had its turn at `began`; due times stay on their grid."""
        frequency = self._relationship().policy.frequency
        passed, self._next_cycle = turn(self._next_cycle, frequency, began)
        self._chronicler.missed(self._relationship(), passed + missed)

    def _resync_open(self, relationship: Relationship) -> bool:
        now = self._clock.now()
        opens = resync_opens(relationship, now, self._tz)
        # One that runs goes on when its window closes: until it ends there are no points.
        running = relationship.status.state is State.RESYNCHRONIZING and relationship.resync != "cancelled"
        return running or (opens is not None and opens <= now)

    def _relationship(self) -> Relationship:
        return self._books.get(self._id)

    def _state(self) -> State:
        return self._relationship().status.state

    def _apply(self, event: Event) -> None:
        with self._lock:
            status = after(self._relationship().status, event, self._relationship().machine)
            self._books.set_status(self._id, status)
        self._observer.state(status.state)


def _unlearned(entry: Entry, relationship: Relationship) -> bool:
    """Whether the known hashes of a disk lack what the entry holds of it."""
    return any(
        disk.logs and entry.ordinal > known.learned
        for disk in entry.disks
        for known in relationship.disks
        if known.id == disk.id
    )


def of_host(error: OSError | MemoryError, machine: str) -> HostBusy | HostRefused:
    """Raises the error itself where it can only be a bug."""
    found = outcome(error)
    if found is Outcome.BUG:
        raise error
    kind = HostBusy if found is Outcome.RETRY else HostRefused
    return kind(
        str(error) or "out of memory",
        subject=machine,
        tried="the step was given up, nothing was forgotten",
        hint="see what uses this host's memory, space and files up",
    )
