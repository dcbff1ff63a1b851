"""Unit files against systemd itself, and against what the program knows."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import standby

UNITS = sorted((Path(__file__).parents[2] / "packaging" / "systemd").glob("*.service"))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_understands_every_line(unit, tmp_path):
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/standby/bin/standby", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=60
    )
    assert [line for line in done.stderr.splitlines() if unit.name in line] == []
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_what_a_unit_starts_exists(unit):
    text = unit.read_text()
    (line,) = re.findall(r"^ExecStart=/opt/standby/bin/(standby .*)$", text, re.MULTILINE)
    words = line.partition(" --")[0].split()[1:]
    told = standby(*words, "--help", columns=200)
    assert told.status == 0, told.err
    assert set(re.findall(r"--[a-z-]+", line)) <= set(re.findall(r"--[a-z-]+", told.out))


def test_machines_that_recovery_started_outlive_the_agent():
    (agent,) = [unit for unit in UNITS if unit.name == "standby-agent.service"]
    assert "KillMode=process\n" in agent.read_text(), "others kill what it started with it"
