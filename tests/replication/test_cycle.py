"""The main job on disks that a real storage daemon serves to a real writer."""

from __future__ import annotations

import pytest

from standby.replica.keys import KeyFile
from standby.replica.verify import verify_logs, verify_point
from standby.replication.policy import Policy
from standby.replication.states import State
from tests.hypervisor.processes import Daemon, StandInAgent, Writer, assert_one_instant
from tests.replication.rig import Rig, SettableClock

pytestmark = pytest.mark.slow


@pytest.fixture
def daemon(tmp_path):
    daemon = Daemon(tmp_path)
    yield daemon
    daemon.stop()


@pytest.fixture(params=["plain", "encrypted"])
def rig(request, tmp_path, daemon):
    key = KeyFile.new(tmp_path / "key") if request.param == "encrypted" else None
    rig = Rig(tmp_path, daemon.hypervisor(), key=key)
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
    log = rig.log()
    assert log.head.encrypted is (rig.key is not None)
    counts = [assert_one_instant(writer, rig.images(point.seq)) for point in log.points]
    assert counts == sorted(set(counts))
    assert len(counts) == 5
    for point in log.points:
        assert verify_point(log, point).findings == ()
    assert verify_logs(log).findings == ()
    assert rig.seen.states == [State.FINALIZING, State.PROTECTED]
    assert list(rig.spool.iterdir()) == []
    assert daemon.leftovers() == []


def test_application_consistent_points_come_every_so_many_hours(tmp_path, daemon):
    agent = StandInAgent(tmp_path / "guest-agent")
    clock = SettableClock()
    rig = Rig(tmp_path, daemon.hypervisor(agent.path, clock=clock))
    rig.clock = clock
    rig.protect()
    rig.books.set_policy(rig.id, Policy(frequency=900, application_consistent_hours=1))
    rig.seen.records.clear()
    for _ in range(9):
        clock.advance(minutes=15)
        rig.drain()
    kinds = [record.consistency.split("-")[0] for record in rig.seen.records]
    assert kinds == ["application", *["crash"] * 3] * 2 + ["application"]
    assert agent.history.count("guest-fsfreeze-freeze") == 3
    assert not agent.frozen
    rig.close()
    agent.close()
