from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

from standby.cli.app import run
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
    """Run a command in this process, which saves a start each time, as in a pipe of that width."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": str(columns)}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        status = run([str(argument) for argument in arguments])
    return Done(status, out.getvalue(), err.getvalue())


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
