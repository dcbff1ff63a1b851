"""`standby vm` against a real storage daemon."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

from standby.objects.directory import DirectoryStore
from standby.replica.journal import ReplicaLog
from tests.cli.conftest import PROGRAM, standby
from tests.hypervisor.processes import FORMATS, Daemon, Writer, assert_one_instant, contents

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
