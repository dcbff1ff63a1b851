"""A writer killed -9 at every failpoint of the directory store: objects are whole or absent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from standby import failpoints
from standby.objects.base import ObjectMissing
from standby.objects.directory import DirectoryStore
from standby.objects.marker import TEMPS, NotAStore
from tests.objects.child import NEW, OLD, OPERATIONS
from tests.objects.contract import names

# failpoint, operation that reaches it, whether the killed call has had its effect by then
KILLS = [
    ("directory.put.written", "put over", False),
    ("directory.put.written", "put new", False),
    ("directory.put.synced", "put over", False),
    ("directory.put.synced", "put new", False),
    ("directory.put.renamed", "put over", True),
    ("directory.put.renamed", "put new", True),
    ("directory.put.durable", "put new", True),
    ("directory.put_if_absent.synced", "put_if_absent", False),
    ("directory.put_if_absent.linked", "put_if_absent", True),
    ("directory.put_if_absent.durable", "put_if_absent", True),
    ("directory.put_file.synced", "put_file new", False),
    ("directory.put_file.linked", "put_file new", True),
    ("directory.put_file.copied", "put_file over", False),
    ("directory.put.renamed", "put_file over", True),
    ("directory.swap.compared", "swap", False),
    ("directory.swap.renamed", "swap", True),
    ("directory.delete.unlinked", "delete", True),
]


def kill_at(failpoint: str, store: Path, operation: str, source: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.objects.child", str(store), operation, str(source)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "STANDBY_FAILPOINT": f"{failpoint}=kill"},
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL


def content(store: DirectoryStore, name: str) -> bytes | None:
    try:
        return store.get(name).data
    except ObjectMissing:
        return None


@pytest.mark.slow
@pytest.mark.parametrize(("failpoint", "operation", "happened"), KILLS)
def test_killed(tmp_path: Path, failpoint: str, operation: str, happened: bool):
    root, source = tmp_path / "store", tmp_path / "sealed"
    source.write_bytes(NEW)
    DirectoryStore(root, create=True).put("a/old", OLD)
    name, action = OPERATIONS[operation]

    kill_at(failpoint, root, operation, source)

    store = DirectoryStore(root)
    before = OLD if name == "a/old" else None
    after = None if operation == "delete" else NEW
    found = content(store, name)
    assert found == (after if happened else before)
    assert names(store) == sorted({"a/old"} - {name} | ({name} if found is not None else set()))

    action(store, name, source)  # the next process does it again
    assert content(store, name) == after
    store.put("another/write", b"")
    assert list((root / TEMPS).iterdir()) == []


@pytest.mark.slow
def test_killed_while_making_the_store(tmp_path: Path):
    kill_at("directory.create.made", tmp_path / "store", "create", tmp_path)
    with pytest.raises(NotAStore):
        DirectoryStore(tmp_path / "store")
    DirectoryStore(tmp_path / "store", create=True).put("a", b"")


def test_every_failpoint_of_the_store_is_killed_at():
    killed = {failpoint for failpoint, _, _ in KILLS} | {"directory.create.made"}
    assert killed == {name for name in failpoints.declared() if name.startswith("directory.")}
