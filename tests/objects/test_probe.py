"""The probe against stores that lack one property each. A store that lies in any of them is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from standby.objects.base import (
    Conflict,
    Entry,
    Object,
    ObjectStore,
    StoreRefused,
    StoreUnreachable,
    StoreUnsuitable,
    Version,
)
from standby.objects.directory import DirectoryStore
from standby.objects.layers import Layer
from standby.objects.probe import PREFIX, probe
from tests.objects.contract import names
from tests.support.faulty_store import Fault, FaultyStore, Flipped, full, lost, readonly


class OverwritesAlways(Layer):
    """As s3rver 3.7.1 does with If-None-Match."""

    def put_if_absent(self, name: str, data: bytes) -> Version | Conflict:
        self.inner.put(name, data)
        return self.inner.get(name).version


class CallsALossAWin(Layer):
    def put_if_absent(self, name: str, data: bytes) -> Version | Conflict:
        self.inner.put_if_absent(name, data)
        return self.inner.get(name).version


class SwapsAlways(Layer):
    """As s3rver 3.7.1 does with If-Match."""

    def swap(self, name: str, data: bytes, old: Version) -> Version | Conflict:
        self.inner.put(name, data)
        return self.inner.get(name).version


class SwapsWhatIsNotThere(Layer):
    def swap(self, name: str, data: bytes, old: Version) -> Version | Conflict:
        if not names(self.inner, name):
            self.inner.put(name, data)
            return self.inner.get(name).version
        return self.inner.swap(name, data, old)


class SwapsNever(Layer):
    """As obstore's local store does, which has no conditional update."""

    def swap(self, name: str, data: bytes, old: Version) -> Version | Conflict:
        return Conflict(name)


class OneVersionForAll(Layer):
    def put_if_absent(self, name: str, data: bytes) -> Version | Conflict:
        return _same(self.inner.put_if_absent(name, data))

    def swap(self, name: str, data: bytes, old: Version) -> Version | Conflict:
        return _same(self.inner.swap(name, data, self.inner.get(name).version))

    def get(self, name: str) -> Object:
        return Object(self.inner.get(name).data, Version("same"))


def _same(answer: Version | Conflict) -> Version | Conflict:
    return answer if isinstance(answer, Conflict) else Version("same")


class ReadsFromAStaleCache(Layer):
    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self._seen: dict[str, Object] = {}

    def get(self, name: str) -> Object:
        return self._seen.setdefault(name, self.inner.get(name))


class AnswersEveryConditionalGet(Layer):
    def get_if_changed(self, name: str, known: Version) -> Object | None:
        return self.inner.get(name)


class AnswersNoConditionalGet(Layer):
    def get_if_changed(self, name: str, known: Version) -> Object | None:
        return None


class ListsUnsorted(Layer):
    """As obstore's local store does."""

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        return reversed(list(self.inner.list(prefix, after=after)))


class ListsLate(Layer):
    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        return iter(list(self.inner.list(prefix, after=after))[:-1])


class ListsFromTheStart(Layer):
    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        return self.inner.list(prefix)


class KeepsTheDeleted(Layer):
    def delete(self, name: str) -> None:
        return


class IgnoresTheRange(Layer):
    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self.inner.get(name).data


LACKING = [
    (OverwritesAlways, "put_if_absent writes only where nothing is; it silently overwrote"),
    (CallsALossAWin, "put_if_absent .* called the second write a success"),
    (SwapsAlways, "swap replaces only the version it was told; it silently overwrote"),
    (SwapsWhatIsNotThere, "wrote an object that was not there"),
    (SwapsNever, "it refused to replace the version it had told"),
    (OneVersionForAll, "two different contents the same version"),
    (ReadsFromAStaleCache, "get sees what put has written; get answered with older content"),
    (AnswersEveryConditionalGet, "get_if_changed .* although its version was known"),
    (AnswersNoConditionalGet, "did not send the newer version"),
    (ListsUnsorted, "list .* in another order"),
    (ListsLate, "list .* of 4 objects just written it told 3"),
    (ListsFromTheStart, "did not keep to the prefix and the start"),
    (KeepsTheDeleted, "delete removes an object; get still answered"),
    (IgnoresTheRange, "get_range reads exactly the bytes"),
]


@pytest.fixture
def inner(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store", create=True)


@pytest.mark.parametrize(("double", "says"), LACKING, ids=[double.__name__ for double, _ in LACKING])
def test_a_store_that_lacks_a_property_is_refused(inner: DirectoryStore, double: type[Layer], says: str):
    inner.put("vm/replica.json", b"{}")
    with pytest.raises(StoreUnsuitable, match=says) as caught:
        probe(double(inner))
    assert caught.value.subject == inner.url
    assert caught.value.hint
    if double is not KeepsTheDeleted:
        assert names(inner) == ["vm/replica.json"]


def test_a_suitable_store_passes_and_is_left_clean(inner: DirectoryStore):
    probe(inner)
    probe(inner)
    assert names(inner) == []
    assert [path.name for path in Path(inner.url).iterdir()] == ["~standby"]


def test_what_the_store_raises_comes_through(inner: DirectoryStore):
    with pytest.raises(StoreRefused):
        probe(FaultyStore(inner, [Fault("put_if_absent", readonly())]))
    with pytest.raises(StoreUnreachable):
        probe(FaultyStore(inner, [Fault("swap", lost()), Fault("delete", full(), times=None)]))
    assert all(entry.name.startswith(PREFIX) for entry in inner.list(""))


def test_who_may_write_and_not_delete_may_replicate(inner: DirectoryStore):
    probe(FaultyStore(inner, [Fault("delete", readonly(), times=None)]))
    assert len(names(inner, PREFIX)) == 4


def test_lying_bytes_are_refused(inner: DirectoryStore):
    with pytest.raises(StoreUnsuitable):
        probe(FaultyStore(inner, [Fault("get", Flipped(), nth=2)]))
