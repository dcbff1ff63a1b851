"""The same call sent again begins one job, whenever it comes: later, at the same moment, after an end."""

from __future__ import annotations

import threading

import pytest

from standby.link.messages import WorkReport, WorkState
from standby.vault import machines, overview, queue
from standby.vault.errors import Conflict
from standby.vault.jobs import Action
from tests.vault.standings import standing


@pytest.fixture
def protected(agent):
    agent.beat(relationships=(standing("web"), standing("db")))
    return agent


def failed(vault, agent, actor, kind: str = "retry"):
    job = machines.begin(vault, actor, "web", kind, {})
    (order,) = agent.beat().orders
    agent.beat(work=(WorkReport(job=order.job, lease=order.lease, state=WorkState.FAILED),))
    return job


def test_calls_at_the_same_moment_begin_one_job(vault, protected, administrator):
    found, together = [], threading.Barrier(6)

    def call():
        together.wait()
        found.append(machines.begin(vault, administrator, "web", "retry", {}, once="key").id)

    threads = [threading.Thread(target=call) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(found) == 6
    assert len(set(found)) == 1
    assert len(overview.jobs(vault, kind="retry")) == 1


def test_a_key_of_another_call_is_refused(vault, protected, administrator):
    machines.begin(vault, administrator, "web", "retry", {}, once="key")
    for machine, kind in (("web", "pause"), ("db", "retry")):
        with pytest.raises(Conflict, match="used for another call"):
            machines.begin(vault, administrator, machine, kind, {}, once="key")


def test_a_restart_sent_again_gives_the_job_of_the_first_also_after_that_ended(
    vault, protected, administrator
):
    job = failed(vault, protected, administrator)
    first = queue.act(vault, administrator, job.id, Action.RESTART, once="key")
    assert first.id != job.id
    assert queue.act(vault, administrator, job.id, Action.RESTART, once="key").id == first.id
    (order,) = protected.beat().orders
    protected.beat(work=(WorkReport(job=order.job, lease=order.lease, state=WorkState.SUCCEEDED),))
    assert queue.act(vault, administrator, job.id, Action.RESTART, once="key").id == first.id
    other = failed(vault, protected, administrator, "pause")
    with pytest.raises(Conflict, match="used for another call"):
        queue.act(vault, administrator, other.id, Action.RESTART, once="key")
