"""The machines of this host as its vault is told: those that QEMU runs, and those in the agent's books.

A control socket takes one client, and another program's would be taken from it. So only those are connected to that
lie in the directory of our convention, or whose file's name or id says `standby`; of a machine that has none it is told
how it gets one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import msgspec

from standby.clock import Clock
from standby.errors import StandbyError
from standby.hypervisor.command_line import CommandLine, Socket, understood
from standby.hypervisor.process import ProcessIdentity
from standby.hypervisor.qemu import QemuHypervisor, QemuMachine
from standby.link.messages import Seen, SeenDisk
from standby.records import MachineDescription
from standby.replication.books import Books
from standby.replication.relationship import Connection, Relationship

SOCKETS: Final = Path("/run/standby")
"""By convention: NAME.qmp is the control socket of the machine NAME for us, NAME.ga its guest agent's."""

_OURS: Final = "standby"
_RECOVERED: Final = "standby:"
"""What the names of machines that recovery started begin with (qemu_arguments.machine_name)."""

_ASKED_EVERY: Final = 600.0
"""Seconds after which a machine that nobody protects is asked again for its disks."""


class Inventory(Protocol):
    """Where machines of the host are found: QEMU's processes here, libvirt's domains elsewhere."""

    def machines(self) -> Sequence[Seen]:
        """All of them. May take seconds. Raises StandbyError where they cannot be told."""
        ...


class Found(NamedTuple):
    """key: tells this start of the machine from every other."""

    key: str
    said: CommandLine

    @property
    def paths(self) -> frozenset[str]:
        return frozenset(str(one.path) for one in self.said.monitors)


class QemuInventory:
    """An `Inventory` of QEMU and qemu-storage-daemon processes. Used by one thread."""

    def __init__(
        self, books: Books, clock: Clock, sockets: Path = SOCKETS, proc: Path = Path("/proc")
    ) -> None:
        """sockets: the directory of our convention."""
        self._books = books
        self._clock = clock
        self._sockets = sockets
        self._proc = proc
        self._asked: dict[str, tuple[float, Seen]] = {}

    def machines(self) -> Sequence[Seen]:
        found = list(self._processes())
        found += self._lying({path for one in found for path in one.paths})
        protected = self._books.relationships()
        taken: set[str] = set()
        seen = []
        for relationship in protected:
            process = _process_of(relationship, found)
            if process:
                taken.add(process.key)
            seen.append(self._protected(relationship, process))
        self._asked = {one.key: self._asked[one.key] for one in found if one.key in self._asked}
        names = {one.name for one in seen}
        others = [
            (self._unprotected(one), one.key)
            for one in found
            if one.key not in taken and not one.said.name.startswith(_RECOVERED)
        ]
        # Of two with one name, whoever can be protected has it.
        for one, key in sorted(others, key=lambda other: other[0].connection is None):
            if one.name in names:
                one = msgspec.structs.replace(one, name=f"{one.name} (process {key.split()[0]})")
            names.add(one.name)
            seen.append(one)
        return sorted(seen, key=lambda one: one.name)

    def _processes(self) -> Iterator[Found]:
        for entry in self._proc.iterdir():
            if not entry.name.isdigit():
                continue
            try:
                arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
                folder = (entry / "cwd").readlink()
            except OSError:  # gone meanwhile, or another user's
                continue
            said = understood(arguments, folder)
            identity = ProcessIdentity.of(int(entry.name)) if said else None
            if said and identity:
                yield Found(f"{identity.pid} {identity.began}", said)

    def _lying(self, known: set[str]) -> Iterator[Found]:
        """Sockets of our convention that no process which we may look at has named."""
        for path in sorted(self._sockets.glob("*.qmp")):
            if str(path) not in known and _listens(self._proc, str(path)):
                agent = path.with_suffix(".ga")
                agents = (Socket(agent),) if agent.exists() else ()
                said = CommandLine(path.stem, "", daemon=False, monitors=(Socket(path),), agents=agents)
                yield Found(f"{path} {path.stat().st_ino}", said)

    def _protected(self, relationship: Relationship, process: Found | None) -> Seen:
        """From the books: the engine has the control socket."""
        connection = relationship.connection
        return Seen(
            name=relationship.machine,
            uuid=process.said.uuid if process else "",
            running=process is not None or bool(connection and _listens(self._proc, connection.qmp)),
            connection=connection,
            disks=tuple(SeenDisk(id=disk.id, size=disk.size) for disk in relationship.disks),
        )

    def _unprotected(self, found: Found) -> Seen:
        asked_at, seen = self._asked.get(found.key, (0.0, None))
        now = self._clock.monotonic()
        if seen is None or seen.problem or now - asked_at > _ASKED_EVERY:
            seen = self._ask(found)
            self._asked[found.key] = now, seen
        return seen

    def _ask(self, found: Found) -> Seen:
        said = found.said
        socket = next((one for one in said.monitors if self._ours(one)), None)
        name = said.name or (socket.path.stem if socket else f"{_kind(said)} {found.key.split()[0]}")
        seen = Seen(name=name, uuid=said.uuid)
        if socket is None:
            return msgspec.structs.replace(
                seen, problem=_missing(said, self._sockets / f"{said.name or 'NAME'}.qmp")
            )
        agent = next((one.path for one in said.agents if self._ours(one)), None)
        connection = Connection(
            qmp=str(socket.path), agent=str(agent or ""), nbd=str(said.nbd) if said.nbd else ""
        )
        seen = msgspec.structs.replace(seen, connection=connection)
        try:
            described = self._described(name, connection)
        except StandbyError as error:
            return msgspec.structs.replace(seen, problem=str(error))
        return msgspec.structs.replace(
            seen,
            uuid=described.uuid,
            disks=tuple(SeenDisk(id=disk.id, size=disk.size, format=disk.format) for disk in described.disks),
        )

    def _described(self, name: str, connection: Connection) -> MachineDescription:
        reached = QemuMachine(
            qmp=Path(connection.qmp),
            agent=Path(connection.agent) if connection.agent else None,
            nbd=Path(connection.nbd) if connection.nbd else None,
        )
        return QemuHypervisor({name: reached}).describe(name)

    def _ours(self, socket: Socket) -> bool:
        if "libvirt" in socket.path.parts:
            return False
        return socket.path.parent == self._sockets or _OURS in socket.id or _OURS in socket.path.name


def _process_of(relationship: Relationship, found: Sequence[Found]) -> Found | None:
    """By its control socket; by its name where it is reached otherwise by now."""
    connection = relationship.connection
    by_socket = (one for one in found if connection and connection.qmp in one.paths)
    by_name = (one for one in found if one.said.name == relationship.machine)
    return next(by_socket, None) or next(by_name, None)


def _listens(proc: Path, path: str) -> bool:
    """Whether a process listens at this socket, without connecting to it (proc(5), /proc/net/unix)."""
    try:
        lines = (proc / "net" / "unix").read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.endswith(f" {path}") for line in lines)


def _kind(said: CommandLine) -> str:
    return "storage daemon, process" if said.daemon else "machine, process"


def _missing(said: CommandLine, path: Path) -> str:
    add = (
        f"--chardev socket,id=standby,path={path},server=on,wait=off --monitor chardev=standby"
        if said.daemon
        else f"-qmp unix:{path},server=on,wait=off"
    )
    return f"It has no control socket for standby. Start it with one more: {add}"
