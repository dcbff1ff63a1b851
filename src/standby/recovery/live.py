"""Failover: a point's machine started in the place of its source, under its own name.

Until it is committed it can be cancelled, or taken to another point; what its guest wrote is lost then, and
nothing else. Committed, it stays: its overlays hold what it writes, and it may be hydrated (hydrate.py),
protected into the same replica and failed back. Every failover has a run directory with all that it owns on
this host, from which any process goes on with it, also after the host was restarted.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

import msgspec
from ulid import ULID

from standby import failpoints
from standby.clock import Clock, SystemClock
from standby.errors import InvalidRequest, StandbyError
from standby.hypervisor.base import MachineNotFound
from standby.hypervisor.host import MachineState, Network, NotBooted, RecoveryHost
from standby.objects.address import open_store
from standby.objects.durable import sync
from standby.recovery import fixup_step, run_directory, serving
from standby.recovery.failback_steps import (
    COMPLETE,
    SOURCE,
    FailbackOrder,
    FailbackWork,
    merged_mark,
    merging_mark,
)
from standby.recovery.fixup_wish import FixUp
from standby.recovery.live_steps import (
    CHOOSE,
    COMMITTED,
    FENCE,
    WISH,
    LiveOrder,
    Wish,
    Work,
)
from standby.recovery.live_view import RESUME, Failover, look, machine, served, state_of
from standby.recovery.machine_steps import START
from standby.recovery.networks import NetworkPlan
from standby.recovery.run_directory import FileRows
from standby.recovery.split_brain import failed_over_since
from standby.recovery.steps import Row, State, Workflow
from standby.replica.journal import ReplicaLog, read_settled
from standby.replica.keys import Key

CANCEL: Final = "standby failover cancel {run}"
"""A command that messages name."""

CANCEL_TASK: Final = "Cancel failover"
CHANGE_TASK: Final = "Change recovery point"

_COMMITTED = failpoints.declare("live.committed")
_WISHED = failpoints.declare("live.wished")

Told = Callable[[Row], None]
"""Told the row of every step that begins or ends."""


class FailoverInProgress(InvalidRequest):
    """There is a failover of this replica on this host already."""


class NotFailedOver(InvalidRequest):
    """The failover is not as far, or farther, than what was asked of it needs."""


class Request(NamedTuple):
    """point: see `ReplicaLog.point`; the newest is decided after the source's log was fenced.
    boot_limit: seconds to wait for the guest agent; None where the machine has none.
    source_qmp: the source machine's control socket, where this host reaches it. confirmed: an operator says
    that the source is down. key: of an encrypted replica. networks: of cards that
    are not on `network`, and whether cards keep their addresses. fix_up: what a Linux guest is told."""

    store: str
    replica: str
    point: str = "newest"
    boot_limit: float | None = 300.0
    network: Network = Network.RESTRICTED
    bridge: str = ""
    source_qmp: Path | None = None
    confirmed: bool = False
    key: Key | None = None
    networks: NetworkPlan = NetworkPlan()
    fix_up: FixUp = FixUp()


class Committed(msgspec.Struct, frozen=True):
    at: str


def start(
    request: Request,
    root: Path,
    host: RecoveryHost,
    *,
    clock: Clock | None = None,
    told: Told | None = None,
    tag: str = "",
) -> Failover:
    """Fail over and return when the guest has booted. root: where run directories are. tag: the failover's, by
    which whoever gave it finds it again: one that is there already is gone on with; a new one by default.

    Raises NotReady with every finding, FailoverInProgress, SourceRuns, SourceUnknown, and what the steps raise.
    What was begun is then taken back, but for the fence and a machine that was started: that stays.
    """
    clock = clock or SystemClock()
    root = root.resolve()
    if tag and run_directory.is_run(root / tag):
        return _carried(root / tag, host, clock, told)
    log = ReplicaLog.read(open_store(request.store), request.replica, key=request.key)
    cipher = log.cipher()
    log.point(request.point)
    tag = tag or run_directory.new_tag()
    machine = next((record.machine for record in reversed(log.records) if record.machine), None)
    if machine:
        fixup_step.check(request.fix_up, machine, request.networks.mac == "keep")
    order = LiveOrder(
        tag=tag,
        store=log.place.store.url,
        replica=request.replica,
        replica_id=log.head.replica,
        machine=machine.name if machine else request.replica,
        network=request.network,
        bridge=request.bridge,
        source_qmp=str(request.source_qmp.absolute()) if request.source_qmp else "",
        confirmed=request.confirmed,
        networks=request.networks,
        fix_up=request.fix_up,
        hold=str(ULID()),
        by=f"failover on {os.uname().nodename}",
        asked=clock.now().timestamp(),
        boot_limit=request.boot_limit,
    )
    with run_directory.root_lock(root):
        refuse_second(root, log.head.replica, order.machine)
        journal = Work(root / tag, order, host, clock).journal()
        run = run_directory.make(root, tag, order, journal, cipher, {WISH: Wish(request.point)})
    return _carried(run, host, clock, told)


def _carried(run: Path, host: RecoveryHost, clock: Clock, told: Told | None) -> Failover:
    """To its end; what was begun before the machine started is taken back where it fails."""
    try:
        return resume(run, host, clock=clock, told=told)
    except NotBooted as error:
        error.hint += f"; then `{CANCEL.format(run=run)}`, or another point with change-point"
        raise
    except (StandbyError, KeyboardInterrupt) as error:
        if FileRows(run).load().row(START).state is State.PENDING:
            take_back(run, host, clock, told, error)
        raise


def resume(
    run: Path, host: RecoveryHost, *, clock: Clock | None = None, told: Told | None = None
) -> Failover:
    """Go on with a failover that was interrupted, or whose machine ended: with the host, or by its guest.

    Raises CleanUpBegun, FailedOverElsewhere, OverlayLost, NoRecovery, RecoveryBusy, and as `start`.
    """
    run = run.resolve()
    with run_directory.run_lock(run):
        workflow = _workflow(run, host, clock)
        if run_directory.read_order(run, LiveOrder).kind != "failback":
            workflow.run(told)
        elif not (run / COMPLETE).exists():
            workflow.run(told, before=SOURCE)
        else:
            settle(run, host)
            workflow.run(told)
    return look(run, host)


def settle(run: Path, host: RecoveryHost) -> None:
    """Note the disks whose merge a killed process did not live to note; before the machine may go on."""
    with contextlib.suppress(MachineNotFound):
        found = machine(run, host)
        if merging_mark(run).exists() and found.state() is not MachineState.GONE:
            for index, old in enumerate(run_directory.read_order(run, FailbackOrder).old):
                if not merged_mark(run, index).exists() and found.merged(old.id):
                    merged_mark(run, index).touch()
                    sync(run)


def change_point(
    run: Path, point: str, host: RecoveryHost, *, clock: Clock | None = None, told: Told | None = None
) -> Failover:
    """End the machine and start another point of the replica. What its guest wrote is lost.

    Raises NotFailedOver once it is committed, InvalidRequest for a point that is not there, before anything
    was changed; then as `resume`.
    """
    run = run.resolve()
    with run_directory.run_lock(run):
        order = run_directory.read_order(run, LiveOrder)
        _refuse_failback(run, order, "its point cannot be changed")
        _refuse_committed(run, "its point can no longer be changed")
        read_settled(order.place_at(run))[0].point(point)
        workflow = _workflow(run, host, clock)
        workflow.rewind(CHOOSE, _renamed(CHANGE_TASK, told))
        run_directory.put(run / WISH, Wish(point))
        _WISHED.reach()
        workflow.run(told)
    return look(run, host)


def commit(run: Path, host: RecoveryHost, *, clock: Clock | None = None) -> Failover:
    """Keep the failed-over machine for good. Raises NotFailedOver unless it was started. Harmless to repeat."""
    run = run.resolve()
    with run_directory.run_lock(run):
        journal = FileRows(run).load()
        order = run_directory.read_order(run, LiveOrder)
        _refuse_failback(run, order, "it is committed by merging its overlays")
        if journal.undoing or journal.back_to or journal.row(START).state is not State.DONE:
            raise NotFailedOver(
                "its machine was not started yet",
                subject=str(run),
                hint=f"`{RESUME.format(run=run)}` goes on",
            )
        if not (run / COMMITTED).exists():
            run_directory.put(run / COMMITTED, Committed((clock or SystemClock()).now().isoformat()))
        _COMMITTED.reach()
    return look(run, host)


def cancel(run: Path, host: RecoveryHost, *, clock: Clock | None = None, told: Told | None = None) -> None:
    """End the machine and remove everything of the failover, with what its guest wrote. The fence stays.

    May be repeated until it succeeds. Raises NotFailedOver once it is committed.
    """
    run = run.resolve()
    if run_directory.finish_removal(run):
        return
    with run_directory.run_lock(run):
        _refuse_committed(run, "it can no longer be cancelled")
        _refuse_merging(run)
        _undo(run, host, clock, told)


def clean_up(
    run: Path,
    host: RecoveryHost,
    *,
    lose: bool = False,
    clock: Clock | None = None,
    told: Told | None = None,
) -> None:
    """Remove what is left of a committed failover whose machine has moved on, as by a failback.

    lose: also where nothing tells that it did, and the overlays may be all there is of what its guest wrote.
    Raises NotFailedOver where the machine runs, is not committed, or was not seen to move on.
    """
    run = run.resolve()
    if run_directory.finish_removal(run):
        return
    with run_directory.run_lock(run):
        order = run_directory.read_order(run, LiveOrder)
        journal = FileRows(run).load()
        if not (run / COMMITTED).exists() and not journal.undoing:
            raise NotFailedOver(
                "it is not committed", subject=str(run), hint=f"`{CANCEL.format(run=run)}` takes it back"
            )
        if not journal.undoing:
            if state_of(run, host) is MachineState.RUNNING:
                raise NotFailedOver(
                    "its machine runs",
                    subject=order.machine,
                    hint="`standby failover planned` moves it elsewhere without loss; or shut it down",
                )
            if not lose and not _moved_on(run, order):
                raise NotFailedOver(
                    "nothing tells that its machine runs elsewhere by now: what its guest wrote may be here only",
                    subject=order.machine,
                    hint="fail it back first; or repeat with --yes to lose it",
                )
        _undo(run, host, clock, told)


def mend(run: Path, host: RecoveryHost) -> list[str]:
    """Start the servers that died again, and let a machine that stopped for its disk go on. Which disks."""
    run = run.resolve()
    with run_directory.run_lock(run):
        journal = FileRows(run).load()
        if journal.undoing or journal.row(START).state is not State.DONE:
            raise NotFailedOver(
                "its disks are not served yet", subject=str(run), hint=f"`{RESUME.format(run=run)}` goes on"
            )
        dead = serving.dead(served(run))
        serving.start(dead)
        settle(run, host)
        found = machine(run, host)
        if found.state() is MachineState.PAUSED:
            found.resume()
    return [source.disk for source in dead]


def _work(run: Path, host: RecoveryHost, clock: Clock | None) -> Work:
    clock = clock or SystemClock()
    # How long a start took is told from the command; when it had ended before, from the one that starts it again.
    again = {"asked": clock.now().timestamp()} if FileRows(run).load().complete else {}
    order = run_directory.read_order(run, LiveOrder)
    if order.kind == "failback":
        failback = run_directory.read_order(run, FailbackOrder)
        return FailbackWork(run, msgspec.structs.replace(failback, **again), host, clock)
    return Work(run, msgspec.structs.replace(order, **again), host, clock)


def _workflow(run: Path, host: RecoveryHost, clock: Clock | None) -> Workflow:
    work = _work(run, host, clock)
    return Workflow(work.steps(), FileRows(run), work.clock)


def _undo(run: Path, host: RecoveryHost, clock: Clock | None, told: Told | None) -> None:
    _workflow(run, host, clock).undo(_renamed(CANCEL_TASK, told))
    run_directory.remove(run)


def take_back(
    run: Path, host: RecoveryHost, clock: Clock | None, told: Told | None, error: BaseException
) -> None:
    """What a failed start has begun, as far as that succeeds."""
    try:
        cancel(run, host, clock=clock, told=told)
    except StandbyError as second:
        error.add_note(f"Taking it back failed too: {second}. `{CANCEL.format(run=run)}` takes it up again.")


def _renamed(task: str, told: Told | None) -> Told | None:
    return (lambda row: told(msgspec.structs.replace(row, task=task))) if told else None


def refuse_second(root: Path, replica: UUID, name: str) -> None:
    """Raises FailoverInProgress if a failover or failback of the replica is below `root`. Under the root's lock."""
    if other := run_directory.of_replica(root, replica):
        raise FailoverInProgress(
            f"it has failed over to this host already, in {other}",
            subject=name,
            hint=f"`standby failover show {other}` tells how it stands",
        )


def _refuse_failback(run: Path, order: LiveOrder, what: str) -> None:
    if order.kind == "failback":
        raise NotFailedOver(
            f"it is a failback: {what}",
            subject=str(run),
            hint=f"`standby failover show {run}` tells how it stands",
        )


def _refuse_merging(run: Path) -> None:
    if merging_mark(run).exists():
        raise NotFailedOver(
            "its overlays are being merged into the old disks: it can no longer be cancelled",
            subject=str(run),
            hint=f"`standby failover commit {run}` ends that",
        )


def _refuse_committed(run: Path, what: str) -> None:
    if (run / COMMITTED).exists():
        raise NotFailedOver(
            f"it is committed: {what}",
            subject=str(run),
            hint="`standby failover planned` moves the machine elsewhere",
        )


def _moved_on(run: Path, order: LiveOrder) -> bool:
    """Whether a later failover owns the replica."""
    mine = int(FileRows(run).load().row(FENCE).facts.get("epoch", 0))
    records = read_settled(order.place_at(run))[0].records
    return failed_over_since(records, mine) is not None
