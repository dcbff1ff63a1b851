"""Jobs: taken in once, given to one agent, followed to their end, whoever dies meanwhile."""

from __future__ import annotations

import threading

import pytest

from standby.errors import InvalidRequest
from standby.link.messages import TaskReport, TaskState, WorkReport, WorkState
from standby.link.requests import Pause, Protect, Refused
from standby.vault import listing, machines, overview, queue, ticks
from standby.vault.core import Actor
from standby.vault.errors import Conflict, Forbidden
from standby.vault.jobs import KINDS, Action, JobState, Role, after, allowed
from tests.vault.standings import standing

PARAMS = {"policy": "Every 30 seconds", "store": "cloud"}


@pytest.fixture
def protected(agent):
    agent.beat(relationships=(standing("web"), standing("db")))
    return agent


def done(order, state=WorkState.SUCCEEDED, **more) -> WorkReport:
    return WorkReport(job=order.job, lease=order.lease, state=state, **more)


def state_of(vault, job) -> str:
    return overview.job(vault, job).job.state


def test_enable_protection_goes_to_the_machines_agent_with_the_policy_and_the_store(
    vault, administrator, agent
):
    job = machines.begin(vault, administrator, "web", "enable-protection", PARAMS)
    assert [one.state for one in overview.job(vault, job.id).tasks] == ["pending"] * 4
    (order,) = agent.beat().orders
    assert isinstance(order.work, Protect)
    assert (order.work.machine, order.work.store, order.work.policy.frequency) == (
        "web",
        "s3://replicas/berlin",
        30,
    )
    assert state_of(vault, job.id) == JobState.IN_PROGRESS

    tasks = [TaskReport(name=KINDS["enable-protection"].tasks[0], state=TaskState.SUCCEEDED)]
    agent.beat(work=(done(order, WorkState.IN_PROGRESS, tasks=tasks),))
    shown = overview.job(vault, job.id).tasks
    assert [one.state for one in shown] == ["succeeded", "pending", "pending", "pending"]
    assert [one.name for one in shown] == list(KINDS["enable-protection"].tasks)

    answer = agent.beat(work=(done(order, tasks=tasks),), relationships=(standing("web"),))
    assert answer.taken == (job.id,)
    assert state_of(vault, job.id) == JobState.SUCCEEDED
    shown = machines.shown(vault, "web")
    assert shown.policy.name == "Every 30 seconds"


def test_a_second_job_on_the_machine_is_refused_until_the_first_has_ended(vault, administrator, protected):
    machines.begin(vault, administrator, "web", "pause", {})
    with pytest.raises(Conflict, match="another job"):
        machines.begin(vault, administrator, "web", "point", {})
    machines.begin(vault, administrator, "db", "point", {})
    orders = protected.beat().orders
    protected.beat(work=tuple(done(one) for one in orders))
    machines.begin(vault, administrator, "web", "point", {})


def test_many_at_once_begin_one_job(vault, administrator, protected):
    """On both databases: the index refuses the others, not a lock in one process."""
    begun, refused = [], []

    def begin():
        try:
            begun.append(machines.begin(vault, administrator, "web", "pause", {}))
        except Conflict as error:
            refused.append(error)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert (len(begun), len(refused)) == (1, 7)


def test_many_heartbeats_at_once_give_a_job_to_one(vault, administrator, protected):
    machines.begin(vault, administrator, "web", "pause", {})
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(protected.send())) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    leases = [order.lease for answer in answers for order in answer.orders]
    # Given again to the same agent, which did not tell of it: the same order, with the same lease.
    assert set(leases) == {1}


def test_an_idempotency_key_gives_the_job_that_it_began(vault, administrator, protected):
    first = machines.begin(vault, administrator, "web", "pause", {}, once="k1")
    again = machines.begin(vault, administrator, "web", "pause", {}, once="k1")
    assert again.id == first.id
    with pytest.raises(Conflict, match="idempotency key"):
        machines.begin(vault, administrator, "db", "pause", {}, once="k1")


def test_an_order_that_its_agent_lost_is_given_again(vault, administrator, protected):
    machines.begin(vault, administrator, "web", "pause", {})
    (first,) = protected.beat().orders
    (again,) = protected.beat().orders
    assert again == first
    assert protected.beat(work=(done(first, WorkState.IN_PROGRESS),)).orders == ()


def test_no_more_is_given_than_there_is_room_for(vault, administrator, protected):
    for name in ("web", "db"):
        machines.begin(vault, administrator, name, "pause", {})
    assert len(protected.beat(room=1).orders) == 1
    # The one that it has is given again, as it was not told of; no other is.
    assert len(protected.beat(room=0).orders) == 1


def test_the_job_of_a_silent_agent_fails_and_its_late_report_changes_nothing(
    vault, administrator, protected, clock
):
    job = machines.begin(vault, administrator, "web", "pause", {})
    (order,) = protected.beat().orders
    clock.forward(minutes=9)
    ticks.tick(vault)
    assert state_of(vault, job.id) == JobState.IN_PROGRESS
    clock.forward(minutes=3)
    ticks.tick(vault)
    shown = overview.job(vault, job.id).job
    assert shown.state == JobState.FAILED
    assert "has not reported since 2026-11-24 09:0" in shown.error["cause"]
    assert shown.error["hint"]
    # Begun anew, it is another job; the old one's end is taken note of, and that is all.
    machines.begin(vault, administrator, "web", "resume", {})
    answer = protected.beat(work=(done(order),))
    assert answer.taken == (job.id,)
    assert state_of(vault, job.id) == JobState.FAILED
    assert protected.beat(work=(done(order, WorkState.IN_PROGRESS),)).cancel == (job.id,)


def test_an_error_is_kept_with_its_cause_and_the_job_can_be_restarted(vault, administrator, protected):
    job = machines.begin(vault, administrator, "web", "pause", {})
    (order,) = protected.beat().orders
    error = Refused(
        kind="InvalidRequest", subject="web", cause="it is paused already", tried="", hint="resume it"
    )
    protected.beat(work=(done(order, WorkState.FAILED, error=error),))
    failed = overview.job(vault, job.id)
    assert failed.job.error["cause"] == "it is paused already"
    assert machines.job_actions(failed.job) == (Action.RESTART,)
    again = queue.act(vault, administrator, job.id, Action.RESTART)
    assert again.id != job.id
    (order,) = protected.beat().orders
    assert order.job == again.id
    assert order.work == Pause(machine="web")
    texts = [one.text for one in machines.events(vault, machine="web")]
    assert any("Pause replication failed: web: it is paused already" in one for one in texts)


def test_cancelling_before_and_after_it_was_given(vault, administrator, protected):
    queued = machines.begin(vault, administrator, "web", "pause", {})
    queue.act(vault, administrator, queued.id, Action.CANCEL)
    assert state_of(vault, queued.id) == JobState.CANCELLED
    assert protected.beat().orders == ()

    begun = machines.begin(vault, administrator, "web", "pause", {})
    (order,) = protected.beat().orders
    queue.act(vault, administrator, begun.id, Action.CANCEL)
    with pytest.raises(Conflict, match="being cancelled"):
        queue.act(vault, administrator, begun.id, Action.CANCEL)
    answer = protected.beat(work=(done(order, WorkState.IN_PROGRESS),))
    assert answer.cancel == (begun.id,)
    protected.beat(work=(done(order, WorkState.CANCELLED),))
    assert state_of(vault, begun.id) == JobState.CANCELLED


def test_a_dangerous_job_wants_the_machines_name(vault, administrator, protected):
    with pytest.raises(InvalidRequest, match="not confirmed"):
        machines.begin(vault, administrator, "web", "disable-protection", {})
    with pytest.raises(InvalidRequest, match="not confirmed"):
        machines.begin(vault, administrator, "web", "disable-protection", {}, confirm="db")
    machines.begin(vault, administrator, "web", "disable-protection", {}, confirm="web")


def test_a_reader_begins_nothing_and_the_refusal_is_in_the_audit(vault, administrator, protected):
    reader = Actor("rita", Role.READER, "api", "u")
    with pytest.raises(Forbidden, match="rita is reader"):
        machines.begin(vault, reader, "web", "pause", {})
    newest = listing.audit(vault, administrator)[0]
    assert (newest.who, newest.action, newest.target) == ("rita", "Pause replication", "web")
    assert newest.outcome.startswith("refused: ")


@pytest.mark.parametrize(
    ("work", "part", "parts", "leads_to"),
    [
        (WorkState.IN_PROGRESS, 0, 2, (JobState.IN_PROGRESS, 0)),
        (WorkState.SUCCEEDED, 0, 2, (JobState.QUEUED, 1)),
        (WorkState.SUCCEEDED, 1, 2, (JobState.SUCCEEDED, 1)),
        (WorkState.FAILED, 0, 2, (JobState.FAILED, 0)),
        (WorkState.CANCELLED, 1, 2, (JobState.CANCELLED, 1)),
    ],
)
def test_what_a_report_leads_to(work, part, parts, leads_to):
    assert after(work, part, parts) == leads_to


@pytest.mark.parametrize(
    ("state", "cancelling", "may"),
    [
        (JobState.QUEUED, False, (Action.CANCEL,)),
        (JobState.IN_PROGRESS, False, (Action.CANCEL,)),
        (JobState.IN_PROGRESS, True, ()),
        (JobState.WAITING, False, (Action.CONTINUE, Action.CANCEL)),
        (JobState.SUCCEEDED, False, ()),
        (JobState.FAILED, False, (Action.RESTART,)),
        (JobState.CANCELLED, False, (Action.RESTART,)),
    ],
)
def test_what_may_be_done_with_a_job(state, cancelling, may):
    assert allowed("pause", state, cancelling=cancelling) == may
    assert allowed("resynchronization", state, cancelling=cancelling) == ()
