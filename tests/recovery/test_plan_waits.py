"""What a plan runs and asks on a host: programs, ports, URLs; and what it finds before it runs."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import threading
import time

import pytest

from standby.hypervisor.host import MachineState
from standby.objects.directory import DirectoryStore
from standby.recovery import plan_findings, plan_probes, plan_programs
from standby.recovery.networks import bridge_problem
from standby.recovery.plan_document import Command, Group, Http, Kind, Member, Plan, Script, Tcp
from standby.recovery.plan_effects import Situation
from standby.recovery.plan_probes import ProbeFailed
from standby.recovery.plan_programs import STEP, NotExecutable, ScriptFailed
from standby.recovery.plan_steps import Part
from tests.recovery.conftest import HOST
from tests.recovery.machines import bootless

pytestmark = pytest.mark.slow


class Machine:
    """Of a running machine, what a probe from outside asks."""

    def __init__(self, state=MachineState.RUNNING) -> None:
        self._state = state

    def state(self):
        return self._state


@pytest.fixture
def situation(tmp_path):
    return Situation({STEP: f"{tmp_path}:probe:a:1", "TOLD": "so"}, tmp_path / "output" / "000.log", False)


def test_a_program_is_told_and_what_it_says_is_kept(situation):
    plan_programs.run(("sh", "-c", "echo $TOLD; echo err >&2"), 10, situation, "script s")
    plan_programs.run(("sh", "-c", "echo again; pwd"), 10, situation, "script s")
    assert situation.output.read_text() == "so\nerr\nagain\n/\n"


def test_a_program_that_fails_is_told_by_its_last_words(situation):
    plan_programs.run(("sh", "-c", "echo of an earlier try"), 10, situation, "script s")
    with pytest.raises(ScriptFailed, match='ended with status 3; its last words: "what is wrong"'):
        plan_programs.run(("sh", "-c", "echo what is wrong; exit 3"), 10, situation, "script s")
    with pytest.raises(ScriptFailed, match="by signal 9, and said nothing"):
        plan_programs.run(("sh", "-c", "kill -9 $$"), 10, situation, "script s")
    with pytest.raises(NotExecutable, match="No such file"):
        plan_programs.run(("/nowhere/x",), 10, situation, "script s")


def test_a_program_that_takes_too_long_is_ended_with_its_children(situation, tmp_path):
    line = f"sleep 1000 & echo $! >{tmp_path}/child; wait"
    with pytest.raises(ScriptFailed, match="did not end within 0.3 s"):
        plan_programs.run(("sh", "-c", line), 0.3, situation, "script s")
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        os.sched_yield()
    assert not alive(child)


def test_what_an_interrupted_run_left_is_ended_before_it_is_run_again(situation):
    left = subprocess.Popen(["sleep", "1000"], env={**os.environ, **situation.environment})
    other = subprocess.Popen(["sleep", "1000"], env={**os.environ, STEP: "another"})
    try:
        plan_programs.run(("true",), 10, situation._replace(again=True), "script s")
        assert left.wait(10) == -9
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


class Answers(http.server.BaseHTTPRequestHandler):
    seen: list[str] = []  # noqa: RUF012

    def do_GET(self):
        self.seen.append(self.path)
        # It is not ready at once.
        self.send_response(204 if self.seen.count(self.path) > 1 else 503)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_url_is_asked_until_it_answers_as_it_should(situation, monkeypatch):
    monkeypatch.setattr(plan_probes, "POLL", 0.01)
    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        plan_probes.wait(Machine(), Http(url=f"{url}/up?x=1", status=204, limit=10), situation, "a")
        assert Answers.seen.count("/up?x=1") == 2
        with pytest.raises(ProbeFailed, match=r"not within 0.2 s; at last it answered 204"):
            plan_probes.wait(Machine(), Http(url=f"{url}/up?x=1", limit=0.2), situation, "a")
        server.shutdown()
    with pytest.raises(ProbeFailed, match="Connection refused"):
        plan_probes.wait(Machine(), Http(url=url, limit=0.1), situation, "a")


def test_a_port_is_asked_and_a_machine_that_ended_is_not_waited_for(situation):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        plan_probes.wait(Machine(), Tcp(host="127.0.0.1", port=port, limit=10), situation, "a")
    began = time.monotonic()
    probe = Tcp(host="127.0.0.1", port=port, limit=100)
    with pytest.raises(ProbeFailed, match="its machine has ended; Connection refused"):
        plan_probes.wait(Machine(MachineState.GONE), probe, situation, "a")
    assert time.monotonic() - began < 5


def test_a_program_as_a_probe(situation, monkeypatch, tmp_path):
    monkeypatch.setattr(plan_probes, "POLL", 0.01)
    line = f"test -e {tmp_path}/once || {{ touch {tmp_path}/once; false; }}"
    plan_probes.wait(Machine(), Command(argv=("sh", "-c", line), limit=10), situation, "a")
    with pytest.raises(NotExecutable):
        plan_probes.wait(Machine(), Command(argv=("/nowhere/x",), limit=10), situation, "a")


def told(plan, kind, tmp_path, **more):
    found = plan_findings.check(plan, kind, HOST, tmp_path / "failovers", **more)
    return sorted(one.problem for one in found if one.blocks)


def test_all_that_stands_against_a_run_is_found_at_once(replica, tmp_path):
    bootless(replica, tmp_path)
    good = Member(store=str(replica.root), replica="web")
    members = (
        good,
        Member(store=str(replica.root), replica="gone"),
        Member(store=str(tmp_path / "no store"), replica="x"),
        Member(store=str(replica.root), replica="web", name="old", point="77"),
    )
    (tmp_path / "script").write_text("not executable")
    scripts = (Script(name="s", argv=(str(tmp_path / "script"),)), Script(name="t", argv=("/nowhere/t",)))
    # Two of one replica are told first, for nothing else is worth to be asked then.
    plan = Plan(name="p", groups=(Group(name="g", members=members, before=scripts),))
    assert told(plan, Kind.TEST, tmp_path) == ["two members start from it"]
    plan = Plan(name="p", groups=(Group(name="g", members=members[:3], before=scripts),))
    problems = told(plan, Kind.TEST, tmp_path)
    assert len(problems) == 4
    for said in ("gone", "no store", "may not be run", "is not there"):
        assert any(said in problem for problem in problems), said
    alone = Plan(name="p", groups=(Group(name="g", members=(good,)),))
    assert told(alone, Kind.TEST, tmp_path) == []
    assert "nothing will tell that its source is down" in told(alone, Kind.UNPLANNED, tmp_path)[0]
    assert told(alone, Kind.UNPLANNED, tmp_path, confirmed=True) == []
    assert "is not sealed" in told(alone, Kind.PLANNED, tmp_path, part=Part.START)[0]
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 1 kB\nMemAvailable: 1024 kB\n")
    assert told(alone, Kind.TEST, tmp_path, meminfo=meminfo) == [
        "its machines have 96 MiB of memory together, this host has 1 free"
    ]
    assert isinstance(replica.store, DirectoryStore)


def test_a_bridge_that_is_none_is_told(tmp_path):
    (tmp_path / "br0" / "bridge").mkdir(parents=True)
    (tmp_path / "eth0").mkdir()
    assert bridge_problem("m", "", tmp_path) == bridge_problem("m", "br0", tmp_path) == []
    assert "eth0 is no bridge" in bridge_problem("m", "eth0", tmp_path)[0].problem
    assert "there is no bridge br9" in bridge_problem("m", "br9", tmp_path)[0].problem
