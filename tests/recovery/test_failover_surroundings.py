"""Test failovers among things that are not theirs, from a store that cannot be written, and from a damaged one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from standby.demo import guest
from standby.hypervisor.host import MachineState
from standby.recovery import failover, run_directory
from standby.recovery.failover import Phase
from standby.recovery.run_directory import NoRecovery
from standby.replica.format import BLOCK
from tests.guest.conftest import BOOT_LIMIT, raw_guest  # noqa: F401 - a fixture
from tests.recovery import bare

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return bare.protect(tmp_path_factory.mktemp("replica"))


@pytest.fixture
def root():
    """Where run directories are; a short path, for the sockets in them. Whatever still runs there is ended."""
    folder = Path(tempfile.mkdtemp(prefix="sb-"))
    yield folder
    for run in run_directory.recoveries(folder):
        failover.clean_up(run, bare.HOST)
    shutil.rmtree(folder)


@pytest.fixture
def started(store, root):
    return failover.start(bare.request(store), root, bare.HOST)


def traces(root: Path, store: Path) -> list[str]:
    """What is left of a test: files, processes, holds."""
    return (
        [str(path) for path in root.iterdir() if path.name != ".lock"] + processes(root) + bare.holds(store)
    )


def processes(root: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if command.startswith(("nbdkit", "qemu")) and str(root) in command:
            found.append(command)
    return found


def test_clean_up_ends_only_what_is_its_own(store, root, started):
    """A process and a directory that look like ours, and a test of another root, stay as they are."""
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
        other = failover.start(bare.request(store), other_root, bare.HOST)
        failover.clean_up(started.run, bare.HOST)
        assert reader.poll() is None
        with pytest.raises(NoRecovery, match="0123456789abcdef: this is no run directory"):
            failover.clean_up(lookalike, bare.HOST)
        assert (lookalike / "precious").read_text() == "x"
        assert failover.machine(other.run, bare.HOST).state() is MachineState.RUNNING
        assert failover.look(other.run, bare.HOST).problems == ()
        failover.clean_up(other.run, bare.HOST)
    finally:
        reader.kill()
        reader.wait()
        for run in run_directory.recoveries(other_root):
            failover.clean_up(run, bare.HOST)
        shutil.rmtree(other_root)
    assert bare.holds(store) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_store_that_cannot_be_written_is_used_without_a_hold(tmp_path, root):
    store = bare.protect(tmp_path)
    mounted = tmp_path / "read-only"
    mounted.mkdir()
    subprocess.run(["mount", "--bind", store, mounted], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", mounted], check=True)
        test = failover.start(bare.request(mounted), root, bare.HOST)
        assert (test.phase, test.held) == (Phase.RUNNING, False)
        failover.clean_up(test.run, bare.HOST)
        assert traces(root, store) == []
    finally:
        # A server of a failed test would keep it busy.
        subprocess.run(["umount", "-l", mounted], check=True)


@pytest.mark.guest
def test_a_damaged_block_is_a_read_error_in_the_guest_and_told(raw_guest, tmp_path, root):  # noqa: F811
    contents = {}
    for index, disk in enumerate(raw_guest.disks):
        content = np.zeros((-(-disk.size // BLOCK), BLOCK), np.uint8)
        content.reshape(-1)[: disk.size] = np.fromfile(disk.path, np.uint8)
        contents[f"disk{index}"] = content
    store = bare.protect_as(tmp_path, raw_guest.describe(bare.MACHINE), contents, raw_guest.boot_files)
    log, blocks = bare.damage(store, "disk1")

    test = failover.start(bare.request(store)._replace(boot_limit=BOOT_LIMIT), root, bare.HOST)
    machine = failover.machine(test.run, bare.HOST)
    outcomes = set()
    for block in [*blocks, max(blocks) + 1]:
        read = f"dd if=/dev/vdb bs=4k skip={block * 16 + 3} count=1 of=/run/page"
        done = machine.execute(["sh", "-c", read], 30)
        outcomes.add(done.status)
        if done.status:
            assert b"Input/output error" in done.errors
        else:
            # Blocks of the frame that the damage did not reach, and the one behind it.
            page = guest.run(machine, "cat /run/page")
            assert page == contents["disk1"][block, 3 * 4096 : 4 * 4096].tobytes(), f"block {block}"
    assert outcomes == {0, 1}

    problems = failover.look(test.run, bare.HOST).problems
    assert problems
    assert all(log in problem.subject and "disk disk1" in problem.subject for problem in problems)
    failover.clean_up(test.run, bare.HOST)
    assert traces(root, store) == []
