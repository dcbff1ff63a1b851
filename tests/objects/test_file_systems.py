"""The directory store on real file systems that are full, read-only, or not mounted. Needs root to mount."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from standby.objects import durable
from standby.objects.base import Conflict, StoreFull, StoreRefused, StoreUnreachable, StoreUnsuitable
from standby.objects.directory import DirectoryStore
from standby.objects.marker import TEMPS, NotAStore
from standby.objects.probe import probe
from tests.objects.contract import names

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting file systems needs root"),
]


EXT4_IOC_SHUTDOWN = 0x8004587D


def run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True, timeout=60)


def mount_ext4(image: Path, place: Path, options: str = "loop") -> None:
    run("mount", "-o", options, image, place)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A mount point; whatever a test mounted there is unmounted."""
    place = tmp_path / "mnt"
    place.mkdir()
    yield place
    while os.path.ismount(place):
        run("umount", place)


@pytest.fixture
def ext4(tmp_path: Path, place: Path) -> Path:
    """The image of a 4 MiB ext4, mounted at `place`."""
    image = tmp_path / "ext4.img"
    with image.open("wb") as file:
        file.truncate(4 << 20)
    run("mkfs.ext4", "-q", "-m", "0", image)
    mount_ext4(image, place)
    return image


@pytest.fixture
def tmpfs(place: Path) -> Path:
    run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place)
    return place


@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_full(request: pytest.FixtureRequest, kind: str, place: Path, tmp_path: Path):
    request.getfixturevalue(kind)
    store = DirectoryStore(place, create=True)
    version = store.put_if_absent("head", b"1" * 10_000)
    assert not isinstance(version, Conflict)
    big = tmp_path / "big"
    big.write_bytes(os.urandom(8 << 20))
    for write in (
        lambda: store.put("a/big", big.read_bytes()),
        lambda: store.put("head", big.read_bytes()),
        lambda: store.put_if_absent("a/big", big.read_bytes()),
        lambda: store.put_file("a/big", big),
        lambda: store.swap("head", big.read_bytes(), version),
    ):
        with pytest.raises(StoreFull, match=r"ENOSPC.*free space"):
            write()
        assert names(store) == ["head"]
        assert list((place / TEMPS).iterdir()) == []
    # The space is free again, so the store works on.
    assert not isinstance(store.swap("head", b"2" * 10_000, version), Conflict)
    probe(store)


def test_full_of_names(tmpfs: Path):
    """No inodes are left: nothing is written under any name, and deleting works."""
    run("mount", "-o", "remount,nr_inodes=40", tmpfs)
    store = DirectoryStore(tmpfs, create=True)

    def fill() -> None:
        for number in range(60):
            store.put(f"{number:02d}/x", b"")

    with pytest.raises(StoreFull):
        fill()
    written = names(store)
    assert written == [f"{number:02d}/x" for number in range(len(written))]
    store.delete("00/x")
    store.put("01/y", b"")


def test_read_only(ext4: Path, place: Path, tmp_path: Path):
    store = DirectoryStore(place, create=True)
    store.put("a", b"1")
    version = store.get("a").version
    source = tmp_path / "file"
    source.write_bytes(b"2")
    run("mount", "-o", "remount,ro", place)
    for use in (store, DirectoryStore(place)):
        for write in (
            lambda use=use: use.put("a", b"2"),
            lambda use=use: use.put_if_absent("b", b"2"),
            lambda use=use: use.put_file("b", source),
            lambda use=use: use.swap("a", b"2", version),
            lambda use=use: use.delete("a"),
        ):
            with pytest.raises(StoreRefused, match=r"EROFS.*mount options"):
                write()
        assert use.get("a").data == b"1"
        assert names(use) == ["a"]
    run("mount", "-o", "remount,rw", place)
    store.put("a", b"2")


def test_unmounted_and_mounted_again(ext4: Path, place: Path):
    store = DirectoryStore(place, create=True)
    store.put("a", b"1")
    run("umount", place)  # nothing of the store keeps the file system busy between two calls
    with pytest.raises(StoreUnreachable, match="not mounted"):
        store.put("a", b"2")
    with pytest.raises(StoreUnreachable, match="not mounted"):
        names(store)
    with pytest.raises(NotAStore):
        DirectoryStore(place)
    assert list(place.iterdir()) == []
    mount_ext4(ext4, place)
    assert names(store) == ["a"]
    store.put("b", b"2")


def test_put_file_from_another_file_system(ext4: Path, place: Path, tmp_path: Path):
    store = DirectoryStore(place, create=True)
    source = tmp_path / "sealed"
    source.write_bytes(os.urandom(1_000_000))
    store.put_file("logs/1/x.hrl", source)
    assert store.get("logs/1/x.hrl").data == source.read_bytes()
    assert source.stat().st_nlink == 1


def test_a_file_system_mounted_inside_the_store_is_refused(tmp_path: Path, place: Path):
    store = DirectoryStore(tmp_path / "store", create=True)
    store.put("vm/a", b"")
    run("mount", "-t", "tmpfs", "tmpfs", tmp_path / "store/vm")
    try:
        for write in (store.put, store.put_if_absent):
            with pytest.raises(StoreUnsuitable, match="mounted inside the store"):
                write("vm/a", b"")
    finally:
        run("umount", tmp_path / "store/vm")


def test_a_device_that_fails(ext4: Path, place: Path):
    """ext4 shut down under the store, as after an I/O error: to be tried again, nothing pretended."""
    store = DirectoryStore(place, create=True)
    store.put("a", b"1")
    with durable.opened(str(place), os.O_RDONLY) as fd:
        fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", 2))  # 2: without writing the journal first
    for write in (store.put, store.put_if_absent):
        with pytest.raises(StoreUnreachable, match="EIO"):
            write("a", b"2")
