"""Prometheus metrics of the vault, for holders of an API token. Of the database: each process tells the same."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import select

from standby.vault import overview
from standby.vault.api.context import As, InVault
from standby.vault.core import Vault
from standby.vault.schema import Host, Machine, Relationship

router = APIRouter(include_in_schema=False)


@router.get("/metrics")
def metrics(vault: InVault, _actor: As) -> Response:
    registry = CollectorRegistry()
    registry.register(_Figures(vault))
    return Response(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")


class _Figures(Collector):
    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def collect(self) -> Iterator[Metric]:
        now = self._vault.clock.now()
        with self._vault.session() as session:
            rows = session.execute(
                select(Machine.name, Relationship)
                .join(Relationship, Relationship.machine == Machine.id)
                .where(~Relationship.ended, ~Relationship.superseded)
            ).all()
            hosts = session.scalars(select(Host).where(Host.revoked.is_(False))).all()
        labels = ["machine", "relationship"]
        health = GaugeMetricFamily(
            "standby_machine_health", "0 not applicable, 1 normal, 2 warning, 3 critical", labels=labels
        )
        rpo = GaugeMetricFamily(
            "standby_machine_rpo_seconds", "What a failover now would lose", labels=labels
        )
        queued = GaugeMetricFamily(
            "standby_machine_queued_bytes", "Logs that wait for the store", labels=labels
        )
        for name, row in rows:
            values = [name, row.id]
            health.add_metric(values, row.level)
            queued.add_metric(values, row.queued_bytes)
            if row.newest is not None:
                # Of now, not of the last report: a silent agent's points get older too.
                rpo.add_metric(values, (now - row.newest).total_seconds())
        silence = GaugeMetricFamily(
            "standby_host_silence_seconds", "Since the agent's last heartbeat", labels=["host"]
        )
        for host in hosts:
            if host.beat is not None:
                silence.add_metric([host.name], (now - host.beat).total_seconds())
        whole = overview.overview(self._vault)
        jobs = GaugeMetricFamily("standby_jobs", "Under way, or ended within 24 hours", labels=["state"])
        for state, count in whole.jobs.items():
            jobs.add_metric([state.value], count)
        open_alerts = GaugeMetricFamily("standby_alerts_open", "Alerts that stand", value=whole.open_alerts)
        overdue = GaugeMetricFamily(
            "standby_drills_overdue", "Machines whose test failover is overdue", value=whole.overdues
        )
        yield from (health, rpo, queued, silence, jobs, open_alerts, overdue)
