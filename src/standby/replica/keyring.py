"""Changing the keys that open a replica, without writing anything anew but its head (docs/format.md 7)."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from standby import failpoints
from standby.clock import Clock
from standby.errors import InvalidRequest, Recoverable
from standby.objects.base import Conflict
from standby.replica.cipher import Cipher
from standby.replica.documents import Head, encode
from standby.replica.journal import Place, read_head
from standby.replica.keys import Key, WrappedKey, names_of

_ADDED = failpoints.declare("keyring.added")
_REMOVED = failpoints.declare("keyring.removed")

_ATTEMPTS = 100


def list_keys(place: Place) -> tuple[WrappedKey, ...]:
    """The keys that open the replica. Raises InvalidRequest if it is not encrypted."""
    head, _ = read_head(place)
    _encrypted(place, head)
    return head.wrapped


def add_key(place: Place, new: Key, clock: Clock) -> WrappedKey:
    """Let another key open the replica, too; `place.key` is one that does. Harmless to repeat.

    The new key is proved by opening what was stored. Raises InvalidRequest, KeyMissing, WrongKey.
    """

    def added(head: Head, cipher: Cipher) -> Head:
        if any(new.opens(one) for one in head.wrapped):
            return head
        wrapped = new.wrap(cipher.data_key, head.replica, clock.now().isoformat())
        return msgspec.structs.replace(head, keys=(*head.wrapped, wrapped))

    _change(place, added)
    _ADDED.reach()
    return prove(place, new)


def prove(place: Place, key: Key) -> WrappedKey:
    """Open the stored head with a key that has opened nothing yet; how it opened it. Raises WrongKey, Damaged."""
    head, _ = read_head(place)
    found = [one for one in head.wrapped if key.opens(one)]
    key.cipher(head.replica, found, place.subject(place.head))
    read_head(Place(place.store, place.name, key))
    return found[0]


def remove_key(place: Place, key_id: str) -> WrappedKey:
    """Let a key open the replica no more. `place.key` is another one that does, so that one is left that was proved.

    Who had the removed key and a copy of the head, or the data key itself, can still read: nothing is encrypted anew.
    Raises InvalidRequest, KeyMissing, WrongKey.
    """
    removed: list[WrappedKey] = []

    def without(head: Head, _cipher: Cipher) -> Head:
        removed[:] = [one for one in head.wrapped if one.id == key_id]
        left = tuple(one for one in head.wrapped if one.id != key_id)
        if not removed:
            raise InvalidRequest(
                f"no key {key_id} opens it",
                subject=place.subject(place.name),
                hint=f"these do: {names_of(head.wrapped)}",
            )
        if place.key is None or not any(place.key.opens(one) for one in left):
            raise InvalidRequest(
                f"the key that was given is the one to remove ({key_id})",
                subject=place.subject(place.name),
                tried="nothing was changed",
                hint="give one that stays: that proves that the replica can still be opened",
            )
        return msgspec.structs.replace(head, keys=left)

    _change(place, without)
    _REMOVED.reach()
    return removed[0]


def rotate(place: Place, new: Key, clock: Clock) -> tuple[WrappedKey, WrappedKey]:
    """Replace the key in `place` by a new one: add, prove, remove. What came in, what went out.

    Killed in between, both keys open the replica; again goes on. Raises as `add_key` and `remove_key`.
    """
    head, _ = read_head(place)
    _encrypted(place, head)
    place.unlocked(head)
    old = [one for one in head.wrapped if place.key and place.key.opens(one)]
    if not old or new.opens(old[0]):
        raise InvalidRequest(
            "the new key is the one that opens it now", subject=place.subject(place.name), hint="give another"
        )
    came = add_key(place, new, clock)
    went = remove_key(Place(place.store, place.name, new), old[0].id)
    return came, went


def _encrypted(place: Place, head: Head) -> None:
    if not head.encrypted:
        raise InvalidRequest(
            "the replica is not encrypted, so no key opens it",
            subject=place.subject(place.name),
            hint="encryption begins with a replica: `standby vm protect` with --key-file and another --replica name",
        )


def _change(place: Place, change: Callable[[Head, Cipher], Head]) -> None:
    for _ in range(_ATTEMPTS):
        head, version = read_head(Place(place.store, place.name))
        _encrypted(place, head)
        cipher = place.unlocked(head)
        place.authenticate(head)
        assert cipher is not None
        changed = change(head, cipher)
        if changed == head:
            return
        changed = msgspec.structs.replace(changed, changes=head.changes + 1)
        if not isinstance(place.store.swap(place.head, encode(changed, cipher), version), Conflict):
            return
    raise Recoverable("the head changes too fast to change its keys", subject=place.subject(place.head))
