"""What can be asked of an agent, as it goes over its control socket."""

from __future__ import annotations

from typing import Final

import msgspec

from standby.errors import (
    Bug,
    Damaged,
    Fenced,
    InvalidRequest,
    NeedsPerson,
    Recoverable,
    ResyncRequired,
    StandbyError,
)
from standby.records import Finding
from standby.replication.limits import Bandwidth
from standby.replication.policy import Policy
from standby.replication.relationship import Connection


class Request(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of all requests."""


class OfMachine(Request, frozen=True, kw_only=True):
    machine: str


class Protect(OfMachine, frozen=True, kw_only=True):
    """store: its address. replica: its name there. spool: "" for beside the disks. key_file: "" for not encrypted."""

    connection: Connection
    store: str
    replica: str
    policy: Policy
    spool: str = ""
    excluded: tuple[str, ...] = ()
    take_over: bool = False
    key_file: str = ""


class Unprotect(OfMachine, frozen=True, kw_only=True):
    """gone: the machine's process is gone, and its change tracking with it."""

    gone: bool = False


class Pause(OfMachine, frozen=True, kw_only=True):
    pass


class Resume(OfMachine, frozen=True, kw_only=True):
    pass


class Retry(OfMachine, frozen=True, kw_only=True):
    pass


class MakePoint(OfMachine, frozen=True, kw_only=True):
    """A point now, application-consistent if the guest can. together: with these machines, at one instant; it is
    made when this is answered, or refused."""

    together: tuple[str, ...] = ()


class Resync(OfMachine, frozen=True, kw_only=True):
    """Compare disks with the replica now. disks: all if empty; those that wait already come along."""

    disks: tuple[str, ...] = ()


class CancelResync(OfMachine, frozen=True, kw_only=True):
    pass


class LeaveOut(OfMachine, frozen=True, kw_only=True):
    disk: str


class TakeIn(OfMachine, frozen=True, kw_only=True):
    disk: str


class SetPolicy(OfMachine, frozen=True, kw_only=True):
    policy: Policy


class SetConnection(OfMachine, frozen=True, kw_only=True):
    connection: Connection


class SetKeyFile(OfMachine, frozen=True, kw_only=True):
    """Where the key of its encrypted replica lies from now on."""

    key_file: str


class AddTarget(OfMachine, frozen=True, kw_only=True):
    """store: its address. replica: its name there. take_over: also if another agent owns what is there."""

    store: str
    replica: str
    take_over: bool = False


class RemoveTarget(OfMachine, frozen=True, kw_only=True):
    store: str
    replica: str


class Seal(OfMachine, frozen=True, kw_only=True):
    """Shut the machine down, its last write in the replica. It is begun; `SealStatus` tells how far it is.

    connection: None for the one that is known. force: a guest that does not shut down is stopped.
    shutdown_limit, patience: seconds for the guest to shut down, and for the replica to catch up.
    """

    connection: Connection | None = None
    force: bool = False
    shutdown_limit: float = 120.0
    patience: float = 600.0


class SealStatus(OfMachine, frozen=True, kw_only=True):
    """How far the sealing that was asked for last is; refused with the error that ended it."""


class SetBandwidth(Request, frozen=True, kw_only=True):
    """Of the host: all its machines together."""

    bandwidth: Bandwidth


AnyRequest = (
    Protect
    | Unprotect
    | Pause
    | Resume
    | Retry
    | MakePoint
    | Resync
    | CancelResync
    | LeaveOut
    | TakeIn
    | SetPolicy
    | SetConnection
    | SetKeyFile
    | AddTarget
    | RemoveTarget
    | Seal
    | SealStatus
    | SetBandwidth
)


class Done(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """findings: of a prerequisites check or a policy. dropped: points that never reached the store.
    tasks: of a sealing, those that are done; working: it goes on."""

    findings: tuple[Finding, ...] = ()
    dropped: int = 0
    tasks: tuple[str, ...] = ()
    working: bool = False


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """An error. kind: the class of standby/errors.py that it derives from. name: its own class."""

    kind: str
    subject: str
    cause: str
    tried: str
    hint: str
    name: str = ""

    @classmethod
    def of(cls, error: StandbyError) -> Refused:
        kind = next(one.__name__ for one in type(error).__mro__ if one.__name__ in _KINDS)
        return cls(
            kind=kind,
            subject=error.subject,
            cause=error.cause,
            tried=error.tried,
            hint=error.hint,
            name=type(error).__name__,
        )

    def error(self) -> StandbyError:
        """The error again, as its decision class."""
        return _KINDS.get(self.kind, Bug)(self.cause, subject=self.subject, tried=self.tried, hint=self.hint)


Answer = Done | Refused

_KINDS: Final[dict[str, type[StandbyError]]] = {
    kind.__name__: kind
    for kind in (
        Damaged,
        Bug,
        InvalidRequest,
        Recoverable,
        NeedsPerson,
        Fenced,
        ResyncRequired,
        StandbyError,
    )
}
