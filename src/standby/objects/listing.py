"""Objects below a directory in the order of their names, as S3 lists them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Final

from standby.objects.base import Entry
from standby.objects.durable import opened

NFS_LEFTOVER: Final = ".nfs"
"""How an NFS client names a file that was removed while it was open. No object: it goes by itself."""

_PART: Final = re.compile(r"[A-Za-z0-9._-]+")


def walk(root: int, directory: str, prefix: str, after: str) -> Iterator[Entry]:
    """The objects in and below `directory` ("" or without final slash) that start with `prefix` and sort
    behind `after`. What is missing, or goes meanwhile, is left out. Raises OSError.

    Sorted by whole names: a directory sorts as its name and a slash, so that `a-b` comes before `a/b`.
    """
    base = f"{directory}/" if directory else ""
    for key, size in sorted(_entries(root, base).items()):
        name = base + key
        if size is not None:
            if name.startswith(prefix) and name > after:
                yield Entry(name, size)
        elif _agree(name, prefix) and (name > after or after.startswith(name)):
            yield from walk(root, name[:-1], prefix, after)


def _entries(root: int, base: str) -> dict[str, int | None]:
    """Sizes of the files, None for each directory. Keyed, as a name replaced meanwhile may be read twice."""
    found: dict[str, int | None] = {}
    try:
        with opened(base or ".", os.O_RDONLY | os.O_DIRECTORY, root=root) as fd, os.scandir(fd) as entries:
            for entry in entries:
                if not _PART.fullmatch(entry.name) or entry.name.startswith(NFS_LEFTOVER):
                    continue
                try:
                    if entry.is_dir():
                        found[f"{entry.name}/"] = None
                    else:
                        found[entry.name] = entry.stat().st_size
                except FileNotFoundError:
                    continue
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return found


def _agree(directory: str, prefix: str) -> bool:
    return directory.startswith(prefix) or prefix.startswith(directory)
