"""Proofs by the command line, on a machine that starts and does not boot: a script tells which points work."""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
from pathlib import Path

import pytest

from standby.records import DiskDescription, MachineDescription
from standby.replica.format import BLOCK
from tests.cli.conftest import standby
from tests.recovery.conftest import Replica
from tests.recovery.machines import processes
from tests.support.replicas import ModelDisk

pytestmark = pytest.mark.slow

FIRST_BAD = 6


@pytest.fixture
def state():
    """A short path, for the sockets in it; nothing that runs there is left."""
    folder = Path(tempfile.mkdtemp(prefix="sb-"))
    yield folder
    assert standby("failover", "list", "--state", folder, "--json").json == []
    assert processes(folder) == []
    shutil.rmtree(folder)


def test_points_are_proved_bisected_and_kept(tmp_path, state):
    replica = Replica(tmp_path)
    disk = ModelDisk("vda", 16 * BLOCK)
    machine = MachineDescription(
        name="web", uuid=str(uuid.uuid4()), memory=64 << 20, cpus=1, firmware="bios",
        disks=(DiskDescription(id="vda", size=disk.size, format="raw"),),
    )  # fmt: skip
    for number in range(8):
        disk.write(number * BLOCK, bytes([number + 1]) * BLOCK)
        replica.commit_machine(machine, {}, disk)
    script = tmp_path / "works"
    script.write_text(
        f"#!/bin/sh\necho asked $STANDBY_POINT >>{tmp_path}/asked\n[ $STANDBY_POINT -lt {FIRST_BAD} ]\n"
    )
    script.chmod(0o700)
    where = [replica.root, "web"]
    more = ["--no-agent", "--probe", f"script:{script}", "--state", state]

    refused = standby("failover", "test", *where, *more)
    assert (refused.status, "add --proof" in refused.err) == (3, True)
    assert standby("replica", "proof", *where).status == 3
    assert "No point of web was proved yet" in standby("replica", "proofs", *where).out
    unsure = standby("failover", "test", *where, "--proof", "--no-agent", "--state", state, "--json")
    assert (unsure.status, unsure.json["verdict"], unsure.json["seq"]) == (0, "unsure", 9)
    passed = standby("failover", "test", *where, "--point", "3", "--proof", *more)
    assert (passed.status, "passed" in passed.out, "nothing of the test is left" in passed.out) == (
        0,
        True,
        True,
    )
    failed = standby("failover", "test", *where, "--proof", *more, "--json")
    assert (failed.status, failed.json["verdict"]) == (5, "failed")

    found = standby("replica", "bisect", *where, *more, "--json").json
    assert (found["good"], found["bad"], found["between"]) == (FIRST_BAD - 1, FIRST_BAD, [])
    asked = (tmp_path / "asked").read_text().split()[1::2]
    assert asked[:2] == ["3", "9"]
    assert len(asked) == 2 + len(found["tested"]) <= 5
    assert [one["point"] for one in standby("replica", "holds", *where, "--json").json] == [FIRST_BAD - 1]
    again = standby("replica", "bisect", *where, *more, columns=200)
    assert (
        f"Point {FIRST_BAD} is the first that fails; point {FIRST_BAD - 1} is the last that works"
        in again.out
    )
    assert (tmp_path / "asked").read_text().split()[1::2] == asked

    # Retention leaves the point alone, and its sweep waits for nobody.
    kept = standby("replica", "retain", *where, "--keep", "1w:1w", "--json").json
    assert {one["point"] for one in kept["points"] if one["keep"]} >= {FIRST_BAD - 1, 9}
    assert kept["swept"]["waiting"] == []
    assert standby("failover", "test", *where, "--point", str(FIRST_BAD - 1), "--proof", *more).status == 0

    shown = {one["point"]: one["proof"] for one in standby("replica", "points", *where, "--json").json}
    assert (shown[FIRST_BAD - 1], shown[9]) == ("passed", "failed")
    out = tmp_path / "evidence"
    assert standby("replica", "proof", *where, "newest", "--out", out).status == 0
    assert (out / "screen.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "proof.json").read_bytes())["verdict"] == "passed"
    assert standby("replica", "proof", *where, "--out", out).status == 3
    assert "passed" in standby("replica", "proofs", *where, columns=120).out
    page = tmp_path / "proof.html"
    assert standby("replica", "proof", *where, "--report", page).status == 0
    assert "boot proof" in page.read_text()

    run = standby("failover", "test", *where, "--no-agent", "--state", state, "--json").json["run"]
    page = tmp_path / "test.html"
    assert standby("failover", "report", run, "--out", page, "--title", "Drill of <autumn>").status == 0
    assert standby("failover", "report", run, "--out", page).status == 3
    html = page.read_text()
    assert all(
        word in html for word in ("Drill of &lt;autumn&gt;", "Screen now", "test failover", "overlays")
    )
    assert standby("failover", "cleanup", run).status == 0
