"""Real agents, real storage daemons and machines, ordered by a stand-in for the vault; killed at every named step."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.request
from pathlib import Path

import pytest

from standby.link import recovery as orders
from standby.link.messages import WorkState
from standby.link.requests import Pause, Protect, Resume, Unprotect
from standby.objects.directory import DirectoryStore
from standby.recovery import failover, live
from standby.replica.journal import ReplicaLog
from standby.replication.policy import Policy
from tests.agent.stand_in_vault import StandInVault
from tests.cli.conftest import PROGRAM, standby
from tests.hypervisor.processes import Daemon
from tests.hypervisor.processes import wait_for as wait_for_it
from tests.recovery.conftest import HOST, Replica
from tests.recovery.machines import bootless
from tests.replication.site import noise, write

pytestmark = pytest.mark.slow

KILLED = -signal.SIGKILL


def wait_for(condition, limit=40.0):
    return wait_for_it(condition, "what the test waits for", limit)


class VaultAgent:
    """`standby agent run` of a host that is registered with a stand-in vault."""

    def __init__(self, folder: Path, vault: StandInVault):
        self.folder = folder
        self.vault = vault
        self.state = folder / "state"
        self.sockets = folder / "s"
        self.sockets.mkdir()
        self.store = folder / "store"
        self.log = folder / "agent.log"
        self.daemons: dict[str, Daemon] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        done = standby("agent", "register", vault.key_file(folder), "--name", "h", "--state", self.state)
        assert done.status == 0, done.err

    def machine(self, name: str) -> Daemon:
        """It has a control socket by our convention."""
        place = self.folder / name
        place.mkdir()
        path = self.sockets / f"{name}.qmp"
        ours = ["--chardev", f"socket,path={path},server=on,wait=off,id=ours", "--monitor", "chardev=ours"]
        self.daemons[name] = Daemon(place, {"raw": ("raw", "")}, extra=ours)
        return self.daemons[name]

    def start(self, failpoint="", *options):
        environment = {**os.environ, "STANDBY_FAILPOINT": failpoint}
        words = [PROGRAM, "agent", "run", "--state", self.state, "--sockets", self.sockets, *options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(one) for one in words], stderr=log, stdout=log, env=environment
            )

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        return self.process.wait(30)

    def done(self, job, work, lease=1):
        """The report of the order's end."""
        self.vault.order(job, work, lease)
        return self.end_of(job)

    def end_of(self, job):
        return wait_for(lambda: self.vault.ended.get(job))

    def runs(self, kind):
        root = self.state / kind
        return [one for one in root.iterdir() if not one.name.startswith(".")] if root.is_dir() else []

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for run in self.runs("tests"):
            failover.clean_up(run, HOST)
        for run in self.runs("failovers"):
            (run / "committed.json").unlink(missing_ok=True)
            live.cancel(run, HOST)
        for daemon in self.daemons.values():
            daemon.stop()


@pytest.fixture
def vault():
    vault = StandInVault()
    yield vault
    vault.close()


@pytest.fixture
def agent(vault):
    folder = Path(tempfile.mkdtemp(prefix="sa-"))
    agent = VaultAgent(folder, vault)
    yield agent
    agent.close()
    shutil.rmtree(folder)


def protection(agent, name, **more):
    seen = wait_for(
        lambda: (
            next(
                (one for one in agent.vault.heartbeats[-1].machines if one.name == name and one.connection),
                None,
            )
            if agent.vault.heartbeats
            else None
        )
    )
    return Protect(
        machine=name,
        connection=seen.connection,
        store=str(agent.store),
        replica=name,
        policy=Policy(frequency=1, reserve=0),
        **more,
    )


def standing(agent, name):
    found = agent.vault.heartbeats[-1].relationships
    return next((one for one in found if one.machine == name), None)


def test_a_machine_is_found_protected_and_let_go_by_orders_and_outlives_its_vault(agent):
    DirectoryStore(agent.store, create=True)
    write(agent.machine("web"), "raw", 0, noise(1 << 20))
    agent.start("", "--metrics", f":{(port := _free_port())}")
    request = protection(agent, "web")
    assert request.connection.qmp == str(agent.sockets / "web.qmp")
    assert request.connection.nbd == str(agent.daemons["web"].nbd)
    ended = agent.done("protect", request)
    assert ended.state is WorkState.SUCCEEDED, ended
    assert [(task.name, task.state.value) for task in ended.tasks] == [
        ("Prerequisites check for enabling protection", "succeeded"),
        ("Identifying replication target", "succeeded"),
        ("Enable replication", "succeeded"),
        ("Starting initial replication", "succeeded"),
    ]
    relationship = ended.result["relationship"]
    wait_for(lambda: len(agent.vault.points) >= 2)
    wait_for(lambda: standing(agent, "web").state in ("protected", "delta"))
    check_metrics(agent, port)
    assert agent.done("again", request).error.cause.startswith("it is protected already")

    # The vault goes away: replication goes on, and what happened is told when it is back.
    agent.vault.down()
    store = DirectoryStore(agent.store)
    count = len(ReplicaLog.read(store, "web").points)
    wait_for(lambda: len(ReplicaLog.read(store, "web").points) > count + 2)
    agent.stop(signal.SIGKILL)
    agent.start()
    wait_for(lambda: len(ReplicaLog.read(store, "web").points) > count + 4)
    agent.vault.up()
    newest = ReplicaLog.read(store, "web").point().seq
    wait_for(lambda: (relationship, newest) in agent.vault.points)
    told = {seq for _, seq in agent.vault.points}
    assert {point.seq for point in ReplicaLog.read(store, "web").points if point.seq <= newest} <= told

    assert agent.done("pause", Pause(machine="web")).state is WorkState.SUCCEEDED
    wait_for(lambda: standing(agent, "web").state == "paused")
    assert agent.done("resume", Resume(machine="web")).state is WorkState.SUCCEEDED
    assert agent.done("end", Unprotect(machine="web")).state is WorkState.SUCCEEDED
    wait_for(lambda: standing(agent, "web") is None)
    assert agent.daemons["web"].bitmaps() == []
    assert agent.stop() == 0


ORDER_STEPS = ["orders.accepted", "orders.begun", "orders.did", "orders.ended", "link.orders_taken_in"]
PROTECT_STEPS = ["enable.noted", "enable.created", "enable.started"]


def test_agents_killed_at_every_step_of_orders_do_each_once(agent):
    """Each life is given an order more, and finds those that the ones before it could not end."""
    DirectoryStore(agent.store, create=True)
    steps = [*ORDER_STEPS, *PROTECT_STEPS]
    for number in range(len(steps)):
        agent.machine(f"vm{number}")
    agent.start()
    requests = [protection(agent, f"vm{number}") for number in range(len(steps))]
    agent.stop(signal.SIGKILL)
    for step, request in zip(steps, requests, strict=True):
        agent.start(f"{step}=kill")
        agent.vault.order(f"job-{request.machine}", request)
        assert agent.process.wait(40) == KILLED, step
    agent.start()
    for request in requests:
        ended = agent.end_of(f"job-{request.machine}")
        assert ended.state is WorkState.SUCCEEDED, ended
        assert ended.tasks[-1].state.value == "succeeded"
        wait_for(lambda request=request: standing(agent, request.machine))
        assert standing(agent, request.machine).id == ended.result["relationship"]
    wait_for(lambda: {one for one, _ in agent.vault.points} == {one.id for one in relationships(agent)})


def relationships(agent):
    return agent.vault.heartbeats[-1].relationships


def test_a_token_that_is_renewed_while_the_agent_is_killed_is_not_lost(agent):
    for step in ("membership.written", "membership.replaced", "link.token_kept", ""):
        count = len(agent.vault.heartbeats)
        agent.start(f"{step}=kill" if step else "")
        if step:
            renewed = agent.vault.renew("host-1")
            assert agent.process.wait(40) == KILLED
    wait_for(lambda: len(agent.vault.heartbeats) > count + 2 and "host-1" not in agent.vault.fresh)
    assert list(agent.vault.tokens) == [renewed]


def test_failovers_are_ordered_and_found_again_after_kills(agent, tmp_path):
    """The machine does not boot: it is started, and nothing is waited for."""
    replica = Replica(agent.folder)
    first, newest = bootless(replica, tmp_path), bootless(replica, tmp_path)
    test = orders.TestFailover(store=str(agent.store), replica="web", boot_limit=None)
    for number, step in enumerate(["run_directory.named", "steps.did@3", "orders.did"]):
        name, at, count = step.partition("@")
        agent.start(f"{name}=kill{at}{count}")
        agent.vault.order(f"test-{number}", test)
        assert agent.process.wait(40) == KILLED, step
        agent.start()
        ended = agent.end_of(f"test-{number}")
        assert ended.state is WorkState.SUCCEEDED, (step, ended)
        (run,) = agent.runs("tests")
        assert ended.result == {"run": str(run), "point": str(newest)}
        assert {task.name for task in ended.tasks if task.state.value == "succeeded"} >= {
            "Create test virtual machine",
            "Start the virtual machine",
        }
        wait_for(lambda: [one.machine_state for one in agent.vault.heartbeats[-1].runs] == ["running"])
        cleaned = agent.done(f"clean-{number}", orders.CleanUpTest(run=str(run)))
        assert cleaned.state is WorkState.SUCCEEDED
        assert agent.runs("tests") == []
        agent.stop(signal.SIGKILL)

    agent.start("steps.did=kill@4")
    agent.vault.order(
        "fail", orders.FailOver(store=str(agent.store), replica="web", boot_limit=None, source_down=True)
    )
    assert agent.process.wait(40) == KILLED
    agent.start()
    ended = agent.end_of("fail")
    assert ended.state is WorkState.SUCCEEDED, ended
    (run,) = agent.runs("failovers")
    assert ended.result == {"run": str(run), "point": str(newest), "machine": "web"}
    refused = agent.done("second", orders.FailOver(store=str(agent.store), replica="web", boot_limit=None))
    assert (refused.state, "failed over to this host already" in refused.error.cause) == (
        WorkState.FAILED,
        True,
    )
    changed = agent.done("change", orders.ChangePoint(run=str(run), point=str(first)))
    assert (changed.state, changed.result["point"]) == (WorkState.SUCCEEDED, str(first)), changed
    assert agent.done("commit", orders.Commit(run=str(run))).state is WorkState.SUCCEEDED
    wait_for(lambda: [one.phase for one in agent.vault.heartbeats[-1].runs] == ["committed"])
    again = agent.done("change-2", orders.ChangePoint(run=str(run), point="newest"))
    assert (again.state, again.error.kind) == (WorkState.FAILED, "InvalidRequest")


def check_metrics(agent, port):
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    for line in (
        'standby_machine_frequency_seconds{machine="web"} 1.0',
        'standby_machine_queue_entries{machine="web"}',
        'standby_machine_points_total{machine="web"}',
        'standby_machine_sent_bytes_total{machine="web"}',
        "standby_vault_answers 1.0",
    ):
        assert line in text
    assert "token" not in text
    assert str(agent.folder) not in text
    refused = standby("agent", "run", "--state", agent.folder / "other", "--metrics", "nowhere:x")
    assert refused.status == 3


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
