"""The agent of a host: many machines in one process, asked over its control socket."""

from __future__ import annotations

import signal
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from standby.agent.control import ask
from standby.agent.engines import Engines
from standby.clock import SystemClock
from standby.link.requests import Done, Pause, Refused
from standby.objects.directory import DirectoryStore
from standby.replica.journal import ReplicaLog
from standby.replica.keys import KeyFile
from standby.replication.books import Books
from standby.replication.states import State
from tests.cli.conftest import PROGRAM, standby
from tests.hypervisor.processes import PAGE, Daemon, contents
from tests.hypervisor.processes import wait_for as wait_for_it
from tests.replication.rig import Recorder
from tests.replication.site import noise, now, write

pytestmark = pytest.mark.slow

DISKS = {"raw": ("raw", ""), "qcow": ("qcow2", "")}


def wait_for(condition, limit=30.0):
    wait_for_it(condition, "what the test waits for", limit)


class Agent:
    """`standby agent run` on a state directory of its own, over daemons."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.store = folder / "store"
        self.log = folder / "agent.log"
        DirectoryStore(self.store, create=True)
        self.daemons: dict[str, Daemon] = {}
        self.process: subprocess.Popen[bytes] | None = None

    def machine(self, name: str) -> Daemon:
        place = self.folder / name
        place.mkdir()
        self.daemons[name] = Daemon(place, DISKS)
        return self.daemons[name]

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [PROGRAM, "agent", "run", "--state", str(self.state)], stderr=log, stdout=log
            )
        wait_for(lambda: (self.state / "control").exists())

    def stop(self, how: int = signal.SIGTERM) -> int:
        assert self.process
        self.process.send_signal(how)
        return self.process.wait(30)

    def vm(self, *words: object, **more: object):
        return standby("vm", *words, "--state", self.state, "--json", **more)

    def protect(self, name: str, *options: object):
        daemon = self.daemons[name]
        sockets = ["--qmp", daemon.qmp, "--nbd", daemon.nbd]
        return self.vm("protect", name, *sockets, "--store", self.store, "--reserve", "0", *options)

    def shown(self, name: str) -> dict[str, object]:
        return dict(self.vm("show", name).json)

    def log_of(self, name: str, key: KeyFile | None = None) -> ReplicaLog:
        return ReplicaLog.read(DirectoryStore(self.store), name, key=key)

    def points(self, name: str):
        return self.log_of(name).points

    def caught_up(self, name: str, key: KeyFile | None = None) -> bool:
        """Whether the newest point is the machine as it is."""
        log = self.log_of(name, key)
        if not log.points:
            return False
        content = now(self.daemons[name])
        for disk, data in content.items():
            image = log.image(log.point().seq, disk)
            found = bytearray(image.size)
            image.read(0, memoryview(found))
            if found != data:
                return False
        return True

    def close(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for daemon in self.daemons.values():
            daemon.stop()


@pytest.fixture
def agent(tmp_path):
    agent = Agent(tmp_path)
    yield agent
    agent.close()


def test_machines_are_taken_on_asked_and_let_go_while_it_runs(agent):
    for name in ("one", "two"):
        write(agent.machine(name), "raw", 0, noise(1 << 20, hash(name) % 97))
    agent.start()
    for name in ("one", "two"):
        done = agent.protect(name, "--frequency", 1)
        assert (done.status, done.err) == (0, "")
    for name in ("one", "two"):
        wait_for(lambda name=name: agent.caught_up(name), 30)
        assert agent.shown(name)["state"] in ("protected", "delta")
    again = agent.protect("one")
    assert (again.status, "protected already" in again.err) == (3, True)

    assert agent.vm("pause", "one").json["state"] == "paused"
    count = len(agent.points("one"))
    two = len(agent.points("two"))
    wait_for(lambda: len(agent.points("two")) > two + 2, 30)
    assert len(agent.points("one")) == count
    assert agent.vm("pause", "one").status == 3
    agent.vm("resume", "one")
    write(agent.daemons["one"], "qcow", 0, noise(PAGE, 5))
    wait_for(lambda: agent.caught_up("one"), 30)

    ended = agent.vm("unprotect", "two")
    assert (ended.status, agent.daemons["two"].bitmaps()) == (0, [])
    assert [vm["machine"] for vm in agent.vm("list").json] == ["one"]
    assert agent.stop() == 0
    (vm,) = agent.vm("list").json
    assert vm["health"] == "Critical"
    assert "No agent" in vm["reasons"][0]["text"]


def test_a_killed_agent_goes_on_where_it_was_with_all_it_knew(agent):
    write(agent.machine("one"), "raw", 0, noise(1 << 20))
    agent.start()
    agent.protect("one", "--frequency", 1)
    wait_for(lambda: agent.caught_up("one"), 30)
    agent.stop(signal.SIGKILL)
    write(agent.daemons["one"], "raw", 8 << 10, noise(PAGE, 7))
    agent.start()
    wait_for(lambda: agent.caught_up("one"), 30)
    assert "initial" not in agent.log.read_text().split("replicating 1 machines")[-1]


def test_disks_policy_and_resynchronization_change_while_it_runs(agent):
    write(agent.machine("one"), "raw", 0, noise(1 << 20))
    agent.start()
    agent.protect("one", "--frequency", 1)
    wait_for(lambda: agent.caught_up("one"), 30)

    assert agent.vm("disks", "one", "--exclude", "qcow").json["excluded"] == ["qcow"]
    wait_for(lambda: [disk.id for disk in agent.points("one")[-1].disks] == ["raw"], 30)
    refused = agent.vm("disks", "one", "--exclude", "raw")
    assert (refused.status, "only protected disk" in refused.err) == (3, True)
    agent.vm("disks", "one", "--include", "qcow")
    wait_for(lambda: len(agent.points("one")[-1].disks) == 2 and agent.caught_up("one"), 30)

    assert agent.vm("policy", "one", "--frequency", 5, "--work", "20M").json["frequency"] == 5
    wrong = agent.vm("policy", "one", "--frequency", 7)
    assert (wrong.status, "it can be 1, 5, 30" in wrong.err) == (3, True)
    count = len(agent.points("one"))
    before = agent.shown("one")
    assert agent.vm("resync", "one", "--disk", "nosuch").status == 3
    assert agent.vm("resync", "one", "--disk", "raw").status == 0
    wait_for(lambda: len(agent.points("one")) > count and agent.shown("one")["state"] == "protected", 30)
    assert agent.caught_up("one")
    assert before["excluded"] == []
    made = len(agent.points("one"))
    agent.vm("point", "one")
    wait_for(lambda: len(agent.points("one")) > made, 5)


def test_what_is_wrong_is_told_by_the_agent_as_by_the_command(agent):
    agent.machine("one")
    agent.start()
    missing = agent.vm("pause", "nosuch")
    assert (missing.status, "not protected by this agent" in missing.err) == (3, True)
    assert ask(agent.state, Pause(machine="nosuch")) == Refused(
        kind="InvalidRequest",
        subject="nosuch",
        cause="it is not protected by this agent",
        tried=f"looking in {agent.state}",
        hint=f"`standby vm list --state {agent.state}` shows those that are",
        name="InvalidRequest",
    )
    unsuitable = standby(
        *["vm", "protect", "one", "--qmp", agent.folder / "nothing", "--store", agent.store],
        *["--state", agent.state],
        columns=100,
    )
    assert (unsuitable.status, "nothing" in unsuitable.err) != (0, False)
    agent.stop()
    assert ask(agent.state, Pause(machine="one")) is None


def test_one_machine_that_is_gone_holds_no_other_up(agent):
    for name in ("one", "two"):
        agent.machine(name)
    agent.start()
    for name in ("one", "two"):
        agent.protect(name, "--frequency", 1)
    wait_for(lambda: agent.caught_up("one") and agent.caught_up("two"), 30)
    agent.daemons["one"].stop(signal.SIGKILL)
    count = len(agent.points("two"))
    wait_for(lambda: len(agent.points("two")) > count + 3, 30)
    wait_for(lambda: "control socket" in str(agent.shown("one")["error"]), 10)
    agent.daemons["one"] = Daemon(agent.folder / "one", DISKS)
    write(agent.daemons["one"], "raw", 0, noise(PAGE, 3))
    wait_for(lambda: agent.caught_up("one"), 30)


def test_a_state_directory_of_any_depth_has_a_control_socket(tmp_path):
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    process = subprocess.Popen([PROGRAM, "agent", "run", "--state", str(deep)], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: ask(deep, Pause(machine="one")) is not None, 10)
        assert isinstance(ask(deep, Pause(machine="one")), Refused)
        assert not isinstance(ask(deep, Pause(machine="one")), Done)
        assert (deep / "control").stat().st_mode & 0o777 == 0o600
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_an_encrypted_replica_survives_restarts_and_a_change_of_keys(agent, tmp_path):
    """The books remember where the key lies, never the key; the agent is told of a new one while it runs."""
    old, new = KeyFile.new(tmp_path / "old"), KeyFile.new(tmp_path / "new")
    daemon = agent.machine("a")
    agent.start()
    assert agent.protect("a", "--frequency", 1, "--key-file", old.path).status == 0
    assert (agent.shown("a")["encrypted"], agent.shown("a")["key_file"]) == (True, str(old.path))
    wait_for(lambda: agent.caught_up("a", old))
    again = agent.protect("a", "--key-file", old.path)
    assert again.status == 3

    agent.stop(signal.SIGKILL)
    write(daemon, "raw", 0, noise(PAGE, 2))
    agent.start()
    wait_for(lambda: agent.caught_up("a", old))

    store = ["--key-file", old.path, "--new-key-file", new.path]
    assert standby("key", "rotate", agent.store, "a", *store).status == 0
    write(daemon, "raw", PAGE, noise(PAGE, 3))
    wait_for(lambda: agent.caught_up("a", new))
    refused = agent.vm("key", "a", old.path)
    assert refused.status == 5, "the old key opens nothing any more"
    told = agent.vm("key", "a", new.path)
    assert told.status == 0, told.err
    agent.stop()
    agent.start()
    write(daemon, "raw", 2 * PAGE, noise(PAGE, 4))
    wait_for(lambda: agent.caught_up("a", new))
    agent.stop()
    secrets = [path.read_bytes() for path in (old.path, new.path)]
    for path in (*agent.state.rglob("*"), agent.log):
        if path.is_file():
            content = path.read_bytes()
            assert not [one for one in secrets if one in content or one.hex().encode() in content], path


def test_a_bandwidth_holds_for_the_machine_and_for_the_host_and_changes_at_once(agent):
    daemon = agent.machine("one")
    agent.start()
    agent.protect("one", "--frequency", 1)
    wait_for(lambda: agent.caught_up("one"), 30)
    slow, free = ("--work", "64K", "--other", "64K"), ("--work", "none", "--other", "none")
    for limit in (["vm", "policy", "one"], ["agent", "bandwidth"]):
        told = standby(*limit, *slow, "--state", agent.state, columns=200)
        assert (told.status, "64 KiB/s" in told.out) == (0, True)
        # At this rate a quarter of a minute's work; the machine's points wait for it.
        write(daemon, "raw", 0, noise(1 << 20, len(limit)))
        wait_for(lambda: agent.shown("one")["queued"] > 2, 15)
        assert not agent.caught_up("one")
        assert standby(*limit, *free, "--state", agent.state, columns=200).status == 0
        wait_for(lambda: agent.caught_up("one"), 15)
    refused = standby("agent", "bandwidth", "--work", "1K", "--state", agent.state)
    assert (refused.status, "512 kbit/s or more" in " ".join(refused.err.split())) == (3, True)


def test_a_machine_whose_sockets_are_forgotten_can_be_paused_and_tells_how_to_go_on(agent):
    """Books of an agent that was given its sockets by command line only."""
    agent.machine("one")
    agent.start()
    assert agent.protect("one").status == 0
    wait_for(lambda: agent.shown("one")["state"] in ("protected", "delta"))
    agent.stop()
    books = Books(agent.state)
    with closing(books):
        with books._write() as db:
            db.execute("UPDATE relationship SET connection = ''")
        engines = Engines(books, SystemClock(), lambda _: Recorder(), running=False)
        with closing(engines), engines.held(books.relationships()[0], alone=True) as engine:
            engine.resync_now([])
            engine.source_step()
            engine.pause()
        relationship = books.relationships()[0]
    assert relationship.status.state is State.PAUSED
    assert relationship.capture is not None
    assert (relationship.capture.kind, relationship.capture.retry_at) == ("MachineNotConnected", None)
    assert "`standby vm connect one --qmp SOCKET`" in relationship.capture.error


def test_a_machine_goes_to_several_stores_and_one_that_is_removed_keeps_what_it_has(agent, tmp_path):
    write(agent.machine("one"), "raw", 0, noise(1 << 20, 3))
    second, third = tmp_path / "second", tmp_path / "third"
    for folder in (second, third):
        DirectoryStore(folder, create=True)
    agent.start()
    done = agent.protect("one", "--frequency", 1, "--target", second)
    assert (done.status, done.err) == (0, "")
    wait_for(lambda: agent.caught_up("one"))

    def stages():
        return {Path(one["store"]).name: one["stage"] for one in agent.shown("one")["targets"]}

    assert agent.vm("targets", "add", "one", "--store", third).status == 0
    wait_for(lambda: stages() == {"store": "level", "second": "level", "third": "level"})
    again = agent.vm("targets", "add", "one", "--store", third)
    assert (again.status, "already" in again.err) == (3, True)
    assert agent.stop(signal.SIGKILL) == -signal.SIGKILL
    write(agent.daemons["one"], "qcow", 0, noise(1 << 18, 4))
    agent.start()
    content = now(agent.daemons["one"])

    def holds(folder):
        log = ReplicaLog.read(DirectoryStore(folder), "one")
        return bool(log.points) and all(
            contents(log.image(log.point().seq, disk)) == data for disk, data in content.items()
        )

    wait_for(lambda: all(holds(folder) for folder in (agent.store, second, third)))
    assert "second" in standby("vm", "targets", "list", "one", "--state", agent.state, columns=200).out
    removed = agent.vm("targets", "remove", "one", "--store", second)
    assert [Path(one["store"]).name for one in removed.json["targets"]] == ["store", "third"]
    assert holds(second), "its replica stays"
    first = agent.vm("targets", "remove", "one", "--store", agent.store)
    assert (first.status, "unprotect" in first.err) == (3, True)
    assert agent.vm("unprotect", "one").status == 0
    assert not list((agent.folder / "one").glob("*.hrl"))
