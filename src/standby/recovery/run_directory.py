"""Run directories: what one recovery has on this host, and the documents in it that survive a crash.

`<root>/<tag>/` appears complete by one rename and disappears by one, so a directory with a tag for a name is
either a recovery with its order and its rows, or none of ours. A directory on its way in or out is named
`.new-<tag>` or `.gone-<tag>`; whoever holds the root's lock may remove those.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, TypeVar
from uuid import UUID

import msgspec

from standby import failpoints
from standby.errors import Damaged, InvalidRequest, Recoverable
from standby.hypervisor.base import MachineNotFound
from standby.objects.durable import sync
from standby.recovery import secret
from standby.recovery.steps import Journal
from standby.replica.cipher import Cipher

TESTS: Final = "tests"
FAILOVERS: Final = "failovers"
PLANS: Final = "plans"
"""Where run directories are, within an agent's state directory."""

ORDER: Final = "order.json"
ROWS: Final = "rows.json"
_TAG: Final = re.compile(r"[0-9a-f]{16}")
_BUSY: Final = "lock"
_WHERE: Final = "`standby failover list` names those of this host"

_MADE = failpoints.declare("run_directory.made")
_NAMED = failpoints.declare("run_directory.named")
_GONE = failpoints.declare("run_directory.gone")


class RecoveryBusy(Recoverable):
    """Another process is working on the same recovery right now."""


class NoRecovery(MachineNotFound):
    """The directory is no run directory of a recovery."""


_T = TypeVar("_T")


def new_tag() -> str:
    """What tells one recovery from every other. Short: sockets lie below it (unix(7): 107 bytes)."""
    return secrets.token_hex(8)


def make(
    root: Path,
    tag: str,
    order: msgspec.Struct,
    journal: msgspec.Struct,
    cipher: Cipher | None = None,
    more: Mapping[str, msgspec.Struct] | None = None,
) -> Path:
    """The run directory, with its documents (`more` by name), durable. The caller holds the root's lock.

    cipher: of an encrypted replica that the recovery reads.
    """
    fresh = root / f".new-{tag}"
    fresh.mkdir(mode=0o700)
    secret.write(fresh, cipher)
    for name, document in (more or {}).items():
        put(fresh / name, document)
    write(fresh / ORDER, msgspec.json.encode(order))
    write(fresh / ROWS, msgspec.json.encode(journal))
    _MADE.reach()
    run = root / tag
    fresh.rename(run)
    sync(root)
    _NAMED.reach()
    return run


def remove(run: Path) -> None:
    """Remove a run directory whose recovery is clean."""
    gone = _gone(run)
    with root_lock(run.parent):
        run.rename(gone)
        sync(run.parent)
        _GONE.reach()
        shutil.rmtree(gone)


def finish_removal(run: Path) -> bool:
    """Whether the directory was being removed when a process died; then it is gone now."""
    if not _gone(run).is_dir():
        return False
    with root_lock(run.parent):
        return True


def _gone(run: Path) -> Path:
    return run.with_name(f".gone-{run.name}")


def is_run(run: Path) -> bool:
    """Whether a recovery has this run directory."""
    return bool(_TAG.fullmatch(run.name)) and (run / ORDER).is_file()


def busy(run: Path) -> bool:
    """Whether somebody works on it, told without getting in the way of who is about to."""
    try:
        inode = (run / _BUSY).stat().st_ino
    except FileNotFoundError:
        return False
    # proc(5), /proc/locks: number, FLOCK, ADVISORY, WRITE, pid, major:minor:inode, start, end.
    locks = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return any(lock[1] == "FLOCK" and lock[5].rpartition(":")[2] == str(inode) for lock in locks)


def recoveries(root: Path) -> list[Path]:
    """The run directories below `root`, oldest first; none if the root is not there."""
    if not root.is_dir():
        return []
    found = [path for path in root.iterdir() if is_run(path)]
    return sorted(found, key=lambda path: (path / ORDER).stat().st_mtime_ns)


class _OfReplica(msgspec.Struct):
    """What the orders of all kinds of recovery tell alike."""

    replica_id: UUID


def of_replica(root: Path, replica: UUID) -> Path | None:
    """The oldest recovery of the replica below `root`, if there is one. Under the root's lock."""
    return next((run for run in recoveries(root) if read_order(run, _OfReplica).replica_id == replica), None)


@contextlib.contextmanager
def root_lock(root: Path) -> Iterator[None]:
    """Whether a recovery may start is decided by one process at a time; also sweeps what killed ones left."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(
            f"cannot be made: {error.strerror}", subject=str(root), hint="choose another run directory"
        ) from error
    with _lock(root / ".lock", wait=True):
        for leftover in root.iterdir():
            kind, _, tag = leftover.name.partition("-")
            if kind in (".new", ".gone") and _TAG.fullmatch(tag):
                shutil.rmtree(leftover)
        yield


@contextlib.contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Work on one recovery. Raises RecoveryBusy while another process does, NoRecovery."""
    if not is_run(run):
        raise _no_recovery(run)
    with _lock(run / _BUSY, wait=False):
        yield


def _no_recovery(run: Path) -> NoRecovery:
    return NoRecovery(
        "this is no run directory of a recovery; nothing was done to it", subject=str(run), hint=_WHERE
    )


def read_order(run: Path, kind: type[_T]) -> _T:
    return _read(run / ORDER, kind)


def put(path: Path, document: msgspec.Struct) -> None:
    """Keep a document in a run directory, durably and whole."""
    write(path, msgspec.json.encode(document))


def find(path: Path, kind: type[_T]) -> _T | None:
    """A document of a run directory; None if it is not there."""
    return _read(path, kind) if path.exists() else None


class FileRows:
    """`Rows` in a run directory."""

    def __init__(self, run: Path) -> None:
        self._path = run / ROWS

    def load(self) -> Journal:
        return _read(self._path, Journal)

    def save(self, journal: Journal) -> None:
        write(self._path, msgspec.json.encode(journal))


def write(path: Path, data: bytes) -> None:
    """Replace the file by one rename, durably. Raises Recoverable when the file system refuses."""
    fresh = path.with_name(path.name + ".new")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        sync(path.parent)
    except OSError as error:
        raise Recoverable(
            f"cannot be written: {error.strerror}",
            subject=str(path),
            hint="see whether its file system has space and is writable, then try again",
        ) from error


def _read(path: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError as error:
        raise _no_recovery(path.parent) from error
    except msgspec.DecodeError as error:
        raise Damaged(f"it cannot be read: {error}", subject=str(path)) from error


@contextlib.contextmanager
def _lock(path: Path, *, wait: bool) -> Iterator[None]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError as error:
        # It was there a moment ago: its clean-up has just ended.
        raise _no_recovery(path.parent) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise RecoveryBusy(
                "another process is working on this recovery",
                subject=str(path.parent),
                hint="wait for it to end, then look again",
            ) from error
        yield
    finally:
        os.close(descriptor)
