"""Which jobs there are, what leads from one of a job's states to another, and what may be done with it. Pure.

Names of jobs and tasks are Azure Site Recovery's where it documents them (facts: jobs and tasks).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Final, NamedTuple

from standby.link.messages import WorkState


class Role(IntEnum):
    """What a user may do. Each may what those below it may."""

    READER = 1
    OPERATOR = 2
    ADMINISTRATOR = 3

    def __str__(self) -> str:
        return self.name.lower()


class JobState(StrEnum):
    QUEUED = "queued"
    IN_PROGRESS = "in progress"
    WAITING = "waiting for input"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class Action(StrEnum):
    """What may be done with a job."""

    CANCEL = "cancel"
    RESTART = "restart"
    CONTINUE = "continue"


class Kind(NamedTuple):
    """title: what people read. role: least that may begin it. dangerous: it is confirmed by the machine's name.

    tasks: that are known beforehand; second: those of its second part. observed: nobody begins it; it follows what an
    agent reports. upkeep: of the replica in its store: it stands in nobody's way, and goes to another host when the one
    that has it falls silent.
    """

    title: str
    role: Role
    tasks: tuple[str, ...] = ()
    dangerous: bool = False
    observed: bool = False
    upkeep: bool = False
    second: tuple[str, ...] = ()


KINDS: Final[Mapping[str, Kind]] = {
    "enable-protection": Kind(
        "Enable protection",
        Role.OPERATOR,
        (
            "Prerequisites check for enabling protection",
            "Identifying replication target",
            "Enable replication",
            "Starting initial replication",
        ),
    ),
    "initial-replication": Kind("Initial replication", Role.OPERATOR, observed=True),
    "finalize-protection": Kind(
        "Finalize protection on the virtual machine",
        Role.OPERATOR,
        ("Committing the first recovery point",),
        observed=True,
    ),
    "resynchronization": Kind("Resynchronize", Role.OPERATOR, observed=True),
    "disable-protection": Kind(
        "Disable protection", Role.OPERATOR, ("Ending change tracking",), dangerous=True
    ),
    "pause": Kind("Pause replication", Role.OPERATOR, ("Pausing",)),
    "resume": Kind("Resume replication", Role.OPERATOR, ("Resuming",)),
    "retry": Kind("Retry now", Role.OPERATOR, ("Trying again",)),
    "point": Kind("Make a recovery point", Role.OPERATOR, ("Asking for an application-consistent point",)),
    "resync": Kind("Start resynchronization", Role.OPERATOR, ("Starting resynchronization",)),
    "cancel-resync": Kind("Cancel resynchronization", Role.OPERATOR, ("Cancelling resynchronization",)),
    "set-policy": Kind("Change policy", Role.OPERATOR, ("Changing the policy",)),
    "leave-out-disk": Kind("Leave a disk out", Role.OPERATOR, ("Leaving the disk out",), dangerous=True),
    "take-in-disk": Kind("Take a disk in", Role.OPERATOR, ("Taking the disk in",)),
    "test-failover": Kind(
        "Test failover",
        Role.OPERATOR,
        (
            "Prerequisites check for test failover",
            "Create test virtual machine",
            "Preparing the virtual machine",
            "Start the virtual machine",
        ),
    ),
    "clean-up-test": Kind("Clean up test failover", Role.OPERATOR, ("Removing the test virtual machine",)),
    "failover": Kind(
        "Failover",
        Role.OPERATOR,
        ("Prerequisites check for failover", "Start failover", "Start the replica virtual machine"),
        dangerous=True,
    ),
    "planned-failover": Kind(
        "Planned failover",
        Role.OPERATOR,
        (
            "Synchronizing the latest changes",
            "Shut down the virtual machine",
            "Synchronizing the last changes",
        ),
        second=(
            "Prerequisites check for failover",
            "Start failover",
            "Start the replica virtual machine",
        ),
        dangerous=True,
    ),
    "change-point": Kind(
        "Change recovery point", Role.OPERATOR, ("Changing the recovery point",), dangerous=True
    ),
    "commit": Kind("Commit", Role.OPERATOR, ("Committing the failover",), dangerous=True),
    "cancel-failover": Kind("Cancel failover", Role.OPERATOR, ("Taking the failover back",), dangerous=True),
    "resume-failover": Kind("Resume failover", Role.OPERATOR, ("Going on with the failover",)),
    "hydrate": Kind("Hydrate disks", Role.OPERATOR, ("Fetching the disks",)),
    "retention": Kind(
        "Apply retention",
        Role.OPERATOR,
        ("Deciding which points stay", "Folding", "Deleting what nothing needs"),
        upkeep=True,
    ),
    "prove": Kind(
        "Prove that it boots",
        Role.OPERATOR,
        ("Start the virtual machine", "Looking at it", "Removing the test virtual machine"),
        upkeep=True,
    ),
    "test-plan": Kind("Test a recovery plan", Role.OPERATOR, ("Running the plan",)),
    "run-plan": Kind("Run a recovery plan", Role.OPERATOR, ("Running the plan",), dangerous=True),
    "planned-plan": Kind(
        "Run a recovery plan, planned", Role.OPERATOR, ("Running the plan",), dangerous=True
    ),
    "clean-up-plan": Kind("Clean up a recovery plan", Role.OPERATOR, ("Ending its machines",)),
    "scrub": Kind("Scrub the replica", Role.OPERATOR, ("Looking for damage",), upkeep=True),
    "reverse-replicate": Kind("Reverse replicate", Role.OPERATOR, ("Protecting the recovered machine",)),
}


class Step(NamedTuple):
    """What a report leads to. part: the one that is next or under way."""

    state: JobState
    part: int


def after(work: WorkState, part: int, parts: int) -> Step:
    """The job's state once the work of `part` of so many stands so."""
    match work:
        case WorkState.IN_PROGRESS:
            return Step(JobState.IN_PROGRESS, part)
        case WorkState.WAITING:
            return Step(JobState.WAITING, part)
        case WorkState.FAILED:
            return Step(JobState.FAILED, part)
        case WorkState.CANCELLED:
            return Step(JobState.CANCELLED, part)
        case WorkState.SUCCEEDED:
            if part + 1 < parts:
                return Step(JobState.QUEUED, part + 1)
            return Step(JobState.SUCCEEDED, part)


def allowed(kind: str, state: JobState, *, cancelling: bool) -> tuple[Action, ...]:
    """What may be done with a job now (Azure Site Recovery: AllowedActions)."""
    if KINDS[kind].observed:
        return ()
    if state in (JobState.FAILED, JobState.CANCELLED):
        return (Action.RESTART,)
    if state.ended or cancelling:
        return ()
    return (Action.CONTINUE, Action.CANCEL) if state is JobState.WAITING else (Action.CANCEL,)
