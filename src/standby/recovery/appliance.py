"""The file systems of served disks, read by guestfish: its small virtual machine has the kernel's own
drivers, so that neither this host's kernel nor this process parses what a guest wrote (decision 0013).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from standby.errors import NeedsPerson
from standby.recovery.guestfish import Guestfish, needed

_FOREIGN: Final = ("unknown", "swap")


class FileSystem(NamedTuple):
    """name: its directory below the mount. type: ext4, xfs, ntfs, …; mounted: whether it can be read."""

    name: str
    type: str
    mounted: bool


class Appliance:
    """Disks' file systems, each mounted read-only as a directory of `folder` while the `with` block lasts.

    A journal is replayed as after a power cut, into a scratch overlay: the disks are never written.
    """

    def __init__(self, disks: Sequence[tuple[str, Path]], folder: Path) -> None:
        """disks: name and socket of the NBD server of each. folder: an existing, empty directory to mount onto.

        Raises NeedsPerson naming the package that is missing, ApplianceFailed.
        """
        self._names = [name for name, _ in disks]
        self._folder = folder
        self._unmount = _needed()
        self._mounted = False
        options = ["--ro", "--format=raw"]
        for _, socket in disks:
            options += ["-a", f"nbd:///?socket={socket}"]
        self._guestfish = Guestfish(options)
        try:
            self.file_systems = self._mount()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmount and end the machine."""
        if self._mounted:
            subprocess.run([self._unmount, "-u", "-z", self._folder], check=False, capture_output=True)
        else:
            # It starts still, or a person interrupted it; nothing is mounted.
            self._guestfish.terminate()
        self._guestfish.end()

    def _mount(self) -> list[FileSystem]:
        self._guestfish.ask("run")
        found = []
        for line in self._guestfish.ask("list-filesystems"):
            device, _, kind = line.rpartition(": ")
            name = _name(device, self._names)
            if kind not in _FOREIGN:
                self._guestfish.ask("mkmountpoint", f"/{name}")
                # What cannot be mounted (encrypted, damaged, of an unknown kind) must not hide the others.
                self._guestfish.ask("-mount-ro", device, f"/{name}")
            found.append((name, kind))
        mounted = {line.rpartition(": ")[2].lstrip("/") for line in self._guestfish.ask("mountpoints")}
        for name, kind in found:
            if name not in mounted and kind not in _FOREIGN:
                self._guestfish.ask("rmmountpoint", f"/{name}")
        if mounted:
            self._mounted = True
            self._guestfish.ask("mount-local", str(self._folder), "readonly:true", "cachetimeout:600")
            self._guestfish.tell("mount-local-run")
        return [FileSystem(name, kind, name in mounted) for name, kind in found]


def _needed() -> str:
    """The program that unmounts. Raises NeedsPerson naming every package that is missing."""
    unmount = shutil.which("fusermount3") or shutil.which("fusermount")
    needed("file restore", {} if unmount else {"fusermount3": "fuse3"})
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise NeedsPerson(
            "/dev/fuse is not there or not ours to use",
            subject="file restore",
            hint="modprobe fuse; in a container, give it the device /dev/fuse and the right to mount",
        )
    assert unmount
    return unmount


def _name(device: str, disks: Sequence[str]) -> str:
    """A file system's directory: the disk's name for the machine's own, and partitions as Linux names them.

    /dev/sdb2 of disks vda and vdb is vdb2; /dev/vg/root is vg-root; btrfsvol:/dev/sda1/home is vda1-home.
    """
    path = device.rpartition("/dev/")[2]
    letters = path[2:3] if path.startswith("sd") else ""
    number = ord(letters) - ord("a") if letters else -1
    if 0 <= number < len(disks) and not path[3:4].isalpha():
        disk, rest = disks[number], path[3:]
        path = disk + ("p" if disk[-1:].isdigit() and rest[:1].isdigit() else "") + rest
    return path.replace("/", "-")
