"""Failback: a machine that failed over brought back to the host and the disks that it came from.

`start` brings the old disks to the newest point, in overlays on them, while the recovered machine runs on.
Once that one is sealed, `complete` fetches what changed since and starts the machine here; `live.cancel`
takes all of it back at any moment, and the old disks are as they were. `commit` comes last: it brings the
overlays into the old disks, while the guest runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from ulid import ULID

from standby import failpoints
from standby.clock import Clock, SystemClock
from standby.errors import InvalidRequest, StandbyError
from standby.hypervisor.host import MachineState, Network, NotBooted, RecoveryHost
from standby.objects.address import open_store
from standby.objects.durable import sync
from standby.recovery import live, live_view, machine_steps, run_directory
from standby.recovery.failback_steps import (
    COMPARE,
    COMPLETE,
    Complete,
    FailbackOrder,
    FailbackWork,
    OldDisk,
    merged_mark,
    merging_mark,
)
from standby.recovery.live import CANCEL, Committed, NotFailedOver
from standby.recovery.live_steps import COMMITTED, WISH, Wish
from standby.recovery.live_view import RESUME, Failover
from standby.recovery.machine_steps import START, overlay
from standby.recovery.run_directory import FileRows
from standby.recovery.steps import Row, State
from standby.replica.journal import ReplicaLog
from standby.replica.keys import Key

COMPLETE_COMMAND: Final = "standby failover complete {run}"
MERGE_LIMIT: Final = 24 * 3600.0
"""Seconds for one disk's overlay: as long as it takes, but not for ever."""

_TOLD = failpoints.declare("failback.told")
_MERGING = failpoints.declare("failback.merging")
_MERGED = failpoints.declare("failback.merged")
_MARKED = failpoints.declare("failback.marked")
_ENDED = failpoints.declare("failback.ended")

Told = Callable[[Row], None]


class Request(NamedTuple):
    """old: every disk of the machine, as it was left on this host. See live.Request."""

    store: str
    replica: str
    old: Sequence[OldDisk]
    boot_limit: float | None = 300.0
    network: Network = Network.RESTRICTED
    bridge: str = ""
    key: Key | None = None


def start(
    request: Request,
    root: Path,
    host: RecoveryHost,
    *,
    clock: Clock | None = None,
    told: Told | None = None,
) -> Failover:
    """Synchronize the old disks with the newest point; it then waits to be completed.

    Raises NotReady with every finding, FailoverInProgress, InvalidRequest, and what the steps raise. What was
    begun is then taken back; nothing was written to the old disks.
    """
    clock = clock or SystemClock()
    log = ReplicaLog.read(open_store(request.store), request.replica, key=request.key)
    cipher = log.cipher()
    point = log.point()
    tag = run_directory.new_tag()
    order = FailbackOrder(
        tag=tag,
        store=log.place.store.url,
        replica=request.replica,
        replica_id=log.head.replica,
        machine=point.machine.name if point.machine else request.replica,
        network=request.network,
        bridge=request.bridge,
        source_qmp="",
        confirmed=False,
        hold=str(ULID()),
        by=f"failback on {os.uname().nodename}",
        asked=clock.now().timestamp(),
        boot_limit=request.boot_limit,
        seq=point.seq,
        old=tuple(request.old),
    )
    root = root.resolve()
    with run_directory.root_lock(root):
        live.refuse_second(root, log.head.replica, order.machine)
        journal = FailbackWork(root / tag, order, host, clock).journal()
        run = run_directory.make(root, tag, order, journal, cipher, {WISH: Wish("newest")})
    try:
        return live.resume(run, host, clock=clock, told=told)
    except (StandbyError, KeyboardInterrupt) as error:
        live.take_back(run, host, clock, told, error)
        raise


def complete(
    run: Path,
    host: RecoveryHost,
    *,
    source_qmp: Path | None = None,
    confirmed: bool = False,
    clock: Clock | None = None,
    told: Told | None = None,
) -> Failover:
    """Fetch what changed since, and start the machine here. See live.Request for what tells that it is down
    where it ran.

    Raises SourceRuns, SourceUnknown, OldDiskChanged, NotFailedOver before it was synchronized, and as
    live.resume. A refusal leaves it waiting to be completed.
    """
    run = run.resolve()
    with run_directory.run_lock(run):
        order = run_directory.read_order(run, FailbackOrder)
        journal = FileRows(run).load()
        if order.kind != "failback" or journal.undoing or journal.row(COMPARE).state is not State.DONE:
            raise NotFailedOver(
                "it is no failback that waits to be completed",
                subject=str(run),
                hint=f"`{RESUME.format(run=run)}` goes on",
            )
        said = Complete(str(source_qmp.absolute()) if source_qmp else "", confirmed)
        run_directory.put(run / COMPLETE, said)
        _TOLD.reach()
    try:
        return live.resume(run, host, clock=clock, told=told)
    except NotBooted as error:
        error.hint += f"; then `{CANCEL.format(run=run)}`"
        raise
    except InvalidRequest:
        if FileRows(run).load().row(START).state is State.PENDING:
            (run / COMPLETE).unlink(missing_ok=True)
        raise


def commit(run: Path, host: RecoveryHost, *, clock: Clock | None = None) -> Failover:
    """Bring the overlays into the old disks while the guest runs, and end the hold. May be repeated until done.

    The guest is stopped for the moment in which the machine goes over from an overlay to its disk.
    Raises NotFailedOver unless its machine runs; MergeFailed.
    """
    run = run.resolve()
    with run_directory.run_lock(run):
        order = run_directory.read_order(run, FailbackOrder)
        journal = FileRows(run).load()
        if journal.undoing or journal.row(START).state is not State.DONE:
            raise NotFailedOver(
                "it has not started yet", subject=str(run), hint=COMPLETE_COMMAND.format(run=run)
            )
        machine = live_view.machine(run, host)
        if not (run / COMMITTED).exists():
            if machine.state() is MachineState.GONE:
                raise NotFailedOver(
                    "its machine is off", subject=str(run), hint=f"`{RESUME.format(run=run)}` starts it"
                )
            merging_mark(run).touch()
            sync(run)
            _MERGING.reach()
            for index, old in enumerate(order.old):
                if not merged_mark(run, index).exists():
                    machine.merge(old.id, MERGE_LIMIT)
                    _MERGED.reach()
                    merged_mark(run, index).touch()
                    sync(run)
                    _MARKED.reach()
                # Only now may the guest write: what it writes is in the old disk alone.
                machine.resume()
                machine.drop_overlay(old.id)
            run_directory.put(run / COMMITTED, Committed((clock or SystemClock()).now().isoformat()))
        _ENDED.reach()
        machine_steps.release(run, order)
        for index in range(len(order.old)):
            overlay(run, index).unlink(missing_ok=True)
    return live_view.look(run, host)
