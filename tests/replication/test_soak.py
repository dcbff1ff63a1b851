"""The soak, short and always the same: `make soak` is the long one."""

from __future__ import annotations

import pytest

from tests.replication.soak import Soak

pytestmark = pytest.mark.slow


@pytest.mark.timeout(400)
def test_machines_that_write_crash_and_grow_under_an_agent_that_is_killed(tmp_path):
    soak = Soak(tmp_path, 3, {"m0": ("qcow", "raw"), "m1": ("raw", "vhdx")})
    try:
        soak.run(30)
        soak.heal()
        points = soak.check()
    finally:
        soak.close()
    assert soak.did["kill the agent"] >= 2
    assert min(points.values()) >= 2
