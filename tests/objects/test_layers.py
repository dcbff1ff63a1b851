from __future__ import annotations

from pathlib import Path

import pytest

from standby.objects.base import Conflict, ObjectMissing, StoreRefused, StoreUnreachable, Version
from standby.objects.directory import DirectoryStore
from standby.objects.layers import Metered, ReadOnly
from standby.objects.patient import PatientReads
from tests.objects.contract import StoreContract, names
from tests.support.faulty_store import Fault, FaultyStore, lost


class TestMetered(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Metered:
        return Metered(DirectoryStore(tmp_path / "store", create=True))


class TestPatientReads(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> PatientReads:
        return PatientReads(DirectoryStore(tmp_path / "store", create=True))


class TestFaultyWithoutFaults(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FaultyStore:
        return FaultyStore(DirectoryStore(tmp_path / "store", create=True))


@pytest.fixture
def inner(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store", create=True)


def test_metered_counts_requests_and_bytes(inner: DirectoryStore, tmp_path: Path):
    store = Metered(inner)
    (tmp_path / "file").write_bytes(b"12345")
    store.put("a", memoryview(bytearray(16)).cast("Q"))
    store.put_file("f", tmp_path / "file")
    version = store.put_if_absent("h", b"1")
    assert not isinstance(version, Conflict)
    store.put_if_absent("h", b"12")
    version = store.swap("h", b"123", version)
    assert not isinstance(version, Conflict)
    store.get("a")
    store.get_if_changed("h", version)
    store.get_if_changed("h", Version("other"))
    store.get_range("a", 2, 4)
    store.size("a")
    names(store)
    store.delete("a")
    with pytest.raises(ObjectMissing):
        store.get("a")
    past = store.reset()
    assert dict(past.requests) == {
        "put": 1,
        "put_file": 1,
        "put_if_absent": 2,
        "swap": 1,
        "get": 2,
        "get_if_changed": 2,
        "get_range": 1,
        "size": 1,
        "list": 1,
        "delete": 1,
    }
    assert dict(past.sent) == {"put": 16, "put_file": 5, "put_if_absent": 3, "swap": 3}
    assert dict(past.received) == {"get": 16, "get_if_changed": 3, "get_range": 4}
    assert store.traffic().requests.total() == 0


def test_metered_counts_a_request_without_an_answer(inner: DirectoryStore):
    store = Metered(FaultyStore(inner, [Fault("put", lost())]))
    with pytest.raises(StoreUnreachable):
        store.put("a", b"1234")
    assert store.traffic().requests["put"] == 1
    assert store.traffic().sent["put"] == 0


def test_read_only_sends_no_write(inner: DirectoryStore, tmp_path: Path):
    inner.put("a", b"1")
    meter = Metered(inner)
    store = ReadOnly(meter)
    version = store.get("a").version
    for write in (
        lambda: store.put("a", b"2"),
        lambda: store.put_file("a", tmp_path / "file"),
        lambda: store.put_if_absent("b", b"2"),
        lambda: store.swap("a", b"2", version),
        lambda: store.delete("a"),
    ):
        with pytest.raises(StoreRefused, match=r"store/[ab]: the store was opened for reading only"):
            write()
    assert meter.traffic().requests == {"get": 1}
    assert store.get_if_changed("a", version) is None
    assert store.get_range("a", 0, 1) == b"1"
    assert store.size("a") == 1
    assert names(store) == ["a"]
    assert store.url == inner.url
