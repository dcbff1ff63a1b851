"""Engines at work side by side: many machines on few workers, none held up by a slow one (agenda.py).

Each engine has two lanes, one with the machine and one with the store, so that captures go on while an upload is
under way (log swap). What takes the replica over or learns what it has changes what captures build on, so it
has both lanes.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Final

from standby.clock import Clock
from standby.errors import Recoverable, StandbyError
from standby.replication.agenda import Running, Wish, Work, next_up
from standby.replication.decide import SourceAction, TargetAction, source_action, target_action
from standby.replication.engine import LOOK, Engine

log = logging.getLogger(__name__)

CAPTURES: Final = 4
"""Machines that are captured at once. Each also has workers of its own that hash and compress."""

SENDS: Final = 8
"""Machines that send at once: they mostly wait for the store."""

POLL: Final = 0.2
"""Seconds between two looks at whether to stop."""

_EXCLUSIVE: Final = (TargetAction.ATTACH, TargetAction.REFILL)
_REMEMBERED: Final = 5

Failed = Callable[[Engine, Exception], None]
"""Told the error with which an engine ended: it is not stepped any more."""


class _Slot:
    """One engine's place. wake: monotonic seconds of the next look at it."""

    def __init__(self, engine: Engine, now: float) -> None:
        self.engine = engine
        self.wake = now
        self.wishes: dict[_Lane, Wish] = {}
        self.busy: set[_Lane] = set()
        self.exclusive = False
        self.ended = False
        self.lasted: dict[_Lane, deque[float]] = {}

    def lasts(self, lane: _Lane) -> float:
        """Its last time too: what hung once must not take a worker of the quick again."""
        times = self.lasted.get(lane)
        return max(median(times), times[-1]) if times else 0.0


class _Lane:
    """The workers for one side of all engines."""

    def __init__(self, name: str, workers: int) -> None:
        self.name = name
        self.workers = workers
        self.running: dict[str, Running] = {}


class Runner:
    """`run` in one thread; the other methods from any."""

    def __init__(self, clock: Clock, failed: Failed, *, captures: int = CAPTURES, sends: int = SENDS) -> None:
        self._clock = clock
        self._failed = failed
        self._capture = _Lane("capture", captures)
        self._send = _Lane("send", sends)
        self._changed = threading.Condition()
        self._slots: dict[str, _Slot] = {}
        self._touched = False

    def add(self, engine: Engine) -> None:
        engine.changed = lambda: self.touch(engine.id)
        with self._changed:
            self._slots[engine.id] = _Slot(engine, self._clock.monotonic())
            self._notify()

    def remove(self, engine: Engine) -> None:
        """Returns once nothing of it is at work any more."""
        engine.hurry()
        with self._changed:
            slot = self._slots.pop(engine.id, None)
            if slot:
                slot.ended = True
                self._changed.wait_for(lambda: not slot.busy)

    @contextmanager
    def between(self, engine: Engine) -> Iterator[None]:
        """Nothing is under way with the engine's machine, and nothing begins, until the block ends."""
        engine.hurry()
        with self._changed:
            slot = self._slots.get(engine.id)
            if slot:
                self._changed.wait_for(lambda: self._capture not in slot.busy)
                slot.busy.add(self._capture)
                slot.wishes.pop(self._capture, None)
        engine.hurry(on=False)
        try:
            yield
        finally:
            if slot:
                with self._changed:
                    slot.busy.discard(self._capture)
                    slot.wake = self._clock.monotonic()
                    self._notify()

    def touch(self, engine_id: str) -> None:
        """Look at an engine now: somebody changed what it decides by."""
        with self._changed:
            if slot := self._slots.get(engine_id):
                slot.wake = self._clock.monotonic()
                self._notify()

    def run(self, stop: threading.Event) -> None:
        """Step the engines until `stop` is set; then wait for what is at work."""
        with self._changed:
            while not stop.is_set():
                now = self._clock.monotonic()
                for slot in list(self._slots.values()):
                    if slot.wake <= now and not slot.ended:
                        self._look(slot, now)
                for lane in (self._capture, self._send):
                    self._start(lane, now)
                waits = min((slot.wake for slot in self._slots.values()), default=now + LOOK) - now
                # In short turns, as a signal handler that sets `stop` cannot notify.
                self._changed.wait_for(lambda: self._touched, min(max(0.0, waits), POLL))
                self._touched = False
            for slot in self._slots.values():
                slot.engine.hurry()
            self._changed.wait_for(lambda: not (self._capture.running or self._send.running))

    def _notify(self) -> None:
        self._touched = True
        self._changed.notify_all()

    def _look(self, slot: _Slot, now: float) -> None:
        """Find out what the engine wants of each lane, and when to look again."""
        slot.wishes.clear()
        try:
            view = slot.engine.view()
            slot.wake = max(slot.engine.next_look(), now + 0.001)
        except Recoverable as error:
            # The books cannot be read for now; what writes them says so itself.
            log.warning("%s", error)
            slot.wake = now + LOOK
            return
        except Exception as error:  # noqa: BLE001 - one machine's defect must not end the others
            self._end(slot, error)
            return
        source, target = source_action(view), target_action(view)
        slot.exclusive = target in _EXCLUSIVE
        if target is not TargetAction.WAIT and self._send not in slot.busy:
            slow = view.queued_scans > 0 or target is TargetAction.REFILL
            slot.wishes[self._send] = self._wish(slot, self._send, Work.SCAN if slow else Work.DELTA, now)
        if source is not SourceAction.WAIT and self._capture not in slot.busy and not slot.exclusive:
            kind = Work.SCAN if source is SourceAction.SCAN else Work.DELTA
            due = min(now, slot.engine.cycle_due_at) if source is SourceAction.CYCLE else now
            slot.wishes[self._capture] = self._wish(slot, self._capture, kind, due)

    def _wish(self, slot: _Slot, lane: _Lane, work: Work, due: float) -> Wish:
        return Wish(slot.engine.id, work, due, slot.engine.frequency, slot.lasts(lane))

    def _start(self, lane: _Lane, now: float) -> None:
        wishes = [
            slot.wishes[lane]
            for slot in self._slots.values()
            if lane in slot.wishes and not (slot.exclusive and slot.busy)
        ]
        for wish in next_up(wishes, list(lane.running.values()), lane.workers, now):
            slot = self._slots[wish.machine]
            del slot.wishes[lane]
            slot.busy.add(lane)
            lane.running[wish.machine] = Running(wish, now)
            threading.Thread(
                target=self._work, args=(slot, lane, now), name=f"standby-{lane.name}", daemon=True
            ).start()

    def _work(self, slot: _Slot, lane: _Lane, began: float) -> None:
        step = slot.engine.source_step if lane is self._capture else slot.engine.target_step
        error: Exception | None = None
        try:
            step()
        except Exception as raised:  # noqa: BLE001 - likewise
            error = raised
        with self._changed:
            now = self._clock.monotonic()
            slot.lasted.setdefault(lane, deque(maxlen=_REMEMBERED)).append(now - began)
            slot.busy.discard(lane)
            lane.running.pop(slot.engine.id, None)
            slot.wake = now
            if error is not None and not slot.ended:
                self._end(slot, error)
            self._notify()

    def _end(self, slot: _Slot, error: Exception) -> None:
        """The engine is stepped no more; the others go on."""
        if not isinstance(error, StandbyError):
            log.error("an engine ended by a defect", exc_info=error)
        slot.ended = True
        slot.wishes.clear()
        slot.wake = float("inf")
        self._failed(slot.engine, error)


def run_alone(engine: Engine, clock: Clock, stop: threading.Event) -> None:
    """Step one engine until `stop` is set. Raises the error with which it ended."""
    ended: list[Exception] = []

    def failed(_engine: Engine, error: Exception) -> None:
        ended.append(error)
        stop.set()

    runner = Runner(clock, failed, captures=1, sends=1)
    runner.add(engine)
    runner.run(stop)
    if ended:
        raise ended[0]
