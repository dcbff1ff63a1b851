"""The end of a machine on its source: shut down, its last change in the replica, sealed (C8).

Killed anywhere, it goes on: the machine's own state tells whether its guest has ended, the books and the chain
whether the seal was made.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import Final

from standby import failpoints
from standby.errors import InvalidRequest, Recoverable
from standby.hypervisor.base import Ending, Hypervisor, MachineUnreachable
from standby.replication.books import Books
from standby.replication.decide import SourceAction, TargetAction
from standby.replication.engine import Engine
from standby.replication.source import Source
from standby.replication.states import Event, State, after
from standby.replication.target import Target

POLL: Final = 0.2
"""Seconds between two looks at the world while there is nothing to do."""

RETRY: Final = 5.0
"""Seconds after which an operator who waits has everything tried again that failed."""

_CAUGHT_UP = failpoints.declare("seal.caught_up")
_DOWN = failpoints.declare("seal.down")
_MADE = failpoints.declare("seal.made")
_SHIPPED = failpoints.declare("seal.shipped")
_NOTED = failpoints.declare("seal.noted")

POSSIBLE: Final = (
    State.INITIAL_REPLICATION,
    State.FINALIZING,
    State.PROTECTED,
    State.DELTA,
    State.RESYNC_REQUIRED,
    State.RESYNCHRONIZING,
    State.SEALED,
)
"""States in which a machine can be sealed, or is."""


class Task(StrEnum):
    """Azure Site Recovery's tasks of a planned failover, as far as they are the source's."""

    SYNCHRONIZE = "Synchronizing the latest changes"
    SHUT_DOWN = "Shut down the virtual machine"
    SEAL = "Synchronizing the last changes"


class GuestUp(Recoverable):
    """The guest did not shut down in time. It runs on, and is protected as before."""


class NotCaughtUp(Recoverable):
    """The replica could not be brought up to the machine in time, so it was not shut down or not sealed."""


class Sealing:
    """Seals one relationship, whose engine nobody else runs."""

    def __init__(
        self,
        books: Books,
        relationship: str,
        engine: Engine,
        source: Source,
        target: Target,
        hypervisor: Hypervisor,
    ) -> None:
        self._books = books
        self._id = relationship
        self._engine = engine
        self._source = source
        self._target = target
        self._hypervisor = hypervisor

    def seal(
        self,
        *,
        patience: float,
        limit: float,
        force: Callable[[], bool],
        done: Callable[[Task], None],
    ) -> None:
        """Shut the machine down, commit its last change as a seal, end its process.

        patience: seconds for the replica to catch up, before and after. limit: for the guest to shut down.
        force: asked whether a guest that does not shut down is stopped, as by a power cut.
        Raises GuestUp, NotCaughtUp, Fenced, InvalidRequest in a state in which nothing can be sealed.
        """
        self._check_state()
        if self._state() is not State.SEALED:
            self._work(self._settled, self._send, patience, "it was not shut down")
            if not self._sealed():
                if not self._seal_queued():
                    with self._hypervisor.ending(self._machine) as ending:
                        self._end_guest(ending, patience, limit, force, done)
                    stand = "it is shut down, and its changes cannot be read yet"
                    self._work(self._tracked, self._engine.step, patience, stand)
                    self._source.cycle(kind="seal")
                    _MADE.reach()
                stand = "it is shut down, and its last changes wait for the store"
                self._work(self._sealed, self._send, patience, stand)
            _SHIPPED.reach()
            self._note()
            _NOTED.reach()
        done(Task.SEAL)
        # A process that is gone needs no end; its disks are in the replica.
        with suppress(MachineUnreachable), self._hypervisor.ending(self._machine) as ending:
            ending.quit()

    def _check_state(self) -> None:
        state = self._state()
        if state not in POSSIBLE:
            raise InvalidRequest(
                f"it cannot be failed over while it is {state.value}",
                subject=self._machine,
                hint=f"`standby vm show {self._machine}` tells how it stands",
            )

    def _end_guest(
        self,
        ending: Ending,
        patience: float,
        limit: float,
        force: Callable[[], bool],
        done: Callable[[Task], None],
    ) -> None:
        """Bring the replica up to date, so that little is left to read while the machine is down; then end it."""
        if ending.ended():
            return
        if not ending.stopped():
            self._work(self._up_to_date, self._engine.step, patience, "it was not shut down")
            self._source.cycle()
            self._work(self._up_to_date, self._engine.step, patience, "it was not shut down")
            _CAUGHT_UP.reach()
            done(Task.SYNCHRONIZE)
        if ending.stopped() or not ending.shut_down(limit):
            if not force():
                ending.spare()
                raise GuestUp(
                    f"the guest did not shut down within {limit:g} s",
                    subject=self._machine,
                    tried="its power button and its agent; it is protected as before",
                    hint="shut it down from within and repeat the command, or repeat it with --force",
                )
            ending.stop()
        _DOWN.reach()
        done(Task.SHUT_DOWN)

    def _note(self) -> None:
        """Seal the relationship; a cycle that a kill cut short is over."""
        status = self._books.get(self._id).status
        if status.state is State.DELTA:
            status = after(status, Event.CYCLE_ENDED, self._machine)
        self._books.set_status(self._id, after(status, Event.SEALED, self._machine))

    def _send(self) -> object:
        """The engine's next step, without a new point: none may come behind the seal."""
        if self._source.ready:
            return self._engine.target_step()
        # Brings what waits in order; a point is made only once that is so.
        return self._engine.step()

    def _work(
        self, until: Callable[[], bool], step: Callable[[], object], patience: float, stand: str
    ) -> None:
        """Let the engine work until the condition holds. Raises NotCaughtUp, and what the engine raises."""
        deadline = time.monotonic() + patience
        again = 0.0
        while not until():
            if time.monotonic() > again:
                self._engine.retry_now()
                again = time.monotonic() + RETRY
            if time.monotonic() > deadline:
                raise NotCaughtUp(
                    self._books.get(self._id).error or f"not done within {patience:g} s",
                    subject=self._machine,
                    tried=stand,
                    hint="repeat the command, it goes on from there; `standby vm show` tells more",
                )
            if step() in ((SourceAction.WAIT, TargetAction.WAIT), TargetAction.WAIT):
                time.sleep(POLL)

    def _settled(self) -> bool:
        """The chain and the books are known to agree."""
        return self._target.attached

    def _tracked(self) -> bool:
        return self._source.ready and self._state() is State.PROTECTED

    def _up_to_date(self) -> bool:
        return self._tracked() and self._target.attached and not self._books.queue(self._id)

    def _seal_queued(self) -> bool:
        queue = self._books.queue(self._id)
        return bool(queue) and queue[-1].kind == "seal"

    def _sealed(self) -> bool:
        """Whether this machine's seal is the newest record."""
        newest = self._target.newest
        return (
            newest is not None
            and newest.kind == "seal"
            and newest.nonce == self._books.get(self._id).committed
            and self._state() in (State.PROTECTED, State.DELTA)
        )

    @property
    def _machine(self) -> str:
        return self._books.get(self._id).machine

    def _state(self) -> State:
        return self._books.get(self._id).status.state
