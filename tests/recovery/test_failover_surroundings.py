"""Test failovers among things that are not theirs, and from a store that is mounted read-only."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from standby.hypervisor.host import MachineState
from standby.recovery import failover, run_directory
from standby.recovery.failover import Phase, Request
from standby.recovery.run_directory import NoRecovery
from tests.recovery.conftest import HOST, NAME
from tests.recovery.machines import assert_nothing_left, bootless

pytestmark = pytest.mark.slow


def request(store: Path) -> Request:
    return Request(str(store), NAME, boot_limit=None)


def test_clean_up_ends_only_what_is_its_own(replica, root, tmp_path):
    """A process and a directory that look like ours, and a test of another root, stay as they are."""
    bootless(replica, tmp_path)
    started = failover.start(request(replica.root), root, HOST)
    other_root = Path(tempfile.mkdtemp(prefix="sb-"))
    reader = subprocess.Popen(
        ["tail", "-f", f"{started.run}/machine/qemu.log", f"{started.run}/0.nbd"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    lookalike = root / "0123456789abcdef"
    lookalike.mkdir()
    (lookalike / "precious").write_text("x")
    try:
        other = failover.start(request(replica.root), other_root, HOST)
        failover.clean_up(started.run, HOST)
        assert reader.poll() is None
        with pytest.raises(NoRecovery, match="0123456789abcdef: this is no run directory"):
            failover.clean_up(lookalike, HOST)
        assert (lookalike / "precious").read_text() == "x"
        assert failover.machine(other.run, HOST).state() is MachineState.RUNNING
        assert failover.look(other.run, HOST).problems == ()
        failover.clean_up(other.run, HOST)
        assert_nothing_left(replica, other_root)
    finally:
        reader.kill()
        reader.wait()
        for run in run_directory.recoveries(other_root):
            failover.clean_up(run, HOST)
        shutil.rmtree(other_root)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_store_that_is_mounted_read_only_is_used_without_a_hold(replica, root, tmp_path):
    bootless(replica, tmp_path)
    mounted = tmp_path / "read-only"
    mounted.mkdir()
    subprocess.run(["mount", "--bind", replica.root, mounted], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", mounted], check=True)
        test = failover.start(request(mounted), root, HOST)
        assert (test.phase, test.held) == (Phase.RUNNING, False)
        failover.clean_up(test.run, HOST)
        assert_nothing_left(replica, root)
    finally:
        # A server of a failed test would keep it busy.
        subprocess.run(["umount", "-l", mounted], check=True)
