"""Orders to a recovery host: carried out by the functions that the commands of `standby failover` call.

A run directory that an order makes has a tag that comes of the job's id. So the run is found again by who carries out
the same order after a kill, and there is one run of an order, whatever happens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import singledispatchmethod
from pathlib import Path
from typing import Final

from standby.agent.job import Job
from standby.agent.replication_orders import ReplicationOrders
from standby.clock import Clock
from standby.errors import InvalidRequest, NeedsPerson, Recoverable
from standby.hypervisor.host import Fetched, Network, RecoveryHost
from standby.link import recovery as orders
from standby.link.recovery import OfRun, RecoveryOrder
from standby.link.requests import Protect
from standby.recovery import failback, failover, hydrate, live, live_steps, live_view, proof, run_directory
from standby.recovery.failover_steps import CHECK as TEST_CHECK
from standby.recovery.failover_steps import MANNER as TEST_MANNER
from standby.recovery.live_steps import WISH, Wish
from standby.recovery.live_view import Failover
from standby.recovery.machine_steps import BOOT, START, RunOrder
from standby.recovery.networks import network_named
from standby.recovery.run_directory import FAILOVERS, TESTS, FileRows, NoRecovery
from standby.recovery.steps import CleanUpBegun, Row, State
from standby.replica.keys import remembered
from standby.replication.policy import Policy
from standby.replication.relationship import Connection

_TEST_TASKS: Final = (TEST_CHECK, TEST_MANNER.create, TEST_MANNER.prepare, TEST_MANNER.start)
_LIVE_TASKS: Final = (
    live_steps.CHECK,
    live_steps.SOURCE_CHECK,
    live_steps.SYNCHRONIZE,
    "Start failover",
    "Start the replica virtual machine",
)
_PROOF_TASKS: Final = ("Start the virtual machine", "Looking at it", "Removing the test virtual machine")
_CLEAN_UP: Final = "Removing the test virtual machine"
_CHANGE: Final = "Changing the recovery point"
_COMMIT: Final = "Committing the failover"
_CANCEL: Final = "Taking the failover back"
_RESUME: Final = "Going on with the failover"
_HYDRATE: Final = "Fetching the disks"
_REVERSE: Final = "Protecting the recovered machine"
"""Tasks as the vault expects them (vault/jobs.py)."""

_AS: Final = {
    failover.CLEAN_UP_TASK: _CLEAN_UP,
    live.CHANGE_TASK: _CHANGE,
    live.CANCEL_TASK: _CANCEL,
}

_BEGAN: Final = "began"
"""Of the step that starts the machine, before a change of point."""


class InterruptedTakenBack(Recoverable):
    """The agent was killed while it took back what a failed order had begun; that is done now."""


def _followed(job: Job, row: Row) -> None:
    """Of a proof's own steps: what it starts, then what it takes away."""
    if row.state is State.UNDOING:
        job.task(_PROOF_TASKS[2])
    elif row.step == START and row.state is State.DONE:
        job.task(_PROOF_TASKS[1])


class RecoveryOrders:
    """See `Carrier` (orders.py). replication: carries out what is asked of replication in them."""

    def __init__(
        self, folder: Path, host: RecoveryHost, clock: Clock, replication: ReplicationOrders
    ) -> None:
        self._folder = folder
        self._host = host
        self._clock = clock
        self._replication = replication

    def before(self, work: RecoveryOrder) -> Mapping[str, str]:
        if isinstance(work, orders.ChangePoint):
            return {_BEGAN: FileRows(Path(work.run)).load().row(START).began}
        if isinstance(work, orders.Reverse):
            return self._replication.before(self._protect(work))
        return {}

    def carry_out(self, work: RecoveryOrder, job: Job) -> None:
        if isinstance(work, OfRun):
            job.result["run"] = work.run
        self._do(work, job)

    @singledispatchmethod
    def _do(self, work: RecoveryOrder, job: Job) -> None:
        raise InvalidRequest(
            "this agent does not know this order",
            subject=type(work).__name__,
            hint="use a standby of the vault's version on this host",
        )

    @_do.register
    def _(self, work: orders.TestFailover, job: Job) -> None:
        if network_named(work.network)[0] is not Network.RESTRICTED:
            raise InvalidRequest(
                "a test failover is always isolated", subject=work.replica, hint="choose the network isolated"
            )
        job.expect(_TEST_TASKS)
        run = self._run_of(job, TESTS)
        request = failover.Request(
            work.store, work.replica, work.point, work.boot_limit, key=remembered(work.key_file)
        )
        with _kept(run, job), _explained(work.replica):
            shown = failover.start(
                request, run.parent, self._host, clock=self._clock, told=_told(job, before=BOOT), tag=run.name
            )
            job.result["point"] = str(shown.seq)

    @_do.register
    def _(self, work: orders.Prove, job: Job) -> None:
        job.expect(_PROOF_TASKS)
        job.task(_PROOF_TASKS[0])
        job.no_return()
        root = (self._folder / TESTS).resolve()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        request = failover.Request(
            work.store, work.replica, work.point, work.boot_limit, key=remembered(work.key_file)
        )
        with _explained(work.replica):
            kept = proof.prove(
                request, root, self._host, clock=self._clock, told=lambda row: _followed(job, row)
            )
        job.result |= {"point": str(kept.seq), "verdict": kept.verdict}
        if kept.verdict == "failed":
            raise NeedsPerson(
                f"point {kept.seq} does not come up: {'; '.join(kept.reasons)}",
                subject=kept.machine,
                tried="starting it in isolation, and looking at it",
                hint=f"`standby replica proof {work.store} {work.replica}` shows its console; "
                f"`standby replica bisect {work.store} {work.replica}` finds the newest point that does",
            )

    @_do.register
    def _(self, work: orders.FailOver, job: Job) -> None:
        network, bridge = network_named(work.network)
        job.expect(_LIVE_TASKS)
        run = self._run_of(job, FAILOVERS)
        request = live.Request(
            work.store,
            work.replica,
            work.point,
            work.boot_limit,
            network,
            bridge,
            confirmed=work.source_down,
            key=remembered(work.key_file),
        )
        with _kept(run, job), _explained(work.replica):
            shown = live.start(
                request,
                run.parent,
                self._host,
                clock=self._clock,
                told=_told(job, before=START),
                tag=run.name,
            )
            _note(shown, job)

    @_do.register
    def _(self, work: orders.CleanUpTest, job: Job) -> None:
        job.no_return()
        job.task(_CLEAN_UP)
        with _gone_is_done(job):
            failover.clean_up(Path(work.run), self._host, clock=self._clock, told=_told(job))

    @_do.register
    def _(self, work: orders.ChangePoint, job: Job) -> None:
        job.no_return()
        run = Path(work.run)
        if not (job.again and self._changed(run, work.point, job.facts)):
            _note(live.change_point(run, work.point, self._host, clock=self._clock, told=_told(job)), job)
            return
        job.task(_CHANGE)
        job.detail("It was done before the agent was restarted")
        _note(live_view.look(run, self._host), job)

    @_do.register
    def _(self, work: orders.Commit, job: Job) -> None:
        job.no_return()
        job.task(_COMMIT)
        run = Path(work.run)
        kind = run_directory.read_order(run, RunOrder).kind
        done = failback.commit if kind == "failback" else live.commit
        _note(done(run, self._host, clock=self._clock), job)

    @_do.register
    def _(self, work: orders.CancelFailover, job: Job) -> None:
        job.no_return()
        job.task(_CANCEL)
        with _gone_is_done(job):
            live.cancel(Path(work.run), self._host, clock=self._clock, told=_told(job))

    @_do.register
    def _(self, work: orders.ResumeFailover, job: Job) -> None:
        job.no_return()
        job.task(_RESUME)
        _note(live.resume(Path(work.run), self._host, clock=self._clock, told=_told(job)), job)

    @_do.register
    def _(self, work: orders.Hydrate, job: Job) -> None:
        job.no_return()
        job.task(_HYDRATE)
        far: dict[str, Fetched] = {}

        def progress(disk: str, fetched: Fetched) -> None:
            far[disk] = fetched
            total = sum(one.total for one in far.values())
            done = sum(one.done for one in far.values())
            job.progress(done / total if total else None, f"disk {disk}")

        _note(hydrate.hydrate(Path(work.run), self._host, progress=progress), job)

    @_do.register
    def _(self, work: orders.Reverse, job: Job) -> None:
        job.task(_REVERSE)
        self._replication.carry_out(self._protect(work), job)

    def _protect(self, work: orders.Reverse) -> Protect:
        found = live_view.look(Path(work.run), self._host)
        live_view.refuse_reverse(found)
        machine = live_view.machine(Path(work.run), self._host)
        return Protect(
            machine=found.name,
            connection=Connection(qmp=str(machine.qmp), agent=str(machine.agent)),
            store=found.store,
            replica=found.replica,
            policy=Policy(frequency=work.frequency),
            take_over=True,
            key_file=work.key_file,
        )

    def _run_of(self, job: Job, kind: str) -> Path:
        root = (self._folder / kind).resolve()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return root / job.tag

    def _changed(self, run: Path, point: str, facts: Mapping[str, str]) -> bool:
        """Whether a killed process has changed the point: a machine was started since, of that point."""
        journal = FileRows(run).load()
        wish = run_directory.find(run / WISH, Wish)
        return (
            journal.complete
            and wish is not None
            and wish.point == point
            and journal.row(START).began != facts.get(_BEGAN, "")
        )


def _note(shown: Failover, job: Job) -> None:
    job.result |= {"run": str(shown.run), "point": str(shown.seq), "machine": shown.name}


def _told(job: Job, *, before: str = "") -> Callable[[Row], None]:
    """Its tasks by the rows of a workflow. before: until this step begins, it may be cancelled between two steps."""

    def told(row: Row) -> None:
        task = _AS.get(row.task, row.task)
        if row.error:
            job.failed(task, row.error)
            return
        if row.state is not State.UNDONE:
            job.task(task)
        if row.step == before:
            job.no_return()
        elif before and row.state is State.DONE:
            job.point_of_return()

    return told


@contextlib.contextmanager
def _kept(run: Path, job: Job) -> Iterator[None]:
    """Where a run is left at the end, however that was, it is named."""
    try:
        yield
    finally:
        if run_directory.is_run(run):
            job.result["run"] = str(run)


@contextlib.contextmanager
def _explained(replica: str) -> Iterator[None]:
    try:
        yield
    except CleanUpBegun as error:
        raise InterruptedTakenBack(
            "it had failed, and the agent was killed while it took back what was begun; that is done now",
            subject=replica,
            hint="see the agent's log of that time for why it had failed, then start it again",
        ) from error


@contextlib.contextmanager
def _gone_is_done(job: Job) -> Iterator[None]:
    """Of an order that a killed process had begun: what it was to remove is gone."""
    try:
        yield
    except NoRecovery:
        if not job.again:
            raise
        job.detail("It was done before the agent was restarted")
