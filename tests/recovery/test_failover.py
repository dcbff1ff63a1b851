"""Test failover of a real guest: booted from the store, checked, and removed without a trace."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from standby import failpoints
from standby.demo import guest
from standby.hypervisor.host import MachineState
from standby.hypervisor.launch import QemuHost
from standby.objects.directory import DirectoryStore
from standby.recovery import failover, run_directory, serving
from standby.recovery.failover import Phase, Request, TestInProgress
from standby.replica.journal import ReplicaLog
from tests.guest.conftest import BOOT_LIMIT, small_guest  # noqa: F401 - a fixture
from tests.hypervisor.processes import Daemon, wait_for
from tests.replication.rig import Rig

pytestmark = pytest.mark.guest


class Described:
    """A hypervisor whose disks a storage daemon serves, described as the guest that boots from them."""

    def __init__(self, inner, description, boot_files) -> None:
        self._inner, self._description, self._files = inner, description, boot_files

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def describe(self, machine):
        return self._description

    def boot_files(self, machine):
        return self._files


@pytest.fixture(scope="module")
def store(small_guest, tmp_path_factory) -> Path:  # noqa: F811
    """The path of a store with one point of the small guest, as replica `vm`."""
    folder = tmp_path_factory.mktemp("protected")
    formats = {}
    for index, disk in enumerate(small_guest.disks):
        disk.copy(folder / f"disk{index}.img")
        formats[f"disk{index}"] = (disk.format, "")
    daemon = Daemon(folder, formats)
    description = small_guest.describe("web", stamps_per_second=0)
    rig = Rig(folder, Described(daemon.hypervisor(), description, small_guest.boot_files))
    rig.protect()
    rig.close()
    daemon.stop()
    return folder / "store"


@pytest.fixture
def root():
    """Where run directories are: a short path, for the sockets in them."""
    folder = Path(tempfile.mkdtemp(prefix="sb-", dir="/var/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def host():
    return QemuHost(accelerator="tcg")


def traces(root: Path, store: Path) -> list[str]:
    """What is left of a test: files, processes, holds."""
    left = [str(path) for path in root.iterdir() if path.name != ".lock"]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if str(root).encode() in command:
            left.append(command.replace(b"\0", b" ").decode())
    return left + [hold.by for hold in ReplicaLog.read(DirectoryStore(store), "vm").head.holds]


def test_a_point_boots_from_the_store_and_leaves_no_trace(store, root, host):
    told = []
    test = failover.start(Request(str(store), "vm", boot_limit=BOOT_LIMIT), root, host, told=told.append)
    assert test.name == "web - Test"
    assert test.phase is Phase.RUNNING
    assert test.held
    assert 0 < test.times.first_instruction < test.times.agent
    assert {row.task for row in told} == {
        "Prerequisites check for test failover",
        "Create test virtual machine",
        "Preparing the virtual machine",
        "Start the virtual machine",
    }
    copy = failover.machine(test.run, host)
    assert guest.check_files(copy) > 0
    wait_for(lambda: guest.newest_stamp(copy) > 20, "stamps")
    with pytest.raises(TestInProgress, match="vm"):
        failover.start(Request(str(store), "vm"), root, host)

    # A server dies under the running machine: it is told, mended, and the guest goes on.
    server = serving.process_of(failover.sources(test.run)[0])
    os.kill(server.pid, signal.SIGKILL)
    wait_for(lambda: failover.look(test.run, host).problems, "the problem")
    (problem,) = failover.look(test.run, host).problems
    assert "disk0" in problem.subject + problem.problem
    assert failover.mend(test.run) == ["disk0"]
    assert failover.look(test.run, host).problems == ()
    before = guest.newest_stamp(copy)
    wait_for(lambda: guest.newest_stamp(copy) > before, "stamps after the mending")
    guest.stop_stamps(copy)
    assert guest.stamp_prefix(copy) >= before
    assert guest.check_files(copy) > 0

    failover.clean_up(test.run, host)
    assert traces(root, store) == []


VICTIM = """
import sys
from pathlib import Path
from standby.hypervisor.launch import QemuHost
from standby.recovery.failover import Request, start
start(Request(sys.argv[1], "vm", boot_limit=None), Path(sys.argv[2]), QemuHost(accelerator="tcg"))
"""

BOUNDARIES = [
    (name, count)
    for name in failpoints.declared()
    if name.startswith(
        ("failover.", "run_directory.made", "run_directory.named", "steps.started", "steps.did")
    )
    for count in ((1, 3, 5, 6) if name.startswith("steps") else (1,))
]


@pytest.mark.parametrize(("name", "count"), BOUNDARIES)
def test_killed_anywhere_another_process_removes_it_all(store, root, host, name, count):
    done = subprocess.run(
        [sys.executable, "-c", VICTIM, str(store), str(root)],
        env=os.environ | {"STANDBY_FAILPOINT": f"{name}=kill@{count}"},
        check=False,
    )
    assert done.returncode == -9
    for run in run_directory.recoveries(root):
        failover.clean_up(run, host)
    # A run directory that never got its name holds nothing that runs; the next start removes it.
    test = failover.start(Request(str(store), "vm", boot_limit=None), root, host)
    assert failover.machine(test.run, host).state() is MachineState.RUNNING
    failover.clean_up(test.run, host)
    assert traces(root, store) == []


def test_what_is_no_test_of_ours_is_not_touched(root, host):
    foreign = root / "foreign"
    foreign.mkdir()
    (foreign / "precious").write_text("x")
    with pytest.raises(Exception, match="foreign"):
        failover.clean_up(foreign, host)
    assert (foreign / "precious").exists()


def test_the_machine_in_the_point_tells_how_it_boots(store):
    point = ReplicaLog.read(DirectoryStore(store), "vm").point()
    machine = json.loads((store / "vm" / "points" / f"{point.seq:020d}").read_bytes())["machine"]
    assert machine["firmware"] == "kernel"
    assert {file["role"] for file in machine["boot_files"]} == {"kernel", "initrd"}
