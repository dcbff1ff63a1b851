"""Files that a machine boots from beside its disks, kept in the replica under their SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from standby.block.extent import Extent, pieces
from standby.errors import Damaged
from standby.records import BootFile, BootRole
from standby.replica.journal import Place

_READ = 8 << 20


def put(place: Place, described: Sequence[BootFile], files: Mapping[BootRole, Path]) -> None:
    """Store the files that a machine description names; harmless to repeat."""
    for file in described:
        place.store.put_file(place.below(f"boot/{file.sha256}"), files[file.role])


def fetch(place: Place, file: BootFile, into: Path) -> None:
    """Write the file to `into`, and check it. Raises Damaged."""
    name = place.below(f"boot/{file.sha256}")
    with into.open("wb") as out:
        for part in pieces([Extent(0, file.size)], _READ):
            out.write(place.store.get_range(name, part.offset, part.length))
    if _sha256(into) != file.sha256:
        into.unlink()
        raise Damaged(f"the machine's {file.role} is not what was stored", subject=place.subject(name))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
