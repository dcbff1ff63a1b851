"""Reads that outlast a short trouble on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from standby.objects.base import Entry, Object, ObjectStore, StoreBusy, StoreUnreachable, Version
from standby.objects.layers import Layer

WAITS: Final = (0.2, 1.0, 4.0)
"""Seconds before each further try of a read."""

BUSY_WAITS: Final = (2.0, 5.0, 10.0)
"""The same when the store asked for fewer requests. What obstore hides is for how long (Retry-After)."""

T = TypeVar("T")


class PatientReads(Layer):
    """Repeats reads after StoreUnreachable, up to three times. Writes pass: their caller repeats them.

    A read means the same each time, and who asked may be a guest that runs from the store and has nobody
    who tries again. What a second write means only its caller knows (docs/protocol.md, W2).
    """

    def __init__(self, inner: ObjectStore, sleep: Callable[[float], None] = time.sleep) -> None:
        super().__init__(inner)
        self._sleep = sleep

    def get(self, name: str) -> Object:
        return self._patiently(lambda: self.inner.get(name))

    def get_if_changed(self, name: str, known: Version) -> Object | None:
        return self._patiently(lambda: self.inner.get_if_changed(name, known))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self._patiently(lambda: self.inner.get_range(name, offset, length))

    def size(self, name: str) -> int:
        return self._patiently(lambda: self.inner.size(name))

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        return self._list(prefix, self.inner.list(prefix, after=after), after)

    def _list(self, prefix: str, entries: Iterator[Entry], after: str) -> Iterator[Entry]:
        """Goes on behind the last name that was told."""
        tries = 0
        while True:
            try:
                for entry in entries:
                    after = entry.name
                    yield entry
                return
            except StoreUnreachable as error:
                self._wait(tries, error)
                tries += 1
                entries = self.inner.list(prefix, after=after)

    def _patiently(self, call: Callable[[], T]) -> T:
        tries = 0
        while True:
            try:
                return call()
            except StoreUnreachable as error:
                self._wait(tries, error)
                tries += 1

    def _wait(self, tries: int, error: StoreUnreachable) -> None:
        waits = BUSY_WAITS if isinstance(error, StoreBusy) else WAITS
        if tries >= len(waits):
            error.tried = error.tried or f"{tries + 1} times in {round(sum(waits))} seconds"
            raise error
        self._sleep(waits[tries])
