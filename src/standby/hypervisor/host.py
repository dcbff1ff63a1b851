"""Starting machines of ours on a host: what recovery asks of it, whichever product it runs.

A host only ever touches machines that it started itself. Each start has a run directory, which holds the
machine's sockets and logs and a record with a tag of its own; `find` gives the machine back from there in
another process, and nothing is stopped before the tag was seen on the running machine itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol

from standby.errors import InvalidRequest, NeedsPerson, Recoverable
from standby.records import Finding, MachineDescription


class StartRefused(InvalidRequest):
    """The machine cannot be started as described here: something is missing or not supported."""


class StartFailed(NeedsPerson):
    """The hypervisor did not start the machine. The message holds its words."""


class MergeFailed(Recoverable):
    """An image could not be brought into its base; it stays where it is."""


class FlushFailed(Recoverable):
    """An image could not be made durable."""


class NotOurs(NeedsPerson):
    """The process or machine found is not the one that was started from this run directory."""


class NotBooted(Recoverable):
    """The guest did not come up in time, or its machine ended meanwhile."""


class DiskImage(NamedTuple):
    """An image that a machine writes to. `format` in QEMU's words: raw, qcow2, vhdx, vpc.

    backing: the NBD URI of what the image does not hold itself, empty when it holds all. What is read from
    there is kept in the image, so that nothing is fetched twice.
    patience: seconds in which a read waits for a backing server that went away, before the guest sees an
    I/O error.
    base: the image file, with its format, that it lies upon; never together with `backing`. Nothing is kept of
    what is read from there.
    """

    path: Path
    format: str
    backing: str = ""
    patience: int = 60
    base: tuple[Path, str] | None = None


class Network(StrEnum):
    NONE = "none"
    """No network card at all."""
    RESTRICTED = "restricted"
    """The machine's cards, on a network with nothing else on it: neither the host nor the world."""
    USER = "user"
    """The machine's cards, behind QEMU's own address translation: it reaches out, nobody reaches in."""
    BRIDGE = "bridge"
    """The machine's cards, on a bridge of the host."""
    MAPPED = "mapped"
    """Each card as its description's `network` says: `isolated`, `user` or `bridge=NAME`."""


class MachineState(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    GONE = "gone"


class BootTimes(NamedTuple):
    """Seconds from asking for the start to the first instruction, and to the guest agent's answer."""

    first_instruction: float
    agent: float


class Fetched(NamedTuple):
    """How far a disk is, in bytes of it. whole: nothing of it is missing in its image. at_work: it is being
    fetched; neither: it was not begun, or was given up."""

    done: int
    total: int
    whole: bool
    at_work: bool


class Executed(NamedTuple):
    """A command that ended in the guest; status is the negated signal's number if a signal ended it."""

    status: int
    output: bytes
    errors: bytes


class RunningMachine(Protocol):
    """A machine started by `RecoveryHost.start`; it outlives this process. Used by one thread at a time."""

    @property
    def description(self) -> MachineDescription: ...

    @property
    def tag(self) -> str:
        """What tells this start from every other, of this machine too."""
        ...

    @property
    def qmp(self) -> Path:
        """A control socket for somebody else, as replication; this object has one of its own."""
        ...

    @property
    def agent(self) -> Path:
        """The guest agent's socket. One client at a time; the methods below hold it only while they run."""
        ...

    @property
    def console(self) -> Path:
        """The serial console's socket (`socat - UNIX:...`)."""
        ...

    @property
    def console_log(self) -> Path:
        """What the guest wrote to its serial console so far."""
        ...

    def state(self) -> MachineState: ...

    def wait_booted(self, limit: float) -> BootTimes:
        """Return once the guest agent answers. Raises NotBooted after `limit` seconds, or if it is gone."""
        ...

    def execute(self, argv: Sequence[str], limit: float) -> Executed:
        """Run a command in the guest, without a shell, to its end.

        Raises GuestAgentSilent when it takes longer than `limit` seconds (it is not stopped then), and
        GuestAgentRefused when it cannot be started.
        """
        ...

    def screenshot(self, path: Path) -> None:
        """Write what the machine's screen shows to `path`, as PNG."""
        ...

    def pause(self) -> None:
        """Stop the processors; what the guest had completed is in the images when this returns."""
        ...

    def resume(self) -> None: ...

    def fetched(self, disk: str) -> Fetched:
        """How far a disk is by now."""
        ...

    def fetch(self, disk: str) -> None:
        """Begin to fetch all of a disk into its image, in the background. What the image has is skipped.

        Not while what any disk is read from is away: the machine would hang until it is back.
        """
        ...

    def flush(self, disk: str) -> None:
        """Make durable what a disk's image has. Raises FlushFailed."""
        ...

    def let_go(self, disk: str) -> None:
        """Close what a disk, once it is whole, read from. Harmless to repeat."""
        ...

    def merge(self, disk: str, limit: float) -> None:
        """Bring what a disk's image holds into its base, and go on from there; the machine is stopped then.

        The caller notes that the image is no longer needed, and only then lets the machine go on.
        Raises MergeFailed, and then image and base are as before.
        """
        ...

    def merged(self, disk: str) -> bool:
        """Whether the machine writes to the disk's base."""
        ...

    def drop_overlay(self, disk: str) -> None:
        """Close the image of a disk that was merged. Harmless to repeat."""
        ...

    def power_down(self, limit: float) -> bool:
        """Ask the guest to shut down; whether the machine was gone within `limit` seconds."""
        ...

    def kill(self) -> None:
        """End the machine at once. Nothing happens if it is gone already. Raises NotOurs."""
        ...

    def discard(self) -> None:
        """`kill`, then remove the run directory. Disk images stay, unless they are in there."""
        ...


class RecoveryHost(Protocol):
    def check(self, description: MachineDescription) -> Sequence[Finding]:
        """Everything that stands against starting the machine here, or limits it; all of it, at once."""
        ...

    def overlay(self, path: Path, backing: str, size: int) -> DiskImage:
        """A new image of `size` bytes that takes writes and reads through to `backing`, an NBD URI."""
        ...

    def start(
        self,
        description: MachineDescription,
        disks: Mapping[str, DiskImage],
        boot_files: Mapping[str, Path],
        run: Path,
        network: Network = Network.NONE,
        bridge: str = "",
    ) -> RunningMachine:
        """Start a machine. `disks` by disk id, `boot_files` by role; `run` is a directory to be made; `bridge`
        names the host's bridge for Network.BRIDGE.

        Raises StartRefused before anything was started, StartFailed after.
        """
        ...

    def find(self, run: Path) -> RunningMachine:
        """The machine that was started with this run directory, running or gone.

        Raises MachineNotFound if none was.
        """
        ...
