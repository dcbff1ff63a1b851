"""Files that a machine boots from beside its disks, kept in the replica under their SHA-256.

In an encrypted replica they are encrypted, under names from which no known kernel can be told (format.md 7.4).
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from standby.block.extent import Extent, pieces
from standby.errors import Damaged
from standby.objects.base import ObjectMissing
from standby.records import BootFile, BootRole
from standby.replica.cipher import Cipher, stored_size
from standby.replica.journal import Place, read_head

_READ = 8 << 20


def name_of(file: BootFile, cipher: Cipher | None) -> str:
    """The object's name below the replica."""
    return f"boot/{cipher.name(bytes.fromhex(file.sha256)) if cipher else file.sha256}"


def size_of(file: BootFile, cipher: Cipher | None) -> int:
    """The object's length in bytes."""
    return stored_size(file.size) if cipher else file.size


def put(place: Place, described: Sequence[BootFile], files: Mapping[BootRole, Path]) -> None:
    """Store the files that a machine description names; harmless to repeat. Raises KeyMissing, WrongKey."""
    if not described:
        return
    cipher = place.unlocked(read_head(place)[0])
    for file in described:
        name = place.below(name_of(file, cipher))
        if cipher is None:
            place.store.put_file(name, files[file.role])
            continue
        with tempfile.NamedTemporaryFile(prefix="standby-boot-") as sealed:
            with files[file.role].open("rb") as plain:
                cipher.encrypt_file(plain, sealed.file)
            sealed.flush()
            place.store.put_file(name, Path(sealed.name))


def fetch(place: Place, file: BootFile, into: Path) -> None:
    """Write the file to `into`, and check it. Raises Damaged, KeyMissing, WrongKey."""
    cipher = place.unlocked(read_head(place)[0])
    digest = hashlib.sha256()
    try:
        with into.open("wb") as out:
            for part in _content(place, file, cipher):
                digest.update(part)
                out.write(part)
        if digest.hexdigest() != file.sha256:
            name = place.below(name_of(file, cipher))
            raise Damaged(f"the machine's {file.role} is not what was stored", subject=place.subject(name))
    except Damaged:
        into.unlink()
        raise


def problem(place: Place, file: BootFile, cipher: Cipher | None) -> str:
    """What is wrong with the file as stored, read in full; "" if nothing is."""
    digest = hashlib.sha256()
    try:
        if (found := place.store.size(place.below(name_of(file, cipher)))) != size_of(file, cipher):
            return f"it has {found} bytes instead of {size_of(file, cipher)}"
        for part in _content(place, file, cipher):
            digest.update(part)
    except ObjectMissing:
        return "it is gone"
    except Damaged as error:
        return error.cause
    return "" if digest.hexdigest() == file.sha256 else "its bytes are not those that were written"


def _content(place: Place, file: BootFile, cipher: Cipher | None) -> Iterator[bytes]:
    name = place.below(name_of(file, cipher))
    if cipher is None:
        for part in pieces([Extent(0, file.size)], _READ):
            yield place.store.get_range(name, part.offset, part.length)
        return
    yield from cipher.decrypt_file(
        lambda offset, length: place.store.get_range(name, offset, length), file.size, place.subject(name)
    )
