"""What `standby plan` prints with --json. docs/cli.md is made from these."""

from __future__ import annotations

import msgspec

from standby.records import Finding


class PlanChecked(msgspec.Struct, kw_only=True):
    """ready: nothing stands against running it now."""

    plan: str
    kind: str
    members: int
    ready: bool
    findings: tuple[Finding, ...]


class PlanStepShown(msgspec.Struct, kw_only=True):
    """does: seal, start, probe, script or manual. stand: pending, at work, waits for input, done, failed, passed over,
    being taken back or taken back. text: what came of it; of a manual action, what is to be done. run: of the
    member's failover. output: the file with what a program said."""

    step: str
    does: str
    group: str
    member: str
    stand: str
    began: str
    ended: str
    tries: int
    text: str
    error: str
    run: str
    output: str
    facts: dict[str, float]


class PlanRunShown(msgspec.Struct, kw_only=True):
    """phase: running, waits for input, stopped, done, being taken back or taken back. part: seal, start or both.
    busy: a process works on it now; else one that is running was interrupted."""

    run: str
    plan: str
    kind: str
    part: str
    asked: str
    phase: str
    busy: bool
    steps: tuple[PlanStepShown, ...]


class PlanForgotten(msgspec.Struct, kw_only=True):
    """The record of a run is removed."""

    forgotten: str
