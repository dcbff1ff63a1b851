"""Points of two real guests at one instant: what one wrote after the other is in the points of both, or of neither."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

import msgspec
import pytest

from standby.hypervisor.host import DiskImage, MachineState
from standby.objects.directory import DirectoryStore
from standby.recovery.plan_document import Group, Kind, Member, Plan
from standby.recovery.plan_points import NoCommonPoint, common
from standby.recovery.plan_run import create
from standby.replica.journal import ReplicaLog
from tests.cli.conftest import PROGRAM, standby
from tests.guest.conftest import BOOT_LIMIT, raw_guest, start  # noqa: F401 - fixtures
from tests.hypervisor.processes import contents, wait_for

pytestmark = pytest.mark.guest

NAMES = ("a", "b")


class Marks:
    """Numbers written to the file systems of both guests in turn, each durable before the next begins; by their
    consoles, as an agent runs nothing while its guest is frozen."""

    def __init__(self, machines) -> None:
        self.count = 0
        self._consoles = []
        for machine in machines:
            console = socket.socket(socket.AF_UNIX)
            console.connect(str(machine.console))
            console.settimeout(60)
            self._consoles.append(console)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def more(self, count: int) -> None:
        wanted = self.count + count
        wait_for(lambda: self.count >= wanted, f"{count} more marks")

    def _run(self) -> None:
        while not self._over.is_set():
            number = self.count + 1
            self.say(number % 2, f"echo MARK-{number:08} >/disk/0/mark; sync", f"done-{number};")
            self.count = number

    def say(self, which: int, command: str, answer: str) -> None:
        console = self._consoles[which]
        # What is typed is echoed, so it must not be the answer.
        console.sendall(f"{command}; echo '{answer[:2]}''{answer[2:]}'\n".encode())
        said = b""
        while answer.encode() not in said:
            said += console.recv(4096)

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        for console in self._consoles:
            console.close()


@pytest.fixture
def state():
    folder = Path(tempfile.mkdtemp(prefix="sb-"))
    with (folder / "log").open("wb") as log:
        agent = subprocess.Popen([PROGRAM, "agent", "run", "--state", folder], stderr=log)
    wait_for(lambda: (folder / "control").exists(), "the agent")
    yield folder
    agent.send_signal(signal.SIGTERM)
    agent.wait(30)
    shutil.rmtree(folder)


def test_what_one_wrote_after_the_other_is_in_both_or_in_neither(raw_guest, start, state, tmp_path):  # noqa: F811
    store = tmp_path / "store"
    DirectoryStore(store, create=True)
    machines = []
    for name in NAMES:
        copy = raw_guest.disks[0].copy(tmp_path / f"{name}.raw")
        description = raw_guest.describe(name)
        description = msgspec.structs.replace(description, memory=192 << 20, disks=description.disks[:1])
        machine = start(description, {"disk0": DiskImage(copy.path, "raw")}, raw_guest.boot_files)
        machines.append(machine)
    for name, machine in zip(NAMES, machines, strict=True):
        machine.wait_booted(BOOT_LIMIT)
        keep = ["--store", store, "--frequency", 300, "--state", state]
        kept = standby("vm", "protect", name, "--qmp", machine.qmp, "--agent", machine.agent, *keep)
        assert kept.status == 0, kept.err

    def log_of(name):
        return ReplicaLog.read(DirectoryStore(store), name)

    def state_of(name):
        return standby("vm", "show", name, "--state", state, "--json").json["state"]

    for name in NAMES:
        wait_for(lambda name=name: state_of(name) in ("protected", "delta"), f"protection of {name}", 60)
    plan = Plan(
        name="p",
        groups=(Group(name="g", members=tuple(Member(store=str(store), replica=name) for name in NAMES)),),
        together=True,
    )
    with pytest.raises(NoCommonPoint, match="a, b have no point"):
        common(plan)
    marks = Marks(machines)
    try:
        marks.more(4)
        for _ in range(3):
            made = standby("vm", "point", "a", "--with", "b", "--state", state)
            assert made.status == 0, (made.err, (state / "log").read_text())
            marks.more(4)
        # Two that are made one after the other are of no instant in common, and do not say so.
        for name in NAMES:
            before = len(log_of(name).points)
            assert standby("vm", "point", name, "--state", state).status == 0
            wait_for(lambda n=name, before=before: len(log_of(n).points) > before, "its own point")
            marks.more(4)
    finally:
        marks.stop()
    groups = [
        {point.group: point.seq for point in log_of(name).points if point.group is not msgspec.UNSET}
        for name in NAMES
    ]
    assert set(groups[0]) == set(groups[1])
    assert len(groups[0]) == 3
    found = []
    for group in sorted(groups[0]):
        numbers = [newest_mark(log_of(name), seqs[group]) for name, seqs in zip(NAMES, groups, strict=True)]
        assert abs(numbers[0] - numbers[1]) == 1, numbers
        found.append(max(numbers))
    assert found == sorted(set(found))
    apart = [newest_mark(log_of(name), log_of(name).point().seq) for name in NAMES]
    assert abs(apart[0] - apart[1]) > 1, "what shows one instant would show it of any two points"

    newest = max(groups[0])
    run = create(plan, Kind.TEST, state / "plans")
    chosen = msgspec.json.decode((run / "order.json").read_bytes())["plan"]["groups"][0]["members"]
    assert [one["point"] for one in chosen] == [str(seqs[newest]) for seqs in groups]

    # One that cannot be frozen is named, and holds none of them up.
    quiet = Marks(machines)
    try:
        quiet.more(1)
    finally:
        quiet.stop()
    with socket.socket(socket.AF_UNIX) as console:
        console.connect(str(machines[1].console))
        console.sendall(b"killall qemu-ga\n")
        refused = standby("vm", "point", "a", "--with", "b", "--state", state)
    assert (refused.status, "b cannot be frozen" in " ".join(refused.err.split())) == (4, True), refused.err
    assert {machine.state() for machine in machines} == {MachineState.RUNNING}
    again = Marks(machines)
    try:
        again.more(4)
    finally:
        again.stop()


def newest_mark(log: ReplicaLog, seq: int) -> int:
    found = re.findall(rb"MARK-(\d{8})", contents(log.image(seq, "disk0")))
    return max(map(int, found))
