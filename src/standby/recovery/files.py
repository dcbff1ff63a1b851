"""Files out of a point, without starting its machine: its disks served, their file systems mounted."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from standby.block.serve import serve
from standby.errors import Damaged, InvalidRequest, Recoverable
from standby.recovery.appliance import Appliance, FileSystem
from standby.recovery.image_source import OPEN_POINT
from standby.replica.documents import Record
from standby.replica.journal import ReplicaLog


class FilesFailed(Recoverable):
    """A file could not be read or copied out; the message is the system's or cp's own."""


class File(NamedTuple):
    """path: below the point, `FILESYSTEM/…`. size: bytes, of a symbolic link too. target: of a link."""

    path: str
    kind: str
    size: int
    mode: str
    owner: int
    group: int
    modified: float
    target: str


class Files:
    """The files of a point. file_systems: what its disks hold; paths begin with the name of one of them."""

    def __init__(self, file_systems: Sequence[FileSystem], root: Path, title: str) -> None:
        self.file_systems = file_systems
        self._root = root
        self._title = title

    def look(self, path: str) -> list[File]:
        """What is at the path: of a directory its entries, by name. Raises InvalidRequest if nothing is."""
        place = self._find(path)
        if not stat.S_ISDIR(place.lstat().st_mode):
            return [self._file(place)]
        return [self._file(one) for one in sorted(place.iterdir())]

    def copy(self, paths: Sequence[str], to: Path) -> list[Path]:
        """Copy files and whole directories into the directory `to`; returns what is there now.

        Modes, times, links, extended attributes and holes are kept, owners where the caller may set them.
        Nothing is replaced: InvalidRequest if one of the names is taken.
        """
        sources = [self._find(path) for path in paths]
        targets = [to / source.name for source in sources]
        for target in targets:
            if os.path.lexists(target) or targets.count(target) > 1:
                raise InvalidRequest(
                    "it exists already" if os.path.lexists(target) else "two of the paths end in this name",
                    subject=str(target),
                    hint="copy into another directory; nothing was copied",
                )
        # What is copied keeps its set-user-id bits and may be secret: a new directory is the caller's own.
        to.mkdir(mode=0o700, parents=True, exist_ok=True)
        done = subprocess.run(
            ["cp", "-a", "--sparse=always", "-t", str(to), "--", *map(str, sources)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise FilesFailed(
                done.stderr.strip().replace(f"{self._root}/", "")[-1500:],
                subject=self._title,
                tried=f"what could be copied is in {to}",
                hint="see whether there is room and the right to write there",
            )
        return targets

    def _find(self, path: str) -> Path:
        """Raises InvalidRequest where there is nothing, or where a link would lead somewhere else."""
        parts = PurePosixPath(path.strip("/")).parts
        names = ", ".join(one.name for one in self.file_systems if one.mounted)
        if not parts or ".." in parts or parts[0] not in names.split(", "):
            raise InvalidRequest(
                f"it has no file system {parts[0] if parts else '/'} that can be read",
                subject=self._title,
                hint=f"begin the path with one of {names}" if names else "restore the disk as a whole",
            )
        place = self._root
        for part in parts:
            if place.is_symlink():
                # Followed here it would lead into this host's own files.
                raise InvalidRequest(
                    f"{place.relative_to(self._root)} is a link to {place.readlink()}",
                    subject=f"{self._title}, {path}",
                    hint="name the path that it leads to, beginning with the file system",
                )
            place /= part
            if not os.path.lexists(place):
                raise InvalidRequest(
                    f"there is no {place.relative_to(self._root)}",
                    subject=self._title,
                    hint=f"list what is there: `standby replica files` with {place.parent.relative_to(self._root)}",
                )
        return place

    def _file(self, place: Path) -> File:
        status = place.lstat()
        return File(
            path=str(place.relative_to(self._root)),
            kind=_KINDS.get(stat.S_IFMT(status.st_mode), "special"),
            size=status.st_size,
            mode=stat.filemode(status.st_mode),
            owner=status.st_uid,
            group=status.st_gid,
            modified=status.st_mtime,
            target=str(place.readlink()) if place.is_symlink() else "",
        )


_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}


@contextlib.contextmanager
def open_files(log: ReplicaLog, record: Record, disks: Sequence[str]) -> Iterator[Files]:
    """The files of these disks at a point, while the block lasts; the point is held meanwhile.

    Raises what `served` and `Appliance` raise; FilesFailed.
    """
    title = f"{log.place.name}, point {record.seq}"
    folder = Path()
    try:
        with served(log, record, disks) as served_disks:
            folder = served_disks.folder
            root = folder / "files"
            root.mkdir()
            with Appliance(served_disks.sockets, root) as appliance:
                served_disks.refuse_damage()
                yield Files(appliance.file_systems, root, title)
    except OSError as error:
        raise FilesFailed(
            f"{error.strerror}: {str(error.filename).removeprefix(f'{folder}/files/')}",
            subject=title,
            hint="see whether there is room and the right to write there; then try again",
        ) from error


class Served(NamedTuple):
    """sockets: of each disk, by its id. folder: a directory of ours as long as they are served."""

    sockets: list[tuple[str, Path]]
    folder: Path
    title: str

    def damage(self, disk: str) -> Path:
        return dict(self.sockets)[disk].with_suffix(".damage")

    def refuse_damage(self) -> None:
        """Raises Damaged if anything that was read is not what was written."""
        for disk, _ in self.sockets:
            _refuse_damage(self.title, {disk: self.damage(disk)})


@contextlib.contextmanager
def served(log: ReplicaLog, record: Record, disks: Sequence[str]) -> Iterator[Served]:
    """These disks at a point, each served on a socket while the block lasts; the point is held meanwhile.

    Raises what `serve` raises; Damaged, naming the block, if anything that was read at any time is not what was
    written, whatever else it led to: nothing is given out as whole then.
    """
    title = f"{log.place.name}, point {record.seq}"
    with tempfile.TemporaryDirectory(prefix="standby-") as name:
        folder = Path(name)
        damage = {disk: folder / f"{number}.damage" for number, disk in enumerate(disks)}

        def start(number: int) -> tuple[str, Path]:
            disk = disks[number]
            order = {
                "store": log.place.store.url,
                "replica": log.place.name,
                "point": str(record.seq),
                "disk": disk,
                "damage": str(damage[disk]),
                "data_key": cipher.data_key.hex() if (cipher := log.cipher()) else "",
            }
            server = stack.enter_context(serve(OPEN_POINT, order, folder / f"{number}.nbd"))
            return disk, server.socket

        try:
            with ExitStack() as stack:
                with ThreadPoolExecutor(len(disks)) as pool:
                    sockets = list(pool.map(start, range(len(disks))))
                yield Served(sockets, folder, title)
        finally:
            # Also instead of the error that it led to: an I/O error does not tell the block.
            _refuse_damage(title, damage)


def _refuse_damage(title: str, damage: dict[str, Path]) -> None:
    for disk, path in damage.items():
        if path.exists():
            told = json.loads(path.read_text().splitlines()[0])
            raise Damaged(
                f"{told['subject']}: {told['cause']}",
                subject=f"{title}, disk {disk}",
                tried="what was copied or listed may lack something",
                hint=told["hint"],
            )
