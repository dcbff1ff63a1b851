"""Planned runs of a plan: sealed in order, then started from the seals; killed in each half, and on two hosts."""

from __future__ import annotations

import json
import signal
import subprocess

import msgspec
import pytest

from standby.hypervisor.host import DiskImage
from standby.objects.directory import DirectoryStore
from standby.records import DiskDescription, MachineDescription
from standby.recovery import live, live_view, plan_run
from standby.recovery.plan_document import Group, Kind, Member, Plan
from standby.recovery.plan_record import look
from standby.recovery.plan_steps import Phase
from standby.replica.format import BLOCK
from standby.replica.journal import ReplicaLog
from tests.cli.conftest import PROGRAM, standby
from tests.recovery.conftest import HOST
from tests.recovery.killed import DONE, KILLED, Zygote

pytestmark = pytest.mark.slow

NAMES = ("db", "web")
SIZE = 4 * BLOCK


@pytest.fixture
def machines(tmp_path, root):
    """Two without a guest, each with an agent's books of its own, up to date."""
    DirectoryStore(tmp_path / "store", create=True)
    started = {}
    for number, name in enumerate(NAMES):
        path = tmp_path / f"{name}.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(SIZE)], check=True)
        description = MachineDescription(
            name=name,
            uuid=f"6ad3a7b4-6f27-4a25-8b5f-9f0d6f1d3c1{number}",
            memory=64 << 20,
            cpus=1,
            firmware="bios",
            disks=(DiskDescription(id="disk0", size=SIZE, format="qcow2"),),
        )
        disks = {"disk0": DiskImage(path, "qcow2")}
        started[name] = HOST.start(description, disks, {}, root / f"m-{name}")
    yield started
    for machine in started.values():
        machine.kill()


def plan(store, **more) -> Plan:
    members = [
        Member(store=str(store), replica=name, agent=False, force=True, shutdown_limit=0.1, **more)
        for name in NAMES
    ]
    return Plan(name="site", groups=tuple(Group(name=one.replica, members=(one,)) for one in members))


def protect(machine, name, state, store) -> None:
    words = ["--qmp", machine.qmp, "--store", store, "--frequency", 1, "--state", state, "--json"]
    process = subprocess.Popen(
        [PROGRAM, "vm", "protect", name, *map(str, words)], stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if json.loads(line)["event"] == "point":
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def test_a_planned_run_seals_in_order_and_starts_from_the_seals_wherever_it_was_killed(
    machines, root, tmp_path
):
    store = tmp_path / "store"
    books = {}
    for name, machine in machines.items():
        books[name] = tmp_path / f"books-{name}"
        protect(machine, name, books[name], store)
    run = plan_run.create(plan(store), Kind.PLANNED, root / "plans")
    known = {f"books of {name}": books[name] for name in NAMES}
    known |= {f"qmp of {name}": machine.qmp for name, machine in machines.items()}
    zygote = Zygote(run=run, root=root / "failovers", **known)
    try:
        for point in ("plan.seal_started", "seal.down", "plan.seal_did", "plan.start_started"):
            assert zygote.live("plan", f"{point}=kill") == KILLED, (point, look(run).failed)
        assert zygote.live("plan") == DONE
        done = look(run)
        assert done.phase is Phase.DONE, done.failed
        assert [row.step for row in done.rows.rows] == ["seal:web", "seal:db", "start:db", "start:web"]
        ended = [row.ended for row in done.rows.rows]
        assert ended == sorted(ended)
        for one in live_view.list_failovers(root / "failovers", HOST):
            kinds = [record.kind for record in ReplicaLog.read(DirectoryStore(store), one.name).records]
            assert kinds.count("seal") == 1
            assert one.seq == kinds.index("seal") + 1
            assert "shut down for good" in one.known
        assert zygote.live("plan back") == DONE
        assert live_view.list_failovers(root / "failovers", HOST) == []
    finally:
        zygote.close()
        for one in live_view.list_failovers(root / "failovers", HOST):
            live.cancel(one.run, HOST)


def test_a_planned_run_in_two_halves_by_command(machines, root, tmp_path):
    store, source, target = tmp_path / "store", tmp_path / "source", root / "target"
    for name, machine in machines.items():
        protect(machine, name, source, store)
    file = tmp_path / "plan.json"
    file.write_bytes(msgspec.json.encode(plan(store)))
    wrong = tmp_path / "wrong.json"
    wrong.write_bytes(msgspec.json.encode(plan(tmp_path / "store", machine="mail")))
    told = standby("plan", "check", wrong, "--kind", "planned", "--part", "seal", "--state", source, "--json")
    assert (told.status, told.json["ready"]) == (3, False)
    assert [one["problem"] for one in told.json["findings"]] == [
        "no machine mail is protected from this host"
    ] * 2
    early = standby("plan", "run", file, "--kind", "planned", "--part", "start", "--state", target)
    assert (early.status, "is not sealed" in " ".join(early.err.split())) == (3, True)
    sealed = standby("plan", "run", file, "--kind", "planned", "--part", "seal", "--state", source, "--json")
    assert (sealed.status, sealed.json["phase"]) == (0, "done"), sealed.err
    assert [step["step"] for step in sealed.json["steps"]] == ["seal:web", "seal:db"]
    started = standby(
        "plan", "run", file, "--kind", "planned", "--part", "start", "--state", target, "--json"
    )
    assert (started.status, started.json["phase"]) == (0, "done"), started.err
    shown = standby("failover", "list", "--state", target, "--json").json
    assert sorted((one["machine"], one["state"]) for one in shown) == [("db", "running"), ("web", "running")]
    cancelled = standby("plan", "cancel", started.json["run"], "--yes", "--json")
    assert (cancelled.status, cancelled.json["phase"]) == (0, "taken back"), cancelled.err
    assert standby("failover", "list", "--state", target, "--json").json == []
