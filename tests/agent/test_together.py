"""Points of several machines at one instant, where that cannot be: who is in the way is told, and all go on."""

from __future__ import annotations

import msgspec
import pytest

from tests.agent.test_agent import agent, wait_for  # noqa: F401 - a fixture
from tests.replication.site import noise, write

pytestmark = pytest.mark.slow


def test_what_stands_against_a_common_instant_is_told_and_all_go_on(agent):  # noqa: F811
    names = ("one", "two")
    for name in names:
        write(agent.machine(name), "raw", 0, noise(1 << 20, 7))
    agent.start()
    for name in names:
        assert agent.protect(name, "--frequency", 300).status == 0
    for name in names:
        wait_for(lambda name=name: agent.caught_up(name))
        wait_for(lambda name=name: agent.shown(name)["state"] == "protected")

    # Storage daemons have no guest that could be frozen. Each has a point of its own then, or none.
    alone = agent.vm("point", "one", "--with", "two")
    assert (alone.status, "cannot be frozen: the machine has no guest agent socket" in alone.err) == (4, True)
    twice = agent.vm("point", "one", "--with", "one")
    assert (twice.status, "named twice" in twice.err) == (3, True)
    unknown = agent.vm("point", "one", "--with", "three")
    assert (unknown.status, "not protected by this agent" in unknown.err) == (3, True)
    agent.vm("pause", "two")
    paused = agent.vm("point", "one", "--with", "two")
    assert (paused.status, "it is paused" in paused.err) == (3, True)
    agent.vm("resume", "two")
    for name in names:
        points = len(agent.points(name))
        write(agent.daemons[name], "raw", 4096, noise(4096, points))
        assert agent.vm("point", name).status == 0
        wait_for(lambda name=name: agent.caught_up(name))
        assert all(point.group is msgspec.UNSET for point in agent.points(name))

    agent.stop()
    nobody = agent.vm("point", "one", "--with", "two")
    assert (nobody.status, "only while an agent replicates them" in nobody.err) == (3, True)
