from __future__ import annotations

from pathlib import Path

import pytest

from standby.objects.directory import DirectoryStore
from standby.replica.writer import Writer, attach, create
from tests.support.replicas import REPLICA, FixedClock, new_id


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store", create=True)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    path = tmp_path / "spool"
    path.mkdir()
    return path


@pytest.fixture
def writer(store: DirectoryStore) -> Writer:
    create(store, "web", replica=REPLICA, origin="host-a", clock=FixedClock())
    return attach(store, "web", owner="agent@host-a", clock=FixedClock(), new_id=new_id)
