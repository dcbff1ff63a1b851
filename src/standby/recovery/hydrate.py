"""Hydrating a failed-over machine: all of its disks into their overlays while it runs, then no more store.

Nothing of it can lose a write: the overlay takes what the guest writes before, meanwhile and after. QEMU
fetches in the background, whether or not this process lives; a disk counts as whole only by a mark that was
made once the overlay was durable, and until then is started with its server behind it (decision 0014).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from standby import failpoints
from standby.errors import NeedsPerson, Recoverable
from standby.hypervisor.host import Fetched, MachineState, RecoveryHost
from standby.objects.durable import sync
from standby.recovery import live_steps, live_view, machine_steps, run_directory, serving
from standby.recovery.live import NotFailedOver
from standby.recovery.live_steps import LiveOrder, copy_of
from standby.recovery.live_view import RESUME, Failover
from standby.recovery.machine_steps import START, whole_mark
from standby.recovery.run_directory import FileRows
from standby.recovery.steps import State

POLL: Final = 0.3
"""Seconds between two looks at how far it is."""

TRIES: Final = 3
"""How often QEMU is told anew to fetch a disk before a person is told."""

_FLUSHED = failpoints.declare("hydrate.flushed")
_MARKED = failpoints.declare("hydrate.marked")
_CLOSED = failpoints.declare("hydrate.closed")
_RELEASED = failpoints.declare("hydrate.released")

Progress = Callable[[str, Fetched], None]
"""Told a disk's id and how far it is."""


class FetchFailed(Recoverable):
    """QEMU gave up fetching a disk; the guest may have met the same."""


def hydrate(run: Path, host: RecoveryHost, *, progress: Progress = lambda _disk, _far: None) -> Failover:
    """Fetch all disks, then end their servers and the hold on the point. Interrupted, QEMU goes on by itself,
    and the next call ends what is whole. A server that dies meanwhile is started again.

    Raises NotFailedOver while its machine does not run; FetchFailed.
    """
    run = run.resolve()
    with run_directory.run_lock(run):
        order = run_directory.read_order(run, LiveOrder)
        _refuse(run, host)
        machine = live_view.machine(run, host)
        copy = copy_of(run)
        tries: Counter[int] = Counter()
        while copy and (left := _left(run, len(copy.disks))):
            # One after the other: to begin one, QEMU waits for what is at work for the others.
            index, disk = left[0], copy.disks[left[0]].id
            if (dead := serving.dead(live_steps.sources(run, order))) and _store_answers(run, order):
                serving.start(dead)
            far = machine.fetched(disk)
            if far.whole:
                machine.flush(disk)
                _FLUSHED.reach()
                whole_mark(run, index).touch()
                sync(run)
                _MARKED.reach()
            elif not far.at_work and _store_answers(run, order):
                if tries[index]:
                    # It has ended before, and not with the whole disk.
                    _see_failure(run, order, disk, last=tries[index] >= TRIES)
                tries[index] += 1
                machine.fetch(disk)
            progress(disk, far)
            if not far.whole:
                time.sleep(POLL)
        if copy:
            for disk_order in copy.disks:
                machine.let_go(disk_order.id)
            _CLOSED.reach()
            serving.stop(machine_steps.all_sources(run, order, copy))
        machine_steps.release(run, order)
        _RELEASED.reach()
    return live_view.look(run, host)


def _store_answers(run: Path, order: LiveOrder) -> bool:
    try:
        place = order.place_at(run)
        place.store.size(place.head)
    except (Recoverable, NeedsPerson):
        return False
    return True


def _left(run: Path, count: int) -> list[int]:
    return [index for index in range(count) if not whole_mark(run, index).exists()]


def _refuse(run: Path, host: RecoveryHost) -> None:
    journal = FileRows(run).load()
    if journal.undoing or journal.back_to or journal.row(START).state is not State.DONE:
        raise NotFailedOver("it has not started yet", subject=str(run), hint=f"`{RESUME.format(run=run)}`")
    if live_view.machine(run, host).state() is MachineState.GONE:
        raise NotFailedOver(
            "its machine is off, and it is the machine that fetches",
            subject=str(run),
            hint=f"`{RESUME.format(run=run)}` starts it",
        )


def _see_failure(run: Path, order: LiveOrder, disk: str, *, last: bool) -> None:
    found = serving.problems(live_steps.sources(run, order), live_view.MEND.format(run=run))
    damage = next((one for one in found if one.subject.startswith(f"disk {disk},")), None)
    if damage or last:
        raise FetchFailed(
            f"{damage.subject}: {damage.problem}" if damage else f"QEMU gave it up {TRIES} times",
            subject=f"{order.machine}, disk {disk}",
            tried="what could be fetched is kept, and the guest runs on",
            hint=damage.fix
            if damage
            else f"read {run / machine_steps.MACHINE / 'qemu.log'}, then hydrate again",
        )
