"""The agent of a host: all relationships of its books side by side, until it is told to stop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Final

from standby.agent.control import Control
from standby.agent.engines import Engines
from standby.agent.operations import Operations
from standby.clock import Clock
from standby.errors import StandbyError
from standby.replica.documents import Record
from standby.replication.books import Books
from standby.replication.engine import Engine, Observer
from standby.replication.source import CycleReport
from standby.replication.states import State

log = logging.getLogger(__name__)

RATES_EVERY: Final = 1.0
"""Seconds between two looks at what the bandwidths' schedules say."""


class Logged:
    """An Observer that writes what happens to one machine into the agent's log."""

    def __init__(self, machine: str) -> None:
        self.machine = machine
        self._state: State | None = None

    def state(self, state: State) -> None:
        # A cycle's own state comes and goes with each.
        shown = State.PROTECTED if state is State.DELTA else state
        if shown is not self._state:
            self._state = shown
            log.info("%s: %s", self.machine, shown.value)

    def scanned(self, disk: str, count: int) -> None:
        log.debug("%s: %d bytes of %s compared", self.machine, count, disk)

    def cycle(self, report: CycleReport) -> None:
        log.debug(
            "%s: %d bytes changed, the cut was open for %.3f s", self.machine, report.changed, report.window
        )

    def committed(self, record: Record) -> None:
        if record.is_point:
            log.debug("%s: point %d of %s", self.machine, record.seq, record.at)

    def failed(self, error: StandbyError) -> None:
        log.warning("%s: %s", self.machine, error)


def run(
    books: Books,
    clock: Clock,
    stop: threading.Event,
    *,
    machine: str | None = None,
    observer: Callable[[str], Observer] = Logged,
    beside: Callable[[Engines], AbstractContextManager[object]] = nullcontext,
) -> None:
    """Replicate everything in the books until `stop` is set, and answer requests meanwhile.

    beside: what is entered before the first cycle and left after the last.
    machine: only this one, at once; then the error with which its replication ended is raised.
    """
    ended: list[Exception] = []

    def failed(engine: Engine, error: Exception) -> None:
        if machine:
            ended.append(error)
            stop.set()
        else:
            log.error("%s: replication has ended: %s", books.get(engine.id).machine, error)

    with ExitStack() as stack:
        engines = Engines(books, clock, observer, failed=failed, spread=machine is None)
        stack.callback(engines.close)
        control = Control(books.folder, Operations(books, engines, clock).answer)
        stack.callback(control.close)
        stack.enter_context(beside(engines))
        begun = [one for one in books.relationships() if machine in (None, one.machine)]
        for relationship in begun:
            engines.begin(relationship)
        runner = threading.Thread(target=engines.run, args=(stop,), name="standby-runner")
        runner.start()
        stack.callback(runner.join)
        log.info("replicating %d machines of %s", len(begun), books.folder)
        while not stop.wait(RATES_EVERY):
            engines.throttle()
    if ended:
        raise ended[0]
