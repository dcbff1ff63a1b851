from __future__ import annotations

import pytest

from tests.hypervisor.processes import Daemon, StandInAgent


@pytest.fixture
def scratch(tmp_path):
    directory = tmp_path / "scratch"
    directory.mkdir()
    return directory


@pytest.fixture
def daemon(tmp_path):
    daemon = Daemon(tmp_path)
    yield daemon
    daemon.stop()


@pytest.fixture
def agent(tmp_path):
    agent = StandInAgent(tmp_path / "agent")
    yield agent
    agent.close()
