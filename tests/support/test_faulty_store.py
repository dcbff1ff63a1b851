from __future__ import annotations

import threading
from pathlib import Path

import pytest

from standby.objects.base import Conflict, ObjectMissing, StoreFull, StoreRefused, StoreUnreachable
from standby.objects.directory import DirectoryStore
from tests.support.faulty_store import (
    Call,
    Effect,
    Fault,
    FaultyStore,
    Flipped,
    Slow,
    Truncated,
    full,
    lost,
    readonly,
    refused,
)


@pytest.fixture
def inner(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store", create=True)


@pytest.mark.parametrize(
    ("effect", "error", "happens"),
    [
        (refused(), StoreUnreachable, False),
        (lost(), StoreUnreachable, True),
        (full(), StoreFull, False),
        (readonly(), StoreRefused, False),
    ],
)
def test_the_named_call_fails_and_only_that(
    inner: DirectoryStore, effect: Effect, error: type[Exception], happens: bool
) -> None:
    store = FaultyStore(inner, [Fault("put_if_absent", effect, prefix="a/", nth=2)])
    store.put_if_absent("a/1", b"1")
    store.put_if_absent("b/1", b"1")
    with pytest.raises(error):
        store.put_if_absent("a/2", b"2")
    assert [entry.name for entry in inner.list("a/2")] == (["a/2"] if happens else [])
    # the same call again meets its own first effect, as it would after a lost answer
    assert isinstance(store.put_if_absent("a/2", b"2"), Conflict) is happens
    assert store.unused() == []


def test_a_fault_lasts_as_long_as_it_says(inner: DirectoryStore) -> None:
    store = FaultyStore(inner, [Fault("put", refused(), times=2), Fault("get", refused(), times=None)])
    for _ in range(2):
        with pytest.raises(StoreUnreachable):
            store.put("a", b"")
    store.put("a", b"")
    for _ in range(5):
        with pytest.raises(StoreUnreachable):
            store.get("a")
    store.heal()
    assert store.get("a").data == b""
    assert store.calls == [("put", "a")] * 3 + [("get", "a")] * 6


def test_an_unused_fault_is_told(inner: DirectoryStore) -> None:
    fault = Fault("swap", lost())
    store = FaultyStore(inner, [fault])
    with pytest.raises(ObjectMissing):
        store.get("a")
    assert store.unused() == [fault]


@pytest.mark.parametrize("late", [False, True])
def test_a_slow_call_waits_for_the_test(inner: DirectoryStore, late: bool) -> None:
    slow = Slow(late=late)
    store = FaultyStore(inner, [Fault("put", slow)])
    thread = threading.Thread(target=store.put, args=("a", b"x"))
    thread.start()
    assert slow.reached.wait(10)
    assert thread.is_alive()
    assert [entry.name for entry in inner.list("")] == (["a"] if late else [])
    slow.go.set()
    thread.join(10)
    assert inner.get("a").data == b"x"


def test_another_writer_may_step_in_between(inner: DirectoryStore) -> None:
    store = FaultyStore(inner, [Fault("put_if_absent", Call(lambda: inner.put_if_absent("a", b"theirs")))])
    assert isinstance(store.put_if_absent("a", b"ours"), Conflict)


def test_a_lying_store_returns_other_bytes(inner: DirectoryStore) -> None:
    inner.put("a", b"\x00\x00\x00")
    store = FaultyStore(
        inner,
        [
            Fault("get", Flipped(1, 0x80)),
            Fault("get_range", Truncated(1)),
            Fault("get_if_changed", Flipped(-1)),
        ],
    )
    known = inner.get("a").version
    assert store.get("a").data == b"\x00\x80\x00"
    assert store.get_range("a", 0, 3) == b"\x00"
    assert store.get_if_changed("a", known) is None
    assert store.get("a").data == b"\x00\x00\x00"
