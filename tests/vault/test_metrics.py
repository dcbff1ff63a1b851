"""What Prometheus reads, and that the dashboard asks for nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from standby.vault import access
from standby.vault.api.app import create_app
from standby.vault.jobs import Role
from tests.vault.standings import critical, standing

DASHBOARD = Path(__file__).parents[2] / "packaging" / "grafana" / "standby.json"


@pytest.fixture
def page(vault, administrator, agent) -> str:
    agent.beat(relationships=(standing("web", queued_bytes=7), critical("db", "no store")))
    _, token = access.new_token(vault, administrator, "prometheus", Role.READER, None)
    with TestClient(create_app(vault, ticking=False)) as client:
        assert client.get("/metrics").status_code == 401
        return client.get("/metrics", headers={"Authorization": f"Bearer {token}"}).text


def test_figures_are_those_of_the_machines(page):
    values = dict(re.findall(r'^(standby_machine_health)\{machine="db".*?\} (\S+)$', page, re.MULTILINE))
    assert values == {"standby_machine_health": "3.0"}
    assert re.search(r'^standby_machine_queued_bytes\{machine="web".*\} 7\.0$', page, re.MULTILINE)
    assert re.search(r'^standby_host_silence_seconds\{host="alpha"\} 0\.\d+$', page, re.MULTILINE)
    assert "standby_alerts_open 1.0" in page


def test_every_metric_that_the_dashboard_shows_is_there(page):
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = {
        name
        for one in panels
        for target in one["targets"]
        for name in re.findall(r"standby_\w+", target["expr"])
    }
    assert len(panels) == 8
    assert asked
    assert asked <= set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))
