"""What every ObjectStore has to do, whatever it is made of.

A test module of a store derives from `StoreContract` and gives a fixture `store` with an empty store:

    class TestDirectoryStore(StoreContract):
        @pytest.fixture
        def store(self, tmp_path): ...
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from standby.errors import Damaged
from standby.objects.base import Conflict, Entry, ObjectMissing, ObjectStore, Version
from standby.objects.names import InvalidName
from standby.objects.probe import PREFIX, probe

# In S3's order, which is that of the bytes: - . / 0-9 A-Z _ a-z
ORDERED = [
    "A",
    "a-b",
    "a-c/d",
    "a.b",
    "a/-",
    "a/b/c",
    "a/b/d",
    "a/b.c",
    "a/b0",
    "a0",
    "a_b",
    "aa",
    "b/A",
    "b/a",
]
ORDERED.sort()

CALLS: dict[str, Callable[[ObjectStore, str], object]] = {
    "put": lambda store, name: store.put(name, b""),
    "put_if_absent": lambda store, name: store.put_if_absent(name, b""),
    "swap": lambda store, name: store.swap(name, b"", Version("x")),
    "get": lambda store, name: store.get(name),
    "get_if_changed": lambda store, name: store.get_if_changed(name, Version("x")),
    "get_range": lambda store, name: store.get_range(name, 0, 1),
    "size": lambda store, name: store.size(name),
    "delete": lambda store, name: store.delete(name),
}


def names(store: ObjectStore, prefix: str = "", after: str = "") -> list[str]:
    return [entry.name for entry in store.list(prefix, after=after)]


class StoreContract:
    @pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 5000])
    def test_what_was_put_is_there_whole(self, store: ObjectStore, data: bytes):
        store.put("a/b", data)
        assert store.get("a/b").data == data
        assert store.size("a/b") == len(data)
        assert list(store.list("")) == [Entry("a/b", len(data))]

    def test_put_replaces(self, store: ObjectStore):
        store.put("a", b"older and longer")
        store.put("a", b"new")
        assert store.get("a").data == b"new"

    def test_put_takes_a_view_of_any_shape(self, store: ObjectStore):
        store.put("a", memoryview(bytearray(b"0123456789"))[2:5])
        store.put("b", memoryview(bytearray(8)).cast("Q"))
        assert store.get("a").data == b"234"
        assert store.get("b").data == bytes(8)

    def test_put_file(self, store: ObjectStore, tmp_path: Path):
        source = tmp_path / "sealed"
        source.write_bytes(b"log" * 100_000)
        store.put_file("logs/1/x.hrl", source)
        store.put_file("logs/1/x.hrl", source)  # again, as after a lost answer
        source.unlink()
        assert store.get("logs/1/x.hrl").data == b"log" * 100_000
        other = tmp_path / "other"
        other.write_bytes(b"other")
        store.put_file("logs/1/x.hrl", other)
        assert store.get("logs/1/x.hrl").data == b"other"
        assert names(store) == ["logs/1/x.hrl"]

    def test_put_if_absent_writes_once(self, store: ObjectStore):
        version = store.put_if_absent("p/1", b"first")
        assert not isinstance(version, Conflict)
        assert store.put_if_absent("p/1", b"second") == Conflict("p/1")
        assert store.put_if_absent("p/1", b"first") == Conflict("p/1")
        assert store.get("p/1") == (b"first", version)

    def test_a_deleted_name_is_absent(self, store: ObjectStore):
        store.put("a", b"1")
        store.delete("a")
        assert not isinstance(store.put_if_absent("a", b"2"), Conflict)

    def test_swap_wants_the_newest_version(self, store: ObjectStore):
        first = store.put_if_absent("head", b"1")
        assert not isinstance(first, Conflict)
        second = store.swap("head", b"2", first)
        assert not isinstance(second, Conflict)
        assert second != first
        assert store.swap("head", b"3", first) == Conflict("head")
        assert store.get("head") == (b"2", second)
        assert not isinstance(store.swap("head", b"3", second), Conflict)

    def test_swap_of_what_is_gone_is_a_conflict(self, store: ObjectStore):
        version = store.put_if_absent("head", b"1")
        assert not isinstance(version, Conflict)
        store.delete("head")
        assert store.swap("head", b"2", version) == Conflict("head")
        assert store.swap("never/was", b"2", version) == Conflict("never/was")
        assert names(store) == []

    def test_a_put_between_makes_the_swap_a_conflict(self, store: ObjectStore):
        store.put("head", b"1")
        version = store.get("head").version
        store.put("head", b"2")
        assert store.swap("head", b"3", version) == Conflict("head")

    def test_get_if_changed(self, store: ObjectStore):
        store.put("head", b"1")
        known = store.get("head").version
        assert store.get_if_changed("head", known) is None
        new = store.swap("head", b"2", known)
        assert store.get_if_changed("head", known) == (b"2", new)
        store.delete("head")
        with pytest.raises(ObjectMissing):
            store.get_if_changed("head", known)

    def test_versions_follow_every_swap_however_quick(self, store: ObjectStore):
        version = store.put_if_absent("head", b"0")
        for number in range(1, 50):
            assert not isinstance(version, Conflict)
            known, version = version, store.swap("head", b"%d" % number, version)
            assert store.get_if_changed("head", known) == (b"%d" % number, version)

    def test_get_range_is_exact(self, store: ObjectStore):
        data = bytes(range(256)) * 1000
        store.put("a", data)
        for offset, length in [(0, 1), (0, len(data)), (len(data) - 7, 7), (1000, 65536), (3, 0)]:
            assert store.get_range("a", offset, length) == data[offset : offset + length]

    @pytest.mark.parametrize(("offset", "length"), [(0, 11), (10, 1), (9, 2), (100, 1)])
    def test_a_range_past_the_end_is_damage(self, store: ObjectStore, offset: int, length: int):
        store.put("a", b"0123456789")
        with pytest.raises(Damaged, match="a"):
            store.get_range("a", offset, length)

    @pytest.mark.parametrize("verb", ["get", "get_if_changed", "get_range", "size"])
    def test_what_is_not_there_is_missing_by_name(self, store: ObjectStore, verb: str):
        store.put("a/b/c", b"")
        for name in ("x", "x/y", "a/b", "a/b/x", "a/b/c/d"):
            with pytest.raises(ObjectMissing, match=name):
                CALLS[verb](store, name)

    def test_delete_is_the_same_twice(self, store: ObjectStore):
        store.put("a/b", b"")
        for name in ("a/b", "a/b", "a", "never/was"):
            store.delete(name)
        assert names(store) == []

    def test_list_is_sorted_by_whole_names(self, store: ObjectStore):
        for name in reversed(ORDERED):
            store.put(name, name.encode())
        assert list(store.list("")) == [Entry(name, len(name)) for name in ORDERED]

    def test_list_keeps_to_prefix_and_start(self, store: ObjectStore):
        for name in ORDERED:
            store.put(name, b"")
        for prefix in ("a", "a/", "a/b", "a/b/", "a-", "a-c/", "b", "x", "x/y", "A", "a/b/c", "a/b/c/"):
            for after in ("", "a", "a-b", "a-c/", "a/", "a/b", "a/b/c", "a/b0", "a0", "zz", "A"):
                expected = [name for name in ORDERED if name.startswith(prefix) and name > after]
                assert names(store, prefix, after) == expected, (prefix, after)

    def test_list_pages_through_many(self, store: ObjectStore):
        expected = [f"p/{number:020d}" for number in range(1200)]
        threads = [
            threading.Thread(target=lambda part=part: [store.put_if_absent(name, b"") for name in part])
            for part in (expected[::2], expected[1::2])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert names(store, "p/") == expected
        assert names(store, "p/", after=expected[1100]) == expected[1101:]

    @pytest.mark.parametrize("verb", CALLS)
    @pytest.mark.parametrize(
        "name", ["", "/", "a//b", "/a", "a/", ".", "a/../b", "a b", "ä", "a\n", "~x", "x" * 256]
    )
    def test_no_call_takes_an_invalid_name(self, store: ObjectStore, verb: str, name: str):
        with pytest.raises(InvalidName):
            CALLS[verb](store, name)
        assert names(store) == []

    @pytest.mark.parametrize("prefix", ["/", "a//", "../", "a/../b", "~"])
    def test_list_refuses_an_invalid_prefix_at_once(self, store: ObjectStore, prefix: str):
        with pytest.raises(InvalidName):
            store.list(prefix)
        with pytest.raises(InvalidName):
            store.list("", after=prefix)

    def test_one_of_many_threads_wins(self, store: ObjectStore):
        """Put-if-absent and swap of one name by eight threads, again and again."""
        barrier = threading.Barrier(8)
        rounds = 12
        wins: list[tuple[str, int, int]] = []

        def work(worker: int) -> None:
            for number in range(rounds):
                mine = b"%d of %d" % (number, worker)
                barrier.wait(60)
                if not isinstance(store.put_if_absent(f"p/{number}", mine), Conflict):
                    wins.append(("put", number, worker))
                barrier.wait(60)
                known = store.get(f"p/{number}").version
                barrier.wait(60)
                if not isinstance(store.swap(f"p/{number}", b"swapped " + mine, known), Conflict):
                    wins.append(("swap", number, worker))

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted((verb, number) for verb, number, _ in wins) == sorted(
            (verb, number) for verb in ("put", "swap") for number in range(rounds)
        )
        for verb, number, worker in wins:
            if verb == "swap":
                assert store.get(f"p/{number}").data == b"swapped %d of %d" % (number, worker)

    def test_the_probe_finds_it_suitable_and_leaves_nothing(self, store: ObjectStore):
        probe(store)
        assert names(store, PREFIX) == []
