"""Test failovers of a machine that is started and does not boot: what they own, refuse, tell and mend."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from standby.block.disk import DiskFailed
from standby.block.nbd import NbdDisk
from standby.errors import InvalidRequest, StandbyError
from standby.hypervisor.host import NotBooted, StartFailed
from standby.hypervisor.launch import QemuHost
from standby.hypervisor.qmp import Qmp
from standby.recovery import failover, machine_steps, run_directory, serving
from standby.recovery.failover import NotServed, Phase, Request, TestInProgress
from standby.recovery.prerequisites import NotReady, PointNotBootable
from standby.recovery.run_directory import NoRecovery, RecoveryBusy
from standby.recovery.steps import State, StepFailed
from standby.replica.format import BLOCK
from standby.replica.keys import KeyMissing
from tests.recovery.conftest import HOST, ReadOnly, Replica, encrypted_replica
from tests.recovery.machines import SIZE, assert_nothing_left, bootless, processes
from tests.support.replicas import ModelDisk

pytestmark = pytest.mark.slow


def request(replica: Replica, **options) -> Request:
    return Request(str(replica.root), "web", **{"boot_limit": None, **options})


def test_a_test_owns_what_it_tells_and_takes_it_all_back(replica, root, tmp_path):
    seq = bootless(replica, tmp_path)
    told = []
    found = failover.start(request(replica), root, HOST, told=told.append)
    assert (found.name, found.seq, found.phase, found.held) == ("web - Test", seq, Phase.RUNNING, True)
    assert found.problems == ()
    assert 0 < found.times.first_instruction < 60
    assert found.times.agent is None
    assert failover.list_tests(root, HOST) == [found]
    assert [hold.seq for hold in replica.head.holds] == [seq]
    assert [row.task for row in told if row.state is State.DONE] == [
        "Prerequisites check for test failover",
        "Create test virtual machine",
        "Create test virtual machine",
        "Preparing the virtual machine",
        "Preparing the virtual machine",
        "Start the virtual machine",
        "Start the virtual machine",
    ]
    assert len([line for line in processes(root) if line.startswith("nbdkit")]) == 2

    failover.machine(found.run, HOST).kill()
    assert failover.look(found.run, HOST).phase is Phase.ENDED
    told.clear()
    failover.clean_up(found.run, HOST, told=told.append)
    assert {row.task for row in told} == {"Clean up test failover"}
    assert_nothing_left(replica, root)
    with pytest.raises(NoRecovery):
        failover.clean_up(found.run, HOST)
    with pytest.raises(NoRecovery):
        failover.look(found.run, HOST)


def test_a_second_test_of_the_same_replica_is_refused_and_the_first_goes_on(replica, root, tmp_path):
    bootless(replica, tmp_path)
    first = failover.start(request(replica), root, HOST)
    with pytest.raises(TestInProgress, match=f"cleanup {first.run}"):
        failover.start(request(replica), root, HOST)
    assert failover.list_tests(root, HOST) == [first]


def test_a_test_is_cleaned_up_under_any_name_of_its_directory(replica, root, tmp_path, monkeypatch):
    bootless(replica, tmp_path)
    (tmp_path / "link").symlink_to(root)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = failover.start(request(replica), Path("../link"), HOST)
    monkeypatch.chdir(tmp_path)
    assert failover.look(Path("link", found.run.name), HOST).problems == ()
    monkeypatch.chdir(root.parent)
    failover.clean_up(Path(root.name, found.run.name), HOST)
    assert_nothing_left(replica, root)


def test_a_killed_server_is_told_and_mended(replica, root, tmp_path):
    bootless(replica, tmp_path)
    found = failover.start(request(replica), root, HOST)
    victim = failover.sources(found.run)[1]
    process = serving.process_of(victim)
    assert process.kill(str(victim.socket), 10)
    [problem] = failover.look(found.run, HOST).problems
    assert (problem.subject, problem.blocks) == ("disk disk1", True)
    assert problem.fix == f"standby failover mend {found.run}"
    assert failover.mend(found.run) == ["disk1"]
    assert failover.look(found.run, HOST).problems == ()
    assert failover.mend(found.run) == []


@encrypted_replica
def test_the_key_of_an_encrypted_replica_lies_in_its_run_directory_and_nowhere_else(replica, root, tmp_path):
    bootless(replica, tmp_path)
    with pytest.raises(KeyMissing, match="--key-file"):
        failover.start(request(replica), root, HOST)
    assert failover.list_tests(root, HOST) == []
    found = failover.start(request(replica, key=replica.key), root, HOST)
    kept = found.run / "key"
    secret = kept.read_bytes()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(found.run.stat().st_mode) == 0o700
    words = [secret, secret.hex().encode(), replica.key.path.read_bytes()]
    others = [path for path in found.run.rglob("*") if path.is_file() and path != kept]
    seen = [path.read_bytes() for path in others]
    for source in failover.sources(found.run):
        process = Path(f"/proc/{serving.process_of(source).pid}")
        seen += [(process / "cmdline").read_bytes(), (process / "environ").read_bytes()]
    assert seen
    assert not [word for word in words for text in seen if word in text]
    victim = failover.sources(found.run)[0]
    assert serving.process_of(victim).kill(str(victim.socket), 10)
    assert failover.mend(found.run) == ["disk0"]
    disk = NbdDisk(victim.socket, "")
    content = bytearray(BLOCK)
    disk.read(0, memoryview(content))
    disk.close()
    assert content == bytes([1]) * BLOCK
    failover.clean_up(found.run, HOST)
    assert_nothing_left(replica, root)


def test_damage_that_the_machine_meets_is_told_by_block(replica, root, tmp_path):
    bootless(replica, tmp_path)
    # Before anything has read it: what a server has unpacked, it does not read again.
    replica.damage("disk1", into=20)
    found = failover.start(request(replica), root, HOST)
    disk = NbdDisk(failover.sources(found.run)[1].socket, "")
    with pytest.raises(DiskFailed):
        disk.read(BLOCK, memoryview(bytearray(512)))
    disk.close()
    problems = failover.look(found.run, HOST).problems
    assert all(one.subject.startswith("disk disk1, ") and one.blocks for one in problems)
    assert any("block 1 (byte 65536)" in one.problem for one in problems)


def test_a_store_that_cannot_be_written_is_tested_without_a_hold(replica, root, tmp_path, monkeypatch):
    bootless(replica, tmp_path)
    monkeypatch.setattr(machine_steps, "open_store", lambda _address: ReadOnly(replica.store))
    found = failover.start(request(replica), root, HOST)
    assert not found.held
    assert replica.head.holds == ()
    assert failover.resume(found.run, HOST).held is False
    failover.clean_up(found.run, HOST)
    assert_nothing_left(replica, root)


def test_a_clean_up_without_the_store_ends_the_machine_and_keeps_the_hold_in_mind(replica, root, tmp_path):
    bootless(replica, tmp_path)
    found = failover.start(request(replica), root, HOST)
    away = replica.root.rename(tmp_path / "away")
    replica.root.mkdir()  # as a mount point that nothing is mounted on
    with pytest.raises(StandbyError):
        failover.clean_up(found.run, HOST)
    assert processes(root) == []
    assert failover.look(found.run, HOST).phase is Phase.CLEANING_UP
    replica.root.rmdir()
    away.rename(replica.root)
    failover.clean_up(found.run, HOST)
    assert_nothing_left(replica, root)


def test_a_replica_that_was_removed_has_no_hold_to_end(replica, root, tmp_path):
    bootless(replica, tmp_path)
    found = failover.start(request(replica), root, HOST)
    replica.store.delete("web/replica.json")
    failover.clean_up(found.run, HOST)
    assert processes(root) == []
    assert [path.name for path in root.iterdir()] == [".lock"]


def test_what_is_not_served_is_not_mended(replica, root, tmp_path, monkeypatch):
    """Servers that no row tells of would outlive the clean-up."""
    bootless(replica, tmp_path)

    def interrupted(_sources) -> None:
        raise SystemExit

    monkeypatch.setattr(serving, "start", interrupted)
    with pytest.raises(SystemExit):
        failover.start(request(replica), root, HOST)
    monkeypatch.undo()
    [run] = run_directory.recoveries(root)
    assert failover.look(run, HOST).phase is Phase.STARTING
    with pytest.raises(NotServed):
        failover.mend(run)
    failover.clean_up(run, HOST)
    assert_nothing_left(replica, root)


def test_one_process_at_a_time_works_on_a_test(replica, root, tmp_path):
    bootless(replica, tmp_path)
    found = failover.start(request(replica), root, HOST)
    with run_directory.run_lock(found.run):
        for work in (failover.mend, lambda run: failover.clean_up(run, HOST)):
            with pytest.raises(RecoveryBusy):
                work(found.run)
        assert failover.look(found.run, HOST) == found


def test_a_machine_that_somebody_else_asks_is_still_looked_at(replica, root, tmp_path, monkeypatch):
    bootless(replica, tmp_path)
    found = failover.start(request(replica), root, HOST)
    monkeypatch.setattr(Qmp.__init__, "__kwdefaults__", {"greeting_limit": 0.3})
    control = Qmp("web", found.run / "machine" / "control.sock")
    try:
        assert failover.look(found.run, HOST).phase is Phase.RUNNING
    finally:
        control.close()


def test_a_machine_that_does_not_boot_stays_to_be_looked_at(replica, root, tmp_path):
    bootless(replica, tmp_path)
    with pytest.raises(NotBooted, match="standby failover cleanup"):
        failover.start(request(replica, boot_limit=0.2), root, HOST)
    [found] = failover.list_tests(root, HOST)
    assert found.phase is Phase.RUNNING
    assert not found.journal.complete
    assert "did not answer" in found.journal.rows[-1].error
    assert found.times.first_instruction
    failover.clean_up(found.run, HOST)
    assert_nothing_left(replica, root)


def test_what_stands_against_it_is_told_all_at_once_and_nothing_is_left(replica, root, tmp_path):
    bootless(replica, tmp_path)
    names = [entry.name for entry in replica.store.list("web/boot/")]
    for name in names:
        replica.store.delete(name)
    with pytest.raises(NotReady) as caught:
        failover.start(request(replica), root, HOST)
    assert len([finding for finding in caught.value.findings if finding.blocks]) == len(names) == 2
    assert_nothing_left(replica, root)


def test_a_start_that_fails_is_cleaned_up(replica, root, tmp_path, monkeypatch):
    bootless(replica, tmp_path)

    def refused(*_arguments, **_options):
        raise StartFailed("QEMU says no", subject="web - Test")

    host = QemuHost(accelerator="tcg")
    monkeypatch.setattr(host, "start", refused)
    with pytest.raises(StartFailed):
        failover.start(request(replica), root, host)
    assert_nothing_left(replica, root)


def test_a_full_disk_is_cleaned_up_like_any_failure(replica, root, tmp_path, monkeypatch):
    bootless(replica, tmp_path)

    def full(*_arguments):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("standby.replica.boot.fetch", full)
    with pytest.raises(StepFailed, match="No space left on device"):
        failover.start(request(replica), root, HOST)
    assert_nothing_left(replica, root)


def test_a_point_without_a_machine_and_one_that_is_not_there_are_refused(replica, root):
    disk = ModelDisk("vda", SIZE)
    disk.write(0, b"x")
    replica.commit(disk)
    with pytest.raises(PointNotBootable, match="does not describe its machine"):
        failover.start(request(replica), root, HOST)
    with pytest.raises(InvalidRequest, match="no recovery point 9"):
        failover.start(request(replica, point="9"), root, HOST)
    assert list(root.iterdir()) == []


def test_what_is_no_run_directory_is_left_alone(tmp_path):
    other = tmp_path / "0123456789abcdef"
    other.mkdir()
    (other / "precious").touch()
    for work in (failover.clean_up, failover.look, failover.resume):
        with pytest.raises(NoRecovery):
            work(other, HOST)
    assert (other / "precious").exists()


def test_a_terabyte_starts_as_soon_as_a_gigabyte(tmp_path, root, record_property):
    """Thin disks of the same content; the best of three starts of each, in turn, for the machine is shared."""
    seconds: dict[int, list[float]] = {1 << 30: [], 1 << 40: []}
    replicas = {}
    for size in seconds:
        folder = tmp_path / str(size)
        folder.mkdir()
        replicas[size] = Replica(folder)
        bootless(replicas[size], folder, (size,))
    for _ in range(3):
        for size, times in seconds.items():
            began = time.monotonic()
            found = failover.start(request(replicas[size]), root, HOST)
            times.append(found.times.first_instruction)
            assert times[-1] < time.monotonic() - began
            failover.clean_up(found.run, HOST)
    small, large = (min(times) for times in seconds.values())
    record_property("first instruction, 1 GiB", small)
    record_property("first instruction, 1 TiB", large)
    print(f"first instruction: {small:.2f} s from 1 GiB, {large:.2f} s from 1 TiB")  # noqa: T201
    assert large < 2 * small
