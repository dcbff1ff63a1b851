"""The whole life of a real guest: its host dies, it fails over, goes on, and comes back to its old disks.

It writes stamps to both of its disks as fast as it can all the while; each is accounted for.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from ulid import ULID

from standby.block.images import Format
from standby.clock import SystemClock
from standby.demo import guest, stamps
from standby.errors import Fenced
from standby.hypervisor.host import MachineState
from standby.hypervisor.qemu import QemuHypervisor, QemuMachine
from standby.recovery import failback, hydrate, live, live_steps, live_view, run_directory, serving
from standby.recovery.failback_steps import OldDisk
from standby.recovery.image_writer import opened
from standby.recovery.live_view import Phase
from standby.replica.journal import ReplicaLog
from standby.replication.books import Books
from standby.replication.engine import Engine
from standby.replication.source import Source
from standby.replication.states import State
from standby.replication.target import Target
from tests.cli.conftest import PROGRAM, standby
from tests.guest.conftest import BOOT_LIMIT, images, small_guest, start  # noqa: F401 - fixtures
from tests.hypervisor.processes import wait_for
from tests.recovery.conftest import HOST
from tests.recovery.machines import processes
from tests.recovery.protecting import protect
from tests.replication.rig import Recorder

pytestmark = pytest.mark.guest


def test_a_guest_fails_over_and_comes_back_and_every_stamp_is_accounted_for(
    small_guest,  # noqa: F811
    images,  # noqa: F811
    start,  # noqa: F811
    tmp_path,
    root,
):
    source = start(small_guest.describe("web", stamps_per_second=0), images, small_guest.boot_files)
    source.wait_booted(BOOT_LIMIT)
    wait_for(lambda: guest.newest_stamp(source) > 50, "stamps")
    store = protect(source, tmp_path / "books", tmp_path / "store")
    source.kill()
    protected = prefix(store)
    assert protected > 50

    # Unplanned: the source's own socket tells that it is gone, so nobody is asked.
    request = live.Request(str(tmp_path / "store"), "web", boot_limit=BOOT_LIMIT, source_qmp=source.qmp)
    recovered = live.start(request, root, HOST)
    assert "its process has ended" in recovered.known
    print(f"first instruction {recovered.times.first_instruction:.2f} s, agent {recovered.times.agent:.2f} s")  # noqa: T201
    machine = live_view.machine(recovered.run, HOST)
    assert guest.check_files(machine) == sum(disk.files for disk in small_guest.disks)
    wait_for(lambda: guest.newest_stamp(machine) > protected + 50, "stamps behind those of the point")

    # The old host is back: its agent finds itself fenced, says to whom, and changes nothing.
    records = len(ReplicaLog.read(store, "web").records)
    with (
        closing(Books(tmp_path / "books")) as books,
        pytest.raises(Fenced, match="standby failover") as fenced,
    ):
        engine_of(books, source, store).step()
    assert "--take-over" in fenced.value.hint
    with closing(Books(tmp_path / "books")) as books:
        assert books.relationships()[0].status.state is State.FENCED
    assert len(ReplicaLog.read(store, "web").records) == records

    live.commit(recovered.run, HOST)
    victim = live_steps.sources(recovered.run, order_of(recovered.run))[0]
    assert serving.process_of(victim).kill(str(victim.socket), 10)
    before = guest.newest_stamp(machine)
    assert hydrate.hydrate(recovered.run, HOST).whole == ("disk0", "disk1")
    assert [one for one in processes(root) if one.startswith("nbdkit")] == []
    wait_for(lambda: guest.newest_stamp(machine) > before, "stamps after the store was let go")

    # Reverse: the same replica, by hashes; the old points stay.
    reverse(recovered.run, tmp_path / "books-b")
    log = ReplicaLog.read(store, "web")
    assert log.point(str(recovered.seq)).seq == recovered.seq
    sent = sum(r.disk(d.id).logs[0].data for r in log.records[records:] for d in r.disks if d.logs)
    assert sent < sum(disk.content for disk in small_guest.disks) // 2, "only what differs is sent"

    # Failback, cancelled once: the old disks are as they were, to the byte.
    old = [OldDisk(id=name, path=str(image.path), format=image.format) for name, image in images.items()]
    untouched = [digest(Path(one.path)) for one in old]
    back = tmp_path / "b"
    wanted = failback.Request(str(tmp_path / "store"), "web", old, boot_limit=BOOT_LIMIT)
    first = failback.start(wanted, back, HOST)
    assert first.phase is Phase.WAITING
    live.cancel(first.run, HOST)
    assert [digest(Path(one.path)) for one in old] == untouched
    waiting = failback.start(wanted, back, HOST)
    fetched = waiting.journal.row("compare").facts["fetched"]
    assert 0 < fetched < sum(disk.content for disk in small_guest.disks) // 2, "only what differs is fetched"

    newest = guest.newest_stamp(machine)
    sockets = ["--qmp", machine.qmp, "--agent", machine.agent]
    moved = standby("failover", "planned", "web", *sockets, "--state", tmp_path / "books-b", "--json")
    assert moved.status == 0, moved.err
    assert moved.json["point"] == ReplicaLog.read(store, "web").point().seq
    wait_for(lambda: machine.state() is MachineState.GONE, "the end of the recovered machine")
    sealed = prefix(store)
    assert sealed >= newest

    failed_back = failback.complete(waiting.run, HOST)
    home = live_view.machine(failed_back.run, HOST)
    assert guest.check_files(home) == sum(disk.files for disk in small_guest.disks)
    assert [digest(Path(one.path)) for one in old] == untouched
    committed = failback.commit(failed_back.run, HOST)
    assert (committed.phase, committed.problems) == (Phase.COMMITTED, ())
    assert list(failed_back.run.glob("*.qcow2")) == []
    before = guest.newest_stamp(home)
    wait_for(lambda: guest.newest_stamp(home) > before, "stamps on the old disks")
    assert guest.check_files(home) > 0
    guest.stop_stamps(home)
    last = guest.stamp_prefix(home)
    assert last >= before >= sealed
    assert home.power_down(60)
    assert on_disks(old) == last

    # What is left of the failover knows that its machine has moved on.
    with pytest.raises(Fenced, match="failed over again"):
        live.resume(recovered.run, HOST)
    live.clean_up(recovered.run, HOST)
    assert processes(root) == []
    assert live.resume(failed_back.run, HOST).machine is MachineState.RUNNING
    live_view.machine(failed_back.run, HOST).kill()
    live.clean_up(failed_back.run, HOST, lose=True)
    assert on_disks(old) >= last
    assert ReplicaLog.read(store, "web").head.holds == ()


def reverse(run: Path, state: Path) -> None:
    """`standby failover reverse`, until the first point of its own."""
    words = ["failover", "reverse", run, "--state", state, "--frequency", "1", "--json"]
    process = subprocess.Popen(
        [PROGRAM, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        for line in process.stdout:
            if json.loads(line)["event"] == "point":
                break
        else:
            raise AssertionError(process.stderr.read())
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    finally:
        process.kill()


def order_of(run: Path) -> live.LiveOrder:
    return run_directory.read_order(run, live.LiveOrder)


def prefix(store) -> int:
    """The stamps of the newest point: exactly so many, on both disks."""
    log = ReplicaLog.read(store, "web")
    record = log.point()
    return stamps.prefix_of_disks([log.image(record.seq, disk.id) for disk in record.disks])


def on_disks(old: list[OldDisk]) -> int:
    with (
        opened(Path(old[0].path), Format(old[0].format), 0, writable=False) as one,
        opened(Path(old[1].path), Format(old[1].format), 0, writable=False) as other,
    ):
        return stamps.prefix_of_disks([one, other])


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def engine_of(books: Books, machine, store) -> Engine:
    """The old host's engine, as it starts again."""
    [relationship] = books.relationships()
    hypervisor = QemuHypervisor({"web": QemuMachine(qmp=machine.qmp)})
    clock = SystemClock()
    source = Source(books, relationship.id, hypervisor, lambda: hypervisor.describe("web"), clock)
    target = Target(books, relationship.id, store, "agent@host-a", clock, lambda: str(ULID()))
    return Engine(books, relationship.id, source, target, clock, Recorder())
