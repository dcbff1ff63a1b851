"""An entry of the queue becomes a record of a replica (docs/protocol.md W1 to W3)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec

from standby import failpoints
from standby.replica.documents import DiskState, Record
from standby.replica.writer import Draft, Writer
from standby.replication.entries import Entry

_UPLOADED: Final = failpoints.declare("ship.uploaded")
_COMMITTED: Final = failpoints.declare("ship.committed")


def send(writer: Writer, entry: Entry, threads: int) -> Record:
    """Upload the entry's logs, so many at once, and commit its record. Harmless to repeat. Raises LogDamaged."""
    states = _uploaded(writer, entry, threads)
    _UPLOADED.reach()
    record = writer.commit(
        Draft(
            kind=entry.kind,
            nonce=entry.nonce,
            at=entry.at,
            disks=states,
            consistency=entry.consistency,
            note=entry.note,
            machine=entry.machine,
            group=entry.group or msgspec.UNSET,
        )
    )
    _COMMITTED.reach()
    return record


def _uploaded(writer: Writer, entry: Entry, threads: int) -> tuple[DiskState, ...]:
    """W1, for several logs at once (Azure Site Recovery: UploadThreadsPerVM)."""
    sealed = [log.sealed(disk.id) for disk in entry.disks for log in disk.logs]
    if len(sealed) > 1 and threads > 1:
        with ThreadPoolExecutor(min(threads, len(sealed))) as pool:
            put = dict(zip(sealed, pool.map(writer.upload, sealed), strict=True))
    else:
        put = {log: writer.upload(log) for log in sealed}
    return tuple(
        DiskState(id=disk.id, size=disk.size, logs=tuple(put[log.sealed(disk.id)] for log in disk.logs))
        for disk in entry.disks
    )
