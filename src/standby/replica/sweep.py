"""Deleting what nothing needs any more (docs/protocol.md M4, S1, S2). Needs the right to delete; no writer does.

What may go follows from one reading of the replica. Killed anywhere, the next sweep goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import msgspec

from standby import failpoints
from standby.errors import Damaged, InvalidRequest
from standby.objects.base import Conflict, Entry, ObjectMissing, ObjectStore, StoreRefused, Version
from standby.replica import proofs
from standby.replica.documents import KEPT, Head, Merged, Record, decode_record, encode
from standby.replica.journal import PARALLEL_READS, Place, ReplicaLog, read_settled
from standby.replica.plan import needed_logs

_HEAD_SWAPPED = failpoints.declare("sweep.head_swapped")
_LOG_DELETED = failpoints.declare("sweep.log_deleted")
_LAYER_DELETED = failpoints.declare("sweep.layer_deleted")
_RECORD_DELETED = failpoints.declare("sweep.record_deleted")
_PROOF_DELETED = failpoints.declare("sweep.proof_deleted")


class Swept(NamedTuple):
    """Objects deleted, the bytes of logs and layers among them, and why others wait (a sentence each).

    refused: names of objects that nothing needs and that the store did not allow to delete: immutable, or not with
    these credentials. They are tried again by the next sweep.
    """

    logs: int = 0
    layers: int = 0
    records: int = 0
    bytes: int = 0
    waiting: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    proofs: int = 0


class Unneeded(NamedTuple):
    """What a sweep deletes. layers only after a swap of the head; records last. named: by record, its logs."""

    logs: tuple[Entry, ...]
    layers: tuple[Entry, ...]
    records: tuple[Entry, ...]
    waiting: tuple[str, ...]
    named: Mapping[str, frozenset[str]]
    proofs: tuple[Entry, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(entry.size for entry in (*self.logs, *self.layers))


def sweep(store: ObjectStore, name: str, *, dry_run: bool = False) -> Swept:
    """Delete what was replaced and what no record names. dry_run: only tell what would go.

    Raises Damaged or ChainBroken where the replica cannot be read: then nothing is deleted.
    """
    place = Place(store, name)
    log, version = read_settled(place)
    unneeded = find_unneeded(log)
    if dry_run:
        return _told(
            unneeded.logs, unneeded.layers, unneeded.records, unneeded.waiting, proofs=unneeded.proofs
        )
    waiting = list(unneeded.waiting)
    layers: tuple[Entry, ...] = ()
    if unneeded.layers:
        if _swapped(place, log.head, version):
            _HEAD_SWAPPED.reach()
            layers = unneeded.layers
        else:
            waiting.append("layers that nothing names: the head changed meanwhile, the next sweep takes them")
    refused: list[_Refused] = []
    gone_logs = _delete(store, unneeded.logs, _LOG_DELETED, refused)
    gone_layers = _delete(store, layers, _LAYER_DELETED, refused)
    # A record goes only when its logs have gone: it is what names them.
    kept = {one.entry.name for one in refused}
    records = [entry for entry in unneeded.records if kept.isdisjoint(unneeded.named[entry.name])]
    gone_records = _delete(store, records, _RECORD_DELETED, refused)
    gone_proofs = _delete(store, unneeded.proofs, _PROOF_DELETED, refused)
    if refused:
        waiting.append(_refusal(refused))
    names = tuple(sorted(one.entry.name for one in refused))
    return _told(gone_logs, gone_layers, gone_records, waiting, names, gone_proofs)


def find_unneeded(log: ReplicaLog) -> Unneeded:
    """What may be deleted, judged from one reading of head and chain."""
    head, place = log.head, log.place
    records = list(place.store.list(place.points))
    logs = list(place.store.list(place.below("logs/")))
    layers = list(place.store.list(place.below("layers/")))
    young = [one for one in head.merged if _no_older_hold(head, one)]
    waiting = []
    gone = [entry for entry in records if (seq := _number(place, entry)) is not None and head.gone(seq)]
    merged_away, unreadable = _read(place, gone)

    needed = {place.below(one.log.name) for one in needed_logs(head, log.records)}
    replaced, held = set[str](), set[str]()
    for record in (*log.records, *merged_away):
        range_of = _range_of(head, record.seq)
        if range_of is not None:
            (replaced if range_of in young else held).update(
                place.below(one.name) for disk in record.disks for one in disk.logs
            )
    if held:
        waiting.append(f"{len(held)} replaced logs: {_readers(head)}")
    settled = log.records and log.records[-1].epoch == head.epoch and not unreadable
    free_logs = [
        entry
        for entry in logs
        if entry.name not in needed
        and entry.name not in held
        and (entry.name in replaced or (settled and _epoch(place, entry) < head.epoch))
    ]
    orphans = [entry for entry in layers if entry.name not in needed]
    if orphans and len(young) < len(head.merged):
        waiting.append(f"{len(orphans)} replaced layers: {_readers(head)}")
        orphans = []
    free_records = [
        entry
        for entry in gone
        if (range_of := _range_of(head, _number(place, entry) or 0)) is None or range_of in young
    ]
    named = dict.fromkeys((entry.name for entry in free_records), frozenset[str]())
    named |= {
        place.point(record.seq): frozenset(
            place.below(one.name) for disk in record.disks for one in disk.logs
        )
        for record in merged_away
    }
    # A proof goes with its point, never before.
    free_proofs = [
        Entry(name, 0)
        for seq, name in proofs.entries(place)
        if head.gone(seq) and ((range_of := _range_of(head, seq)) is None or range_of in young)
    ]
    return Unneeded(
        tuple(free_logs), tuple(orphans), tuple(free_records), tuple(waiting), named, tuple(free_proofs)
    )


def _no_older_hold(head: Head, merged: Merged) -> bool:
    return all(hold.since_version > merged.since for hold in head.holds)


def _range_of(head: Head, seq: int) -> Merged | None:
    """The range that stands for the logs of record `seq`, if one does."""
    return next((one for one in head.merged if one.first < seq <= one.last), None)


def _readers(head: Head) -> str:
    return "in use by " + ", ".join(sorted({hold.by for hold in head.holds if hold.since_version != KEPT}))


def _number(place: Place, entry: Entry) -> int | None:
    text = entry.name.removeprefix(place.points)
    return int(text) if text.isdecimal() else None


def _epoch(place: Place, entry: Entry) -> int:
    """The epoch under which a log lies; one that is no number is nobody's to delete."""
    text = entry.name.removeprefix(place.below("logs/")).split("/", 1)[0]
    return int(text) if text.isdecimal() else 1 << 64


def _read(place: Place, entries: list[Entry]) -> tuple[list[Record], bool]:
    """Records that were merged away and are still there; and whether one of them cannot be read."""

    def one(entry: Entry) -> Record | None:
        try:
            return decode_record(place.store.get(entry.name).data, place.subject(entry.name))
        except ObjectMissing:
            return None

    try:
        with ThreadPoolExecutor(PARALLEL_READS) as pool:
            return [record for record in pool.map(one, entries) if record], False
    except (Damaged, InvalidRequest):
        return [], True


def _swapped(place: Place, head: Head, version: Version) -> bool:
    """S2: from here on no merge that was planned before can take effect."""
    changed = msgspec.structs.replace(head, changes=head.changes + 1, sweeps=head.sweeps + 1)
    return not isinstance(place.store.swap(place.head, encode(changed), version), Conflict)


class _Refused(NamedTuple):
    entry: Entry
    cause: str


def _delete(
    store: ObjectStore, entries: Iterable[Entry], after: failpoints.Failpoint, refused: list[_Refused]
) -> tuple[Entry, ...]:
    """Those that could be deleted. What the store refuses joins `refused`, and is left for a later sweep."""

    def one(entry: Entry) -> Entry | None:
        try:
            store.delete(entry.name)
        except StoreRefused as error:
            refused.append(_Refused(entry, error.cause))
            return None
        after.reach()
        return entry

    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        return tuple(entry for entry in pool.map(one, entries) if entry)


def _refusal(refused: Sequence[_Refused]) -> str:
    """All of them by number and size, the first by name, and what the store says of that one."""
    first = min(refused)
    others = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
    size = sum(one.entry.size for one in refused)
    return (
        f"the store refuses to delete {first.entry.name}{others} ({size} bytes that nothing needs and that are "
        f"paid for until the next sweep gets them): {first.cause}"
    )


def _told(
    logs: Sequence[Entry],
    layers: Sequence[Entry],
    records: Sequence[Entry],
    waiting: Sequence[str],
    refused: tuple[str, ...] = (),
    proofs: Sequence[Entry] = (),
) -> Swept:
    size = sum(entry.size for entry in (*logs, *layers))
    return Swept(len(logs), len(layers), len(records), size, tuple(waiting), refused, len(proofs))
