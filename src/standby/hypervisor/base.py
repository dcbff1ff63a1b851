"""Machines that own disks, and one instant across all of them.

Change tracking is by numbered rounds. A disk's round records what the guest writes from the moment it begins
until the disk's next one begins; `begin`, `advance` and `cut` each begin one, numbered higher than before.
Ended rounds stay until `forget`, so that a change is dropped only when a sealed log holds it.

The caller keeps one number durably: `active`, the round that began at the instant up to which everything is
safe elsewhere. Whenever a cycle did not end well (the agent died, a cut broke, a log could not be written),
`recover(active)` folds all later rounds back into that one, which records again: as if they never began, so
it may be repeated at will, and numbers above `active` may be used again.

`advance` and `cut` either begin their round on all disks or, raising, leave the rounds as they were; where
even that cannot be told (MachineUnreachable), `recover` on a new connection is the way on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Literal, NamedTuple, Protocol, Self

from standby.block.disk import Disk
from standby.block.extent import Extent
from standby.errors import NeedsPerson, Recoverable, ResyncRequired
from standby.hypervisor.meeting import Meeting
from standby.records import Finding, MachineDescription


class Lost(StrEnum):
    """Why changes of a disk can no longer be told apart from what the replica has."""

    NEVER_TRACKED = "never tracked"
    TRACKING_LOST = "change tracking is gone (the machine was restarted, or its host crashed)"
    INCONSISTENT = "change tracking was not closed gracefully (host crash or kill)"
    RESIZED = "the disk has another size"
    REVERTED = "the disk's image was put back to an older one"
    DETACHED = "the disk is no longer attached to the machine"


class Consistency(StrEnum):
    CRASH = "crash-consistent"
    APPLICATION = "application-consistent"


class Round(NamedTuple):
    """What one disk's guest wrote in the rounds that just ended."""

    disk: Disk
    dirty: list[Extent]


class Cut(Protocol):
    """One instant across all disks of a machine, readable until released."""

    @property
    def at(self) -> datetime:
        """The instant, by the agent's clock (UTC)."""
        ...

    @property
    def consistency(self) -> Consistency:
        """What was reached: crash-consistent when the guest agent did not answer in time."""
        ...

    @property
    def note(self) -> str:
        """Why less consistency than asked was reached; empty otherwise."""
        ...

    @property
    def group(self) -> str:
        """The id of the instant that it has in common with other machines; "" where it has none."""
        ...

    @property
    def disks(self) -> Mapping[str, Round]:
        """By disk id: the disk as at the instant, and the dirty extents of the round that it ended."""
        ...

    def release(self) -> None:
        """End the guest's copy-before-write window and free the scratch space. Idempotent.

        Raises CutBroken if the snapshot was given up while it was open: what was read is worthless.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class CutBroken(Recoverable):
    """The snapshot was given up to spare the guest (scratch space, latency, time). The cycle is missed."""


class MachineNotFound(NeedsPerson):
    """No such machine on this host."""


class MachineNotConnected(NeedsPerson):
    """It is not known how the machine is reached."""


class MachineUnreachable(Recoverable):
    """The machine's control socket does not answer, or went away in the middle of an operation."""


class BrokenChain(NeedsPerson):
    """A disk's image refers to a parent that is missing, is another file, or was changed since."""


class DiskInUse(Recoverable):
    """Another process or job holds the disk in a way that excludes tracking, until it ends."""


class DiskUnsuitable(NeedsPerson):
    """The disk cannot be tracked without danger to the guest, or not at all. Nothing was changed."""


class TrackingLost(ResyncRequired):
    """Changes of a disk can no longer be told apart. `disk` is its id, `lost` says why."""

    def __init__(self, disk: str, lost: Lost, *, machine: str) -> None:
        self.disk = disk
        self.lost = lost
        super().__init__(
            lost.value,
            subject=f"{machine}, disk {disk}",
            hint="the disk is compared with its replica by hashes; recovery points stay",
        )


class ScratchFull(Recoverable):
    """There is not enough free space to open a cut without danger to the guest. Nothing was changed."""


class Tracking(Protocol):
    """Change tracking of one machine for one relationship. Used by one thread at a time."""

    def recover(
        self, active: int, sizes: Mapping[str, int], since: Mapping[str, int] = MappingProxyType({})
    ) -> Mapping[str, Lost | None]:
        """Clean up what a dead agent left (exports, jobs, scratch, a frozen guest), bring rounds in order.

        sizes: by id, the size of each protected disk as the replica knows it; others are let go.
        Per disk of `sizes`: None if tracking never missed a write since round `active` began (its rounds
        are then one, recording); else why it may have (its rounds are then gone: `begin` anew).
        `active` is 0 before the first `begin`. since: by id, the number of the round that the disk had at that
        instant, of those for which it is known: an image whose newest round is older is not the same any more.
        """
        ...

    def begin(self, number: int, disks: Sequence[str]) -> None:
        """Begin round `number` on disks that have no intact tracking, all at one instant.

        The caller notes durably that these disks need a scan *before* it begins them: once begun, `recover`
        with a higher `active` finds them intact. Raises DiskUnsuitable, DiskInUse.
        """
        ...

    def live(self) -> Mapping[str, Disk]:
        """The disks as they are now, changing while one reads. Closed by the caller."""
        ...

    def pending(self) -> Mapping[str, int]:
        """By disk, the bytes that are dirty in the round that records, at one instant. Raises TrackingLost.

        A write counts once it has completed, so where all are 0, the disks are as they were when the round
        began.
        """
        ...

    def advance(self, number: int) -> Mapping[str, Round]:
        """Begin round `number` without a snapshot: each disk's dirty extents of the round that ended,
        with the live disk to read them from. The disks are closed by the caller. Raises TrackingLost."""
        ...

    def cut(self, number: int, consistency: Consistency, meeting: Meeting | None = None) -> Cut:
        """Begin round `number` at one instant across all disks, with a snapshot of that instant.

        meeting: at the same instant as the cuts of other machines, if that succeeds (`Cut.group`).

        Raises TrackingLost, ScratchFull, DiskInUse.
        """
        ...

    def forget(self, below: int) -> None:
        """Drop the ended rounds numbered below `below`. Only once what they tell is durable elsewhere, and
        the disks that showed them are closed."""
        ...

    def stop(self) -> None:
        """Remove everything of this relationship from the machine (rounds, exports, scratch)."""
        ...

    def close(self) -> None:
        """Disconnect. Rounds go on recording."""
        ...


class Ending(Protocol):
    """One machine on its way out, with its disks and their tracking readable until `quit`."""

    def ended(self) -> bool:
        """Whether its guest has shut down."""
        ...

    def stopped(self) -> bool:
        """Whether its processors stand still, for whatever reason."""
        ...

    def shut_down(self, limit: float) -> bool:
        """Ask the guest to shut down; whether it had within `limit` seconds. Its process stays.

        Raises CannotOutlive where that is not possible, before the guest was asked.
        """
        ...

    def spare(self) -> None:
        """Let its process end with its guest again: it is not shut down now."""
        ...

    def stop(self) -> None:
        """Stop the processors, as a power cut would."""
        ...

    def quit(self) -> None:
        """End the process."""
        ...


class Tracks(Protocol):
    """What replication asks of a hypervisor in each cycle."""

    def tracking(self, machine: str, relationship: str, scratch: Path) -> Tracking:
        """`relationship` ([a-z0-9]{1,16}) marks what is ours; `scratch` is a directory for cuts."""
        ...


class Hypervisor(Tracks, Protocol):
    """The machines of one host, as one product runs them."""

    def machines(self) -> Sequence[str]:
        """The names, whether or not each can be reached now."""
        ...

    def describe(self, machine: str) -> MachineDescription:
        """Raises MachineNotFound, MachineUnreachable."""
        ...

    def boot_files(self, machine: str) -> Mapping[Literal["kernel", "initrd"], Path]:
        """By role (`kernel`, `initrd`), the files beside the disks that the machine boots from."""
        ...

    def check(self, machine: str, scratch: Path) -> Sequence[Finding]:
        """Everything that stands against protecting the machine with this scratch directory, or limits it:
        all of it, at once."""
        ...

    def ending(self, machine: str) -> AbstractContextManager[Ending]:
        """The machine, to be shut down for good."""
        ...
