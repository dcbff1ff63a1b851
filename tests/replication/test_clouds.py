"""The main job with the replica in real cloud services: the checks of test_cycle, and fencing."""

from __future__ import annotations

import pytest
from ulid import ULID

from standby.clock import SystemClock
from standby.errors import Fenced
from standby.objects.address import open_store
from standby.objects.base import ObjectStore, StoreBusy
from standby.objects.layers import Metered
from standby.replica.journal import ReplicaLog
from standby.replica.verify import verify_logs, verify_point
from standby.replica.writer import attach
from standby.replication.states import State
from tests.hypervisor.processes import Daemon, Writer, assert_one_instant
from tests.replication.rig import Rig, SettableClock
from tests.support.fault_proxy import FaultProxy, Lose, Refuse, Say

pytestmark = pytest.mark.slow


@pytest.fixture
def store(place) -> ObjectStore:
    return open_store(place.address, place.environment)


@pytest.fixture
def daemon(tmp_path):
    daemon = Daemon(tmp_path)
    yield daemon
    daemon.stop()


@pytest.fixture
def rig(tmp_path, daemon, store):
    rig = Rig(tmp_path, daemon.hypervisor(), Metered(store))
    yield rig
    rig.close()


def test_points_of_a_written_machine_are_each_one_instant(rig, daemon):
    with Writer(daemon) as writer:
        writer.more()
        rig.protect()
        for _ in range(4):
            writer.more()
            rig.point()
        writer.more()
    log = ReplicaLog.read(rig.store, "vm")
    counts = [assert_one_instant(writer, rig.images(point.seq)) for point in log.points]
    assert counts == sorted(set(counts))
    assert len(counts) == 5
    for point in log.points:
        assert verify_point(log, point).findings == ()
    assert verify_logs(log).findings == ()
    assert rig.seen.states == [State.FINALIZING, State.PROTECTED]
    assert list(rig.spool.iterdir()) == []
    assert daemon.leftovers() == []


def test_an_agent_is_fenced_by_a_newer_one_and_resumes_under_a_newer_epoch(rig, store):
    rig.protect()
    attach(store, "vm", owner="other", clock=SystemClock(), new_id=lambda: str(ULID()))
    rig.source.cycle()
    with pytest.raises(Fenced):
        rig.target.ship(rig.books.queue(rig.id)[0])
    rig.target.let_go()
    rig.books.set_taking_over(rig.id, True)
    rig.drain()
    log = ReplicaLog.read(store, "vm")
    assert verify_point(log, log.point()).findings == ()


def test_an_idle_point_costs_two_requests(rig):
    rig.protect()
    rig.store.reset()
    _, record = rig.point()
    assert not any(disk.logs for disk in record.disks)
    assert dict(rig.store.traffic().requests) == {"put_if_absent": 1, "get_if_changed": 1}


def test_points_queue_through_a_storm_and_follow_in_order(place, cloud, daemon, tmp_path):
    """503 for everything, then lost answers: captures go on, and no point is lost or written twice."""
    with FaultProxy(cloud.port) as proxy:
        store = place.through(proxy.endpoint).open()
        rig = Rig(tmp_path, daemon.hypervisor(), store)
        clock = rig.clock = SettableClock()
        rig.protect()
        before = len(ReplicaLog.read(store, "vm").points)
        with Writer(daemon) as writer:
            for fault in (Say(503, "SlowDown"), Lose(), Refuse()):
                proxy.always = fault
                writer.more()
                rig.source.cycle()
                asked = len(proxy.log)
                for _ in range(5):
                    rig.engine.target_step()
                # One log of each disk at once, of which one may have told when the other's is answered.
                assert 1 <= len(proxy.log) - asked <= len(daemon.formats), "then a minute of silence"
                clock.advance(minutes=30)
        assert isinstance(rig.seen.errors[0], StoreBusy)
        assert len(rig.books.queue(rig.id)) == 3
        proxy.heal()
        rig.until(lambda: not rig.books.queue(rig.id))
        log = ReplicaLog.read(store, "vm")
        assert len(log.points) >= before + 3
        counts = [assert_one_instant(writer, rig.images(point.seq)) for point in log.points]
        assert counts == sorted(counts)
        assert verify_logs(log).findings == ()
        rig.close()
