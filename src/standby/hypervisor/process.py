"""A process of ours, told from every other by more than its number, and ended only as that."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec

from standby.hypervisor.host import NotOurs

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class ProcessIdentity(msgspec.Struct, frozen=True):
    """One process for all times: its number, when it began (clock ticks since boot), and in which boot."""

    pid: int
    began: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """The process that has the number now; None if there is none, or only a zombie."""
        began = _began(pid)
        return None if began is None else cls(pid, began, _BOOT_ID.read_text().strip())

    def alive(self) -> bool:
        return ProcessIdentity.of(self.pid) == self

    def carries(self, mark: str) -> bool:
        """Whether its command line holds `mark`."""
        try:
            return mark.encode() in Path(f"/proc/{self.pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return False

    def kill(self, mark: str, limit: float) -> bool:
        """SIGKILL, and wait for the end; whether it came within `limit` seconds. True if it is gone already.

        `mark` must occur in its command line, else NotOurs is raised and nothing is done.
        """
        with self._held() as handle:
            if handle is None:
                return True
            if not self.carries(mark):
                raise NotOurs(
                    f"its command line does not hold {mark}: it was not started by standby",
                    subject=f"process {self.pid}",
                    tried="nothing was done to it",
                    hint="see who started it (`ps -fp PID`) and end it by hand if it shall end",
                )
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            return _ended(handle, limit)

    def wait(self, limit: float) -> bool:
        """Whether it ended within `limit` seconds."""
        with self._held() as handle:
            return handle is None or _ended(handle, limit)

    @contextlib.contextmanager
    def _held(self) -> Iterator[int | None]:
        """A pidfd: from here on the number cannot come to mean another process."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            yield None
            return
        try:
            yield handle if self.alive() else None
        finally:
            os.close(handle)


def find_processes(program: str, mark: str) -> list[ProcessIdentity]:
    """The running processes of a program's name that have `mark` within one of their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if Path(arguments[0]).name == program and any(mark in argument for argument in arguments):
                identity = ProcessIdentity.of(int(entry.name))
                if identity:
                    found.append(identity)
    return found


def _began(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # proc(5): the name in parentheses may hold anything; state is field 3, starttime field 22.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def _ended(handle: int, limit: float) -> bool:
    return bool(select.select([handle], [], [], limit)[0])
