"""The order of syncs: bytes before their name, a name before the answer. What a power cut would show."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from standby.objects import durable
from standby.objects.base import Conflict
from standby.objects.directory import DirectoryStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> DirectoryStore:
    return DirectoryStore(root, create=True)


@pytest.fixture
def steps(root: Path, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What the store does to the file system, as (call, what), temps as `tmp`."""
    seen: list[tuple[str, str]] = []

    def short(path: str) -> str:
        path = os.path.relpath(path, root) if path.startswith("/") else path
        return "tmp" if path.startswith("~standby/tmp/") else path

    def watch(name: str, what: Callable[..., str]) -> None:
        real = getattr(os, name)

        def call(*arguments, **keywords):
            answer = real(*arguments, **keywords)
            seen.append((name, what(*arguments)))
            return answer

        monkeypatch.setattr(os, name, call)

    watch("fsync", lambda fd: short(str(Path(f"/proc/self/fd/{fd}").readlink())))
    for name in ("link", "rename"):
        watch(name, lambda source, target: f"{short(source)} {target}")
    watch("mkdir", lambda path, mode=0: path)
    return seen


def test_put(store: DirectoryStore, steps: list[tuple[str, str]]):
    store.put("a/b/c", b"x")
    assert steps == [
        ("fsync", "tmp"),
        ("mkdir", "a"),
        ("fsync", "."),
        ("mkdir", "a/b"),
        ("fsync", "a"),
        ("rename", "tmp a/b/c"),
        ("fsync", "a/b"),
    ]
    steps.clear()
    store.put("a/b/d", b"x")
    assert steps == [("fsync", "tmp"), ("rename", "tmp a/b/d"), ("fsync", "a/b")]


def test_directories_of_others_are_made_durable_once(
    root: Path, store: DirectoryStore, steps: list[tuple[str, str]]
):
    """Whoever made them may have been killed between mkdir and fsync."""
    (root / "a/b").mkdir(parents=True)
    steps.clear()
    store.put("a/b/c", b"x")
    assert [what for call, what in steps if call == "fsync"] == ["tmp", ".", "a", "a/b"]


def test_put_if_absent_and_its_conflict(store: DirectoryStore, steps: list[tuple[str, str]]):
    store.put_if_absent("a", b"x")
    assert steps == [("fsync", "tmp"), ("link", "tmp a"), ("fsync", ".")]
    steps.clear()
    assert isinstance(store.put_if_absent("a", b"x"), Conflict)
    assert steps == [("fsync", "tmp"), ("fsync", ".")]


def test_swap_and_its_conflict(store: DirectoryStore, steps: list[tuple[str, str]]):
    store.put("a", b"1")
    old = store.get("a").version
    steps.clear()
    store.swap("a", b"2", old)
    assert steps == [("fsync", "tmp"), ("rename", "tmp a"), ("fsync", ".")]
    steps.clear()
    assert isinstance(store.swap("a", b"3", old), Conflict)
    assert steps[-1] == ("fsync", ".")


def test_put_file_and_delete(store: DirectoryStore, steps: list[tuple[str, str]], tmp_path: Path):
    source = tmp_path / "sealed"
    source.write_bytes(b"log")
    store.put_file("log", source)
    assert steps == [("fsync", "../sealed"), ("link", "../sealed log"), ("fsync", ".")]
    steps.clear()
    store.delete("log")
    store.delete("log")
    assert steps == [("fsync", "."), ("fsync", ".")]


def test_a_file_and_a_directory_elsewhere(root: Path, steps: list[tuple[str, str]]):
    (root.parent / "file").touch()
    durable.sync(root.parent / "file")
    durable.sync(root.parent)
    assert steps == [("fsync", "../file"), ("fsync", "..")]
