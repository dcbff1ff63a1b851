"""Real QEMU processes for the tests, a writer that stamps disks, and a stand-in for the guest agent."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

from standby.block.nbd import NbdDisk
from standby.errors import StandbyError
from standby.hypervisor.base import MachineUnreachable
from standby.hypervisor.qemu import QemuHypervisor, QemuMachine
from standby.hypervisor.qmp import Qmp
from standby.hypervisor.scratch import CutLimits

SIZE = 4 << 20
PAGE = 4096
FORMATS = {
    "fixed": ("vpc", "subformat=fixed,force_size=on"),
    "dynamic": ("vpc", "subformat=dynamic,force_size=on"),
    "qcow": ("qcow2", ""),
    "raw": ("raw", ""),
    "vhdx": ("vhdx", ""),
}
SMALL = CutLimits(reserve=16 << 20, interval=0.02)


def wait_for(condition, what, limit=30.0):
    deadline = time.monotonic() + limit
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {limit} s for {what}"
        time.sleep(0.01)
    return found


class Process:
    """A QEMU process with two control sockets: `qmp` for the adapter, `own` for the test."""

    def __init__(self, directory: Path, arguments):
        self.qmp, self.own = directory / "qmp", directory / "own"
        for path in (self.qmp, self.own):
            path.unlink(missing_ok=True)
        self.process = subprocess.Popen(arguments, cwd=directory)
        wait_for(lambda: self.qmp.exists() and self.own.exists(), "control sockets")
        self.control = wait_for(self._connect, "a greeting")

    def _connect(self):
        assert self.process.poll() is None, "QEMU did not start"
        try:
            return Qmp("test", self.own)
        except MachineUnreachable:
            return None

    def stop(self, how=signal.SIGTERM):
        self.control.close()
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.wait(30)


class Daemon(Process):
    """A qemu-storage-daemon that serves one disk of each format to a client over NBD."""

    def __init__(self, directory: Path, formats=FORMATS, extra=(), serve=True):
        self.nbd = directory / "served"
        self.formats = formats
        arguments = ["qemu-storage-daemon"]
        for name in ("qmp", "own"):
            arguments += ["--chardev", f"socket,path={name},server=on,wait=off,id={name}"]
            arguments += ["--monitor", f"chardev={name}"]
        if serve:
            arguments += ["--nbd-server", f"addr.type=unix,addr.path={self.nbd}"]
        for name, (driver, options) in formats.items():
            path = directory / f"{name}.img"
            if not path.exists():
                more = ["-o", options] if options else []
                subprocess.run(
                    ["qemu-img", "create", "-q", "-f", driver, *more, str(path), str(SIZE)], check=True
                )
            file = {"driver": "file", "filename": path.name}
            arguments += ["--blockdev", json.dumps({"driver": driver, "node-name": name, "file": file})]
            if serve:
                arguments += ["--export", f"nbd,id=client-{name},node-name={name},name={name},writable=on"]
        super().__init__(directory, [*arguments, *extra])

    def machine(self, agent=None):
        return QemuMachine(qmp=self.qmp, agent=agent, nbd=self.nbd if self.nbd.exists() else None)

    def hypervisor(self, agent=None, limits=SMALL, **more):
        return QemuHypervisor({"vm": self.machine(agent)}, limits=limits, **more)

    def leftovers(self):
        """What of ours the process holds beside bitmaps."""
        exports = [export["id"] for export in self.control.command("query-block-exports")]
        jobs = [job["id"] for job in self.control.command("query-jobs")]
        nodes = [node["node-name"] for node in self.control.command("query-named-block-nodes", flat=True)]
        return [name for name in exports + jobs + nodes if name.startswith("standby-")]

    def bitmaps(self):
        """(node, bitmap) of all named bitmaps."""
        return sorted(
            (node["node-name"], bitmap["name"])
            for node in self.control.command("query-named-block-nodes", flat=True)
            for bitmap in node.get("dirty-bitmaps", ())
            if "name" in bitmap
        )


class Writer:
    """Writes page after page, each stamped with a counter, to all disks in turn, one write at a time.

    So what is on the disks at an instant is what the first k writes left, for one k across all of them.
    """

    def __init__(self, daemon: Daemon, seed=1, pause=0.0):
        self._random = random.Random(seed)
        self._disks = {name: NbdDisk(daemon.nbd, name, connections=1) for name in daemon.formats}
        self._names = sorted(daemon.formats)
        self._stop = threading.Event()
        self._pause = pause
        self.log = []
        self.error = None

    def __enter__(self):
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self._stop.set()
        self._thread.join()
        for disk in self._disks.values():
            disk.close()

    def more(self, count=200):
        """Wait until so many more writes were acknowledged."""
        target = len(self.log) + count
        wait_for(lambda: self.error or len(self.log) >= target, "writes")
        assert self.error is None

    def _run(self):
        try:
            while not self._stop.is_set():
                self.write(self._random.choice(self._names), self._random.randrange(SIZE // PAGE))
                if self._pause:
                    self._stop.wait(self._pause)
        except StandbyError as error:
            self.error = error

    def write(self, name, page):
        count = len(self.log) + 1
        self.log.append((name, page))
        self._disks[name].write(page * PAGE, memoryview(stamp(count)))

    def image(self, count):
        """What the first `count` writes leave on each disk."""
        disks = {name: bytearray(SIZE) for name in self._names}
        for number, (name, page) in enumerate(self.log[:count], 1):
            disks[name][page * PAGE : (page + 1) * PAGE] = stamp(number)
        return disks


def stamp(count):
    return struct.pack("<Q", count) * (PAGE // 8)


def newest(images):
    """The highest counter on any disk."""
    return max(
        struct.unpack_from("<Q", data, at)[0] for data in images.values() for at in range(0, SIZE, PAGE)
    )


def contents(disk):
    data = bytearray(disk.size)
    disk.read(0, memoryview(data))
    return data


def assert_one_instant(writer, images):
    """The images are what the first k writes left, for one k; gives back k."""
    count = newest(images)
    expected = writer.image(count)
    for name, data in images.items():
        assert data == expected[name], f"disk {name} is not as after write {count}"
    return count


class StandInAgent:
    """Not a guest: answers as qemu-guest-agent does (delimited sync, freeze, thaw), or badly, as told."""

    def __init__(self, path: Path):
        self.path = path
        self.frozen = False
        self.history = []
        self.silent = set()
        self.refuses = set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self):
        self._listener.close()

    def _serve(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, client.makefile("rwb") as stream, contextlib.suppress(OSError):
                for line in stream:
                    self._answer(stream, json.loads(line.strip(b"\xff\n")))

    def _answer(self, stream, request):
        name = request["execute"]
        self.history.append(name)
        result = {}
        if name == "guest-fsfreeze-freeze":
            self.frozen, result = name not in self.refuses, 1
        elif name == "guest-fsfreeze-thaw":
            result, self.frozen = int(self.frozen), False
        elif name == "guest-fsfreeze-status":
            result = "frozen" if self.frozen else "thawed"
        elif name == "guest-sync-delimited":
            result = request["arguments"]["id"]
        if name in self.silent:
            return
        answer = {"error": {"desc": "cannot"}} if name in self.refuses else {"return": result}
        mark = b"\xff" if name == "guest-sync-delimited" else b""
        stream.write(mark + json.dumps(answer).encode() + b"\n")
        stream.flush()
