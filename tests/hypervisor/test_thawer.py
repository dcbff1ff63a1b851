"""A guest that an agent left frozen, killed or stopped in between, is thawed without any other agent's help."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from standby.hypervisor import thawer
from standby.hypervisor.agent import GuestAgent
from standby.hypervisor.base import Consistency
from standby.hypervisor.freeze import Freeze
from tests.hypervisor.cycle import create
from tests.hypervisor.processes import FORMATS, SIZE, wait_for
from tests.hypervisor.test_guard import begun

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from standby.hypervisor.freeze import Freeze
Freeze("vm", Path(sys.argv[1]), Path(sys.argv[2]), limit=float(sys.argv[3])).begin()
print("frozen", flush=True)
time.sleep(60)
"""


def test_agent_killed_while_the_guest_is_frozen(daemon, agent, scratch):
    create(scratch, dict.fromkeys(FORMATS, SIZE))
    command = [sys.executable, "-m", "tests.hypervisor.cycle", scratch, daemon.qmp, daemon.nbd, agent.path]
    killed = subprocess.run(
        command, env=os.environ | {"STANDBY_FAILPOINT": "cut.frozen=kill"}, cwd=ROOT, timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert "guest-fsfreeze-freeze" in agent.history
    wait_for(lambda: not agent.frozen, "the guest to be thawed", limit=5)
    wait_for(lambda: not list(scratch.glob("*frozen")), "the mark to be taken away")


@pytest.fixture
def holder(agent, scratch):
    """Freezes the stand-in guest for 0.2 s and holds on."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, agent.path, scratch / "mark", "0.2"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def test_agent_stopped_while_the_guest_is_frozen(agent, scratch, holder):
    # Stopped before its own watchdog thread can thaw.
    agent.silent.add("guest-fsfreeze-freeze")
    wait_for(lambda: agent.frozen, "the freeze")
    holder.send_signal(signal.SIGSTOP)
    wait_for(lambda: not agent.frozen, "the guest to be thawed", limit=thawer.SLACK + 10)
    wait_for(lambda: not (scratch / "mark").exists(), "the mark to be taken away")
    holder.send_signal(signal.SIGCONT)


def test_after_a_freeze_that_went_well_the_guest_agent_is_free_and_nobody_is_left(agent, scratch):
    freeze = Freeze("vm", agent.path, scratch / "mark", limit=10)
    freeze.begin()
    process = freeze._thawer._process
    assert process.poll() is None
    assert freeze.end()
    assert process.returncode == 0
    GuestAgent("vm", agent.path, limit=5).close()
    assert not (scratch / "mark").exists()


def test_nothing_is_frozen_unless_somebody_watches(daemon, agent, scratch, monkeypatch):
    monkeypatch.setattr(thawer.sys, "executable", "/nowhere/python")
    tracking = begun(daemon.hypervisor(agent.path), scratch)
    with tracking.cut(2, Consistency.APPLICATION) as cut:
        assert cut.consistency is Consistency.CRASH
        assert "could not be started" in cut.note
    assert "guest-fsfreeze-freeze" not in agent.history
    tracking.close()


def test_a_guest_that_thaws_late_is_thawed_by_the_process_that_outlives_us(agent, scratch):
    freeze = Freeze("vm", agent.path, scratch / "mark", limit=0.5)
    freeze.begin()
    agent.refuses.add("guest-fsfreeze-thaw")
    agent.silent.add("guest-fsfreeze-thaw")
    began = time.monotonic()
    assert not freeze.end()
    assert time.monotonic() - began < 5
    assert (scratch / "mark").exists()
    agent.refuses.clear()
    agent.silent.clear()
    wait_for(lambda: not (scratch / "mark").exists(), "the guest to be thawed")
    assert agent.history[-1] == "guest-fsfreeze-status"
