"""The QEMU adapter: machines and storage daemons whose control sockets the user names."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from standby.clock import Clock, SystemClock
from standby.hypervisor.base import MachineNotFound
from standby.hypervisor.devices import bus_of, network_cards, qom
from standby.hypervisor.ending import QemuEnding
from standby.hypervisor.findings import ChainProblems, agent_problem, image_chain_problems, survey
from standby.hypervisor.freeze import FROZEN_LIMIT
from standby.hypervisor.inventory import SourceDisk, disks_of, is_flash
from standby.hypervisor.qmp import Qmp
from standby.hypervisor.scratch import CutLimits
from standby.hypervisor.tracking import QemuTracking
from standby.records import BootFile, DiskDescription, Finding, MachineDescription

Role = Literal["kernel", "initrd"]

_ROLES: tuple[Role, ...] = ("kernel", "initrd")
_NO_UUID = "00000000-0000-0000-0000-000000000000"
_NAMESPACE = uuid.UUID("6c0e9a3e-2d0b-5c8e-9a0e-6f3f4f0c7b11")


@dataclass(frozen=True)
class QemuMachine:
    """Where to reach one qemu-system or qemu-storage-daemon process.

    qmp: a control socket of its own for standby (it takes one client). agent: the guest agent's socket.
    nbd: the socket of the process's NBD server, if it runs one anyway (a storage daemon usually does).
    """

    qmp: Path
    agent: Path | None = None
    nbd: Path | None = None


class QemuHypervisor:
    """A `Hypervisor`. Thread-safe; a machine's control connection is shared and let go of when unused."""

    def __init__(
        self,
        machines: Mapping[str, QemuMachine],
        *,
        limits: CutLimits | None = None,
        freeze_limit: float = FROZEN_LIMIT,
        chain_problems: ChainProblems = image_chain_problems,
        clock: Clock | None = None,
    ) -> None:
        """chain_problems: what is wrong with an image's parents, as (problem, fix), by path and format."""
        self._machines = dict(machines)
        self._limits = limits or CutLimits()
        self._freeze_limit = freeze_limit
        self._chain_problems = chain_problems
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._connections: dict[str, _Shared] = {}
        self._hashes: dict[tuple[Path, int, int], str] = {}

    def machines(self) -> Sequence[str]:
        return sorted(self._machines)

    def describe(self, machine: str) -> MachineDescription:
        with self._connected(machine) as qmp:
            disks = tuple(
                DiskDescription(
                    id=disk.id,
                    size=disk.size,
                    format=disk.format,
                    path=_absolute(qmp, disk.path),
                    bus=bus_of(qmp, disk.device) if disk.device else "virtio",
                )
                for disk in disks_of(qmp)
                if _protectable(disk)
            )
            if not qmp.has("query-cpus-fast"):
                return _storage_daemon(machine, disks)
            files = _boot_files(qmp)
            flash = any(is_flash(block) for block in qmp.command("query-block"))
            identity = str(qmp.command("query-uuid")["UUID"])
            return MachineDescription(
                name=_plain_name(qmp.command("query-name").get("name", machine)),
                uuid=identity if identity != _NO_UUID else _uuid_of(machine),
                memory=sum(qmp.command("query-memory-size-summary").values()),
                cpus=len(qmp.command("query-cpus-fast")),
                firmware="kernel" if files else "uefi" if flash else "bios",
                disks=disks,
                nics=tuple(network_cards(qmp)),
                boot_files=tuple(
                    BootFile(role=role, sha256=self._sha256(files[role]), size=files[role].stat().st_size)
                    for role in _ROLES
                    if role in files
                ),
                kernel_cmdline=str(qom(qmp, "/machine", "append") or "") if files else "",
            )

    def boot_files(self, machine: str) -> Mapping[Role, Path]:
        with self._connected(machine) as qmp:
            return _boot_files(qmp)

    def check(self, machine: str, scratch: Path) -> Sequence[Finding]:
        config = self._find(machine)
        with self._connected(machine) as qmp:
            return survey(
                qmp,
                scratch=scratch,
                agent_problem=agent_problem(machine, config.agent),
                nbd=config.nbd,
                limits=self._limits,
                chain_problems=lambda path, kind: self._chain_problems(Path(_absolute(qmp, str(path))), kind),
            )

    @contextlib.contextmanager
    def ending(self, machine: str) -> Iterator[QemuEnding]:
        config = self._find(machine)
        with self._connected(machine) as qmp:
            yield QemuEnding(qmp, config.agent)

    def tracking(self, machine: str, relationship: str, scratch: Path) -> QemuTracking:
        config = self._find(machine)
        qmp = self._acquire(machine)
        try:
            return QemuTracking(
                qmp,
                relationship,
                scratch,
                agent=config.agent,
                nbd=config.nbd,
                limits=self._limits,
                freeze_limit=self._freeze_limit,
                clock=self._clock,
                done=lambda: self._release(machine, qmp),
            )
        except BaseException:
            self._release(machine, qmp)
            raise

    def _find(self, machine: str) -> QemuMachine:
        try:
            return self._machines[machine]
        except KeyError:
            raise MachineNotFound(
                "no such machine on this host",
                subject=machine,
                tried=f"looking among {', '.join(sorted(self._machines)) or 'none'}",
                hint="give its QMP socket in the agent's configuration",
            ) from None

    @contextlib.contextmanager
    def _connected(self, machine: str) -> Iterator[Qmp]:
        qmp = self._acquire(machine)
        try:
            yield qmp
        finally:
            self._release(machine, qmp)

    def _acquire(self, machine: str) -> Qmp:
        """The machine's connection; a new one if there is none or the last one was lost."""
        config = self._find(machine)
        with self._lock:
            shared = self._connections.setdefault(machine, _Shared())
        # One machine that does not answer must not keep the others waiting.
        with shared.lock:
            if shared.qmp is None or not shared.qmp.alive:
                shared.qmp, shared.users = Qmp(machine, config.qmp), 0
            shared.users += 1
            return shared.qmp

    def _release(self, machine: str, qmp: Qmp) -> None:
        shared = self._connections[machine]
        with shared.lock:
            if shared.qmp is not qmp:
                qmp.close()  # lost, and another one took its place
                return
            shared.users -= 1
            if not shared.users:
                shared.qmp = None
                qmp.close()

    def _sha256(self, path: Path) -> str:
        state = path.stat()
        key = (path, state.st_mtime_ns, state.st_size)
        if key not in self._hashes:
            with path.open("rb") as file:
                self._hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._hashes[key]


class _Shared:
    """The connection to one machine and how many use it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.qmp: Qmp | None = None
        self.users = 0


def _protectable(disk: SourceDisk) -> bool:
    return not (disk.read_only or disk.removable)


def _absolute(qmp: Qmp, path: str) -> str:
    """A path as QEMU was given it, made absolute by QEMU's working directory where this host tells it."""
    if not path or path.startswith("/"):
        return path
    directory = qmp.working_directory
    return str(directory / path) if directory else ""


def _boot_files(qmp: Qmp) -> dict[Role, Path]:
    found: dict[Role, Path] = {}
    for role in _ROLES:
        if path := _absolute(qmp, str(qom(qmp, "/machine", role) or "")):
            found[role] = Path(path)
    return found


def _plain_name(name: str) -> str:
    """The machine's own name: one that standby started carries a tag before it (qemu_arguments)."""
    return re.sub(r"^(standby:[0-9a-f]{32}:)+", "", name)


def _uuid_of(machine: str) -> str:
    """For machines without one: always the same for the same name."""
    return str(uuid.uuid5(_NAMESPACE, machine))


def _storage_daemon(machine: str, disks: tuple[DiskDescription, ...]) -> MachineDescription:
    """Disks without a machine: no memory and no processors are told (0)."""
    return MachineDescription(
        name=machine, uuid=_uuid_of(machine), memory=0, cpus=0, firmware="bios", disks=disks
    )
