"""What each error leads to (Azure Site Recovery: retry logic). One table, for every error class of standby.

The decision class that an error derives from (standby/errors.py) says what its caller does; this table says what
that means for replication, and what a person does about it. Names are relative to the package, so that classes
of layers that replication may not import are here too. docs/errors.md is made from it.
"""

from __future__ import annotations

import errno
from enum import StrEnum
from typing import Final, NamedTuple

from standby.errors import StandbyError


class Outcome(StrEnum):
    RETRY = "retried"
    """After 1, 2, 4, 8 and 10 minutes from the first failure on, then every 30; or when an operator says so."""

    CYCLE = "cycle missed"
    """The next cycle, when it is due, takes what this one would have taken: nothing is sent, so nothing is
    spared by waiting longer."""

    CRITICAL = "critical"
    """Not retried. The relationship's health is Critical until a person has acted."""

    RESYNC = "resynchronized"
    """The disk is compared with its replica by hashes, in its window; recovery points stay."""

    FENCED = "stopped"
    """Another agent owns the replica. Nothing is written to it any more."""

    REFUSED = "refused"
    """The request is corrected and put again; nothing was changed. Replication goes on."""

    BUG = "bug"
    """Not retried, Critical, reported; nothing was forgotten."""


class Row(NamedTuple):
    outcome: Outcome
    when: str
    person: str


_RETRY, _CYCLE, _CRITICAL = Outcome.RETRY, Outcome.CYCLE, Outcome.CRITICAL
_REFUSED = Outcome.REFUSED

TABLE: Final[dict[str, Row]] = {
    # The decision classes themselves, where they are raised as they are.
    "errors.StandbyError": Row(Outcome.BUG, "never raised itself", "report it"),
    "errors.Bug": Row(Outcome.BUG, "an invariant of standby's own broke", "report it with the message"),
    "errors.InvalidRequest": Row(
        _REFUSED, "a request cannot be met as it was put", "correct it as the message says"
    ),
    "errors.Recoverable": Row(
        _RETRY, "the world is in the way for now", "nothing; an operator may have it retried at once"
    ),
    "errors.NeedsPerson": Row(_CRITICAL, "no retry can help", "what the message says; then have it retried"),
    "errors.Fenced": Row(
        Outcome.FENCED,
        "a newer epoch owns the replica",
        "let the other agent go on, or take the replica back with --take-over",
    ),
    "errors.ResyncRequired": Row(Outcome.RESYNC, "changes can no longer be told apart", "nothing"),
    "errors.Damaged": Row(
        _CRITICAL,
        "stored bytes are not those that were written",
        "see which points are sound: `standby replica verify`; check the store or volume that the message names",
    ),
    # Stores.
    "objects.base.ObjectMissing": Row(
        _CRITICAL,
        "an object that a record refers to is gone from the store",
        "find out who deletes there; `standby replica verify` tells which points are concerned",
    ),
    "objects.base.StoreUnreachable": Row(
        _RETRY,
        "no answer from the store, or one that says try later",
        "check the network and the store's state",
    ),
    "objects.base.StoreBusy": Row(
        _RETRY, "the store asks to be left alone for a while (429, 503)", "see its limits, or send less"
    ),
    "objects.cloud_answers.BucketMissing": Row(
        _CRITICAL, "the bucket or container is gone", "make it again, or correct the address"
    ),
    "objects.cloud_credentials.InvalidCredentials": Row(
        _REFUSED, "the cloud's settings name no usable credentials", "correct what the message names"
    ),
    "objects.base.StoreFull": Row(
        _RETRY, "no space or quota is left in the store", "make room there, or keep fewer points"
    ),
    "objects.base.StoreRefused": Row(
        _CRITICAL,
        "credentials, permissions, a read-only mount or an immutable object",
        "correct the credentials or permissions",
    ),
    "objects.base.StoreUnsuitable": Row(
        _CRITICAL, "the store lacks what commits rest on (conditional puts)", "use another store"
    ),
    "objects.marker.NotAStore": Row(
        _CRITICAL, "the directory is not mounted, or is another one", "mount it, or correct the address"
    ),
    "objects.address.InvalidAddress": Row(_REFUSED, "the text names no store", "correct the address"),
    "objects.names.InvalidName": Row(_REFUSED, "the text is no object name", "choose another name"),
    # Machines and their disks.
    "hypervisor.base.CutBroken": Row(
        _CYCLE,
        "a snapshot was given up to spare the guest",
        "if it repeats, more scratch space or fewer points",
    ),
    "hypervisor.base.MachineNotFound": Row(
        _CRITICAL, "the host has no such machine", "bring it back, or `standby vm unprotect`"
    ),
    "hypervisor.base.MachineNotConnected": Row(
        _CRITICAL,
        "the machine's sockets are not known to the agent",
        "`standby vm connect MACHINE --qmp SOCKET`",
    ),
    "hypervisor.base.MachineUnreachable": Row(
        _CYCLE,
        "the machine is off, or its control socket does not answer",
        "nothing if it is off; else see its process",
    ),
    "hypervisor.base.BrokenChain": Row(
        _CRITICAL, "an image's parent is missing, another file, or changed", "bring the image chain in order"
    ),
    "hypervisor.base.DiskInUse": Row(
        _CYCLE, "another job or process holds the disk", "end the other backup, mirror or snapshot"
    ),
    "hypervisor.base.DiskUnsuitable": Row(
        _CRITICAL,
        "the disk cannot be tracked without danger to the guest",
        "change it as the message says, or leave it out",
    ),
    "hypervisor.base.TrackingLost": Row(
        Outcome.RESYNC,
        "a restart, a crash, a resize or a detached disk",
        "nothing; an operator may start it at once",
    ),
    "hypervisor.base.ScratchFull": Row(
        _RETRY, "too little room to open a cut without danger to the guest", "make room on the scratch volume"
    ),
    "hypervisor.agent.GuestAgentSilent": Row(
        _CYCLE, "the guest agent does not answer; the point is crash-consistent", "see the agent in the guest"
    ),
    "hypervisor.thawer.ThawerMissing": Row(
        _CYCLE,
        "no process could be started that would thaw the guest if this one died; the point is crash-consistent",
        "see what the host is short of",
    ),
    "hypervisor.agent.GuestAgentRefused": Row(
        _CYCLE,
        "the guest agent answers with an error; the point is crash-consistent",
        "see its log in the guest",
    ),
    "hypervisor.exports.NbdServerTaken": Row(
        _CYCLE, "the machine's process serves NBD for somebody else", "end that, or name its address"
    ),
    "hypervisor.monitor.QmpError": Row(_CYCLE, "QEMU refused a command", "what QEMU's message says"),
    "hypervisor.qmp.ControlSocketBusy": Row(
        _CYCLE, "another client holds the control socket", "give standby a socket of its own"
    ),
    "hypervisor.accelerator.UnknownAccelerator": Row(
        _REFUSED, "STANDBY_ACCEL is no accelerator", "correct it"
    ),
    "hypervisor.host.StartRefused": Row(
        _REFUSED, "a machine cannot be started as described", "correct what is named"
    ),
    "hypervisor.host.StartFailed": Row(
        _CRITICAL, "the hypervisor did not start a machine", "what its message says"
    ),
    "hypervisor.host.NotOurs": Row(
        _CRITICAL, "a process is not the one that was started", "look at it; nothing was ended"
    ),
    "hypervisor.host.NotBooted": Row(_RETRY, "a guest did not come up in time", "look at its console"),
    "block.disk.DiskUnreachable": Row(
        _CYCLE, "whoever serves the disk is gone or silent", "see the machine's process"
    ),
    "block.disk.DiskFailed": Row(
        _CYCLE, "the disk answers a request with an error", "check the volume it lies on"
    ),
    "block.disk.DiskReadOnly": Row(_REFUSED, "a write to a disk that is read-only", "open it for writing"),
    "block.images.ImageFailed": Row(_RETRY, "qemu-img failed", "what its message says"),
    "block.serve.ServerFailed": Row(
        _RETRY, "a serving process died or was not ready", "see the end of its log"
    ),
    # The agent's own files.
    "replica.keys.KeyMissing": Row(
        _CRITICAL,
        "the replica is encrypted, and the agent was given no key",
        'start the agent with `--key-file`; see the guide, "Encryption"',
    ),
    "replica.keys.WrongKey": Row(
        _CRITICAL,
        "the key is none of those that open the replica",
        "give the right one; `standby key list` tells which those are",
    ),
    "replica.keys.KeyRefused": Row(
        _CRITICAL,
        "the key file is missing, is none, or others may read it",
        "put it where the message says, with mode 0600",
    ),
    "replica.keys.NotEncrypted": Row(
        _REFUSED,
        "a key was given for a replica that is not encrypted",
        "leave the key away; if the replica was encrypted before, somebody has replaced it",
    ),
    "replica.log.SpoolFull": Row(
        _RETRY, "no space where logs are written", "make room there, or set another spool"
    ),
    "replica.journal.ChainBroken": Row(
        _CRITICAL,
        "a record is missing, replaced or of another replica",
        "`standby replica verify`; ask who writes there",
    ),
    "replication.books.BooksUnwritable": Row(
        _RETRY, "the agent's books cannot be written", "make room on their volume"
    ),
    "replication.books.BooksDamaged": Row(
        _CRITICAL,
        "the agent's books are not what was written",
        "move the file away and protect the machine again",
    ),
    "replication.known.KnownLost": Row(
        _CYCLE, "the store must first tell what the replica has", "nothing, or check the network"
    ),
    "replication.source.QueueLost": Row(
        Outcome.RESYNC,
        "a log that waited for the store is gone or cut short",
        "check the volume that it lay on",
    ),
    "replica.log.LogDamaged": Row(
        Outcome.RESYNC,
        "a log that waited for the store is not what was sealed",
        "check the volume that it lay on",
    ),
    "replication.diskset.DiskAdded": Row(
        Outcome.RESYNC, "a disk was added to a protected machine", "nothing, or leave it out"
    ),
    "replication.diskset.DisksGone": Row(
        _CRITICAL, "none of the protected disks is attached", "attach them again; then have it retried"
    ),
    "replication.engine.HostBusy": Row(
        _RETRY, "the host is short of memory, space or connections", "see what uses them up"
    ),
    "replication.engine.HostRefused": Row(
        _CRITICAL,
        "the host's file system refuses, or a device fails",
        "what the message says; then have it retried",
    ),
    "replica.journal.ReplicaMissing": Row(
        _REFUSED,
        "the store has no replica of this name",
        "name another one; an agent's own is gone: protect anew",
    ),
    "replication.enable.NotReady": Row(
        _REFUSED, "the prerequisites check found something", "correct each finding"
    ),
    "replication.policy.PolicyRefused": Row(
        _REFUSED, "values that a policy cannot have", "correct each finding"
    ),
    # Recovery and the demo: they tell their own caller, and replication never meets them.
    "recovery.export.ExportTaken": Row(
        _REFUSED, "the target is there already", "choose another, or remove it"
    ),
    "agent.control.AgentSilent": Row(
        _RETRY, "the agent does not answer on its control socket", "see whether its process runs"
    ),
    "agent.together.NoCommonInstant": Row(
        _RETRY, "several machines have no point at one instant", "see the machine that is named, then again"
    ),
    "recovery.page_blob.BlobTaken": Row(_REFUSED, "the blob is there already", "choose another name"),
    "recovery.export.ExportDiffers": Row(
        _CRITICAL, "what was read back was not exported so", "check the target's storage"
    ),
    "recovery.guestfish.ApplianceFailed": Row(
        _RETRY, "the machine that reads file systems does not start", "what libguestfs-test-tool says"
    ),
    "recovery.fixup_wish.FixUpRefused": Row(
        _REFUSED, "the guest cannot be changed as asked", "what the message says; or fail over without it"
    ),
    "recovery.fixup.NotWritten": Row(
        _RETRY, "the guest's files are not as they were written", "fail over once more"
    ),
    "recovery.fixup_step.GuestStarted": Row(
        _CRITICAL, "the guest ran before it was changed", "cancel the failover, and fail over anew"
    ),
    "recovery.files.FilesFailed": Row(
        _RETRY, "a file could not be read or written", "see room and rights at the target"
    ),
    "recovery.failover.TestInProgress": Row(
        _REFUSED, "a test failover is there already", "clean it up first"
    ),
    "replica.proofs.ProofMissing": Row(_REFUSED, "the replica has no such proof", "list those it has"),
    "recovery.failover.NotServed": Row(
        _REFUSED, "its disks were not served yet when it was interrupted", "clean it up and start it again"
    ),
    "recovery.steps.StepFailed": Row(
        _RETRY, "the host refused what a step asked of it", "what the message says; then go on with it"
    ),
    "recovery.prerequisites.NotReady": Row(
        _REFUSED, "the prerequisites check found something", "correct each finding"
    ),
    "recovery.prerequisites.PointNotBootable": Row(_REFUSED, "the point has no machine", "export its disks"),
    "recovery.run_directory.NoRecovery": Row(
        _CRITICAL, "the directory is of no recovery", "name another one"
    ),
    "recovery.run_directory.RecoveryBusy": Row(
        _RETRY, "another process works on the recovery", "wait for it"
    ),
    "recovery.serving.ServerStuck": Row(
        _RETRY, "a killed server does not end", "see the storage it hangs on"
    ),
    "hypervisor.ending.CannotOutlive": Row(
        _CRITICAL, "QEMU is too old for a planned failover", "shut the guest down and fail over unplanned"
    ),
    "hypervisor.host.FlushFailed": Row(
        _RETRY, "a recovered machine's disk cannot be made durable", "see its volume; then hydrate again"
    ),
    "hypervisor.host.MergeFailed": Row(
        _RETRY, "a failback's overlay cannot be merged", "see the old disk's volume; then commit again"
    ),
    "replication.seal.GuestUp": Row(
        _RETRY, "a guest does not shut down", "shut it down from within, or repeat with --force"
    ),
    "replication.seal.NotCaughtUp": Row(
        _RETRY, "the replica could not be brought up to date in time", "repeat the planned failover"
    ),
    "recovery.split_brain.SourceRuns": Row(
        _REFUSED, "the machine still runs at its source", "fail over planned, or end it there"
    ),
    "recovery.split_brain.SourceUnknown": Row(
        _REFUSED, "nothing tells that the source is down", "make sure that it is, and say so"
    ),
    "recovery.live.FailoverInProgress": Row(
        _REFUSED, "it has failed over to this host already", "see `standby failover list`"
    ),
    "recovery.live.NotFailedOver": Row(
        _REFUSED, "the failover is not as far, or farther", "what the message says"
    ),
    "recovery.live_steps.FailedOverElsewhere": Row(
        Outcome.FENCED, "a later failover owns the replica", "do not start it here; clean it up"
    ),
    "recovery.machine_steps.OverlayLost": Row(
        _CRITICAL, "what a recovered guest wrote is gone", "bring the overlay back, or fail over anew"
    ),
    "recovery.hydrate.FetchFailed": Row(
        _RETRY, "a disk cannot be fetched as a whole", "an older point may be whole; the guest runs on"
    ),
    "recovery.failback_steps.OldDiskChanged": Row(
        _REFUSED, "an old disk was written to since it was compared", "cancel the failback and begin anew"
    ),
    "recovery.plan_document.PlanRefused": Row(_REFUSED, "a plan cannot be run so", "correct each finding"),
    "recovery.plan_points.NoCommonPoint": Row(
        _REFUSED, "a plan's members have no points of one instant", "`standby vm point` with --with"
    ),
    "recovery.plan_record.NotWaiting": Row(
        _REFUSED, "a plan's run does not stand so", "see `standby plan show`"
    ),
    "recovery.plan_record.PlanStopped": Row(
        _CRITICAL, "a failed step stops a plan's run", "what the message says; then `standby plan continue`"
    ),
    "recovery.plan_probes.ProbeFailed": Row(
        _RETRY, "what a plan waits for did not come in time", "see the guest; then `standby plan continue`"
    ),
    "recovery.plan_programs.ScriptFailed": Row(
        _CRITICAL, "a plan's script failed", "what it said; then `standby plan continue`"
    ),
    "recovery.plan_programs.NotExecutable": Row(
        _REFUSED, "a plan's program may not be run", "correct it; then `standby plan continue`"
    ),
    "recovery.steps.CleanUpBegun": Row(_REFUSED, "the recovery is being undone", "finish the clean-up"),
    "agent.link_client.VaultUnreachable": Row(
        _RETRY, "the vault cannot be reached", "nothing: replication goes on and all is told once it is back"
    ),
    "agent.link_client.VaultNotTrusted": Row(
        _CRITICAL, "the vault's certificate is not to be trusted", "register with a new key; see both clocks"
    ),
    "agent.link_client.TokenRefused": Row(
        _CRITICAL, "the vault does not accept this host", "register with a new key; replication goes on"
    ),
    "agent.link_client.VaultRefused": Row(
        _REFUSED, "the vault refuses what it was asked", "what the message says"
    ),
    "agent.link_client.AddressInvalid": Row(
        _REFUSED, "the vault's address cannot be used", "https, or http on this very host"
    ),
    "agent.link_state.StateUnwritable": Row(
        _RETRY, "what is kept of the vault cannot be written", "make room in the agent's state directory"
    ),
    "agent.link_state.MembershipDamaged": Row(
        _CRITICAL, "what is kept of the vault cannot be read", "leave, and register with a new key"
    ),
    "agent.link_state.KeyFileInvalid": Row(_REFUSED, "a file is no vault key", "download a new one"),
    "agent.ledger.LedgerUnwritable": Row(
        _RETRY, "the ledger of orders cannot be written", "make room in the agent's state directory"
    ),
    "agent.ledger.LedgerDamaged": Row(
        _CRITICAL, "the ledger of orders is damaged", "what the message says; replication goes on"
    ),
    "agent.job.OrderCancelled": Row(_REFUSED, "an order was cancelled", "nothing; it was taken back"),
    "agent.recovery_orders.InterruptedTakenBack": Row(
        _RETRY, "a failed order was taken back across a restart", "start it again"
    ),
    "demo.content.NoContent": Row(_CRITICAL, "no files for the demo's data disk", "what the message says"),
    "demo.guest.GuestFailed": Row(_CRITICAL, "a command in the demo's guest failed", "report it"),
    "demo.guest.ContentDamaged": Row(_CRITICAL, "files of the demo are not as they were", "report it"),
    "demo.initramfs.PackageMissing": Row(_CRITICAL, "a package for the demo is missing", "install it"),
    "demo.scenario.DemoFailed": Row(_CRITICAL, "the demo did not show what it should", "look with --keep"),
    "demo.stamps.NotAPrefix": Row(_CRITICAL, "disks of the demo are of several instants", "report it"),
    "agent.job.OrderWaits": Row(
        _CRITICAL, "a vault's order waits for a person", "do it, then continue the job"
    ),
    # The vault.
    "vault.database.DatabaseAway": Row(
        _RETRY,
        "the vault's database does not answer or gave a transaction up",
        "see that it runs and has room",
    ),
    "vault.database.DatabaseNewer": Row(
        _CRITICAL, "a newer standby wrote the vault's database", "run the newer version"
    ),
    "vault.tls.CertificateUnusable": Row(
        _CRITICAL, "the vault's certificates cannot be read", "put them back from a backup"
    ),
    "vault.errors.NotFound": Row(_REFUSED, "the vault has no such thing", "name one that it has"),
    "vault.errors.Conflict": Row(
        _REFUSED,
        "it cannot be done as things are, as while another job runs",
        "what the message says, then again",
    ),
    "vault.errors.Forbidden": Row(_REFUSED, "the user's role does not reach", "ask an administrator"),
    "vault.errors.Unauthenticated": Row(
        _REFUSED,
        "a password, session, token or key is wrong or has ended",
        "log in, or register the host again",
    ),
    "vault.errors.TooManyAttempts": Row(
        _RETRY, "too many wrong passwords within 15 minutes", "wait, or see who tries"
    ),
}

_OF_ERRNO: Final = {
    **dict.fromkeys(
        (
            *(
                errno.ENOSPC,
                errno.EDQUOT,
                errno.ENOMEM,
                errno.ENOBUFS,
                errno.EMFILE,
                errno.ENFILE,
                errno.EAGAIN,
            ),
            *(
                errno.EINTR,
                errno.EBUSY,
                errno.ETIMEDOUT,
                errno.ECONNREFUSED,
                errno.ECONNRESET,
                errno.ECONNABORTED,
            ),
            *(
                errno.EPIPE,
                errno.ENETDOWN,
                errno.ENETUNREACH,
                errno.EHOSTDOWN,
                errno.EHOSTUNREACH,
                errno.ESTALE,
            ),
        ),
        Outcome.RETRY,
    ),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO), Outcome.CRITICAL),
}
"""Errors of the operating system that came through as they are: low disk, low memory, network; and no permission
or a broken device. Any other one is a bug: a caller should have told what it means."""


def outcome(error: BaseException) -> Outcome:
    """What replication does about the error."""
    if isinstance(error, StandbyError):
        return next(row.outcome for kind in type(error).__mro__ if (row := TABLE.get(name_of(kind))))
    if isinstance(error, MemoryError):
        return Outcome.RETRY
    if isinstance(error, OSError):
        return _OF_ERRNO.get(error.errno or 0, Outcome.BUG)
    return Outcome.BUG


def name_of(kind: type) -> str:
    """The class as the table names it."""
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("standby.")
