"""A point served over NBD by a process of its own."""

from __future__ import annotations

import json

import pytest

from standby.block.disk import DiskFailed
from standby.block.nbd import NbdDisk
from standby.block.serve import serve
from standby.errors import InvalidRequest
from standby.recovery.image_source import OPEN_HELD, OPEN_POINT
from standby.replica.journal import ReplicaLog
from tests.recovery.conftest import damage
from tests.support.replicas import read_whole

pytestmark = pytest.mark.slow


def test_a_served_point_reads_as_the_disk_did_under_a_hold(store, disk, tmp_path):
    arguments = {"store": store.url, "replica": "web", "disk": "vda"}
    with serve(OPEN_POINT, arguments, tmp_path / "s"):
        (held,) = ReplicaLog.read(store, "web").head.holds
        assert "served by process" in held.by
        client = NbdDisk(tmp_path / "s", "")
        assert read_whole(client.read, disk.size) == disk.bytes
        client.close()
    assert ReplicaLog.read(store, "web").head.holds == ()


def test_damage_is_an_io_error_and_is_told(store, disk, tmp_path):
    damage(store, tmp_path)
    seq = ReplicaLog.read(store, "web").point().seq
    arguments = {
        "store": store.url,
        "replica": "web",
        "seq": seq,
        "disk": "vda",
        "damage": str(tmp_path / "damage"),
    }
    with serve(OPEN_HELD, arguments, tmp_path / "s"):
        client = NbdDisk(tmp_path / "s", "")
        with pytest.raises(DiskFailed):
            read_whole(client.read, disk.size)
        client.close()
    told = [json.loads(line) for line in (tmp_path / "damage").read_text().splitlines()]
    assert told
    assert all(one["subject"].endswith(".hrl") for one in told)


def test_what_is_wrong_with_the_order_reaches_the_caller(store, disk, tmp_path):
    with pytest.raises(InvalidRequest, match="has no disk vdz"):
        serve(OPEN_POINT, {"store": store.url, "replica": "web", "disk": "vdz"}, tmp_path / "s")
