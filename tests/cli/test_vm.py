"""`standby vm` against a real storage daemon."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess

import pytest

from standby.clock import SystemClock
from standby.errors import InvalidRequest
from standby.objects.directory import DirectoryStore
from standby.replica.journal import ReplicaLog
from standby.replica.writer import attach
from standby.replication.books import Books
from tests.cli import reference
from tests.cli.conftest import PROGRAM, standby
from tests.hypervisor.processes import FORMATS, Daemon, Writer, assert_one_instant, contents
from tests.support.replicas import new_id

pytestmark = pytest.mark.slow


@pytest.fixture
def daemon(tmp_path):
    daemon = Daemon(tmp_path, {name: FORMATS[name] for name in ("qcow", "raw")})
    yield daemon
    daemon.stop()


def protect(daemon, store, state, points: int) -> list[dict]:
    """Run `vm protect` until it told so many points, then Ctrl-C; its events."""
    arguments = ["vm", "protect", "web", "--qmp", daemon.qmp, "--nbd", daemon.nbd, "--store", store]
    process = subprocess.Popen(
        [PROGRAM, *arguments, "--frequency", "1", "--state", state, "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    events = []
    while sum(event["event"] == "point" for event in events) < points:
        line = process.stdout.readline()
        assert line, f"it ended after {events}"
        events.append(json.loads(line))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode in (0, 130)
    return events


def test_a_machine_is_protected_stopped_and_goes_on(daemon, store, tmp_path):
    state = tmp_path / "state"
    sockets = ["--qmp", daemon.qmp, "--nbd", daemon.nbd, "--state", state]
    checked = standby("vm", "check", "web", *sockets, "--json")
    assert (checked.status, checked.json["ready"]) == (0, True)
    with Writer(daemon, pause=0.002) as writer:
        writer.more()
        protect(daemon, store, state, 2)
        again = protect(daemon, store, state, 2)
        assert not [event for event in again if event["event"] == "progress"], "no second full scan"
    (machine,) = standby("vm", "list", "--state", state, "--json").json
    assert (machine["machine"], machine["state"], machine["running"]) == ("web", "protected", False)
    log = ReplicaLog.read(DirectoryStore(store), "web")
    for point in log.points:
        assert_one_instant(writer, {d.id: contents(log.image(point.seq, d.id)) for d in point.disks})

    assert standby("vm", "pause", "web", "--state", state).status == 0
    assert standby("vm", "show", "web", "--state", state, "--json").json["state"] == "paused"
    assert standby("vm", "resume", "web", "--state", state).status == 0
    done = standby("vm", "unprotect", "web", *sockets)
    assert done.status == 0, done.err
    assert standby("vm", "list", "--state", state, "--json").json == []
    assert daemon.bitmaps() == []
    assert ReplicaLog.read(DirectoryStore(store), "web").points, "the replica stays"


def test_an_unknown_machine_and_a_dead_socket_are_told(daemon, store, tmp_path):
    done = standby("vm", "show", "mail", "--state", tmp_path / "none")
    assert (done.status, "Traceback" in done.err) == (3, False)
    done = standby(
        "vm", "check", "web", "--qmp", tmp_path / "nothing", "--state", tmp_path / "s", columns=200
    )
    assert done.status == 4
    assert str(tmp_path / "nothing") in done.err


def start(daemon, store, state, *more) -> subprocess.Popen[str]:
    arguments = ["vm", "protect", "web", "--qmp", daemon.qmp, "--nbd", daemon.nbd, "--store", store]
    return subprocess.Popen(
        [PROGRAM, *arguments, "--frequency", "1", "--state", state, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "60", "TZ": "UTC"},
    )


def until(process, text: str) -> list[str]:
    """The lines it printed, up to the first that begins with `text`."""
    lines = []
    while not lines or not lines[-1].startswith(text):
        line = process.stdout.readline()
        assert line, f"it ended after {lines}: {process.stderr.read()}"
        lines.append(line.rstrip("\n"))
    return lines


def test_a_second_agent_is_refused_and_the_first_stops_well(daemon, store, tmp_path):
    state = tmp_path / "state"
    agent = start(daemon, store, state)
    try:
        said = until(agent, "      4")
        words = ["vm", "protect", "web", "--qmp", daemon.qmp, "--store", store]
        refused = standby(*words, "--state", state, "--json")
        assert (refused.status, "protected already" in json.loads(refused.err)["cause"]) == (3, True)
        with pytest.raises(InvalidRequest, match=rf"\(process {agent.pid}\)"):
            Books(state)
        # It does what it is asked.
        assert standby("vm", "pause", "web", "--state", state, "--json").json["state"] == "paused"
        assert standby("vm", "pause", "web", "--state", state).status == 3
        assert standby("vm", "resume", "web", "--state", state, "--json").json["state"] != "paused"
        shown = standby("vm", "show", "web", "--state", state)
        assert shown.status == 0
        assert re.search(r"^Agent +running$", shown.out, re.MULTILINE)
    finally:
        agent.send_signal(signal.SIGTERM)
        out, err = agent.communicate(timeout=30)
    assert agent.returncode == 0, err
    lines = [*said, *out.splitlines()]
    assert [line for line in lines if line.endswith(": done")] == [
        "Create relationship: done",
        "Start replication: done",
        "Finalize: done",
    ]
    assert "Stopped." in out
    assert all(len(line) <= 60 for line in lines)
    # The table's columns stand under their headings.
    (heading,) = [line for line in lines if line.startswith("  Point")]
    (first,) = [line for line in lines if line.startswith("      4")]
    assert len(heading) == len(first)


def test_what_stands_against_protection_is_told_once_and_nothing_is_begun(daemon, store, tmp_path):
    words = ["vm", "protect", "web", "--qmp", daemon.qmp, "--nbd", daemon.nbd, "--store", store]
    words += ["--state", tmp_path / "state", "--exclude", "vdz"]
    done = standby(*words)
    assert done.status == 3
    assert " ".join((done.out + done.err).split()).count("no such disk") == 1
    assert "Blocks  vdz" in done.err
    (event, *_), failure = done_json(standby(*words, "--json"))
    assert event["event"] == "finding"
    assert [finding["subject"] for finding in failure["findings"] if finding["blocks"]] == ["vdz"]
    assert standby("vm", "list", "--state", tmp_path / "state", "--json").json == []
    assert standby("replica", "list", store, "--json").json == []
    assert daemon.bitmaps() == []


def done_json(done) -> tuple[list[dict], dict]:
    return [json.loads(line) for line in done.out.splitlines()], json.loads(done.err)


def test_what_is_not_possible_now_is_told_with_what_is(daemon, store, tmp_path):
    state = tmp_path / "state"
    protect(daemon, store, state, 1)
    not_paused = standby("vm", "resume", "web", "--state", state, columns=200)
    assert (not_paused.status, "standby vm show web" in not_paused.err) == (3, True)
    assert standby("vm", "pause", "web", "--state", state).status == 0
    twice = standby("vm", "pause", "web", "--state", state, columns=200)
    assert (twice.status, "standby vm resume web" in twice.err) == (3, True)
    words = ["vm", "protect", "web", "--qmp", daemon.qmp, "--nbd", daemon.nbd, "--state", state]
    refused = standby(*words, "--store", store, columns=200)
    assert (refused.status, "standby vm resume web" in refused.err) == (3, True)

    elsewhere = tmp_path / "elsewhere"
    assert standby("store", "create", elsewhere, "--json").json == {"store": str(elsewhere)}
    refused = standby(*words, "--store", elsewhere, columns=200)
    assert (refused.status, "standby vm unprotect web" in refused.err) == (3, True)

    # The store is away: all that the books know is still shown, the trouble too, however narrow it is.
    store.rename(tmp_path / "away")
    listed = standby("vm", "list", "--state", state, columns=60)
    assert listed.status == 0
    assert "paused by an operator" in " ".join(listed.out.split())
    shown = standby("vm", "show", "web", "--state", state, columns=60)
    assert "no store is here" in " ".join(shown.out.split())
    assert all(len(line) <= 60 or str(store) in line for line in listed.out.splitlines())
    machine = standby("vm", "show", "web", "--state", state, "--json").json
    assert (machine["newest"], "no store is here" in machine["store_problem"]) == (None, True)

    both = ["--qmp", daemon.qmp, "--machine-gone"]
    unclear = standby("vm", "unprotect", "web", *both, "--state", state, columns=200)
    assert (unclear.status, "--machine-gone" in unclear.err) == (3, True)
    ended = standby("vm", "unprotect", "web", "--machine-gone", "--state", state, "--json")
    assert (ended.status, ended.json["machine"]) == (0, "web")


def test_documents_have_the_keys_that_are_documented(daemon, store, tmp_path):
    state = tmp_path / "state"
    events = protect(daemon, store, state, 1)
    keys = documented()
    for event in events:
        assert set(event) <= keys["Event"]
    for name, words in {
        "Vm": ["vm", "show", "web", "--state", state],
        "Checked": ["vm", "check", "web", "--qmp", daemon.qmp, "--nbd", daemon.nbd, "--state", state],
        "ReplicaDetail": ["replica", "show", store, "web"],
        "Verification": ["replica", "verify", store, "web"],
        "Restored": ["replica", "restore", store, "web", "--disk", "raw", "--to", tmp_path / "restored"],
        "Unprotected": ["vm", "unprotect", "web", "--qmp", daemon.qmp, "--state", state],
    }.items():
        done = standby(*words, "--json")
        assert done.status == 0, done.err
        assert set(done.json) == keys[name]
    (row,) = standby("replica", "list", store, "--json").json
    assert set(row) == keys["Replica"]
    points = standby("replica", "points", store, "web", "--json").json
    assert all(set(point) == keys["Point"] for point in points)
    assert all(set(one) == keys["PointDisk"] for point in points for one in point["disks"])
    failure = json.loads(standby("replica", "show", store, "mail", "--json").err)
    assert set(failure) == keys["Failure"]


def documented() -> dict[str, set[str]]:
    """The keys of each document, as docs/cli.md tells them."""
    lines = re.findall(r"^- \*\*(\w+)\*\*: ((?:`\w+`(?:, )?)+)", reference.DOC.read_text(), re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)`", keys)) for name, keys in lines}


def test_a_fenced_agent_ends_with_6_and_owns_the_replica_again_only_on_request(daemon, store, tmp_path):
    state = tmp_path / "state"
    agent = start(daemon, store, state, "--json")
    until(agent, '{"event":"point"')
    attach(DirectoryStore(store), "web", owner="agent@host-b", clock=SystemClock(), new_id=new_id)
    out, err = agent.communicate(timeout=30)
    assert agent.returncode == 6, out
    assert json.loads(err)["error"] == "Fenced"
    assert "--take-over" in json.loads(err)["hint"]

    shown = standby("vm", "show", "web", "--state", state, "--json").json
    assert (shown["state"], "epoch" in shown["error"]) == ("fenced", True)
    words = ["vm", "protect", "web", "--qmp", daemon.qmp, "--nbd", daemon.nbd, "--store", store]
    refused = standby(*words, "--state", state, "--json")
    assert (refused.status, "--take-over" in json.loads(refused.err)["hint"]) == (6, True)

    agent = start(daemon, store, state, "--json", "--take-over")
    assert any('"state":"protected"' in line for line in agent.stdout)
    agent.send_signal(signal.SIGINT)
    assert agent.wait(30) == 0
    agent.communicate()
    assert standby("vm", "show", "web", "--state", state, "--json").json["state"] == "protected"
    assert standby("replica", "verify", store, "web", "--all").status == 0
