"""Retention and scrubs: when they are due, who does them, and that they stand in nobody's way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from standby.link.messages import WorkReport, WorkState
from standby.link.upkeep import Retain, Scrub
from standby.vault import hosts, machines, overview, ticks
from standby.vault.upkeep import Last, due
from tests.vault.conftest import Agent
from tests.vault.standings import standing

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("state", "hours", "scrub_days", "last", "wanted"),
    [
        ("protected", 0.9, 7, Last(), ()),
        ("protected", 1, 7, Last(), ("retention",)),
        ("protected", 24 * 7, 7, Last(), ("retention", "scrub")),
        ("protected", 24 * 7, 0, Last(), ("retention",)),
        ("protected", 999, 7, Last(NOW - timedelta(minutes=59), NOW - timedelta(days=6)), ()),
        (
            "protected",
            999,
            7,
            Last(NOW - timedelta(minutes=60), NOW - timedelta(days=7)),
            ("retention", "scrub"),
        ),
        ("paused", 2, 7, Last(), ("retention",)),
        ("fenced", 999, 7, Last(), ()),
        ("sealed", 999, 7, Last(), ()),
    ],
)
def test_what_is_due(state, hours, scrub_days, last, wanted):
    found = due(NOW, state, NOW - timedelta(hours=hours), last, scrub_days=scrub_days)
    assert found == wanted


def test_a_boot_proof_is_due_after_its_days():
    since = NOW - timedelta(days=3)
    last = Last(NOW, NOW, None)
    assert due(NOW, "protected", since, last, prove_days=4) == ()
    assert due(NOW, "protected", since, last, prove_days=3) == ("prove",)
    assert due(NOW, "protected", since, last._replace(prove=NOW), prove_days=1) == ()


@pytest.fixture
def protected(vault, administrator, agent):
    """`web`, by a job under the policy that keeps all points of 24 hours."""
    machines.begin(
        vault, administrator, "web", "enable-protection", {"policy": "Every 30 seconds", "store": "cloud"}
    )
    (order,) = agent.beat().orders
    work = (WorkReport(job=order.job, lease=1, state=WorkState.SUCCEEDED),)
    agent.beat(work=work, relationships=(standing("web"),))
    return agent


def test_retention_is_begun_every_hour_and_other_jobs_go_on_beside_it(vault, administrator, protected, clock):
    clock.forward(hours=1, minutes=1)
    ticks.tick(vault)
    ticks.tick(vault)
    (order,) = protected.beat().orders
    assert order.work == Retain(store="s3://replicas/berlin", replica="web", keep=("all:24h",))
    # It is no reason to refuse a failover.
    machines.begin(
        vault, administrator, "web", "failover", {"host": protected.registered.host}, confirm="web"
    )
    assert [one.kind for one in overview.jobs(vault, state="queued")] == ["failover"]


def test_a_host_that_was_named_for_it_does_it_and_another_takes_over_from_a_silent_one(
    vault, administrator, protected, key, clock
):
    others = [Agent(vault, key(), name) for name in ("beta", "gamma")]
    for one in others:
        one.beat()
        hosts.set_upkeep(vault, administrator, one.registered.host, True)
    job = machines.begin(vault, administrator, "web", "scrub", {"fraction": 0.5})
    assert protected.beat().orders == ()
    given = [one.beat().orders for one in others]
    first, second = others if given[0] else others[::-1]
    (order,) = given[0] or given[1]
    assert order.work == Scrub(store="s3://replicas/berlin", replica="web", fraction=0.5)
    clock.forward(minutes=12)
    second.beat()
    ticks.tick(vault)
    (again,) = [one for one in second.beat().orders if one.job == job.id]
    assert again.lease == order.lease + 2
    # What the silent one says when it is back is of an older lease.
    late = WorkReport(job=job.id, lease=order.lease, state=WorkState.SUCCEEDED)
    assert job.id in first.send(work=(late,)).taken
    assert overview.job(vault, job.id).job.state == "in progress"


@pytest.mark.parametrize(("verdict", "counts"), [("passed", True), ("unsure", False)])
def test_a_boot_proof_counts_as_a_drill_only_if_it_passed(vault, administrator, protected, verdict, counts):
    job = machines.begin(vault, administrator, "web", "prove", {})
    (order,) = protected.beat().orders
    report = WorkReport(job=job.id, lease=order.lease, state=WorkState.SUCCEEDED, result={"verdict": verdict})
    protected.beat(work=(report,))
    assert (machines.shown(vault, "web").relationship.drilled is not None) is counts
