"""The steps of a test failover, each with what it leaves in the world and how that is taken back."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec

from standby import failpoints
from standby.clock import Clock
from standby.hypervisor.base import MachineNotFound
from standby.hypervisor.host import DiskImage, MachineState, Network, RecoveryHost
from standby.objects.address import open_store
from standby.objects.base import ObjectMissing
from standby.records import BootFile, MachineDescription
from standby.recovery import prerequisites, secret, serving
from standby.recovery.prerequisites import NotReady
from standby.recovery.serving import Source
from standby.recovery.steps import Facts, Journal, Row, Step, nothing
from standby.replica import boot
from standby.replica.journal import Place, add_hold, drop_hold, read_head, read_settled

CHECK: Final = "Prerequisites check for test failover"
CREATE: Final = "Create test virtual machine"
PREPARE: Final = "Preparing the virtual machine"
START: Final = "Start the virtual machine"

SERVE: Final = "serve"
"""The step that starts the servers."""

MACHINE: Final = "machine"
"""The machine's own run directory, within the test's."""

_FETCHED = failpoints.declare("failover.boot_file_fetched")
_OVERLAID = failpoints.declare("failover.overlay_made")


class DiskOrder(msgspec.Struct, frozen=True, kw_only=True):
    """size: in bytes, at the point."""

    id: str
    size: int


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a test failover is to do: fixed before its first step. store: its address; machine: as it will
    be started; hold: the id of the hold on the point; asked: when, in seconds of the epoch."""

    tag: str
    store: str
    replica: str
    replica_id: UUID
    seq: int
    machine: MachineDescription
    disks: tuple[DiskOrder, ...]
    hold: str
    by: str
    asked: float
    boot_limit: float | None

    def sources(self, run: Path) -> list[Source]:
        return [
            Source(self.store, self.replica, self.seq, disk.id, run / f"{index}.nbd")
            for index, disk in enumerate(self.disks)
        ]


class Work:
    """One test failover in its run directory."""

    def __init__(self, run: Path, order: Order, host: RecoveryHost, clock: Clock) -> None:
        self.clock = clock
        self._run = run
        self._order = order
        self._host = host
        self._machine = run / MACHINE
        self._boot = run / "boot"

    def steps(self) -> list[Step]:
        return [
            Step("check", CHECK, self._check, nothing, _never),
            Step("hold", CREATE, self._hold, self._release, self._held),
            Step("boot files", CREATE, self._fetch, self._drop_boot_files, self._fetched),
            Step(SERVE, PREPARE, self._serve, self._stop, self._served),
            Step("overlays", PREPARE, self._overlay, self._drop_overlays, self._overlaid),
            Step("start", START, self._start, self._discard, self._started),
            Step("boot", START, self._wait, nothing, _never),
        ]

    def journal(self) -> Journal:
        """The rows of a test that has not begun."""
        return Journal(rows=tuple(Row(step=step.name, task=step.task) for step in self.steps()))

    def _check(self) -> None:
        place = self._place()
        log = read_settled(place, upto=self._order.seq)[0]
        record = log.point(str(self._order.seq))
        findings = prerequisites.check(place, record, self._order.machine, self._host, self._run)
        if any(finding.blocks for finding in findings):
            raise NotReady(self._order.machine.name, findings)

    def _hold(self) -> Facts:
        held = add_hold(self._place(), self._order.hold, self._order.seq, self._order.by)
        return {"held": int(held)}

    def _release(self) -> None:
        place = self._place()
        # A replica that was removed took its holds along. A store that is away has not: that is an error.
        with contextlib.suppress(ObjectMissing):
            place.store.size(place.head)
            drop_hold(place, self._order.hold)

    def _held(self) -> Facts | None:
        head, _ = read_head(self._place())
        return {"held": 1} if any(hold.id == self._order.hold for hold in head.holds) else None

    def _fetch(self) -> None:
        self._boot.mkdir(exist_ok=True)
        for file in self._order.machine.boot_files:
            boot.fetch(self._place(), file, self._boot / file.role)
            _FETCHED.reach()

    def _fetched(self) -> Facts | None:
        return _if(all(_matches(self._boot / file.role, file) for file in self._order.machine.boot_files))

    def _drop_boot_files(self) -> None:
        _remove(self._boot)

    def _serve(self) -> None:
        serving.start(self._order.sources(self._run))

    def _stop(self) -> None:
        serving.stop(self._order.sources(self._run))

    def _served(self) -> Facts | None:
        return _if(not serving.dead(self._order.sources(self._run)))

    def _overlay(self) -> None:
        for (fresh, image), disk, source in zip(
            self._overlays(), self._order.disks, self._order.sources(self._run), strict=True
        ):
            self._host.overlay(fresh, source.uri, disk.size)
            _OVERLAID.reach()
            fresh.rename(image.path)

    def _overlaid(self) -> Facts | None:
        return _if(all(image.path.exists() for _, image in self._overlays()))

    def _drop_overlays(self) -> None:
        for fresh, image in self._overlays():
            fresh.unlink(missing_ok=True)
            image.path.unlink(missing_ok=True)

    def _overlays(self) -> list[tuple[Path, DiskImage]]:
        """Per disk, the name under which its overlay is made, and the overlay."""
        return [
            (
                self._run / f"{index}.qcow2.new",
                DiskImage(self._run / f"{index}.qcow2", "qcow2", source.uri),
            )
            for index, source in enumerate(self._order.sources(self._run))
        ]

    def _start(self) -> Facts:
        self._host.start(
            self._order.machine,
            {disk.id: image for disk, (_, image) in zip(self._order.disks, self._overlays(), strict=True)},
            {file.role: self._boot / file.role for file in self._order.machine.boot_files},
            self._machine,
            Network.RESTRICTED,
        )
        return {"first_instruction": self.clock.now().timestamp() - self._order.asked}

    def _started(self) -> Facts | None:
        try:
            return _if(self._host.find(self._machine).state() is MachineState.RUNNING)
        except MachineNotFound:
            return None

    def _discard(self) -> None:
        with contextlib.suppress(MachineNotFound):
            self._host.find(self._machine).discard()
        # A start that died before it noted anything has only made the directory.
        _remove(self._machine)

    def _wait(self) -> Facts | None:
        if self._order.boot_limit is None:
            return None
        self._host.find(self._machine).wait_booted(self._order.boot_limit)
        return {"agent": self.clock.now().timestamp() - self._order.asked}

    def _place(self) -> Place:
        return Place(open_store(self._order.store), self._order.replica, secret.key_of(self._run))


def _never() -> Facts | None:
    return None


def _if(so: bool) -> Facts | None:
    """What `Step.done` answers when there is nothing to measure."""
    return {} if so else None


def _matches(path: Path, file: BootFile) -> bool:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
    except FileNotFoundError:
        return False


def _remove(directory: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory)
