"""The main job by commands alone, with the replica in real cloud services."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from unittest import mock

import pytest

from standby.block.nbd import NbdDisk
from standby.objects.address import open_store
from standby.replica.journal import ReplicaLog
from tests.cli.conftest import PROGRAM, standby
from tests.cli.test_vm import protect
from tests.hypervisor.processes import FORMATS, Daemon, Writer, assert_one_instant, contents, wait_for
from tests.support.fault_proxy import FaultProxy, Refuse
from tests.support.replicas import read_whole

pytestmark = pytest.mark.slow


@pytest.fixture
def daemon(tmp_path):
    daemon = Daemon(tmp_path, {name: FORMATS[name] for name in ("qcow", "raw")})
    yield daemon
    daemon.stop()


@pytest.fixture
def address(place):
    """The address of an empty place; what opens it is in the environment, as it would be for an operator."""
    with mock.patch.dict(os.environ, place.environment):
        yield place.address


def test_protect_list_verify_restore_and_serve(daemon, address, tmp_path):
    state, folder = tmp_path / "state", tmp_path / "restored"
    folder.mkdir()
    created = standby("store", "create", address, "--json")
    assert (created.status, created.json) == (0, {"store": address}), created.err
    with Writer(daemon, pause=0.002) as writer:
        writer.more()
        protect(daemon, address, state, 2)
        again = protect(daemon, address, state, 2)
        assert not [event for event in again if event["event"] == "progress"], "no second full scan"
    shown = standby("vm", "show", "web", "--state", state, "--json").json
    assert (shown["store"], shown["store_problem"]) == (address, "")
    assert shown["newest"]
    assert [one["replica"] for one in standby("replica", "list", address, "--json").json] == ["web"]
    points = standby("replica", "points", address, "web", "--json").json
    assert len(points) >= 4
    verified = standby("replica", "verify", address, "web", "--all", "--logs", "--json")
    assert (verified.status, verified.json["damaged"]) == (0, False), verified.err

    log = ReplicaLog.read(open_store(address), "web")
    for point in log.points:
        assert_one_instant(writer, {d.id: contents(log.image(point.seq, d.id)) for d in point.disks})
    for disk in log.point().disks:
        truth = contents(log.image(log.point().seq, disk.id))
        path = folder / disk.id
        done = standby("replica", "restore", address, "web", "--disk", disk.id, "--to", path, "--json")
        assert done.status == 0, done.err
        assert path.read_bytes() == bytes(truth)
        assert served(address, disk.id, tmp_path / "socket") == truth


def served(address, disk, socket) -> bytes:
    server = subprocess.Popen(
        [PROGRAM, "replica", "serve", address, "web", "--disk", disk, "--socket", socket, "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout.readline(), "it ended"
        client = NbdDisk(socket, "")
        content = read_whole(client.read, client.size)
        client.close()
        return content
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=30)


def test_a_bucket_that_is_not_there_and_wrong_keys_are_told(address):
    missing = address.replace("://", "://missing-")
    for words in (["store", "create"], ["replica", "list"]):
        done = standby(*words, missing, columns=200)
        assert (done.status, "does not exist" in done.err, "Traceback" in done.err) == (5, True, False), (
            done.err
        )
    if address.startswith("az"):  # moto takes any key
        wrong = os.environ["AZURE_STORAGE_CONNECTION_STRING"].replace("AccountKey=Eby8", "AccountKey=AAAA")
        with mock.patch.dict(os.environ, {"AZURE_STORAGE_CONNECTION_STRING": wrong}):
            done = standby("replica", "list", address, columns=200)
        assert (done.status, "403 AuthorizationFailure" in done.err) == (5, True)
        assert "8vdM02xNOcqFlqUwJPLl" not in done.err


@pytest.mark.parametrize("as_json", [False, True])
def test_a_point_goes_to_azure_as_a_vhd(azurite, store, disk, as_json):
    place = azurite.place("")
    target = f"{place.address}vda.vhd"
    with mock.patch.dict(os.environ, place.environment):
        done = standby("replica", "export", store, "web", "--to", target, *(["--json"] if as_json else []))
        again = standby("replica", "export", store, "web", "--to", target)
    assert done.status == 0, done.err
    if as_json:
        assert (done.json["blob"], done.json["size"]) == (target, 2 << 20)
    else:
        assert target in done.out.replace("\n", "")
    assert (again.status, "--overwrite" in again.err) == (3, True)


def test_an_agent_that_starts_while_the_store_is_away_captures_all_the_same(daemon, moto, tmp_path):
    place = moto.place()
    state = tmp_path / "state"
    with (
        FaultProxy(moto.port) as proxy,
        mock.patch.dict(os.environ, place.through(proxy.endpoint).environment),
    ):
        protect(daemon, place.address, state, 1)
        proxy.always = Refuse()
        agent = subprocess.Popen(
            [PROGRAM, "vm", "protect", "web", "--qmp", daemon.qmp, "--nbd", daemon.nbd, "--state", state]
            + ["--store", place.address, "--frequency", "1", "--json"],
            stdout=subprocess.PIPE,
            text=True,
        )
        told = ""
        while told != "failed":
            line = agent.stdout.readline()
            assert line, "it ended"
            told = json.loads(line)["event"]
        wait_for(
            lambda: standby("vm", "list", "--state", state, "--json").json[0]["queued"] >= 2, "two points"
        )
        agent.send_signal(signal.SIGINT)
        agent.communicate(timeout=60)
        assert agent.returncode == 0
