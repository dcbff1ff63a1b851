"""Bytes under names: what standby needs of a place that keeps replicas.

Names are relative, `/`-separated, of the characters `[A-Za-z0-9._-]`, and never hold an empty, `.` or
`..` part. An object is seen whole or not at all, and a call that returned has made it durable.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NewType, Protocol

from standby.errors import NeedsPerson, Recoverable

Version = NewType("Version", str)
"""What a store says of an object's content (an ETag): opaque, compared for equality only."""


class Object(NamedTuple):
    data: bytes
    version: Version


class Entry(NamedTuple):
    name: str
    size: int


class Conflict(NamedTuple):
    """A conditional write met another writer's. A value, since every caller must handle it."""

    name: str


class ObjectMissing(NeedsPerson):
    """An object that something refers to, or that was asked for, is not in the store."""


class StoreUnreachable(Recoverable):
    """No answer, or an answer that says try later; a write may or may not have happened."""


class StoreBusy(StoreUnreachable):
    """The store asks for fewer requests (429, 503). Nothing asks again within seconds."""


class StoreFull(Recoverable):
    """No space or quota is left; nothing was written under the name."""


class StoreRefused(NeedsPerson):
    """The store denies the operation: credentials, permissions, read-only, or an immutable object."""


class StoreUnsuitable(NeedsPerson):
    """The store lacks what the commit protocol rests on (docs/protocol.md, STORE rules)."""


class ObjectStore(Protocol):
    """Every method raises StoreUnreachable, StoreFull or StoreRefused as above; no write is ever repeated.

    Thread-safe: one store serves all threads of a process.
    """

    @property
    def url(self) -> str:
        """The place as an operator writes it (`/srv/replicas`, `s3://bucket/prefix`). No secrets."""
        ...

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Write the object, replacing any older one."""
        ...

    def put_file(self, name: str, path: Path) -> None:
        """Write the object from a local file that no longer changes; may link instead of copy."""
        ...

    def put_if_absent(self, name: str, data: bytes) -> Version | Conflict:
        """Write the object only if no object has the name. Of many such calls exactly one wins."""
        ...

    def swap(self, name: str, data: bytes, old: Version) -> Version | Conflict:
        """Replace the object only if its version is still `old`. Also a Conflict if it is gone."""
        ...

    def get(self, name: str) -> Object:
        """The whole object. Raises ObjectMissing."""
        ...

    def get_if_changed(self, name: str, known: Version) -> Object | None:
        """None while the object's version is `known`; otherwise as `get`."""
        ...

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`. Raises ObjectMissing; Damaged if the object is shorter."""
        ...

    def size(self, name: str) -> int:
        """The object's length in bytes. Raises ObjectMissing."""
        ...

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """Objects whose name starts with `prefix` and sorts behind `after`, sorted by name.

        Every object that was there before the call and is not deleted meanwhile is listed.
        """
        ...

    def delete(self, name: str) -> None:
        """Remove the object; removing what is not there is no error."""
        ...
