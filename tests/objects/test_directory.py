"""The directory store: the contract, and what only a directory has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from standby.errors import Damaged, InvalidRequest, NeedsPerson
from standby.objects import directory, durable
from standby.objects.base import Conflict, StoreUnreachable, StoreUnsuitable
from standby.objects.directory import DirectoryStore
from standby.objects.marker import LOCKS, MARKER, TEMPS, NotAStore
from standby.objects.names import InvalidName
from tests.objects.contract import StoreContract, names


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> DirectoryStore:
    return DirectoryStore(root, create=True)


class TestDirectoryStore(StoreContract):
    @pytest.fixture
    def store(self, root: Path) -> DirectoryStore:
        return DirectoryStore(root, create=True)


def inside(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def temps(root: Path) -> list[str]:
    return inside(root / TEMPS)


def test_opening_wants_the_marker_and_writes_nothing(tmp_path: Path):
    with pytest.raises(NotAStore, match="findmnt --target"):
        DirectoryStore(tmp_path)
    assert inside(tmp_path) == []
    with pytest.raises(NotAStore):
        DirectoryStore(tmp_path / "missing")


def test_creating_twice_keeps_what_is_there(root: Path):
    DirectoryStore(root, create=True).put("a", b"1")
    assert DirectoryStore(root, create=True).get("a").data == b"1"
    assert DirectoryStore(root).get("a").data == b"1"


def test_creating_takes_a_new_file_system(root: Path):
    (root / "lost+found").mkdir(parents=True)
    store = DirectoryStore(root, create=True)
    assert names(store) == []


def test_creating_refuses_a_directory_in_use(root: Path):
    root.mkdir()
    (root / "letter.txt").write_text("dear")
    with pytest.raises(InvalidRequest, match=r"letter\.txt"):
        DirectoryStore(root, create=True)
    assert inside(root) == ["letter.txt"]


def test_creating_makes_no_parents(root: Path):
    with pytest.raises(InvalidRequest, match="mkdir -p"):
        DirectoryStore(root / "deeper", create=True)
    assert not root.exists()


def test_a_newer_store_is_refused(store: DirectoryStore, root: Path):
    (root / MARKER).write_text('{"kind":"standby directory store","format":2}')
    with pytest.raises(NeedsPerson, match="newer standby"):
        DirectoryStore(root)


@pytest.mark.parametrize("content", ["", "{}", '{"kind":"something else","format":1}'])
def test_a_damaged_marker_is_told(store: DirectoryStore, root: Path, content: str):
    (root / MARKER).write_text(content)
    with pytest.raises(Damaged, match="marker"):
        DirectoryStore(root)


def test_a_name_is_not_the_start_of_anothers(store: DirectoryStore):
    store.put("a/b", b"")
    for name in ("a", "a/b/c", "a/b/c/d"):
        with pytest.raises(InvalidName, match="directory"):
            store.put(name, b"")
        with pytest.raises(InvalidName, match="directory"):
            store.put_if_absent(name, b"")
    assert names(store) == ["a/b"]


def test_what_nfs_leaves_is_no_object(store: DirectoryStore, root: Path):
    store.put("a/b", b"")
    (root / "a/.nfs0000000000000001").write_bytes(b"")
    assert names(store) == ["a/b"]
    with pytest.raises(InvalidName, match="NFS"):
        store.put("a/.nfs1", b"")


def test_put_file_links_on_the_same_file_system(store: DirectoryStore, root: Path, tmp_path: Path):
    source = tmp_path / "sealed"
    source.write_bytes(b"log")
    source.chmod(0o600)
    store.put_file("a/log", source)
    assert (root / "a/log").samefile(source)
    assert (root / "a/log").stat().st_mode == (root / MARKER).stat().st_mode
    assert temps(root) == []


def test_put_file_copies_another_users_file(
    store: DirectoryStore, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = tmp_path / "sealed"
    source.write_bytes(b"log")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    store.put_file("a/log", source)
    assert not (root / "a/log").samefile(source)
    assert store.get("a/log").data == b"log"


def test_put_file_copies_where_links_are_refused(
    store: DirectoryStore, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = tmp_path / "sealed"
    source.write_bytes(b"log")

    def refuse(*arguments: object) -> bool:
        raise OSError(next(iter(directory._UNLINKABLE)), "refused")

    monkeypatch.setattr(directory, "_link_new", refuse)
    store.put_file("a/log", source)
    assert store.get("a/log").data == b"log"
    assert source.stat().st_nlink == 1
    assert temps(root) == []


def test_put_file_tells_which_file_is_missing(store: DirectoryStore, tmp_path: Path):
    with pytest.raises(InvalidRequest, match="nothing-here"):
        store.put_file("a", tmp_path / "nothing-here")


def test_a_lost_answer_to_our_own_link_is_a_win(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch):
    """NFS: the link was made, the request repeated, and the answer to the repetition says that it exists."""
    link = os.link

    def repeated(*arguments, **keywords):
        link(*arguments, **keywords)
        link(*arguments, **keywords)

    monkeypatch.setattr(os, "link", repeated)
    assert not isinstance(store.put_if_absent("a", b"1"), Conflict)
    assert isinstance(store.put_if_absent("a", b"1"), Conflict)


def test_a_dead_writers_temp_goes_and_a_living_ones_stays(root: Path):
    DirectoryStore(root, create=True)
    (root / TEMPS / "dead").write_bytes(b"half an obj")
    with (
        durable.opened(str(root), os.O_RDONLY) as fd,
        durable.temp_file(fd, TEMPS) as living,
    ):
        store = DirectoryStore(root)
        assert names(store) == []
        store.put("a", b"")
        assert temps(root) == [living.path.rpartition("/")[2]]
    assert temps(root) == []


def test_a_temp_removed_under_its_writer_fails_the_write(
    store: DirectoryStore, root: Path, monkeypatch: pytest.MonkeyPatch
):
    """What a lock lost by a network file system could lead to: no object, and a call to make again."""
    write_all = durable.write_all

    def lose_the_temp(fd: int, data: bytes) -> None:
        write_all(fd, data)
        for name in temps(root):
            (root / TEMPS / name).unlink()

    monkeypatch.setattr(durable, "write_all", lose_the_temp)
    for call in (store.put, store.put_if_absent):
        with pytest.raises(StoreUnreachable, match="ENOENT"):
            call("a", b"x")
    assert names(store) == []


def test_a_stopped_holder_of_the_lock_is_not_waited_for_for_ever(
    store: DirectoryStore, root: Path, monkeypatch: pytest.MonkeyPatch
):
    version = store.put_if_absent("head", b"1")
    assert not isinstance(version, Conflict)
    monkeypatch.setattr(durable, "LOCK_PATIENCE", 0.02)
    with (
        durable.opened(str(root), os.O_RDONLY) as fd,
        durable.locked(fd, f"{LOCKS}/{directory.lock_of('head')}", exclusive=True),
    ):
        with pytest.raises(StoreUnreachable, match="lock"):
            store.swap("head", b"2", version)
        assert store.get("head").data == b"1"
    assert not isinstance(store.swap("head", b"2", version), Conflict)


def test_directories_removed_by_hand_are_made_again(store: DirectoryStore, root: Path):
    store.put("a/b/c", b"1")
    (root / "a/b/c").unlink()
    (root / "a/b").rmdir()
    with pytest.raises(StoreUnreachable):
        store.put("a/b/c", b"2")
    store.put("a/b/c", b"2")
    assert store.get("a/b/c").data == b"2"


@pytest.mark.parametrize("away", [True, False])
def test_a_store_that_went_away_is_unreachable_not_empty(
    store: DirectoryStore, root: Path, tmp_path: Path, away: bool
):
    store.put("a", b"1")
    version = store.get("a").version
    root.rename(tmp_path / "elsewhere")
    if not away:
        root.mkdir()  # an empty mount point
    calls = [
        lambda: store.put("a", b"2"),
        lambda: store.put("b/c", b"2"),
        lambda: store.put_if_absent("b", b"2"),
        lambda: store.put_file("b", tmp_path / "elsewhere/a"),
        lambda: store.swap("a", b"2", version),
        lambda: store.get("a"),
        lambda: store.get_if_changed("a", version),
        lambda: store.get_range("a", 0, 1),
        lambda: store.size("a"),
        lambda: names(store),
        lambda: store.delete("a"),
    ]
    for call in calls:
        with pytest.raises(StoreUnreachable, match=r"not mounted.*findmnt"):
            call()
    assert away or inside(root) == []


def test_another_file_system_inside_the_store_is_named(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
):
    def cross(*arguments: object, **keywords: object) -> None:
        raise OSError(18, os.strerror(18))

    monkeypatch.setattr(os, "rename", cross)
    with pytest.raises(StoreUnsuitable, match="mounted inside"):
        store.put("a", b"")
