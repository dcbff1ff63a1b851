"""The simulated agents themselves, against the stand-in vault: a load that is not as told measures nothing."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from standby.link.messages import WorkState
from standby.link.recovery import CleanUpTest
from standby.link.requests import Protect
from standby.replication.policy import Policy
from standby.replication.relationship import Connection
from tests.agent.stand_in_vault import StandInVault
from tests.hypervisor.processes import wait_for
from tests.vault.simulated_agents import Fleet

pytestmark = pytest.mark.slow


@pytest.fixture
def vault():
    vault = StandInVault(next_heartbeat=0.02)
    yield vault
    vault.close()


def test_they_register_report_and_carry_out_each_order_once(vault):
    names = itertools.count()

    def key():
        name = f"key-{next(names)}"
        vault.keys.add(name)
        return msgspec.structs.replace(vault.key(), key=name)

    with Fleet(key, 3, 4, protected=False, policy=Policy(frequency=1)) as fleet:
        machine = next(iter(fleet.agents[0].machines))
        work = Protect(
            machine=machine,
            connection=Connection(qmp="/x"),
            store="/srv",
            replica="r",
            policy=Policy(frequency=1),
        )
        vault.order("job", work)
        wait_for(lambda: "job" in vault.ended, "the job", 20)
        wait_for(lambda: vault.points, "a point", 20)
        vault.order("clean", CleanUpTest(run="/nosuch"))
        wait_for(lambda: fleet.ended("clean"), "the second job", 20)
        assert fleet.twice() == []
    assert len(vault.hosts) == 3
    assert fleet.failures == []
    assert fleet.percentile(0.99) > 0
    assert vault.ended["clean"].state is WorkState.SUCCEEDED
    assert {len(told.machines) for told in vault.heartbeats} == {4}
