"""Which machines of a host are found, and above all which sockets are let alone."""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from standby.agent.discovery import QemuInventory
from standby.clock import SystemClock
from standby.replication.books import Books
from tests.agent.test_link import protected
from tests.hypervisor.processes import Daemon

CLOCK = SystemClock()


class FakeProc:
    """Not /proc: command lines of processes that there are not, and listening sockets."""

    def __init__(self, folder: Path):
        self.path = folder / "proc"
        (self.path / "net").mkdir(parents=True)
        self.listening: list[Path] = []

    def process(self, pid: int, *words: str, folder="/"):
        entry = self.path / str(pid)
        entry.mkdir()
        (entry / "cmdline").write_bytes(b"\0".join(word.encode() for word in words) + b"\0")
        (entry / "cwd").symlink_to(folder)

    def listen(self, *paths: Path):
        self.listening += paths
        lines = [f"0000: 00000002 00000000 00010000 0001 01 1 {path}" for path in self.listening]
        (self.path / "net" / "unix").write_text("\n".join(["Num Path", *lines]) + "\n")


@pytest.fixture
def folder():
    folder = Path(tempfile.mkdtemp(prefix="sd-"))
    (folder / "s").mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def books(folder):
    books = Books(folder / "state")
    yield books
    books.close()


@pytest.fixture
def proc(folder, monkeypatch):
    """Its processes count as alive, whoever has their numbers."""
    monkeypatch.setattr(
        "standby.agent.discovery.ProcessIdentity.of", lambda pid: type("P", (), {"pid": pid, "began": 1})()
    )
    proc = FakeProc(folder)
    proc.listen()
    return proc


class Untouchable:
    """A listening socket that notes whoever connects."""

    def __init__(self, path: Path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen()
        self.socket.setblocking(False)

    def touched(self):
        try:
            self.socket.accept()
        except BlockingIOError:
            return False
        return True


@pytest.mark.parametrize(
    "place",
    ["mon.sock", "libvirt/standby-db/monitor.sock", "libvirt/standby.sock", "standby-db/monitor.sock"],
)
def test_another_programs_socket_is_never_connected_to(folder, books, proc, place):
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    theirs = Untouchable(path)
    proc.process(7, "qemu-system-x86_64", "-name", "db", "-qmp", f"unix:{path},server=on,wait=off")
    (seen,) = QemuInventory(books, CLOCK, folder / "s", proc.path).machines()
    assert (seen.name, seen.connection, seen.running) == ("db", None, True)
    assert f"-qmp unix:{folder / 's' / 'db.qmp'},server=on,wait=off" in seen.problem
    assert not theirs.touched()
    theirs.socket.close()


def test_a_protected_machines_socket_is_its_engines(folder, books, proc):
    relationship = protected(books, "web")
    proc.process(7, "qemu-system-x86_64", "-name", "web", "-uuid", "u-1")
    protected(books, "gone")
    seen = {one.name: one for one in QemuInventory(books, CLOCK, folder / "s", proc.path).machines()}
    assert (seen["web"].running, seen["web"].uuid, seen["web"].disks[0].size) == (True, "u-1", 1 << 30)
    assert seen["web"].connection == relationship.connection
    assert seen["gone"].running is False
    proc.process(8, "qemu-system-x86_64", "-name", "standby:0123456789abcdef:web - Test")
    assert set(seen) == {one.name for one in QemuInventory(books, CLOCK, folder / "s", proc.path).machines()}


def test_a_storage_daemon_without_a_socket_for_us_is_told_what_to_add(folder, books, proc):
    proc.process(9, "qemu-storage-daemon", "--nbd-server", "addr.type=unix,addr.path=/n")
    (seen,) = QemuInventory(books, CLOCK, folder / "s", proc.path).machines()
    assert "--monitor chardev=standby" in seen.problem


def test_two_machines_of_one_name_are_two(folder, books, proc):
    proc.process(7, "qemu-system-x86_64", "-name", "web")
    proc.process(
        8, "qemu-system-x86_64", "-name", "web", "-qmp", f"unix:{folder / 's' / 'web.qmp'},server=on"
    )
    seen = QemuInventory(books, CLOCK, folder / "s", proc.path).machines()
    assert [(one.name, one.connection is None) for one in seen] == [("web", False), ("web (process 7)", True)]


@pytest.mark.slow
def test_a_real_daemon_is_found_by_its_socket_and_asked_once(folder, books):
    path = folder / "s" / "disks.qmp"
    ours = ["--chardev", f"socket,path={path},server=on,wait=off,id=o", "--monitor", "chardev=o"]
    daemon = Daemon(folder, {"raw": ("raw", "")}, extra=ours)
    try:
        inventory = QemuInventory(books, CLOCK, folder / "s")
        seen = next(one for one in inventory.machines() if one.connection and one.connection.qmp == str(path))
        assert (seen.name, seen.problem) == ("disks", "")
        assert [(disk.id, disk.format) for disk in seen.disks] == [("raw", "raw")]
        assert seen.connection.nbd == str(daemon.nbd)
        again = next(one for one in inventory.machines() if one.name == "disks")
        assert again is seen or again == seen
    finally:
        daemon.stop()
