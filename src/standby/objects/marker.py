"""What tells a store's directory from any other, above all from an empty mount point."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import msgspec

from standby import failpoints
from standby.errors import Damaged, InvalidRequest, NeedsPerson
from standby.objects import durable
from standby.objects.answers import meaning

OWN: Final = "~standby"
"""The store's own directory. No object's name can begin with a tilde."""

MARKER: Final = f"{OWN}/store.json"
TEMPS: Final = f"{OWN}/tmp"
LOCKS: Final = f"{OWN}/locks"
FORMAT: Final = 1

_made = failpoints.declare("directory.create.made")


class NotAStore(NeedsPerson):
    """There is no store in the directory: not mounted, or not made yet. Nothing was written there."""


class _Marker(msgspec.Struct, frozen=True):
    kind: Literal["standby directory store"]
    format: int


def make_store(path: Path) -> None:
    """Make `path` a store, durably. One that is a store already stays as it is.

    Raises InvalidRequest if the directory holds anything else, or if even its parent is missing.
    """
    try:
        with suppress(FileExistsError):
            path.mkdir()
            durable.sync(path.parent)
        with durable.opened(str(path), os.O_RDONLY | os.O_DIRECTORY) as root:
            # `lost+found` is what a new file system holds, OWN what a killed creation left.
            others = {entry.name for entry in os.scandir(root)} - {"lost+found", OWN}
            if others and not _exists(root):
                raise InvalidRequest(
                    f"no store can be made here, the directory is not empty ({min(others)}, ...)",
                    subject=str(path),
                    hint="name a new or empty directory",
                )
            make_working_directories(root)
            _made.reach()
            _write_marker(root)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidRequest(
            f"no store can be made here: {error.strerror} ({error.filename})",
            subject=str(path),
            hint=f"mount its file system or make the directory above it: mkdir -p {path.parent}",
        ) from error
    except OSError as error:
        raise meaning(error, "making the store", str(path)) from error


def make_working_directories(root: int) -> None:
    """Where temps and locks lie. A copy of a store by a tool that drops empty directories lacks them."""
    for directory in (TEMPS, LOCKS):
        durable.make_directory(root, directory)
        durable.sync_directory(root, directory)


def check_marker(path: Path) -> None:
    """Returns if `path` is a store that this version can use. Raises NotAStore, Damaged or NeedsPerson."""
    try:
        data = (path / MARKER).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotAStore(
            f"no store is here: the marker {MARKER} is missing; nothing was written",
            subject=str(path),
            hint=f"mount its file system (findmnt --target {path}), or make a new store: `standby store create {path}`",
        ) from error
    except OSError as error:
        raise meaning(error, "opening the store", str(path)) from error
    try:
        marker = msgspec.json.decode(data, type=_Marker)
    except msgspec.DecodeError as error:
        raise Damaged(
            f"the store's marker {MARKER} cannot be read: {error}",
            subject=str(path),
            hint="check the file system; the objects beside it are untouched",
        ) from error
    if marker.format > FORMAT:
        raise NeedsPerson(
            f"the store has format {marker.format}, this version knows up to {FORMAT}",
            subject=str(path),
            hint="install a newer standby",
        )


def _write_marker(root: int) -> None:
    with durable.temp_file(root, TEMPS) as temp:
        durable.write_all(
            temp.fd, msgspec.json.encode(_Marker(kind="standby directory store", format=FORMAT))
        )
        os.fsync(temp.fd)
        with suppress(FileExistsError):
            os.link(temp.path, MARKER, src_dir_fd=root, dst_dir_fd=root)
        durable.sync_directory(root, OWN)


def working_directories_exist(root: int) -> bool:
    return _exists(root, TEMPS) and _exists(root, LOCKS)


def _exists(root: int, name: str = MARKER) -> bool:
    try:
        os.stat(name, dir_fd=root)
    except FileNotFoundError:
        return False
    return True
