"""What the vault makes of agents' reports."""

from __future__ import annotations

from datetime import timedelta

import pytest

from standby.link.messages import PointMade, WorkReport, WorkState
from standby.vault import listing, machines, overview, ticks
from standby.vault.jobs import JobState
from tests.vault.conftest import Agent, seen
from tests.vault.standings import GIB, critical, scanning, standing


def texts(vault, **where) -> list[str]:
    return [one.text for one in machines.events(vault, **where)]


def jobs(vault, machine="web") -> dict[str, str]:
    found = machines.shown(vault, machine)
    return {one.kind: one.state for one in overview.jobs(vault, machine=found.machine.id)}


def test_machines_are_listed_as_their_agent_sees_them(vault, agent):
    assert [row.machine.name for row in machines.listed(vault).rows] == ["db", "web"]
    agent.beat(machines=(seen("web", running=False),))
    (row,) = machines.listed(vault).rows
    assert (row.machine.name, row.machine.running, row.relationship) == ("web", False, None)


def test_initial_replication_and_its_finalization_are_jobs_that_follow_the_state(vault, agent):
    agent.beat(relationships=(scanning("web", "initial replication", GIB // 4),))
    assert jobs(vault) == {"initial-replication": "in progress"}
    job = overview.jobs(vault)[0]
    (task,) = overview.job(vault, job.id).tasks
    assert (task.name, task.progress, task.state) == ("Comparing disk vda", 0.25, "in progress")

    agent.beat(relationships=(scanning("web", "finalizing", GIB),))
    assert jobs(vault) == {"initial-replication": "succeeded", "finalize-protection": "in progress"}
    agent.beat(relationships=(standing("web"),))
    assert jobs(vault) == {"initial-replication": "succeeded", "finalize-protection": "succeeded"}
    agent.beat(relationships=(standing("web", "delta"),))
    agent.beat(relationships=(standing("web"),))
    assert not any("delta" in one for one in texts(vault, machine="web")), "cycles are no news"


def test_a_resynchronization_is_a_job_and_an_alert_until_it_has_ended(vault, agent):
    agent.beat(relationships=(standing("web"),))
    agent.beat(relationships=(scanning("web", "resync required"),))
    assert [one.kind for one in listing.alerts(vault)] == ["resync-required"]
    agent.beat(relationships=(scanning("web", "resynchronizing", 5),))
    assert jobs(vault)["resynchronization"] == "in progress"
    assert listing.alerts(vault) == []
    agent.beat(relationships=(standing("web"),))
    assert jobs(vault)["resynchronization"] == "succeeded"


def test_critical_health_is_an_event_and_one_alert(vault, agent):
    agent.beat(relationships=(standing("web"),))
    for _ in range(3):
        agent.beat(relationships=(critical("web", "the store is full"),))
    (alert,) = listing.alerts(vault)
    assert (alert.kind, alert.subject, alert.text) == ("health-critical", "web", "the store is full")
    assert sum("Health is Critical, was Normal: the store is full" in one for one in texts(vault)) == 1
    agent.beat(relationships=(standing("web"),))
    assert listing.alerts(vault) == []
    assert len(listing.alerts(vault, cleared=True)) == 1


def test_a_silent_agent_is_told_and_told_when_it_is_back(vault, agent, clock):
    clock.forward(seconds=80)
    ticks.tick(vault)
    assert listing.alerts(vault) == []
    clock.forward(seconds=20)
    ticks.tick(vault)
    ticks.tick(vault)
    (alert,) = listing.alerts(vault)
    assert alert.kind == "host-silent"
    assert overview.overview(vault).silent == 1
    agent.beat()
    assert listing.alerts(vault) == []
    assert any("reports again" in one for one in texts(vault))


def test_points_told_twice_are_kept_once(vault, agent):
    agent.beat(relationships=(standing("web"),))
    made = tuple(
        PointMade(
            relationship="rel-web",
            seq=seq,
            at=f"2026-11-24T09:0{seq}:00+00:00",
            consistency="crash-consistent",
        )
        for seq in (1, 2, 3)
    )
    agent.send(points=made[:2])
    agent.send(points=made)
    assert [one.seq for one in machines.points(vault, "web")] == [3, 2, 1]
    assert [one.seq for one in machines.points(vault, "web", before=3, limit=1)] == [2]
    # Of a relationship that is not this host's, nothing is believed.
    agent.send(
        points=(PointMade(relationship="other", seq=1, at="2026-11-24T09:00:00+00:00", consistency="x"),)
    )


def test_a_machine_that_migrates_to_another_host_of_its_site_is_the_same(vault, agent, key):
    before = machines.shown(vault, "web").machine.id
    agent.beat(relationships=(standing("web"),))
    other = Agent(vault, key(), "beta")
    # Both tell of it for a moment: the one that has it keeps it.
    agent.beat(machines=(seen("db"),))
    other.beat(machines=(seen("web"),))
    shown = machines.shown(vault, "web")
    assert (shown.machine.id, shown.host.name) == (before, "beta")
    assert any("runs on beta now; it was on alpha" in one for one in texts(vault))


def test_whoever_continues_a_replica_has_its_machine(vault, agent, key):
    """After a failover to another host and a reverse replication there."""
    before = machines.shown(vault, "web").machine.id
    agent.beat(relationships=(standing("web"),))
    other = Agent(vault, key(), "beta")
    other.beat(machines=(seen("web", uuid="another"),))
    agent.beat(relationships=(standing("web", "fenced", level="Critical"),))
    other.beat(relationships=(standing("web", id="of-beta", rpo=3.0),))
    for _ in range(2):
        # Whoever tells last, what stands for the machine is the one that goes on.
        agent.beat()
        (row,) = [one for one in machines.listed(vault).rows if one.machine.id == before]
        assert (row.host.name, row.relationship.rpo, row.relationship.state) == ("beta", 3.0, "protected")
        other.beat()
    assert overview.overview(vault).levels[1] == 1


def test_two_hosts_may_use_the_same_id_for_different_machines(vault, agent, key):
    agent.beat(relationships=(standing("web", id="r1"),))
    other = Agent(vault, key(), "beta")
    other.beat(machines=(seen("mail"),), relationships=(standing("mail", id="r1", replica_id="m"),))
    assert machines.shown(vault, "mail").relationship.id != machines.shown(vault, "web").relationship.id


def test_a_relationship_that_is_not_told_any_more_has_ended(vault, agent):
    agent.beat(relationships=(standing("web"), critical("db", "no store")))
    agent.beat(relationships=(standing("web"),))
    assert machines.shown(vault, "db").relationship is None
    assert machines.shown(vault, "web").relationship is not None
    assert listing.alerts(vault) == []


def test_numbers_are_kept_once_a_minute(vault, agent, clock):
    for _ in range(30):
        agent.beat(relationships=(standing("web"),))
        clock.forward(seconds=10)
    found = machines.series(vault, "web", timedelta(hours=1))
    assert 4 <= len(found) <= 6
    assert found == sorted(found, key=lambda one: one.at)


def test_a_clock_that_is_off_is_told_once(vault, agent, clock):
    said = clock.now() + timedelta(seconds=100)
    for _ in range(3):
        agent.send(time=said.isoformat())
    assert sum("clock of alpha" in one for one in texts(vault)) == 1
    assert listing.hosts(vault)[0].skew == pytest.approx(100, abs=1)


def test_what_an_agent_cannot_tell_now_stays(vault, agent):
    agent.send(machines=(), missing=("machines",))
    assert len(machines.listed(vault).rows) == 2


def test_a_drill_is_overdue_once_its_days_have_passed_and_no_longer_after_a_test_failover(
    vault, administrator, agent, clock
):
    machines.begin(
        vault, administrator, "web", "enable-protection", {"policy": "Every 30 seconds", "store": "cloud"}
    )
    (order,) = agent.beat().orders
    work = (WorkReport(job=order.job, lease=1, state=WorkState.SUCCEEDED),)
    agent.beat(work=work, relationships=(standing("web"),))
    ticks.tick(vault)
    assert overview.overview(vault).overdue == []
    for _ in range(10):
        clock.forward(days=9.1)
        agent.token = agent.beat().token or agent.token
    ticks.tick(vault)
    assert [one.machine.name for one in overview.overview(vault).overdue] == ["web"]
    assert [one.kind for one in listing.alerts(vault)] == ["drill-overdue"]

    host = listing.hosts(vault)[0].id
    job = machines.begin(vault, administrator, "web", "test-failover", {"host": host})
    (order,) = [one for one in agent.beat().orders if one.job == job.id]
    agent.beat(work=(WorkReport(job=job.id, lease=order.lease, state=WorkState.SUCCEEDED),))
    ticks.tick(vault)
    assert overview.overview(vault).overdue == []
    assert listing.alerts(vault) == []


def test_the_overview_counts(vault, agent):
    agent.beat(relationships=(standing("web", queued_bytes=7), critical("db", "x")))
    found = overview.overview(vault)
    assert {str(level): count for level, count in found.levels.items() if count} == {
        "Normal": 1,
        "Critical": 1,
    }
    assert (found.unprotected, found.hosts, found.backlog) == (0, 1, 7)
    assert found.jobs[JobState.FAILED] == 0


@pytest.mark.parametrize(
    ("sort", "first"), [("health", "db"), ("rpo", "db"), ("name", "db"), ("state", "db"), ("host", "db")]
)
def test_sorting_puts_the_worst_first(vault, agent, sort, first):
    agent.beat(
        machines=(seen("web"), seen("db"), seen("zoo")),
        relationships=(standing("web"), critical("db", "x")),
    )
    agent.beat(
        relationships=(standing("web", rpo=1.0), standing("db", "paused", rpo=900.0, level="Critical"))
    )
    rows = machines.listed(vault, sort=sort).rows
    assert rows[0].machine.name == first
    if sort in ("health", "rpo", "state"):
        assert rows[-1].machine.name == "zoo", "what is not protected comes last"
    assert [one.machine.name for one in machines.listed(vault, limit=2).rows] == ["db", "web"]
    assert machines.listed(vault, limit=2).next == 2
    assert [one.machine.name for one in machines.listed(vault, search="E").rows] == ["web"]
