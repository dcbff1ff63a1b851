"""A second replica of the same machine in another store: the same id, the same data key, hence the same logs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from standby.block.extent import Extent, pieces
from standby.clock import Clock
from standby.errors import InvalidRequest
from standby.objects.base import Conflict, ObjectStore
from standby.replica.documents import ENCRYPTED, Head, encode
from standby.replica.journal import Place, check_replica_name, read_head

_READ = 8 << 20


def create_twin(first: Place, store: ObjectStore, name: str, *, origin: str, clock: Clock) -> Head:
    """A new, empty replica with the id of `first`, opened by the keys that open `first`. Harmless to repeat.

    Raises InvalidRequest if the name is taken by another replica; KeyMissing, WrongKey.
    """
    check_replica_name(name)
    like, _ = read_head(first)
    cipher = first.unlocked(like)
    head = Head(
        replica=like.replica,
        name=name,
        created=clock.now().isoformat(),
        origin=origin,
        read_features=(ENCRYPTED,) if cipher else (),
        keys=like.keys,
    )
    place = Place(store, name, first.key)
    if isinstance(store.put_if_absent(place.head, encode(head, cipher)), Conflict):
        found, _ = read_head(place)
        if found.replica != like.replica:
            raise InvalidRequest(
                f"the name {name} is taken by replica {found.replica} from {found.origin or 'unknown'}",
                subject=store.url,
                hint="choose another name with --replica",
            )
        place.unlocked(found)
        return found
    return head


def copy_boot_files(source: Place, target: Place) -> None:
    """What a machine boots from beside its disks, as it lies in the store: its names tell its content."""
    there = {entry.name: entry.size for entry in target.store.list(target.below("boot/"))}
    for entry in source.store.list(source.below("boot/")):
        name = target.below(entry.name.removeprefix(source.below("")))
        if there.get(name) == entry.size:
            continue
        with tempfile.NamedTemporaryFile(prefix="standby-boot-") as file:
            for part in pieces([Extent(0, entry.size)], _READ):
                file.write(source.store.get_range(entry.name, part.offset, part.length))
            file.flush()
            target.store.put_file(name, Path(file.name))
