"""What an agent is asked to do as a recovery host. Runs are named by their directory on that host.

Each is carried out by the function of `standby.recovery` that the same command of `standby failover` calls.
"""

from __future__ import annotations

import msgspec


class RecoveryOrder(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of all recovery orders."""


class OfReplica(RecoveryOrder, frozen=True, kw_only=True):
    """point: `newest`, `newest-app`, or a number. network: as `--network` says it. boot_limit: seconds for the
    guest agent; None where the guest has none. key_file: on the recovery host, "" for not encrypted."""

    store: str
    replica: str
    point: str = "newest"
    network: str = "isolated"
    boot_limit: float | None = 300.0
    key_file: str = ""


class TestFailover(OfReplica, frozen=True, kw_only=True):
    pass


class FailOver(OfReplica, frozen=True, kw_only=True):
    """source_down: a person said that the source machine is off."""

    source_down: bool = False


class Prove(OfReplica, frozen=True, kw_only=True):
    """A test failover that is looked at: the proof is kept beside the point, then all is cleaned up."""


class RunPlan(RecoveryOrder, frozen=True, kw_only=True):
    """Run a recovery plan with this host as the recovery host, or its sealing half on the host of its sources.

    document: the plan as TOML (docs/plans.md). kind: `test`, `unplanned` or `planned`. part: `both`, `seal`, `start`.
    answered: somebody said that the manual action is done which it waited for. skip: failed steps to go on without.
    """

    document: str
    kind: str
    part: str = "both"
    source_down: bool = False
    answered: bool = False
    run: str = ""


class CleanUpPlan(RecoveryOrder, frozen=True, kw_only=True):
    """End all machines that a test of a plan started; of one in earnest, cancel it."""

    run: str


class OfRun(RecoveryOrder, frozen=True, kw_only=True):
    run: str


class CleanUpTest(OfRun, frozen=True, kw_only=True):
    pass


class ChangePoint(OfRun, frozen=True, kw_only=True):
    point: str


class Commit(OfRun, frozen=True, kw_only=True):
    pass


class CancelFailover(OfRun, frozen=True, kw_only=True):
    pass


class ResumeFailover(OfRun, frozen=True, kw_only=True):
    pass


class Hydrate(OfRun, frozen=True, kw_only=True):
    pass


class Reverse(OfRun, frozen=True, kw_only=True):
    """Protect the committed machine from its new host into the same replica."""

    frequency: int = 30
    key_file: str = ""


AnyRecoveryOrder = (
    TestFailover
    | FailOver
    | Prove
    | RunPlan
    | CleanUpPlan
    | CleanUpTest
    | ChangePoint
    | Commit
    | CancelFailover
    | ResumeFailover
    | Hydrate
    | Reverse
)
