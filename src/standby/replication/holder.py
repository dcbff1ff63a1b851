"""The lock on an agent's books, and who has it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from standby.errors import InvalidRequest

_LOCK: Final = "lock"


def take(folder: Path) -> int:
    """Lock the books in `folder` until the descriptor is closed. Raises InvalidRequest if an agent has them."""
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        process = holder(folder)
        raise InvalidRequest(
            f"another agent is running on these books{f' (process {process})' if process else ''}",
            subject=str(folder),
            hint="stop it first (Ctrl-C or SIGTERM), or give this one a state directory of its own",
        ) from None
    return lock


def holder(folder: Path) -> int | None:
    """The process that has the books open, without getting in the way of one that is about to.

    None as well where the kernel does not tell (a process of another PID namespace).
    """
    try:
        inode = (folder / _LOCK).stat().st_ino
    except FileNotFoundError:
        return None
    # proc(5), /proc/locks: number, FLOCK, ADVISORY, WRITE, pid, major:minor:inode, start, end. "->" marks waiters.
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode) and fields[4] != "0":
            return int(fields[4])
    return None
