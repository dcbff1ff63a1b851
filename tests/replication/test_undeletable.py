"""Stores that refuse to delete: credentials that may not, leases, object lock. Nothing breaks; deletion waits."""

from __future__ import annotations

import re

import pytest

from standby.errors import Damaged
from standby.objects.base import ObjectMissing, StoreRefused
from standby.replica.journal import ReplicaLog, ReplicaMissing
from standby.replica.merge import merge
from standby.replica.merge_plan import AT_ONCE
from standby.replica.sweep import sweep
from standby.replica.verify import verify_logs, verify_point
from tests.hypervisor.processes import Daemon
from tests.replication.rig import Rig
from tests.replication.site import noise, write
from tests.support.clouds import with_sas

pytestmark = pytest.mark.slow


@pytest.fixture
def daemon(tmp_path):
    daemon = Daemon(tmp_path, {"raw": ("raw", ""), "qcow": ("qcow2", "")})
    yield daemon
    daemon.stop()


def points(rig, daemon, count):
    rig.protect()
    for number in range(count):
        write(daemon, "raw", number << 16, noise(1 << 16, number))
        rig.point()


def newest(log):
    return {log.point().seq}


def sound(store):
    log = ReplicaLog.read(store, "vm")
    assert verify_point(log, log.point()).findings == ()
    assert verify_logs(log).findings == ()
    return log


def test_an_agent_needs_no_right_to_delete_and_what_is_leased_waits_for_a_later_sweep(
    azurite, daemon, tmp_path
):
    place = azurite.place()
    agents, retention = with_sas(place, "racwl").open(), place.open()
    rig = Rig(tmp_path, daemon.hypervisor(), agents)
    points(rig, daemon, 4)
    rig.close()
    with pytest.raises(StoreRefused):
        agents.delete("vm/replica.json")

    assert merge(agents, "vm", newest, scratch=tmp_path, thresholds=AT_ONCE).ranges, "merging only writes"
    before = {entry.name for entry in retention.list("vm/")}
    denied = sweep(agents, "vm")
    assert (denied.logs, denied.layers, denied.records) == (0, 0, 0)
    assert len(denied.refused) >= 4
    assert denied.refused[0] in denied.waiting[-1]
    assert "not authorized" in denied.waiting[-1]
    assert {entry.name for entry in retention.list("vm/")} == before

    logs = [name for name in denied.refused if "/logs/" in name]
    leased = logs[1]
    azurite.lease(place, leased, "acquire")
    for deleted in (len(logs) - 1, 0):
        swept = sweep(retention, "vm")
        assert (swept.logs, swept.refused) == (deleted, (leased,))
        assert swept.waiting[0].startswith(f"the store refuses to delete {leased} (")
        log = sound(retention)
    left = [entry.name for entry in retention.list("vm/points/")]
    assert len(left) == len(log.records) + 1, "only the record that names it stays with it"
    azurite.lease(place, leased, "break")
    last = sweep(retention, "vm")
    assert (last.logs, last.records, last.refused, last.waiting) == (1, 1, (), ())
    sound(retention)


def test_what_is_locked_comes_back_after_somebody_deleted_everything(moto, daemon, tmp_path):
    """S3 object lock keeps versions: deleting succeeds and hides an object, and takes nothing away."""
    place = moto.place(locks=True)
    bucket = place.address.split("/")[2]
    store = place.open()
    rig = Rig(tmp_path, daemon.hypervisor(), store)
    points(rig, daemon, 2)
    rig.close()
    merge(store, "vm", newest, scratch=tmp_path, thresholds=AT_ONCE)
    swept = sweep(store, "vm")
    assert (swept.logs > 0, swept.refused) == (True, ()), "hidden is deleted, as far as a sweep can tell"
    count = len(sound(store).points)

    for name, version in versions(moto, bucket, "Version"):
        until = "<Mode>COMPLIANCE</Mode><RetainUntilDate>2099-01-01T00:00:00Z</RetainUntilDate>"
        path = f"/{bucket}/{name}?retention&versionId={version}"
        assert moto.s3("PUT", path, body=f"<Retention>{until}</Retention>").status == 200
    there = [entry.name for entry in store.list("vm/")]
    for name in there:
        store.delete(name)
    with pytest.raises((ObjectMissing, ReplicaMissing, Damaged)):
        ReplicaLog.read(store, "vm")

    assert {
        moto.s3("DELETE", f"/{bucket}/{name}?versionId={version}").status
        for name, version in versions(moto, bucket, "Version")
    } == {403}
    for name, version in versions(moto, bucket, "DeleteMarker"):
        if name.removeprefix("backups/standby/") in there:
            assert moto.s3("DELETE", f"/{bucket}/{name}?versionId={version}").status == 204
    assert len(sound(store).points) == count


def versions(moto, bucket, kind):
    """Names and version ids of all versions of objects, or of the marks that hide objects."""
    text = moto.s3("GET", f"/{bucket}?versions").text
    found = re.findall(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
    return [
        (re.search("<Key>(.*?)</Key>", one)[1], re.search("<VersionId>(.*?)</VersionId>", one)[1])
        for one in found
    ]
