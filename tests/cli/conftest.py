from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from standby.objects.directory import DirectoryStore
from standby.replica.format import BLOCK
from standby.replica.writer import attach, create
from tests.support.replicas import REPLICA, FixedClock, ModelDisk, commit_point, new_id

PROGRAM = Path(sys.executable).parent / "standby"


class Done(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


def standby(*arguments, columns: int = 60) -> Done:
    """Run the program as a shell would, on a narrow terminal's width."""
    done = subprocess.run(
        [PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": str(columns), "TZ": "UTC"},
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def store(tmp_path) -> Path:
    DirectoryStore(tmp_path / "store", create=True)
    return tmp_path / "store"


@pytest.fixture
def disk(store, tmp_path) -> ModelDisk:
    """Replica `web` with three points of one disk, `vda`, each of another block."""
    opened = DirectoryStore(store)
    create(opened, "web", replica=REPLICA, origin="host-a", clock=FixedClock())
    writer = attach(opened, "web", owner="agent", clock=FixedClock(), new_id=new_id)
    disk = ModelDisk("vda", 20 * BLOCK)
    (tmp_path / "spool").mkdir()
    for number in range(3):
        disk.write(number * BLOCK, os.urandom(BLOCK))
        commit_point(writer, [disk], tmp_path / "spool")
    return disk
