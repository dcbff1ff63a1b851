"""Many machines in one agent, one of which hangs: the others go on as if it were not there."""

from __future__ import annotations

import signal
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from standby.agent.control import ask
from standby.link.requests import Done, Protect
from standby.replication.policy import Policy
from standby.replication.relationship import Connection
from tests.agent.test_agent import Agent
from tests.hypervisor.processes import PAGE, Daemon
from tests.hypervisor.processes import wait_for as wait_for_it
from tests.replication.site import noise, write

pytestmark = pytest.mark.slow

COUNT = 20
EVERY = 5
DISK = {"raw": ("raw", "")}
MEMORY = 160
"""MiB that the agent may have had at most: an idle one takes 75."""


def wait_for(condition):
    wait_for_it(condition, "what the test waits for", 60.0)


@pytest.fixture
def agent(tmp_path):
    agent = Agent(tmp_path)
    for number in range(COUNT):
        place = tmp_path / f"vm{number}"
        place.mkdir()
        agent.daemons[place.name] = Daemon(place, DISK)
    yield agent
    for daemon in agent.daemons.values():
        daemon.process.send_signal(signal.SIGCONT)
    agent.close()


def protect(agent: Agent, name: str) -> None:
    daemon = agent.daemons[name]
    done = ask(
        agent.state,
        Protect(
            machine=name,
            connection=Connection(qmp=str(daemon.qmp), nbd=str(daemon.nbd)),
            store=str(agent.store),
            replica=name,
            policy=Policy(frequency=EVERY, reserve=0),
        ),
    )
    assert isinstance(done, Done), done


def most_memory(process: int) -> int:
    """MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


def test_one_that_hangs_makes_no_other_miss_a_cycle(agent):
    agent.start()
    for name in agent.daemons:
        protect(agent, name)
    for name in agent.daemons:
        wait_for(lambda name=name: agent.points(name))
    hangs, *others = agent.daemons
    write(agent.daemons[hangs], "raw", 0, noise(PAGE))
    agent.daemons[hangs].process.send_signal(signal.SIGSTOP)
    before = {name: len(agent.points(name)) for name in others}
    for name in others:
        write(agent.daemons[name], "raw", 0, noise(PAGE, 2))
    for name in others:
        wait_for(lambda name=name: len(agent.points(name)) >= before[name] + 3)
    for name in others:
        instants = [datetime.fromisoformat(point.at) for point in agent.points(name)[before[name] - 1 :]]
        late = [later - earlier for earlier, later in pairwise(instants)]
        assert max(late) < timedelta(seconds=2 * EVERY), (name, late)
    assert agent.process
    assert most_memory(agent.process.pid) < MEMORY
    agent.daemons[hangs].process.send_signal(signal.SIGCONT)
    wait_for(lambda: agent.caught_up(hangs))
