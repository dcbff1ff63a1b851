"""A vault that was lost, from what is in the store."""

from __future__ import annotations

from uuid import uuid4

import pytest

from standby.link.recovery import FailOver
from standby.objects.directory import DirectoryStore
from standby.replica.writer import attach, create
from standby.vault import machines, rebuild
from standby.vault.core import Actor
from standby.vault.errors import Forbidden
from standby.vault.jobs import Role
from tests.support.replicas import FixedClock, ModelDisk, commit_point, new_id
from tests.vault.conftest import Agent, seen
from tests.vault.standings import standing


@pytest.fixture
def store(tmp_path):
    """With two replicas of three points, and a third that is damaged."""
    found = DirectoryStore(tmp_path / "store", create=True)
    for name in ("web", "db", "hurt"):
        build(found, name, tmp_path)
    head = tmp_path / "store" / "hurt" / "replica.json"
    head.write_bytes(head.read_bytes()[:40])
    return found


def build(store, name, tmp_path):
    clock = FixedClock()
    create(store, name, replica=uuid4(), origin="tests", clock=clock)
    writer = attach(store, name, owner="tests", clock=clock, new_id=new_id, take_over=False)
    disk = ModelDisk("vda", 1 << 20)
    for number in range(3):
        disk.write(number * 4096, b"x" * 4096)
        commit_point(writer, [disk], tmp_path)


def test_every_replica_becomes_a_machine_that_can_be_failed_over(vault, administrator, store, key):
    found = {one.replica: one for one in rebuild.rebuild(vault, administrator, store.url, "Recovered")}
    assert found["hurt"].problem
    assert (found["web"].new, found["web"].points) == (True, 3)
    shown = machines.shown(vault, "web")
    assert shown.possible == ("test-failover", "failover")
    assert next(one.seq for one in machines.points(vault, "web")) >= 3

    beta = Agent(vault, key(), "beta")
    machines.begin(
        vault, administrator, "web", "failover", {"host": "beta", "source_down": True}, confirm="web"
    )
    (order,) = beta.beat().orders
    assert isinstance(order.work, FailOver)
    assert (order.work.store, order.work.replica) == (store.url, "web")


def test_a_second_time_changes_nothing(vault, administrator, store):
    rebuild.rebuild(vault, administrator, store.url, "Recovered")
    again = rebuild.rebuild(vault, administrator, store.url, "Recovered")
    assert [one.new for one in again if not one.problem] == [False, False]
    assert machines.listed(vault).total == 2


def test_an_agent_that_still_replicates_gets_its_machine_back(vault, administrator, store, key):
    rebuild.rebuild(vault, administrator, store.url, "Recovered")
    before = machines.shown(vault, "web")
    agent = Agent(vault, key(), "alpha")
    told = standing("web", replica_id=before.standing.replica_id, store=store.url)
    agent.beat(machines=(seen("web"),), relationships=(told,))
    after = machines.shown(vault, "web")
    assert (after.machine.id, after.host.name) == (before.machine.id, "alpha")
    assert after.relationship.state == "protected"
    assert machines.listed(vault).total == 2


def test_only_an_administrator_rebuilds(vault, store):
    with pytest.raises(Forbidden):
        rebuild.rebuild(vault, Actor("otto", Role.OPERATOR, "api", "u"), store.url, "Recovered")
