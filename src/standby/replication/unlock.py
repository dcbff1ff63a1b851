"""The key of a relationship whose replica is encrypted, for the two halves that read and write what it protects."""

from __future__ import annotations

from pathlib import Path

from standby.objects.base import ObjectStore
from standby.replica.cipher import Cipher
from standby.replica.journal import Place, read_head
from standby.replica.keys import GIVE, Key, KeyFile, KeyMissing, remembered
from standby.replication.books import Books
from standby.replication.relationship import Relationship


def key_of(relationship: Relationship, given: Key | None) -> Key | None:
    """What opens the replica: as given, or from the key file of the books; None where it is not encrypted.

    Raises KeyMissing, KeyRefused.
    """
    if not relationship.wrapped:
        return given
    key = given or remembered(relationship.key_file)
    if key is None:
        raise KeyMissing(
            "its replica is encrypted, and this agent was given no key",
            subject=relationship.machine,
            tried="nothing was read or sent; changes go on being tracked",
            hint=f"start it again: {GIVE}",
        )
    return key


def set_key_file(books: Books, relationship: Relationship, store: ObjectStore, path: Path) -> None:
    """Remember another key file, once it is proved to open the replica. Raises KeyRefused, WrongKey, NotEncrypted."""
    key = KeyFile(path)
    head, _ = read_head(Place(store, relationship.replica, key))
    books.set_keys(relationship.id, head.wrapped, str(key.path))


def cipher_of(relationship: Relationship, given: Key | None) -> Cipher | None:
    """None where the replica is not encrypted. Needs no store. Raises KeyMissing, KeyRefused, WrongKey."""
    if not relationship.wrapped:
        return None
    key = key_of(relationship, given)
    assert key is not None
    return key.cipher(relationship.replica_id, relationship.wrapped, relationship.machine)
