"""What the vault orders: taken in durably, carried out once however often it is given, told until it is known.

An order is durable before it is begun, and what was so before it is durable with its begin. Killed anywhere, the next
agent goes on with it, or finds by those facts that it was done (`Carrier`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Final, Protocol

import msgspec

from standby import failpoints
from standby.agent.job import Job, OrderCancelled, OrderWaits
from standby.agent.ledger import Ledger, LedgerUnwritable, Stage
from standby.clock import Clock
from standby.errors import Bug, StandbyError
from standby.link.messages import Order, WorkReport, WorkState
from standby.link.recovery import Hydrate
from standby.link.requests import Refused
from standby.link.upkeep import UpkeepOrder

log = logging.getLogger(__name__)

ROOM: Final = 8
"""Orders that are carried out at once. They mostly wait: for stores, for guests that boot."""

_BESIDE: Final = (Hydrate, UpkeepOrder)
"""They take hours, some of them, and keep nobody waiting who fails over: they need no place."""

_AGAIN: Final = 5.0
"""Seconds until the ledger is tried again."""

_ACCEPTED = failpoints.declare("orders.accepted")
_BEGUN = failpoints.declare("orders.begun")
_DID = failpoints.declare("orders.did")
_ENDED = failpoints.declare("orders.ended")


class Carrier(Protocol):
    """Does what orders say."""

    def before(self, order: Order) -> Mapping[str, str]:
        """What a second try must know of how things were before the first."""
        ...

    def carry_out(self, job: Job) -> None:
        """To the end, and into `job.result` what the vault keeps of it. `job.again`: go on with what a killed
        process may have begun.

        Raises StandbyError.
        """
        ...


class Orders:
    """Thread-safe. `ended` is called when an order has ended."""

    def __init__(self, ledger: Ledger, carrier: Carrier, clock: Clock) -> None:
        """Goes on with what was begun. Raises LedgerDamaged, LedgerUnwritable."""
        self._ledger = ledger
        self._carrier = carrier
        self._clock = clock
        self._lock = threading.Lock()
        self._places = threading.Semaphore(ROOM)
        self._stop = threading.Event()
        self._jobs: dict[str, Job] = {}
        self._reports: dict[str, WorkReport] = {}
        self._threads: dict[str, threading.Thread] = {}
        self.ended: Callable[[], None] = lambda: None
        for item in ledger.items():
            if item.report is not None:
                self._reports[item.order.job] = item.report
            else:
                facts = item.facts if item.stage is Stage.BEGUN else None
                self._start(Job(item.order, clock, facts=facts))

    def accept(self, order: Order) -> None:
        """Take it in, unless it is known. Raises LedgerUnwritable: it is given again."""
        with self._lock:
            job, report = self._jobs.get(order.job), self._reports.get(order.job)
            known = job.order if job else report
            if known is not None and known.lease >= order.lease:
                return
            if report and self._work_of(order.job) != order.work:
                # The next part of the same job, which is this host's too.
                self._reports.pop(order.job)
                known = None
            if known is not None:
                self._ledger.renew(order.job, order.lease)
                if job:
                    job.order = msgspec.structs.replace(job.order, lease=order.lease)
                if report:
                    self._reports[order.job] = msgspec.structs.replace(report, lease=order.lease)
                return
            self._ledger.accept(order)
            _ACCEPTED.reach()
            log.info("ordered: %s (job %s)", order.title, order.job)
            self._start(Job(order, self._clock))

    def cancel(self, jobs: Collection[str]) -> None:
        with self._lock:
            for name in jobs:
                if job := self._jobs.get(name):
                    job.cancel()

    def taken(self, jobs: Collection[str]) -> None:
        """Their reports end; what was begun is brought to its end, what was not is dropped."""
        for name in jobs:
            with self._lock:
                known = name in self._jobs or name in self._reports
                if known:
                    self._ledger.told(name)
                    self._reports.pop(name, None)
                    job = self._jobs.get(name)
                    if job and not job.begun:
                        job.cancel()

    def reports(self) -> tuple[WorkReport, ...]:
        with self._lock:
            return (*self._reports.values(), *(job.report() for job in self._jobs.values()))

    def at_work(self) -> list[Order]:
        with self._lock:
            return [job.order for job in self._jobs.values()]

    @property
    def room(self) -> int:
        """How many more it would begin at once."""
        with self._lock:
            taken = sum(not isinstance(job.order.work, _BESIDE) for job in self._jobs.values())
            return max(0, ROOM - taken)

    def close(self, limit: float = 3.0) -> None:
        """Note no more ends: what is at work goes on in the next process, as after a kill. limit: seconds for
        what is about to end."""
        self._stop.set()
        deadline = self._clock.monotonic() + limit
        for thread in list(self._threads.values()):
            thread.join(max(0.0, deadline - self._clock.monotonic()))

    def _work_of(self, job: str) -> object:
        return next((item.order.work for item in self._ledger.items() if item.order.job == job), None)

    def _start(self, job: Job) -> None:
        self._jobs[job.order.job] = job
        # Not waited for at the process's end: recovery takes minutes, and goes on after any kill.
        thread = threading.Thread(target=self._run, args=(job,), name="standby-order", daemon=True)
        self._threads[job.order.job] = thread
        thread.start()

    def _run(self, job: Job) -> None:
        places = threading.Semaphore() if isinstance(job.order.work, _BESIDE) else self._places
        with places:
            report = None if self._stop.is_set() else self._carried(job)
            if report is None or self._stop.is_set():
                return
            _DID.reach()
            if self._durably(lambda: self._ledger.end(report)):
                _ENDED.reach()
                self._note(job, report)

    def _note(self, job: Job, report: WorkReport) -> None:
        name = job.order.job
        with self._lock:
            del self._jobs[name]
            del self._threads[name]
            if any(item.order.job == name for item in self._ledger.items()):
                self._reports[name] = msgspec.structs.replace(report, lease=job.order.lease)
        log.info("%s: %s (job %s)", job.order.title, report.state.value, name)
        self.ended()

    def _carried(self, job: Job) -> WorkReport | None:
        """How it ended; None if the agent stops meanwhile."""
        error: StandbyError | None = None
        state, waiting = WorkState.FAILED, ""
        try:
            if not job.begun:
                job.point_of_return()
                job.facts = self._carrier.before(job.order)
                if not self._durably(lambda: self._ledger.begin(job.order.job, job.facts)):
                    return None
                job.begun = True
                _BEGUN.reach()
            self._carrier.carry_out(job)
            state = WorkState.SUCCEEDED
        except OrderCancelled as cancelled:
            error, state = cancelled, WorkState.CANCELLED
        except OrderWaits as waits:
            waiting, state = waits.cause, WorkState.WAITING
        except StandbyError as failed:
            error = failed
            log.warning("%s: %s", job.order.title, failed)
        except Exception as defect:
            log.exception("%s", job.order.title)
            error = Bug(
                f"{type(defect).__name__}: {defect}",
                subject=job.order.title,
                hint="report it, with the agent's log of this minute",
            )
        return WorkReport(
            job=job.order.job,
            lease=job.order.lease,
            state=state,
            tasks=job.end(state),
            error=Refused.of(error) if error else None,
            result=job.result,
            waiting=waiting,
        )

    def _durably(self, write: Callable[[], None]) -> bool:
        """Write it, however long the volume is full; False if the agent stops meanwhile."""
        while not self._stop.is_set():
            try:
                write()
            except LedgerUnwritable as error:
                log.error("%s", error)
                self._stop.wait(_AGAIN)
            except StandbyError as error:
                log.error("%s", error)
                return False
            else:
                return True
        return False
