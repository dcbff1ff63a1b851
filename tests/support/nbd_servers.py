"""Real NBD servers for tests: qemu-storage-daemon and nbdkit, each ready when started, ended by the block."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qemu.qmp.legacy import QEMUMonitorProtocol

DEADLINE = 20.0


class Daemon:
    """A running server: `socket` serves NBD, `kill` ends it without a goodbye."""

    def __init__(self, process: subprocess.Popen[bytes], socket: Path) -> None:
        self.process = process
        self.socket = socket

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def hang(self) -> None:
        """Stop the process in its tracks: it keeps its connections and answers nothing."""
        os.kill(self.process.pid, signal.SIGSTOP)


class StorageDaemon(Daemon):
    """A qemu-storage-daemon with one QMP connection, for whatever a test wants to ask of it."""

    def __init__(self, process: subprocess.Popen[bytes], socket: Path, qmp_socket: Path) -> None:
        super().__init__(process, socket)
        self.qmp_socket = qmp_socket
        self._qmp: QEMUMonitorProtocol | None = None

    def qmp(self, command: str, **arguments: Any) -> Any:
        if self._qmp is None:
            self._qmp = QEMUMonitorProtocol(str(self.qmp_socket))
            self._qmp.connect(negotiate=True)
        return self._qmp.cmd(command, **arguments)

    def add(self, name: str, path: Path, driver: str, *, writable: bool = True) -> None:
        """Open the image at `path` as node `name` and export it under that name."""
        file = {"driver": "file", "filename": str(path)}
        self.qmp(
            "blockdev-add",
            **{
                "driver": driver,
                "node-name": name,
                "file": file,
                "read-only": not writable,
                "discard": "unmap",
            },
        )
        self.export(name, name, writable=writable)

    def export(self, node: str, name: str, *, writable: bool = False, bitmaps: Sequence[str] = ()) -> None:
        more = {"bitmaps": list(bitmaps)} if bitmaps else {}
        self.qmp(
            "block-export-add",
            **{
                "type": "nbd",
                "id": f"export-{name}",
                "node-name": node,
                "name": name,
                "writable": writable,
                **more,
            },
        )

    def close(self) -> None:
        if self._qmp:
            self._qmp.close()


@contextmanager
def storage_daemon(directory: Path) -> Iterator[StorageDaemon]:
    """A qemu-storage-daemon without nodes, its sockets in `directory`."""
    socket, qmp_socket = directory / "qsd.nbd", directory / "qsd.qmp"
    command = [
        "qemu-storage-daemon",
        *("--nbd-server", f"addr.type=unix,addr.path={socket}"),
        *("--chardev", f"socket,id=qmp,path={qmp_socket},server=on,wait=off"),
        *("--monitor", "chardev=qmp"),
    ]
    with running(command, socket) as process:
        daemon = StorageDaemon(process, socket, qmp_socket)
        wait_until(qmp_socket.exists, "the QMP socket")
        try:
            yield daemon
        finally:
            daemon.close()


@contextmanager
def nbdkit(
    directory: Path, *plugin: str, filters: Sequence[str] = (), writable: bool = False
) -> Iterator[Daemon]:
    """nbdkit with a plugin and its parameters; parameters of filters follow those of the plugin."""
    socket = directory / "nbdkit.nbd"
    command = ["nbdkit", "-f", "-U", str(socket), *(f"--filter={name}" for name in filters)]
    with running([*command, *([] if writable else ["-r"]), *plugin], socket) as process:
        yield Daemon(process, socket)


@contextmanager
def running(
    command: Sequence[str], socket: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The process, once `socket` is there; killed in the end, even when it was stopped by a signal."""
    process = subprocess.Popen(command, env=environment)
    try:
        wait_until(lambda: socket.exists() or process.poll() is not None, f"{command[0]} to listen")
        assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
        yield process
    finally:
        process.kill()
        process.wait()
        socket.unlink(missing_ok=True)


def wait_until(condition, what: str, deadline: float = DEADLINE) -> None:
    """Poll until the condition holds; an AssertionError that names `what` when it does not in time."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {deadline} s"
        time.sleep(0.005)


def qemu_map(path: Path, driver: str) -> list[dict[str, Any]]:
    """What qemu-img map says: the reference for spans."""
    command = ["qemu-img", "map", "--output=json", "-f", driver, str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
