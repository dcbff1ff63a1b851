from __future__ import annotations

import random
from pathlib import Path

import pytest

from standby.objects.directory import DirectoryStore
from standby.replica.format import BLOCK, PAGE
from standby.replica.writer import attach, create
from tests.support.replicas import REPLICA, FixedClock, ModelDisk, commit_point, new_id

SIZE = 40 * BLOCK + 3 * PAGE


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store", create=True)


@pytest.fixture
def disk(store, tmp_path) -> ModelDisk:
    """Replica `web` with three points of one disk, `vda`."""
    create(store, "web", replica=REPLICA, origin="host-a", clock=FixedClock())
    writer = attach(store, "web", owner="agent", clock=FixedClock(), new_id=new_id)
    rng = random.Random(3)
    disk = ModelDisk("vda", SIZE)
    spool = tmp_path / "spool"
    spool.mkdir()
    for _ in range(3):
        for _ in range(5):
            disk.write(rng.randrange(SIZE - BLOCK), rng.randbytes(rng.choice([512, PAGE, BLOCK])))
        commit_point(writer, [disk], spool)
    return disk


def damage(store: DirectoryStore, root: Path) -> None:
    """Flip a bit in a frame of the newest log."""
    name = [entry.name for entry in store.list("web/logs/")][-1]
    path = root / "store" / name
    data = bytearray(path.read_bytes())
    data[128 + 1000] ^= 1
    path.write_bytes(data)
