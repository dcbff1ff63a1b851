"""The start of a replica from copies that were carried to its store by hand.

Whoever then protects the machine compares its disks with this by hashes (C4) and sends only what differs. So a
copy may be as old as it likes and need not be of one instant: it never becomes a recovery point (C6).
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final, NamedTuple
from uuid import uuid4

from ulid import ULID

from standby import failpoints
from standby.block.disk import Disk
from standby.block.extent import Extent
from standby.clock import Clock
from standby.errors import InvalidRequest
from standby.objects.base import ObjectStore
from standby.objects.probe import probe
from standby.replica.documents import DiskState
from standby.replica.format import LogHeader, block_count
from standby.replica.journal import Place, ReplicaLog, ReplicaMissing, read_head
from standby.replica.keys import Key
from standby.replica.plan import last_state
from standby.replica.writer import Draft, Writer, attach, create
from standby.replication.extract import Extractor, Progress, hash_of, nothing
from standby.replication.known import KnownBlocks
from standby.replication.source import SCAN_LOG, SCAN_STEP
from standby.replication.spool import DiskLog
from standby.replication.target import learn_disk

_COMMITTED: Final = failpoints.declare("seed.committed")


class Seeded(NamedTuple):
    """read: bytes of the copies. sent: bytes of the logs that this run stored."""

    read: int
    sent: int


def seed(
    store: ObjectStore,
    replica: str,
    disks: Mapping[str, Disk],
    *,
    clock: Clock,
    scratch: Path,
    key: Key | None = None,
    progress: Progress = nothing,
) -> Seeded:
    """Make the replica's first state of these disks, by id. Interrupted, it is called again and goes on.

    scratch: where logs of up to SCAN_LOG bytes lie until they are stored. key: the replica is encrypted under it,
    before anything is written there. Raises InvalidRequest if the replica has recovery points, Fenced if an agent
    owns it already, KeyMissing, WrongKey, NotEncrypted if the key does not fit what is there, and what the store
    and the disks raise.
    """
    probe(store)
    origin = f"seed on {socket.gethostname()}"
    _create(Place(store, replica, key), origin, clock)
    writer = attach(
        store, replica, owner=origin, clock=clock, new_id=lambda: str(ULID()), take_over=False, key=key
    )
    log = ReplicaLog.read(store, replica, key=key)
    sent = 0
    with tempfile.TemporaryDirectory(prefix="standby-", dir=scratch) as name:
        for number, disk_id in enumerate(disks):
            sent += _seed_disk(writer, log, disks, disk_id, clock, Path(name) / str(number), progress)
    return Seeded(sum(disk.size for disk in disks.values()), sent)


def _create(place: Place, origin: str, clock: Clock) -> None:
    """Raises InvalidRequest if there are recovery points, which a seed could only make worse."""
    try:
        head, _ = read_head(place)
    except ReplicaMissing:
        create(place.store, place.name, replica=uuid4(), origin=origin, clock=clock, key=place.key)
        return
    if points := ReplicaLog.read(place.store, place.name, key=place.key).points:
        raise InvalidRequest(
            f"the replica {head.name} has {len(points)} recovery points: there is nothing to seed",
            subject=place.store.url,
            hint="`standby vm protect` with --take-over continues it: what differs is found by hashes",
        )


def _seed_disk(
    writer: Writer,
    log: ReplicaLog,
    disks: Mapping[str, Disk],
    disk_id: str,
    clock: Clock,
    spool: Path,
    progress: Progress,
) -> int:
    """Store what differs from what an earlier run has stored; the bytes of it."""
    disk, sent, at = disks[disk_id], 0, 0
    cipher = log.cipher()
    newest = last_state(log.records)
    blocks = block_count(disk.size)
    with closing(KnownBlocks.empty(spool / "known", blocks)) as known:
        learn_disk(log, newest, disk_id, known, blocks)
        while at < disk.size:
            log_id = ULID()
            header = LogHeader(writer.head.replica, log_id.bytes, disk_id, disk.size)
            part = DiskLog(spool / f"{log_id}.hrl", header, cipher)
            with ExitStack() as stack:
                stack.callback(part.abandon)
                extractor = Extractor(known, part.writer, hashed=hash_of(cipher))
                while at < disk.size and part.stored < SCAN_LOG:
                    end = min(at + SCAN_STEP, disk.size)
                    extractor.scan(disk, Extent(at, end - at), progress)
                    at = end
                sealed = part.seal()
            if sealed is None:
                continue
            reference = writer.upload(sealed)
            # Every disk is named, of earlier runs too: one that a record leaves out counts as gone (format.md 6).
            sizes = {one.id: one.size for one in newest.disks} if newest else {}
            sizes |= {one: each.size for one, each in disks.items()}
            states = tuple(
                DiskState(id=one, size=length, logs=(reference,) if one == disk_id else ())
                for one, length in sizes.items()
            )
            writer.commit(Draft(kind="scan", nonce=str(ULID()), at=clock.now().isoformat(), disks=states))
            _COMMITTED.reach()
            sealed.path.unlink()
            sent += sealed.size
    return sent
