"""Merging: points that retention lets go are folded into layers (docs/protocol.md M1 to M3).

Works beside a live writer and beside readers: nothing is changed but by one swap of the head, and nothing is
deleted here (`replica.sweep` does that). Killed anywhere, the next merge plans anew.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from ulid import ULID

from standby import failpoints
from standby.block.extent import Extent, pieces
from standby.errors import Damaged, Recoverable
from standby.objects.base import Conflict, ObjectMissing, ObjectStore, StoreRefused
from standby.replica.documents import Head, Layer, LogReference, encode
from standby.replica.fold import Kept, Tally, fold
from standby.replica.format import LogHeader
from standby.replica.journal import Place, ReplicaLog, read_head, read_settled
from standby.replica.keys import Key
from standby.replica.log import LogReader, LogWriter, SealedLog, SpoolFull, open_local
from standby.replica.merge_plan import (
    WORTHWHILE,
    DiskFold,
    Range,
    Thresholds,
    disk_folds,
    merged_head,
    plan_ranges,
)

_PLANNED = failpoints.declare("merge.planned")
_LAYER_SEALED = failpoints.declare("merge.layer_sealed")
_LAYER_PUT = failpoints.declare("merge.layer_put")
_HEAD_SWAPPED = failpoints.declare("merge.head_swapped")

ATTEMPTS: Final = 5
_READ: Final = 8 << 20

Keep = Callable[[ReplicaLog], AbstractSet[int]]
"""The points that stay, by number, for one reading of the replica."""


class MergeResult(NamedTuple):
    """ranges: what was folded (none: nothing was worth it). layers, written: new ones, and their bytes.
    taken_over: layers that stand as they were. copied, packed: frames taken over, and compressed anew.
    attempts: how often it was planned, as others merged meanwhile."""

    ranges: tuple[Range, ...] = ()
    layers: int = 0
    written: int = 0
    taken_over: int = 0
    copied: int = 0
    packed: int = 0
    attempts: int = 1


def merge(
    store: ObjectStore,
    name: str,
    keep: Keep,
    *,
    scratch: Path,
    thresholds: Thresholds = WORTHWHILE,
    key: Key | None = None,
) -> MergeResult:
    """Fold what `keep` lets go. Repeating it is harmless.

    scratch: a folder with room for the logs between two points that stay, and 4 GiB. key: of an encrypted replica;
    what is taken over from a log is encrypted anew under its layer's own key.
    Raises Damaged (nothing was changed), SpoolFull, StoreUnreachable (it may have taken effect; again is right),
    Recoverable if others merge and sweep all the time; KeyMissing, WrongKey.
    """
    place = Place(store, name, key)
    for attempt in range(1, ATTEMPTS + 1):
        log, version = read_settled(place)
        cipher = log.cipher()
        stays = keep(log)
        ranges = plan_ranges(log.head, log.records, stays, thresholds)
        if not ranges:
            return MergeResult(attempts=attempt)
        _PLANNED.reach()
        with tempfile.TemporaryDirectory(prefix="merge-", dir=scratch) as folder:
            run = _Run(log, Path(folder))
            try:
                for wanted in disk_folds(log.head, log.records, ranges):
                    run.fold(wanted)
            except (Damaged, ObjectMissing):
                # Another merge may have folded these logs already, and a sweep taken them.
                if _same_layers(log.head, read_head(place)[0]):
                    raise
                run.drop()
                continue
        head = log.head
        while _same_plan(log, head, ranges, stays, thresholds):
            merged = merged_head(head, log.chain, ranges, run.layers)
            if not isinstance(store.swap(place.head, encode(merged, cipher), version), Conflict):
                _HEAD_SWAPPED.reach()
                return run.result(ranges, attempt)
            head, version = read_head(place)
        run.drop()
    raise Recoverable(
        f"other merges and sweeps came between, {ATTEMPTS} times",
        subject=place.subject(place.head),
        hint="merge later",
    )


def _same_plan(
    log: ReplicaLog, head: Head, ranges: Sequence[Range], stays: AbstractSet[int], thresholds: Thresholds
) -> bool:
    """M3: whether planning anew from `head` would give what was planned from `log`, and its outputs still lie there.

    Holds come and go, and writers take over, while a large disk is folded: that alone must not make it vain.
    """
    if not _same_layers(log.head, head) or head.sweeps != log.head.sweeps:
        return False
    return plan_ranges(head, log.records, stays, thresholds) == list(ranges)


def _same_layers(one: Head, other: Head) -> bool:
    return (one.merged, one.layers) == (other.merged, other.layers)


class _Run:
    """The outputs of one attempt, under a name never used before (M2)."""

    def __init__(self, log: ReplicaLog, folder: Path) -> None:
        self.layers: list[Layer] = []
        self._log = log
        self._folder = folder
        self._name = f"layers/{ULID()}"
        self._made: list[LogReference] = []
        self._tally = Tally()
        self._written = 0
        self._taken_over = 0
        self._files = 0

    def fold(self, wanted: DiskFold) -> None:
        """Make and upload the layers of one disk and range."""
        old = {layer.log for layer in self._log.head.layers if layer.first == 0}
        reusable = frozenset(n for n, one in enumerate(wanted.stack.logs) if one in old)
        whole = wanted.stack.whole
        logs = self._log.open_logs(wanted.stack.logs) if whole else self._fetch(wanted.stack.logs)
        found = 0
        for made in fold(
            logs, lambda: self._writer(wanted), whole=whole, reusable=reusable, tally=self._tally
        ):
            found += 1
            if isinstance(made, Kept):
                self._taken_over += 1
                self._add(wanted, wanted.stack.logs[made.log])
            else:
                self._add(wanted, self._upload(made))
        if not found and wanted.range.first:
            self._add(wanted, self._upload(self._writer(wanted).seal()))
        for file in self._folder.iterdir():
            file.unlink()

    def drop(self) -> None:
        """M3: the head changed, so these outputs never count. What cannot be deleted now is left to a sweep."""
        for reference in self._made:
            with suppress(StoreRefused):
                self._log.place.store.delete(self._log.place.below(reference.name))

    def result(self, ranges: Sequence[Range], attempt: int) -> MergeResult:
        return MergeResult(
            tuple(ranges),
            len(self._made),
            self._written,
            self._taken_over,
            self._tally.copied,
            self._tally.packed,
            attempt,
        )

    def _add(self, wanted: DiskFold, reference: LogReference) -> None:
        first = 0 if wanted.stack.whole else wanted.range.first
        self.layers.append(Layer(disk=wanted.disk, first=first, last=wanted.range.last, log=reference))

    def _writer(self, wanted: DiskFold) -> LogWriter:
        header = LogHeader(self._log.head.replica, ULID().bytes, wanted.disk, wanted.size)
        return LogWriter(self._new_file(), header, self._log.cipher())

    def _new_file(self) -> Path:
        self._files += 1
        return self._folder / f"{self._files}.hrl"

    def _upload(self, sealed: SealedLog) -> LogReference:
        _LAYER_SEALED.reach()
        place = self._log.place
        reference = LogReference(
            name=f"{self._name}/{len(self._made)}.hrl",
            size=sealed.size,
            sha256=sealed.sha256,
            root=sealed.root,
            rows=sealed.rows,
            data=sealed.data,
        )
        place.store.put_file(place.below(reference.name), sealed.path)
        sealed.path.unlink()
        self._made.append(reference)
        self._written += sealed.size
        _LAYER_PUT.reach()
        return reference

    def _fetch(self, references: Sequence[LogReference]) -> list[LogReader]:
        """The logs on local disk, compared with their SHA-256: their pages alone prove no block."""
        return [self._fetched(reference) for reference in references]

    def _fetched(self, reference: LogReference) -> LogReader:
        place = self._log.place
        name = place.below(reference.name)
        path = self._new_file()
        digest = hashlib.sha256()
        try:
            with path.open("wb") as file:
                for part in _read(place, name, reference.size):
                    digest.update(part)
                    file.write(part)
        except ObjectMissing as error:
            raise Damaged("the replica names this log and it is gone", subject=place.subject(name)) from error
        except OSError as error:
            raise SpoolFull(f"a log cannot be kept: {error.strerror}", subject=str(path)) from error
        if digest.hexdigest() != reference.sha256:
            raise Damaged(
                "its bytes are not those that were written, so nothing is merged",
                subject=place.subject(name),
                hint="`standby replica scrub` lists all damage; nothing was changed",
            )
        return open_local(path, self._log.cipher())


def _read(place: Place, name: str, size: int) -> Iterator[bytes]:
    for part in pieces([Extent(0, size)], _READ):
        yield place.store.get_range(name, part.offset, part.length)


def floor_only(seq: int) -> Keep:
    """Everything from point `seq` on stays, and nothing before it."""
    return lambda log: {point.seq for point in log.points if point.seq >= seq}
