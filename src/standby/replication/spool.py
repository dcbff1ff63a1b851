"""Where an agent's logs lie until they are committed: beside each disk, or in a configured directory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from ulid import ULID

from standby.records import MachineDescription
from standby.replica.cipher import Cipher
from standby.replica.format import LogHeader
from standby.replica.log import LogWriter, SealedLog
from standby.replication.books import Books
from standby.replication.relationship import Relationship
from standby.replication.room import Volume


class DiskLog:
    """The log of one disk in one entry; it comes into being with the first changed block."""

    def __init__(self, path: Path, header: LogHeader, cipher: Cipher | None = None) -> None:
        self._path = path
        self._header = header
        self._cipher = cipher
        self._lock = threading.Lock()
        self._writer: LogWriter | None = None

    def writer(self) -> LogWriter:
        with self._lock:
            if self._writer is None:
                self._writer = LogWriter(self._path, self._header, self._cipher)
            return self._writer

    @property
    def stored(self) -> int:
        return self._writer.stored if self._writer else 0

    def seal(self) -> SealedLog | None:
        writer, self._writer = self._writer, None
        return writer.seal() if writer else None

    def abandon(self) -> None:
        if self._writer:
            self._writer.abandon()
            self._writer = None


class Spool:
    """The logs of relationships. `describe` tells where the machine's disks lie."""

    def __init__(self, books: Books, describe: Callable[[], MachineDescription]) -> None:
        self._books = books
        self._describe = describe
        self._folders: dict[str, Path] = {}

    def folder(self, relationship: Relationship, disk_id: str) -> Path:
        """The configured spool, or the disk's own directory, or (disks without one) the agent's."""
        if relationship.spool:
            return Path(relationship.spool)
        if disk_id not in self._folders:
            self._folders[disk_id] = self._beside(disk_id)
        return self._folders[disk_id]

    def volumes(self, relationship: Relationship) -> Mapping[str, Volume]:
        """The volume of each disk's folder, of those that have been asked for before."""
        found = {}
        for disk in relationship.disks:
            folder = Path(relationship.spool) if relationship.spool else self._folders.get(disk.id)
            if folder is None:
                continue
            with suppress(FileNotFoundError):  # told when a log is to be written there
                volume = os.statvfs(folder)
                free = volume.f_bavail * volume.f_frsize
                found[disk.id] = Volume(str(folder), folder.stat().st_dev, free)
        return found

    def _beside(self, disk_id: str) -> Path:
        described = next((disk for disk in self._describe().disks if disk.id == disk_id), None)
        if described and described.path and Path(described.path).parent.is_dir():
            return Path(described.path).parent
        folder = self._books.folder / "spool"
        folder.mkdir(exist_ok=True)
        return folder

    def forget_folders(self) -> None:
        """Ask the machine again where its disks lie: they may have been moved."""
        self._folders = {}

    def new_log(self, relationship: Relationship, disk_id: str, size: int, cipher: Cipher | None) -> DiskLog:
        """cipher: of an encrypted replica. What lies here is what is uploaded, so it is encrypted here."""
        log_id = ULID()
        path = self.folder(relationship, disk_id) / f"{disk_id}-{relationship.id}-{log_id}.hrl"
        return DiskLog(path, LogHeader(relationship.replica_id, log_id.bytes, disk_id, size), cipher)

    def remove_orphans(self, relationship: Relationship) -> None:
        """Remove logs of ours that no entry names: unfinished ones, and those committed already."""
        named = self._books.waiting_logs(relationship.id)
        for disk in relationship.disks:
            for path in self.folder(relationship, disk.id).glob(f"{disk.id}-{relationship.id}-*.hrl"):
                if str(path) not in named:
                    path.unlink()
