"""The steps that start a point's machine on this host: from the hold on the point to the guest's answer.

Test failover and failover have them in common, each with what it leaves in the world and how that is taken
back. A failover's overlays hold what the guest wrote, which nothing but its cancellation may take back.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from standby import failpoints
from standby.clock import Clock
from standby.errors import NeedsPerson
from standby.hypervisor.base import MachineNotFound
from standby.hypervisor.host import DiskImage, MachineState, Network, RecoveryHost
from standby.objects.address import open_store
from standby.objects.base import ObjectMissing
from standby.objects.durable import sync
from standby.records import BootFile, MachineDescription
from standby.recovery import fixup_step, secret, serving
from standby.recovery.fixup_wish import FixUp
from standby.recovery.run_directory import FileRows
from standby.recovery.serving import Source
from standby.recovery.steps import Facts, State, Step, nothing
from standby.replica import boot
from standby.replica.documents import Record
from standby.replica.journal import Place, add_hold, drop_hold, read_head

HOLD: Final = "hold"
SERVE: Final = "serve"
OVERLAYS: Final = "overlays"
FIX_UP: Final = "guest fix-up"
START: Final = "start"
BOOT: Final = "boot"
"""Names of steps that others refer to."""

MACHINE: Final = "machine"
"""The machine's own run directory, within the recovery's."""

TEST_PATIENCE: Final = 60
LIVE_PATIENCE: Final = 3600
"""Seconds in which a guest's read waits for a server that went away. A test's guest may have an error then."""

_FETCHED = failpoints.declare("failover.boot_file_fetched")
_OVERLAID = failpoints.declare("failover.overlay_made")


class OverlayLost(NeedsPerson):
    """What the recovered guest wrote is gone: an overlay is no longer in its run directory."""


class DiskOrder(msgspec.Struct, frozen=True, kw_only=True):
    """size: in bytes, at the point."""

    id: str
    size: int


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """A point's machine as it is to be started here, with the disks that the point has."""

    seq: int
    machine: MachineDescription
    disks: tuple[DiskOrder, ...]

    @classmethod
    def of(cls, record: Record, machine: MachineDescription) -> Copy:
        described = {disk.id for disk in machine.disks}
        kept = {disk.id for disk in record.disks}
        return cls(
            seq=record.seq,
            machine=msgspec.structs.replace(
                machine, disks=tuple(disk for disk in machine.disks if disk.id in kept)
            ),
            disks=tuple(
                DiskOrder(id=disk.id, size=disk.size) for disk in record.disks if disk.id in described
            ),
        )


class RunOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What every recovery is told before its first step. kind: which it is. store: its address. hold: the id
    of the hold on the point; asked: when, in seconds of the epoch; boot_limit: seconds to wait for the guest
    agent, None where nothing is waited for. fix_up: what the guest is told before it starts."""

    kind: str = "test"
    tag: str
    store: str
    replica: str
    replica_id: UUID
    hold: str
    by: str
    asked: float
    boot_limit: float | None
    fix_up: FixUp = FixUp()

    def place_at(self, run: Path) -> Place:
        """The replica, with the key that the run directory has for it."""
        return Place(open_store(self.store), self.replica, secret.key_of(run))


class Manner(NamedTuple):
    """How a machine is started. create, prepare, start: the tasks that operators know its steps by.

    live: it is used in earnest: a start never takes back what its guest wrote, and its reads wait long.
    """

    create: str
    prepare: str
    start: str
    live: bool = False
    network: Network = Network.RESTRICTED
    bridge: str = ""


def sources(run: Path, order: RunOrder, copy: Copy, patience: int = 0) -> list[Source]:
    """The disks that are served: those of which not all is in the overlay yet."""
    every = all_sources(run, order, copy, patience)
    return [source for index, source in enumerate(every) if not whole_mark(run, index).exists()]


def all_sources(run: Path, order: RunOrder, copy: Copy, patience: int = 0) -> list[Source]:
    """Every disk as it is served, or was before it was whole. patience: for a store that is away, seconds."""
    return [
        Source(order.store, order.replica, copy.seq, disk.id, _socket(run, index), patience)
        for index, disk in enumerate(copy.disks)
    ]


def whole_mark(run: Path, index: int) -> Path:
    """A file that tells that all of the disk is in its overlay, durably: nothing is read from the store."""
    return run / f"{index}.whole"


def overlay(run: Path, index: int) -> Path:
    return run / f"{index}.qcow2"


def release(run: Path, order: RunOrder) -> None:
    """End the hold on the point."""
    # A replica that was removed took its holds along. A store that is away has not: that is an error.
    with contextlib.suppress(ObjectMissing):
        place = order.place_at(run)
        place.store.size(place.head)
        drop_hold(place, order.hold)


class MachineSteps:
    """They work in the run directory. copy: asked at every step, for it may be chosen by one before."""

    def __init__(
        self,
        run: Path,
        order: RunOrder,
        copy: Callable[[], Copy],
        host: RecoveryHost,
        clock: Clock,
        manner: Manner,
        image: Callable[[int], DiskImage] | None = None,
    ) -> None:
        """image: what a disk is started with, by its number; by default its overlay on what is served."""
        self._run = run
        self._order = order
        self._copy = copy
        self._host = host
        self._clock = clock
        self._manner = manner
        self._machine = run / MACHINE
        self._boot = run / "boot"
        self._image = image or self._served_image

    def steps(self) -> list[Step]:
        create, prepare, start = self._manner.create, self._manner.prepare, self._manner.start
        return [
            Step(HOLD, create, self._hold, self._release, self._held),
            Step("boot files", create, self._fetch, self._drop_boot_files, self._fetched),
            Step(SERVE, prepare, self._serve, self._stop, self._served),
            Step(OVERLAYS, prepare, self._overlay, self._drop_overlays, self._overlaid),
            *([self._fix_up_step()] if self._order.fix_up.wanted else []),
            Step(START, start, self._start, self._discard, self._started),
            Step(BOOT, start, self._wait, nothing, never),
        ]

    def _hold(self) -> Facts:
        return {
            "held": int(
                add_hold(self._order.place_at(self._run), self._order.hold, self._copy().seq, self._order.by)
            )
        }

    def _release(self) -> None:
        release(self._run, self._order)

    def _held(self) -> Facts | None:
        if not self._served_disks():
            return {"held": 0}
        head, _ = read_head(self._order.place_at(self._run))
        return {"held": 1} if any(hold.id == self._order.hold for hold in head.holds) else None

    def _fetch(self) -> None:
        self._boot.mkdir(exist_ok=True)
        for file in self._copy().machine.boot_files:
            boot.fetch(self._order.place_at(self._run), file, self._boot / file.role)
            _FETCHED.reach()

    def _fetched(self) -> Facts | None:
        return so(all(_matches(self._boot / file.role, file) for file in self._copy().machine.boot_files))

    def _drop_boot_files(self) -> None:
        remove(self._boot)

    def _serve(self) -> None:
        serving.start(self._served_disks())

    def _stop(self) -> None:
        serving.stop(all_sources(self._run, self._order, self._copy()))

    def _served(self) -> Facts | None:
        return so(not serving.dead(self._served_disks()))

    def _served_disks(self) -> list[Source]:
        return sources(self._run, self._order, self._copy(), LIVE_PATIENCE if self._manner.live else 0)

    def _overlay(self) -> None:
        fixup_step.forget(self._run)
        for index, disk in enumerate(self._copy().disks):
            image = self._image(index)
            fresh = image.path.with_suffix(".qcow2.new")
            self._host.overlay(fresh, image.backing, disk.size)
            _OVERLAID.reach()
            fresh.rename(image.path)
        sync(self._run)

    def _overlaid(self) -> Facts | None:
        missing = [
            disk.id for index, disk in enumerate(self._copy().disks) if not overlay(self._run, index).exists()
        ]
        if missing and self._manner.live and FileRows(self._run).load().row(OVERLAYS).state is State.DONE:
            raise OverlayLost(
                f"the overlay of disk {', '.join(missing)} is gone, and what the guest wrote with it",
                subject=str(self._run),
                tried="nothing was changed",
                hint="bring the file back; or `standby failover cancel` and fail over anew",
            )
        return so(not missing)

    def _fix_up_step(self) -> Step:
        return Step(
            FIX_UP,
            "Fix up the guest",
            self._fix_up,
            lambda: fixup_step.forget(self._run),
            lambda: fixup_step.changed(self._run),
        )

    def _fix_up(self) -> Facts:
        copy = self._copy()
        overlays = [
            fixup_step.Overlay(
                path=overlay(self._run, index), backing=source.uri, size=copy.disks[index].size
            )
            for index, source in enumerate(all_sources(self._run, self._order, copy))
        ]
        cards = len(copy.machine.nics)
        return fixup_step.change(
            self._run, self._order.fix_up, cards, self._host, overlays, self._machine.exists
        )

    def _drop_overlays(self) -> None:
        for index in range(len(self._copy().disks)):
            # First the claim that an overlay is whole, then the overlay.
            whole_mark(self._run, index).unlink(missing_ok=True)
            image = overlay(self._run, index)
            image.with_suffix(".qcow2.new").unlink(missing_ok=True)
            image.unlink(missing_ok=True)

    def _served_image(self, index: int) -> DiskImage:
        patience = LIVE_PATIENCE if self._manner.live else TEST_PATIENCE
        path = overlay(self._run, index)
        if whole_mark(self._run, index).exists():
            return DiskImage(path, "qcow2")
        return DiskImage(path, "qcow2", f"nbd+unix:///?socket={_socket(self._run, index)}", patience)

    def _start(self) -> Facts:
        copy = self._copy()
        self._host.start(
            copy.machine,
            {disk.id: self._image(index) for index, disk in enumerate(copy.disks)},
            {file.role: self._boot / file.role for file in copy.machine.boot_files},
            self._machine,
            self._manner.network,
            self._manner.bridge,
        )
        return {"first_instruction": self._clock.now().timestamp() - self._order.asked}

    def _started(self) -> Facts | None:
        try:
            machine = self._host.find(self._machine)
        except MachineNotFound:
            return None
        state = machine.state()
        if state is MachineState.PAUSED and self._manner.live:
            # A start that was killed before the first instruction, or a guest that waits for its disk.
            machine.resume()
            return {}
        return so(state is MachineState.RUNNING)

    def _discard(self) -> None:
        with contextlib.suppress(MachineNotFound):
            self._host.find(self._machine).discard()
        # A start that died before it noted anything has only made the directory.
        remove(self._machine)

    def _wait(self) -> Facts | None:
        if self._order.boot_limit is None:
            return None
        self._host.find(self._machine).wait_booted(self._order.boot_limit)
        return {"agent": self._clock.now().timestamp() - self._order.asked}


def never() -> Facts | None:
    """`Step.done` of what is done at every turn."""
    return None


def so(answer: bool) -> Facts | None:
    """What `Step.done` answers when there is nothing to measure."""
    return {} if answer else None


def remove(directory: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory)


def _socket(run: Path, index: int) -> Path:
    return run / f"{index}.nbd"


def _matches(path: Path, file: BootFile) -> bool:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
    except FileNotFoundError:
        return False
