"""The file systems of served disks, read by guestfish: its small virtual machine has the kernel's own
drivers, so that neither this host's kernel nor this process parses what a guest wrote (decision 0013).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final, NamedTuple, Self

from standby.errors import NeedsPerson, Recoverable
from standby.hypervisor import accelerator

_DONE: Final = "standby: done"
_FOREIGN: Final = ("unknown", "swap")
_GRACE: Final = 20.0


class ApplianceFailed(Recoverable):
    """guestfish could not start its machine, or gave up in it; the message is its own."""


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
        self._messages: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        command = ["guestfish", "--ro", "--format=raw"]
        for _, socket in disks:
            command += ["-a", f"nbd:///?socket={socket}"]
        # Without it a killed `standby` would leave guestfish waiting in its mount for ever.
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            env=_environment(),
            start_new_session=True,
            text=True,
        )
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
        elif self._process.poll() is None:
            # It starts still, or a person interrupted it; nothing is mounted.
            self._process.terminate()
        try:
            self._process.communicate(timeout=_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._messages.close()

    def _mount(self) -> list[FileSystem]:
        self._ask("run")
        found = []
        for line in self._ask("list-filesystems"):
            device, _, kind = line.rpartition(": ")
            name = _name(device, self._names)
            if kind not in _FOREIGN:
                self._ask("mkmountpoint", f"/{name}")
                # What cannot be mounted (encrypted, damaged, of an unknown kind) must not hide the others.
                self._ask("-mount-ro", device, f"/{name}")
            found.append((name, kind))
        mounted = {line.rpartition(": ")[2].lstrip("/") for line in self._ask("mountpoints")}
        for name, kind in found:
            if name not in mounted and kind not in _FOREIGN:
                self._ask("rmmountpoint", f"/{name}")
        if mounted:
            self._mounted = True
            self._ask("mount-local", str(self._folder), "readonly:true", "cachetimeout:600")
            self._tell("mount-local-run")
        return [FileSystem(name, kind, name in mounted) for name, kind in found]

    def _tell(self, *words: str) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(" ".join([words[0], *map(_quoted, words[1:])]) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed(words[0]) from None

    def _ask(self, *words: str) -> list[str]:
        """The lines that the command prints."""
        self._tell(*words)
        self._tell("echo", _DONE)
        assert self._process.stdout
        lines: list[str] = []
        for line in self._process.stdout:
            if line.rstrip("\n") == _DONE:
                return [one for one in lines if one]
            lines.append(line.rstrip("\n"))
        raise self._failed(words[0])

    def _failed(self, command: str) -> ApplianceFailed:
        self._process.wait()
        self._messages.seek(0)
        said = self._messages.read().decode(errors="replace").strip()[-1500:]
        return ApplianceFailed(
            f"it ended at `{command}`; it said: {said or 'nothing'}",
            subject="guestfish",
            hint="`libguestfs-test-tool` tells what its machine lacks; "
            "or serve the disk with `standby replica serve` and read it otherwise",
        )


def _needed() -> str:
    """The program that unmounts. Raises NeedsPerson naming every package that is missing."""
    lacking = {}
    if not shutil.which("guestfish"):
        lacking["guestfish"] = "guestfish"
    unmount = shutil.which("fusermount3") or shutil.which("fusermount")
    if not unmount:
        lacking["fusermount3"] = "fuse3"
    if not shutil.which("setpriv"):
        lacking["setpriv"] = "util-linux"
    if lacking or not unmount:
        raise NeedsPerson(
            f"{', '.join(lacking)} not installed: it reads the file systems",
            subject="file restore",
            hint=f"apt install --no-install-recommends {' '.join(lacking.values())}",
        )
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise NeedsPerson(
            "/dev/fuse is not there or not ours to use",
            subject="file restore",
            hint="modprobe fuse; in a container, give it the device /dev/fuse and the right to mount",
        )
    return unmount


def _environment() -> dict[str, str]:
    # libvirt could not open sockets of ours, and is not needed.
    settings = {"LIBGUESTFS_BACKEND": "direct"}
    if accelerator.choose() == "tcg":
        settings["LIBGUESTFS_BACKEND_SETTINGS"] = "force_tcg"
    return {**os.environ, **settings}


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


def _quoted(word: str) -> str:
    """As guestfish(1), "Quoting", reads it back."""
    if "\n" in word:
        raise ApplianceFailed("a name has a line break in it", subject=repr(word))
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
