"""Adding and removing further targets of a machine."""

from __future__ import annotations

from standby.clock import Clock
from standby.errors import InvalidRequest
from standby.objects.base import ObjectStore
from standby.objects.probe import probe
from standby.replica.journal import Place
from standby.replica.twin import create_twin
from standby.replication.books import Books
from standby.replication.followers import Follower, Followers
from standby.replication.relationship import Relationship
from standby.replication.unlock import key_of


def add(
    books: Books,
    relationship: Relationship,
    first: ObjectStore,
    store: ObjectStore,
    replica: str,
    *,
    take_over: bool,
    origin: str,
    clock: Clock,
) -> None:
    """Replicate the machine to this store too. Harmless to repeat after a kill. first: where it goes already.

    Raises InvalidRequest if it goes there already or the name is taken, and what the stores raise.
    """
    probe(store)
    place = Place(first, relationship.replica, key_of(relationship, None))
    if (first.url, relationship.replica) != (store.url, replica):
        create_twin(place, store, replica, origin=origin, clock=clock)
    Followers(books).add(relationship.id, store.url, replica, take_over=take_over)


def find(books: Books, relationship: Relationship, store: str, replica: str) -> Follower:
    """Raises InvalidRequest if it is none of the machine's further targets."""
    followers = Followers(books).of(relationship.id)
    for one in followers:
        if (one.store, one.replica) == (store, replica):
            return one
    machine = relationship.machine
    if (relationship.store, relationship.replica) == (store, replica):
        raise InvalidRequest(
            "it is the first of its targets, from which the others are brought level",
            subject=machine,
            hint=f"`standby vm unprotect {machine}` ends protection; its replicas stay",
        )
    raise InvalidRequest(
        f"it is not replicated to {replica} in {store}",
        subject=machine,
        hint=f"name one of {', '.join(f'{one.replica} in {one.store}' for one in followers) or 'none'}",
    )


def remove(books: Books, follower: Follower) -> None:
    """Replicate there no more; the replica stays. While nothing is at work with it."""
    for path in Followers(books).remove(follower.relationship, follower.id):
        path.unlink(missing_ok=True)
