"""What of a QEMU process's disks is readable over NBD, by exports of ours.

A QEMU process has at most one NBD server. A qemu-storage-daemon usually runs one for its own clients, and
ours are exported beside theirs; a machine usually has none, and we start one at a socket next to the control
socket, so that an agent that was restarted finds the server that its predecessor started.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from standby.block.disk import Disk
from standby.block.extent import Extent, Span
from standby.block.nbd import NbdDisk
from standby.errors import InvalidRequest
from standby.hypervisor.base import DiskInUse, MachineUnreachable
from standby.hypervisor.inventory import OURS
from standby.hypervisor.monitor import Events, Monitor, QmpError

_SOCKET_PATH_MOST = 107  # sun_path of unix(7), without the closing NUL
_DELETION_LIMIT = 10.0


class NbdServerTaken(DiskInUse):
    """The QEMU process already serves NBD for somebody else, at an address we do not know."""


def own_server(control: Path) -> Path:
    """Where our NBD server of the process with this control socket listens."""
    return control.with_name(f"{control.name}.standby-nbd")


def serve(qmp: Monitor, theirs: Path | None) -> Path:
    """The socket of the process's NBD server, started if need be. `theirs`: of a server it has anyway.

    Raises NbdServerTaken, InvalidRequest.
    """
    if theirs is not None:
        if not speaks_nbd(theirs):
            raise InvalidRequest(
                f"no NBD server answers at {theirs}",
                subject=qmp.machine,
                hint="give the path of the process's --nbd-server, or none if it has no such server",
            )
        return theirs
    path = own_server(qmp.path)
    if len(str(path)) > _SOCKET_PATH_MOST:
        raise InvalidRequest(
            f"the path {path} is too long for a socket ({_SOCKET_PATH_MOST} bytes at most)",
            subject=qmp.machine,
            hint="move the machine's control socket to a directory with a shorter name",
        )
    try:
        qmp.command("nbd-server-start", addr={"type": "unix", "data": {"path": str(path)}})
    except QmpError as error:
        if "already running" not in error.desc:
            raise
        if not speaks_nbd(path):
            raise NbdServerTaken(
                "its QEMU process already serves NBD for somebody else (another backup or a storage client)",
                subject=qmp.machine,
                tried=f"starting one at {path}; QEMU has at most one",
                hint="wait for the other backup to end, or tell standby the socket of that NBD server",
            ) from error
    return path


def stop_serving(qmp: Monitor, theirs: Path | None) -> None:
    """Stop the NBD server if we started it and nobody has exports on it."""
    if theirs is None and speaks_nbd(own_server(qmp.path)) and not qmp.command("query-block-exports"):
        qmp.command("nbd-server-stop")
        own_server(qmp.path).unlink(missing_ok=True)


def speaks_nbd(path: Path, limit: float = 5.0) -> bool:
    """Whether an NBD server greets at the socket; taking leave as the protocol wants it, so that QEMU's log
    tells no failure (NBD protocol, fixed newstyle: greeting of 18 bytes, client flags, NBD_OPT_ABORT)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(limit)
        try:
            stream.connect(str(path))
            if stream.recv(18, socket.MSG_WAITALL)[:16] != b"NBDMAGICIHAVEOPT":
                return False
            stream.sendall(struct.pack(">I8sII", 1, b"IHAVEOPT", 2, 0))
            stream.recv(20, socket.MSG_WAITALL)
            return True
        except OSError:
            return False


class Exports:
    """The exports of one relationship on one process. Thread-safe."""

    def __init__(self, qmp: Monitor, relationship: str, theirs: Path | None) -> None:
        self._qmp = qmp
        self._prefix = f"{OURS}{relationship}-"
        self._theirs = theirs
        self._serial = itertools.count()
        self._server: Path | None = None
        self._shown: set[str] = set()
        self._lock = threading.RLock()

    def add(self, kind: str, node: str, bitmap: tuple[str, str] | None = None) -> str:
        """Export `node` read-only, with the (node, name) of a bitmap that does not record; its id."""
        identity = f"{self._prefix}{kind}{next(self._serial)}"
        shown = {"bitmaps": [{"node": bitmap[0], "name": bitmap[1]}]} if bitmap else {}
        with self._lock:
            if self._server is None:
                self._server = serve(self._qmp, self._theirs)
            self._qmp.command(
                "block-export-add",
                type="nbd",
                id=identity,
                node_name=node,
                name=identity,
                writable=False,
                **shown,
            )
            self._shown.add(identity)
        return identity

    def open(self, identity: str, bitmap: str | None = None) -> NbdDisk:
        """A client of the export. Closing it leaves the export. Raises MachineUnreachable if it is gone again."""
        if self._server is None:
            raise InvalidRequest("nothing was exported yet", subject=identity)
        try:
            return NbdDisk(self._server, identity, bitmap=bitmap)
        except InvalidRequest as error:
            # Another process answers at this socket now: retried, while a wrong request never is.
            raise MachineUnreachable(
                f"it no longer serves what was just exported: {error.cause}",
                subject=self._qmp.machine,
                tried=f"opening the export {identity} at {self._server}",
                hint="it was restarted, most likely; replication connects again and recovers by itself",
            ) from error

    def remove(self, identities: Sequence[str]) -> None:
        """End the exports, whoever is still connected. Those that are gone already are no error."""
        with self._qmp.listening() as events:
            waiting = set()
            for identity in identities:
                try:
                    self._qmp.command("block-export-del", id=identity, mode="hard")
                except QmpError as error:
                    if error.kind == "GenericError" and "shutting down" in error.desc:
                        waiting.add(identity)
                    elif "is not found" not in error.desc:
                        raise
                else:
                    waiting.add(identity)
            self._await_deletion(events, waiting)
        with self._lock:
            self._shown -= set(identities)
            if self._qmp.shares_server and not self._shown:
                self.stop_serving()

    def remove_all(self) -> None:
        """End every export of the relationship, also those of an agent that died."""
        self.remove(
            [
                export["id"]
                for export in self._qmp.command("query-block-exports")
                if export["id"].startswith(self._prefix)
            ]
        )

    def stop_serving(self) -> None:
        """Stop the NBD server if that harms nobody."""
        stop_serving(self._qmp, self._theirs)
        self._server = None

    def _await_deletion(self, events: Events, waiting: set[str]) -> None:
        while waiting & {export["id"] for export in self._qmp.command("query-block-exports")}:
            event = events.wait(
                lambda event: event["event"] == "BLOCK_EXPORT_DELETED" and event["data"]["id"] in waiting,
                _DELETION_LIMIT,
            )
            if event is None:
                raise MachineUnreachable(
                    f"the exports {', '.join(sorted(waiting))} did not end within {_DELETION_LIMIT:g} s",
                    subject=self._qmp.machine,
                    hint="the machine's storage may hang; replication goes on by itself once it answers",
                )
            waiting.discard(event["data"]["id"])


class ExportedDisk:
    """A `Disk` over an export of ours that ends when the last handle on it is closed."""

    def __init__(self, disk: Disk, holders: _Holders) -> None:
        self._disk = disk
        self._holders = holders
        self._closed = False
        holders.add()

    @property
    def size(self) -> int:
        return self._disk.size

    def read(self, offset: int, into: memoryview) -> None:
        self._disk.read(offset, into)

    def read_all(self, extents: Sequence[Extent], into: memoryview) -> None:
        self._disk.read_all(extents, into)

    def spans(self, extent: Extent) -> Iterator[Span]:
        return self._disk.spans(extent)

    def clone(self) -> ExportedDisk:
        return ExportedDisk(self._disk.clone(), self._holders)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._disk.close()
            self._holders.drop()


class _Holders:
    """Counts the handles on one export."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end
        self._count = 0
        self._lock = threading.Lock()

    def add(self) -> None:
        with self._lock:
            self._count += 1

    def drop(self) -> None:
        with self._lock:
            self._count -= 1
            last = self._count == 0
        if last:
            self._end()


def exported(exports: Exports, identity: str, disk: Disk) -> ExportedDisk:
    """`disk`, a client of the export `identity`, as the export's first handle."""

    def end() -> None:
        # With the machine out of reach there is nothing to close; should it come back, recover() cleans up.
        with contextlib.suppress(MachineUnreachable):
            exports.remove([identity])

    return ExportedDisk(disk, _Holders(end))
