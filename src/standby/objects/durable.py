"""Files that survive a power cut and killed writers: the ground of the directory store.

Every path but that of `sync` is relative to an open directory (`root`), so that a call works in one mounted
file system from start to end, whatever is mounted or unmounted at the path meanwhile. Every function raises
plain OSError.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

LOCK_PATIENCE: Final = 30.0
"""Seconds to wait for a lock that is only ever held for microseconds, before its holder counts as stopped."""

_CHUNK = 1 << 30


class LockHeld(TimeoutError):
    """A lock was not to be had for LOCK_PATIENCE seconds."""


@contextmanager
def opened(path: str, flags: int, *, root: int | None = None, mode: int = 0o666) -> Iterator[int]:
    """A file descriptor, closed at the end."""
    fd = os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=root)
    try:
        yield fd
    finally:
        os.close(fd)


def sync(path: Path) -> None:
    """Make the bytes of a file durable that somebody else has written, or the entries of a directory.

    For places outside a store, so the path is relative to no root.
    """
    with opened(str(path), os.O_RDONLY) as fd:
        os.fsync(fd)


def sync_directory(root: int, path: str) -> None:
    """Make the entries of a directory durable: a new name is lost in a power cut without this."""
    with opened(path or ".", os.O_RDONLY | os.O_DIRECTORY, root=root) as fd:
        os.fsync(fd)


def make_directory(root: int, path: str) -> None:
    """The directory, and those above it, existing and durable.

    Also syncs what exists already: whoever made it may have been killed before making it durable.
    """
    above = ""
    for part in path.split("/"):
        here = f"{above}/{part}" if above else part
        with suppress(FileExistsError):
            os.mkdir(here, dir_fd=root)
        sync_directory(root, above)
        above = here


def write_all(fd: int, data: bytes | memoryview) -> None:
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(fd, rest) :]


def copy_all(source: int, target: int, size: int) -> None:
    """Copy `size` bytes inside the kernel. Raises EOFError if the source is shorter."""
    done = 0
    while done < size:
        # sendfile works between any two file systems; copy_file_range does not, and where it would
        # share blocks the file was hard-linked anyway.
        count = os.sendfile(target, source, done, min(size - done, _CHUNK))
        if count == 0:
            raise EOFError(done)
        done += count


def read_all(fd: int) -> bytes:
    """The whole of an immutable file: objects are replaced, never written to."""
    return read_range(fd, 0, os.fstat(fd).st_size)


def read_range(fd: int, offset: int, length: int) -> bytes:
    """Up to `length` bytes, fewer only at the file's end."""
    data = os.pread(fd, length, offset)
    if len(data) == length:
        return data
    parts = [data]
    left = length - len(data)
    while data and left:
        data = os.pread(fd, left, offset + length - left)
        parts.append(data)
        left -= len(data)
    return b"".join(parts)


class Temp(NamedTuple):
    """A file under a name that nobody else uses, relative to the root. Locked while its writer lives."""

    path: str
    fd: int


@contextmanager
def temp_file(root: int, directory: str) -> Iterator[Temp]:
    """A new temp in `directory`. At the end its name is removed, unless it was renamed."""
    temp = _new_temp(root, directory)
    try:
        yield temp
    finally:
        # Also after success, since rename() onto a link of the same file leaves both names. What cannot
        # be removed now is an invisible leftover, no reason to fail a write that is already durable.
        with suppress(OSError):
            os.unlink(temp.path, dir_fd=root)
        os.close(temp.fd)


def _new_temp(root: int, directory: str) -> Temp:
    while True:
        path = f"{directory}/{secrets.token_hex(16)}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=root)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                return Temp(path, fd)
        except OSError:
            os.close(fd)
            raise
        os.close(fd)  # remove_dead_temps came between the creation and the lock: once more


def remove_dead_temps(root: int, directory: str) -> int:
    """Remove the temps whose writer is dead, which is who holds no lock; no clock and no age is asked.

    Returns how many. Even a temp removed by mistake (a lock lost by a network file system) harms nothing:
    its writer finds no file to link and fails.
    """
    removed = 0
    with opened(directory, os.O_RDONLY | os.O_DIRECTORY, root=root) as fd, os.scandir(fd) as entries:
        for entry in entries:
            # gone meanwhile, another user's, or its writer is alive
            with (
                suppress(FileNotFoundError, PermissionError, BlockingIOError),
                opened(entry.name, os.O_RDWR, root=fd) as temp,
            ):
                fcntl.flock(temp, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(entry.name, dir_fd=fd)
                removed += 1
    return removed


@contextmanager
def locked(root: int, path: str, *, exclusive: bool) -> Iterator[None]:
    """Hold the lock file's lock. The kernel releases it when the process dies, however it dies.

    Raises LockHeld after LOCK_PATIENCE seconds.
    """
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    # O_RDWR: NFS keeps flock as byte-range locks, which need a file open for writing to be exclusive.
    with opened(path, os.O_RDWR | os.O_CREAT, root=root) as fd:
        deadline = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(fd, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LockHeld(errno.ETIMEDOUT, "another process holds the lock", path) from None
                time.sleep(0.001)
        yield
