"""`standby demo` from end to end, as `make demo` runs it: on a real guest, booted from its replica."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 180
"""What the demo may take on two cores with software emulation."""


def left() -> set[Path]:
    """Directories of demos, which a demo that went well removes."""
    return set(Path("/var/tmp").glob("standby-demo-*"))


@pytest.mark.guest
@pytest.mark.timeout(2 * SECONDS)
def test_the_demo_shows_the_main_job():
    before = left()
    program = Path(sys.executable).parent / "standby"
    done = subprocess.run(
        [program, "demo", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["content_bytes"] >= 1 << 30
    assert len(shown["deltas"]) >= 6
    assert shown["deltas"][-1]["consistency"] == "application-consistent"
    assert all(delta["sent_bytes"] > 0 for delta in shown["deltas"])
    assert shown["stamps"] > 0
    assert shown["files"] > 100
    assert shown["verified"]["points"] == len(shown["deltas"]) + 1
    assert shown["seconds"] < SECONDS
    assert left() == before
    assert "Traceback" not in done.stderr
