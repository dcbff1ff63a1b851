"""Hosts of a test: network namespaces of this one, on a bridge whose address a store may listen at.

Whatever is started `within` a host is of its network, and dies with it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.hypervisor.processes import wait_for

NETWORK = f"10.231.{os.getpid() % 251}"
"""Of this process: tests of several run side by side."""

STORE = f"{NETWORK}.1"
_CLONE_NEWNET = 0x40000000
_OWN = Path("/proc/thread-self/ns/net")


class NoNamespaces(Exception):
    """This host lets nobody make them; the message says why."""


class Host:
    def __init__(self, net: Network, name: str, number: int) -> None:
        self.name = f"sb{name}{os.getpid()}"
        self.link = f"sb{number}v{os.getpid()}"
        _ip("netns", "add", self.name)
        _ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("link", "set", self.link, "master", net.bridge, "up")
        _ip("-n", self.name, "addr", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _ip("-n", self.name, "link", "set", device, "up")

    @contextmanager
    def within(self) -> Iterator[None]:
        """This thread, and what it starts, is in the host's network until the block ends."""
        with _OWN.open() as own, Path(f"/run/netns/{self.name}").open() as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(own.fileno())

    def processes(self) -> list[str]:
        """The programs that run there."""
        found = []
        for pid in self._pids():
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            found.append(" ".join(words[:4]))
        return found

    def dies(self) -> None:
        """As by a power cut: its network is gone, and all that ran."""
        _ip("link", "set", self.link, "down")
        for pid in self._pids():
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not self._pids(), f"the end of {self.name}")

    def is_unplugged(self) -> None:
        """All that runs there runs on, and reaches nobody."""
        _ip("link", "set", self.link, "down")

    def comes_back(self) -> None:
        _ip("link", "set", self.link, "up")

    def _pids(self) -> list[int]:
        # In this process only a thread may be there, for a moment.
        return [pid for pid in map(int, _ip("netns", "pids", self.name).split()) if pid != os.getpid()]

    def close(self) -> None:
        self.dies()
        _ip("netns", "del", self.name)


class Network:
    """Hosts on one bridge. Raises NoNamespaces."""

    def __init__(self) -> None:
        self.bridge = f"sbb{os.getpid()}"
        self.hosts: list[Host] = []
        try:
            _ip("link", "add", self.bridge, "type", "bridge")
            _ip("addr", "add", f"{STORE}/24", "dev", self.bridge)
            _ip("link", "set", self.bridge, "up")
            for number, name in enumerate("ab", 2):
                self.hosts.append(Host(self, name, number))
        except (OSError, subprocess.CalledProcessError) as error:
            self.close()
            raise NoNamespaces(getattr(error, "stderr", None) or str(error)) from error

    def close(self) -> None:
        for host in self.hosts:
            host.close()
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True, check=False)


def _enter(network: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(network, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout
