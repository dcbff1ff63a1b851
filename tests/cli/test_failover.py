"""The failover commands, on a machine that starts and does not boot."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest

from standby.hypervisor.launch import QemuHost
from standby.recovery import live_view
from tests.cli.conftest import standby
from tests.recovery.conftest import Replica
from tests.recovery.machines import SIZE, bootless, processes

pytestmark = pytest.mark.slow


@pytest.fixture
def state():
    """A short path, for the sockets in it; nothing that runs there is left."""
    folder = Path(tempfile.mkdtemp(prefix="sb-"))
    yield folder
    for shown in json.loads(standby("failover", "list", "--state", folder, "--json").out):
        run = Path(shown["run"])
        (run / "committed.json").unlink(missing_ok=True)
        (run / "merging").unlink(missing_ok=True)
        standby("failover", "cleanup" if shown["phase"] == "running" else "cancel", run, "--yes")
    assert processes(folder) == []
    shutil.rmtree(folder)


def test_the_life_of_a_failover(tmp_path, state):
    replica = Replica(tmp_path)
    first, second = bootless(replica, tmp_path), bootless(replica, tmp_path)
    words = ["failover", "unplanned", replica.root, "web", "--no-agent", "--state", state]
    refused = standby(*words, "--json")
    assert refused.status == 3
    error = json.loads(refused.err)
    assert error["error"] == "SourceUnknown"
    assert "--yes-the-source-is-down" in error["hint"]
    assert standby(*words, "--yes-the-source-is-down", "--network", "the moon").status == 3

    done = standby(*words, "--yes-the-source-is-down", columns=100)
    assert done.status == 0, done.err
    assert "Synchronizing the latest changes: fence done" in done.err
    [shown] = standby("failover", "list", "--state", state, "--json").json
    run = shown["run"]
    assert f"standby failover commit {run}" in done.out
    assert (shown["point"], shown["phase"], shown["state"]) == (second, "failed over", "running")
    assert "said by the operator" in shown["source"]

    asked = standby("failover", "change-point", run, "--point", first)
    assert (asked.status, "--yes" in asked.err, "is lost" in asked.err) == (3, True, True)
    assert (
        standby("failover", "change-point", run, "--point", first, "--yes", "--json").json["point"] == first
    )
    assert standby("failover", "reverse", run).status == 3
    assert standby("failover", "commit", run, "--json").json["phase"] == "committed"
    assert standby("failover", "cancel", run, "--yes").status == 3
    assert "hydrate" in standby("failover", "reverse", run).err
    hydrated = standby("failover", "hydrate", run, "--json")
    assert hydrated.json["whole"] == ["disk0", "disk1"]
    live_view.machine(Path(run), QemuHost()).kill()
    off = standby("failover", "show", run, columns=200)
    assert f"standby failover resume {run} starts it again" in off.out
    assert standby("failover", "resume", run, "--json").json["state"] == "running"
    assert standby("failover", "cleanup", run).status == 3
    live_view.machine(Path(run), QemuHost()).kill()
    assert standby("failover", "cleanup", run).status == 3
    assert standby("failover", "cleanup", run, "--yes").status == 0
    assert standby("failover", "list", "--state", state, "--json").json == []


def test_a_failback_by_its_commands(tmp_path, state):
    replica = Replica(tmp_path)
    bootless(replica, tmp_path)
    for number in (0, 1):
        (tmp_path / f"old{number}").write_bytes(bytes(SIZE))
    disks = [f"disk{number}=raw:{tmp_path / f'old{number}'}" for number in (0, 1)]
    words = ["failover", "failback", replica.root, "web", "--no-agent", "--state", state]
    for wrong in ("disk0", "disk0=raw", "disk0=what:/x", "=raw:/x"):
        assert standby(*words, "--disk", wrong).status == 3
    waiting = standby(*words, "--disk", disks[0], "--disk", disks[1], columns=200)
    assert waiting.status == 0, waiting.err
    assert "waits to be completed" in waiting.out
    [shown] = standby("failover", "list", "--state", state, "--json").json
    assert standby("failover", "complete", shown["run"]).status == 3
    completed = standby("failover", "complete", shown["run"], "--yes-the-source-is-down", "--json")
    assert completed.json["phase"] == "failed over"
    assert not any((tmp_path / "old0").read_bytes())
    assert standby("failover", "commit", shown["run"], "--json").json["phase"] == "committed"
    assert any((tmp_path / "old0").read_bytes())
