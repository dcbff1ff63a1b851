"""Rows of the vault's tables as the API gives them."""

from __future__ import annotations

from typing import Any

import msgspec

from standby.replication.health import Level
from standby.vault import overview as looking
from standby.vault.api import models
from standby.vault.jobs import KINDS
from standby.vault.machines import Detail, Row, job_actions
from standby.vault.schema import Job, Machine, Relationship


def row(one: Row) -> models.MachineRow:
    return _row(one.machine, one.host.name, one.relationship, one.job.id if one.job else None)


def worst(one: looking.Worst) -> models.MachineRow:
    return _row(one.machine, "", one.relationship, None)


def machine(one: Detail) -> models.Machine:
    it, standing = one.machine, one.relationship
    return models.Machine(
        id=it.id,
        name=it.name,
        uuid=it.uuid,
        site=it.site,
        host=it.host,
        host_name=one.host.name,
        present=it.present,
        running=it.running,
        seen=it.seen,
        relationship=standing.id if standing else None,
        state=standing.state if standing else None,
        health=str(Level(standing.level)) if standing else None,
        standing=standing.standing if standing else None,
        policy=one.policy.id if one.policy else None,
        policy_name=one.policy.name if one.policy else None,
        since=standing.since if standing else None,
        drilled=standing.drilled if standing else None,
        runs=[{"host": host.id, **msgspec.to_builtins(run)} for host, run in one.runs],
        job=one.job.id if one.job else None,
        possible=list(one.possible),
    )


def job(one: Job) -> models.Job:
    return models.Job(**_job(one))


def job_detail(one: looking.JobDetail) -> models.JobDetail:
    return models.JobDetail(**_job(one.job), tasks=[models.Task.model_validate(task) for task in one.tasks])


def overview(one: looking.Overview) -> models.Overview:
    return models.Overview(
        levels={str(level): count for level, count in one.levels.items()},
        unprotected=one.unprotected,
        hosts=one.hosts,
        silent=one.silent,
        sites=one.sites,
        stores=one.stores,
        policies=one.policies,
        jobs={state.value: count for state, count in one.jobs.items()},
        backlog=one.backlog,
        worst=[worst(each) for each in one.worst],
        overdue=[
            models.Due(machine=each.machine.id, name=each.machine.name, due=each.due) for each in one.overdue
        ],
        alerts=[models.Alert.model_validate(each) for each in one.alerts],
        overdues=one.overdues,
        open_alerts=one.open_alerts,
    )


def _row(it: Machine, host: str, standing: Relationship | None, job_id: str | None) -> models.MachineRow:
    return models.MachineRow(
        id=it.id,
        name=it.name,
        site=it.site,
        host=it.host,
        host_name=host,
        running=it.running,
        present=it.present,
        protected=standing is not None,
        state=standing.state if standing else None,
        level=standing.level if standing else None,
        health=str(Level(standing.level)) if standing else None,
        rpo=standing.rpo if standing else None,
        newest=standing.newest if standing else None,
        queued_bytes=standing.queued_bytes if standing else None,
        job=job_id,
    )


def _job(one: Job) -> dict[str, Any]:
    return {
        "id": one.id,
        "kind": one.kind,
        "title": KINDS[one.kind].title,
        "state": one.state,
        "machine": one.machine,
        "host": one.host,
        "subject": one.subject,
        "by": one.by,
        "created": one.created,
        "began": one.began,
        "ended": one.ended,
        "result": one.result,
        "error": one.error,
        "waiting": one.waiting,
        "cancelling": one.cancel and one.ended is None,
        "observed": one.observed,
        "actions": [str(action) for action in job_actions(one)],
    }
