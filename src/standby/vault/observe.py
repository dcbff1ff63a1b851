"""What a report says that the one before it did not: events, jobs that nobody began, conditions to alert of. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from standby.link.messages import DiskStanding, Standing, TaskReport, TaskState
from standby.replication.health import Level
from standby.replication.states import State
from standby.vault.events import Severity

LEVELS: Final = {str(one): one for one in Level}


class Happened(NamedTuple):
    severity: Severity
    kind: str
    text: str


class Observed(NamedTuple):
    """A job that follows a relationship's state. open: it is under way; else it has succeeded, if it was."""

    kind: str
    open: bool
    tasks: tuple[TaskReport, ...] = ()


class Condition(StrEnum):
    """What is alerted of."""

    HEALTH_CRITICAL = "health-critical"
    HOST_SILENT = "host-silent"
    FAILOVER_FAILED = "failover-failed"
    RESYNC_REQUIRED = "resync-required"
    DRILL_OVERDUE = "drill-overdue"


_SCANS: Final = {
    State.INITIAL_REPLICATION: "initial-replication",
    State.RESYNCHRONIZING: "resynchronization",
}


def level_of(standing: Standing) -> Level:
    return LEVELS.get(standing.level, Level.NOT_APPLICABLE)


def happened(before: Standing | None, now: Standing) -> list[Happened]:
    """before: None of a relationship that the vault did not know."""
    if before is None:
        return [
            Happened(
                Severity.INFORMATION,
                "protected",
                f"Protected into {now.store}, replica {now.replica}: {now.state}",
            )
        ]
    found = []
    if _stage(before) != _stage(now):
        bad = now.state in (State.RESYNC_REQUIRED, State.FENCED)
        severity = Severity.WARNING if bad else Severity.INFORMATION
        found.append(Happened(severity, "state", f"Now {now.state}; was {before.state}{_because(now)}"))
    was, level = level_of(before), level_of(now)
    if level != was:
        why = "; ".join(one.text for one in now.reasons) or "nothing stands against it any more"
        severity = {Level.CRITICAL: Severity.CRITICAL, Level.WARNING: Severity.WARNING}.get(
            level, Severity.INFORMATION
        )
        found.append(Happened(severity, "health", f"Health is {level}, was {was}: {why}"))
    if now.error and now.error != before.error:
        found.append(Happened(Severity.WARNING, "error", now.error))
    if before.policy != now.policy:
        found.append(
            Happened(Severity.INFORMATION, "policy", f"A point every {now.policy.frequency} s from now on")
        )
    return found


def observed(now: Standing) -> list[Observed]:
    """The jobs that follow the state, all of them."""
    stage = _stage(now)
    tasks = tuple(_scan(disk) for disk in now.disks if disk.scan)
    found = [Observed(kind, stage is state, tasks) for state, kind in _SCANS.items()]
    closing = TaskReport(
        name="Committing the first recovery point",
        state=TaskState.IN_PROGRESS if stage is State.FINALIZING else TaskState.SUCCEEDED,
    )
    found.append(Observed("finalize-protection", stage is State.FINALIZING, (closing,)))
    return found


def finished(kind: str, now: Standing) -> bool:
    """Whether an observed job that is not under way any more came to its end, and was not given up."""
    if kind == "finalize-protection":
        return _stage(now) in (State.PROTECTED, State.DELTA)
    return _stage(now) in (State.FINALIZING, State.PROTECTED, State.DELTA)


def conditions(now: Standing) -> dict[Condition, str]:
    """What should be alerted of, with its text."""
    found = {}
    if level_of(now) is Level.CRITICAL:
        found[Condition.HEALTH_CRITICAL] = "; ".join(
            one.text for one in now.reasons if one.level == str(Level.CRITICAL)
        ) or (now.error or "its health is Critical")
    if now.state == State.RESYNC_REQUIRED:
        scans = sorted({f"{disk.id}: {disk.scan}" for disk in now.disks if disk.scan})
        found[Condition.RESYNC_REQUIRED] = "; ".join(scans) or "its disks must be compared with the replica"
    return found


def _scan(disk: DiskStanding) -> TaskReport:
    whole = disk.scanned >= disk.size
    return TaskReport(
        name=f"Comparing disk {disk.id}",
        state=TaskState.SUCCEEDED if whole else TaskState.IN_PROGRESS if disk.scanned else TaskState.PENDING,
        progress=min(1.0, disk.scanned / disk.size) if disk.size else None,
        detail=disk.scan,
    )


def _stage(standing: Standing) -> State | str:
    """Cycles come and go: one that is under way is no other state."""
    if standing.state == State.DELTA:
        return State.PROTECTED
    return State(standing.state) if standing.state in set(State) else standing.state


def _because(now: Standing) -> str:
    scans = sorted({disk.scan for disk in now.disks if disk.scan})
    return f" ({'; '.join(scans)})" if scans else ""
