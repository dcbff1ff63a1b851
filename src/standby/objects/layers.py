"""Stores around a store: each adds one thing and passes everything else on unchanged."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from standby.objects.base import Conflict, Entry, Object, ObjectStore, StoreRefused, Version


class Layer:
    """Passes every call on to `inner`. Subclasses override the verbs they care for."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner

    @property
    def url(self) -> str:
        return self.inner.url

    def put(self, name: str, data: bytes | memoryview) -> None:
        self.inner.put(name, data)

    def put_file(self, name: str, path: Path) -> None:
        self.inner.put_file(name, path)

    def put_if_absent(self, name: str, data: bytes) -> Version | Conflict:
        return self.inner.put_if_absent(name, data)

    def swap(self, name: str, data: bytes, old: Version) -> Version | Conflict:
        return self.inner.swap(name, data, old)

    def get(self, name: str) -> Object:
        return self.inner.get(name)

    def get_if_changed(self, name: str, known: Version) -> Object | None:
        return self.inner.get_if_changed(name, known)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self.inner.get_range(name, offset, length)

    def size(self, name: str) -> int:
        return self.inner.size(name)

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        return self.inner.list(prefix, after=after)

    def delete(self, name: str) -> None:
        self.inner.delete(name)


class Traffic(NamedTuple):
    """What went over to a store. requests: calls per verb. sent, received: bytes of objects per verb.

    A listing is one request however many pages it takes, and its entries count no bytes. A request is
    counted when it is made, its bytes when it was answered, a conflict's bytes included: they were sent.
    """

    requests: Counter[str]
    sent: Counter[str]
    received: Counter[str]


class Metered(Layer):
    """Counts requests and bytes per verb."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self._lock = threading.Lock()
        self._traffic = Traffic(Counter(), Counter(), Counter())

    def traffic(self) -> Traffic:
        """A copy of the counts since the start or the last `reset`."""
        with self._lock:
            return Traffic(*(counts.copy() for counts in self._traffic))

    def reset(self) -> Traffic:
        """Start again from zero; returns what was counted until now."""
        with self._lock:
            past, self._traffic = self._traffic, Traffic(Counter(), Counter(), Counter())
            return past

    def _request(self, verb: str) -> None:
        with self._lock:
            self._traffic.requests[verb] += 1

    def _sent(self, verb: str, count: int) -> None:
        with self._lock:
            self._traffic.sent[verb] += count

    def _received(self, verb: str, count: int) -> None:
        with self._lock:
            self._traffic.received[verb] += count

    def put(self, name: str, data: bytes | memoryview) -> None:
        self._request("put")
        self.inner.put(name, data)
        self._sent("put", memoryview(data).nbytes)

    def put_file(self, name: str, path: Path) -> None:
        self._request("put_file")
        self.inner.put_file(name, path)
        self._sent("put_file", path.stat().st_size)

    def put_if_absent(self, name: str, data: bytes) -> Version | Conflict:
        self._request("put_if_absent")
        answer = self.inner.put_if_absent(name, data)
        self._sent("put_if_absent", len(data))
        return answer

    def swap(self, name: str, data: bytes, old: Version) -> Version | Conflict:
        self._request("swap")
        answer = self.inner.swap(name, data, old)
        self._sent("swap", len(data))
        return answer

    def get(self, name: str) -> Object:
        self._request("get")
        answer = self.inner.get(name)
        self._received("get", len(answer.data))
        return answer

    def get_if_changed(self, name: str, known: Version) -> Object | None:
        self._request("get_if_changed")
        answer = self.inner.get_if_changed(name, known)
        if answer is not None:
            self._received("get_if_changed", len(answer.data))
        return answer

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        self._request("get_range")
        answer = self.inner.get_range(name, offset, length)
        self._received("get_range", len(answer))
        return answer

    def size(self, name: str) -> int:
        self._request("size")
        return self.inner.size(name)

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        self._request("list")
        return self.inner.list(prefix, after=after)

    def delete(self, name: str) -> None:
        self._request("delete")
        self.inner.delete(name)


class ReadOnly(Layer):
    """Refuses every write with StoreRefused before it is sent, so that opening a replica cannot harm it."""

    def put(self, name: str, data: bytes | memoryview) -> None:
        self._refuse("put", name)

    def put_file(self, name: str, path: Path) -> None:
        self._refuse("put_file", name)

    def put_if_absent(self, name: str, data: bytes) -> Version | Conflict:
        self._refuse("put_if_absent", name)

    def swap(self, name: str, data: bytes, old: Version) -> Version | Conflict:
        self._refuse("swap", name)

    def delete(self, name: str) -> None:
        self._refuse("delete", name)

    def _refuse(self, verb: str, name: str) -> NoReturn:
        raise StoreRefused(
            f"the store was opened for reading only, {verb} was not sent",
            subject=f"{self.url}/{name}",
            hint="open the store for writing to change the replica",
        )
