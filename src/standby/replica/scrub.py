"""Looking for damage in everything a replica consists of: head, records, logs, layers, boot files, proofs.

Every record, reference and size is checked; contents are read in full, or of a part drawn by chance. What one
scrub saw (`Seen`) lets the next one tell what a store alone cannot: a head that was rolled back, and a newest
record that is gone. Findings are collected, so that one does not hide another.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Literal, NamedTuple

import msgspec

from standby.errors import Damaged, InvalidRequest
from standby.objects.base import ObjectMissing, ObjectStore
from standby.records import BootFile
from standby.replica import boot, proofs
from standby.replica.cipher import Cipher
from standby.replica.documents import NO_PARENT, Head, Record, decode_record, digest
from standby.replica.journal import PARALLEL_READS, Place, ReplicaLog
from standby.replica.keys import Key
from standby.replica.plan import Needed, needed_logs
from standby.replica.verify import Progress, content_problem

_MOST_MISSING: Final = 100
"""Missing records that are told one by one where several follow one another."""

_ATTEMPTS: Final = 3

Kind = Literal["head", "record", "log", "layer", "boot file", "proof"]
WayOut = Literal["restore", "resync", "nothing"]
"""restore: bring the object back from the store's versions or a copy. resync: if that cannot be done, the disk must
be sent anew. nothing: no point needs what is damaged."""


class ScrubFinding(NamedTuple):
    """object: as it is found in the store. points: those that it touches. advice: the way out, in a sentence."""

    kind: Kind
    object: str
    cause: str
    points: tuple[int, ...]
    way_out: WayOut
    advice: str


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What a scrub saw, for the next one: the head's `changes` and digest, the newest record and its digest."""

    replica: str
    changes: int
    head: str
    tail: int
    record: str


class ScrubResult(NamedTuple):
    """logs: that are named; read: of these and of boot files, compared in full; bytes: read for that.
    seen: to be given to the next scrub, where the head could be read. unproved: what could not be, for want of a key.
    """

    records: int
    logs: int
    read: int
    bytes: int
    findings: tuple[ScrubFinding, ...]
    seen: Seen | None
    unproved: str = ""


def scrub(
    store: ObjectStore,
    name: str,
    *,
    fraction: float = 1.0,
    seed: int = 0,
    seen: Seen | None = None,
    workers: int = 4,
    progress: Progress | None = None,
    key: Key | None = None,
) -> ScrubResult:
    """Check the replica. fraction: the share of objects that is read in full, drawn with `seed`. key: of an
    encrypted replica; without it all that the chain of hashes proves is checked, but not who wrote it.

    What a merge changes meanwhile is not mistaken for damage, but the scrub may begin anew for it: a hold on the
    oldest point spares that. Raises InvalidRequest if there is no such replica, or it needs a newer standby.
    """
    place = Place(store, name, key)
    for attempt in range(1, _ATTEMPTS + 1):
        result = _scrub(place, fraction, seed, seen, workers, progress)
        if not result.findings or attempt == _ATTEMPTS or not _head_moved(place, result.seen):
            break
    return result


def _head_moved(place: Place, seen: Seen | None) -> bool:
    try:
        return seen is not None and digest(place.store.get(place.head).data) != seen.head
    except ObjectMissing:
        return False


def _scrub(
    place: Place,
    fraction: float,
    seed: int,
    seen: Seen | None,
    workers: int,
    progress: Progress | None,
) -> ScrubResult:
    head, stored, problem = _head(place, seen)
    if head is None:
        return ScrubResult(0, 0, 0, 0, (problem,) if problem else (), None)
    chain = _Chain(place, head, seen)
    chain.read(digest(stored))
    findings = [problem] if problem else []
    findings += chain.findings
    contents = list(_contents(place, head, chain.records))
    findings += _missing(place, contents)
    gone = {finding.object for finding in findings}
    draw = random.Random(seed)
    chosen = [one for one in contents if draw.random() < fraction and place.subject(one.name) not in gone]
    cipher = place.cipher(head)
    with ThreadPoolExecutor(workers) as pool:
        problems = list(pool.map(lambda one: one.problem(place, cipher, progress), chosen))
    findings += [one.finding(place, text) for one, text in zip(chosen, problems, strict=True) if text]
    if cipher or not head.encrypted:
        drawn = [one for one in proofs.names(place) if not head.gone(one.seq) and draw.random() < fraction]
        findings += [_proof_finding(place, one) for one in proofs.problems(place, cipher, drawn)]
    return ScrubResult(
        len(chain.records),
        sum(one.kind != "boot file" for one in contents),
        len(chosen),
        sum(one.size for one in chosen),
        tuple(findings),
        chain.seen,
        ReplicaLog(place, head, ()).unproved,
    )


class _Content(NamedTuple):
    """An object whose bytes somebody vouches for."""

    kind: Kind
    name: str
    size: int
    sha256: str
    disk: str
    points: tuple[int, ...]
    newest: bool
    file: BootFile | None = None

    def problem(self, place: Place, cipher: Cipher | None, progress: Progress | None) -> str:
        """What is wrong with it, read in full; "" if nothing is."""
        if self.file is None or cipher is None:
            return content_problem(place, self.name, self.size, self.sha256, progress)
        return boot.problem(place, self.file, cipher)

    def finding(self, place: Place, cause: str) -> ScrubFinding:
        way: WayOut = "resync" if self.newest and self.kind != "boot file" else "restore"
        if not self.points:
            way = "nothing"
        return ScrubFinding(self.kind, place.subject(self.name), cause, self.points, way, self._advice(way))

    def _advice(self, way: WayOut) -> str:
        if way == "nothing":
            return "no recovery point needs it; nothing has to be done"
        restore = f"bring the object back, from the store's versions or a copy (SHA-256 {self.sha256})"
        if self.kind == "boot file":
            return f"{restore}; the disks of these points are whole"
        if way == "restore":
            return f"{restore}; newer points do not need it"
        return (
            f"{restore}; if that cannot be done and the machine still runs, protect it anew under another "
            f"--replica name, as disk {self.disk} must be sent again"
        )


class _Chain:
    """Every record by itself, so that one that is damaged does not hide the others."""

    def __init__(self, place: Place, head: Head, seen: Seen | None) -> None:
        self._place = place
        self._head = head
        self._seen = seen
        self._cipher: Cipher | None = None
        self.records: list[Record] = []
        self.findings: list[ScrubFinding] = []
        self.seen: Seen | None = None

    def read(self, head_digest: str) -> None:
        place, head = self._place, self._head
        there = [int(e.name[-20:]) for e in place.store.list(place.points) if e.name[-20:].isdecimal()]
        known = {head.floor, *there, *(one.last for one in head.merged), self._seen.tail if self._seen else 0}
        wanted: list[int] = []
        for seq in sorted(seq for seq in known if not head.gone(seq)):
            hole = range(wanted[-1] + 1 if wanted else head.floor, seq)
            wanted += itertools.islice((one for one in hole if not head.gone(one)), _MOST_MISSING)
            wanted.append(seq)
        self._cipher = place.cipher(head)
        with ThreadPoolExecutor(PARALLEL_READS) as pool:
            stored = list(pool.map(self._stored, wanted))
        pinned = {one.last: one.digest for one in head.merged}
        last = 0
        previous: tuple[int, bytes | None] = (0, None)
        for seq, data in zip(wanted, stored, strict=True):
            record = self._one(seq, data, previous, pinned.get(seq))
            if record is not None:
                self.records.append(record)
            if data is not None:
                last = seq
            previous = (seq, data)
        if self.records and self.records[-1].epoch > head.epoch:
            cause = f"it has epoch {head.epoch} and the newest record {self.records[-1].epoch}"
            self.findings.append(_head_finding(place, cause))
        tail = stored[wanted.index(last)] if last else None
        self.seen = Seen(
            replica=str(head.replica),
            changes=head.changes,
            head=head_digest,
            tail=last,
            record=digest(tail) if tail is not None else "",
        )

    def _stored(self, seq: int) -> bytes | None:
        try:
            return self._place.store.get(self._place.point(seq)).data
        except ObjectMissing:
            return None

    def _one(
        self, seq: int, data: bytes | None, previous: tuple[int, bytes | None], pin: str | None
    ) -> Record | None:
        """The record, or None with a finding. One that decodes but is not the right one is used no further."""
        subject = self._place.subject(self._place.point(seq))
        if data is None:
            self._found(seq, "the record is gone")
            return None
        try:
            record = decode_record(data, subject, self._cipher)
        except (Damaged, InvalidRequest) as error:
            self._found(seq, error.cause)
            return None
        before, before_data = previous
        if (record.seq, record.replica) != (seq, self._head.replica):
            self._found(seq, f"it is record {record.seq} of {record.replica}")
        elif pin is not None and digest(data) != pin:
            self._found(seq, "it is not the record that the head names")
        elif self._seen and self._seen.tail == seq and self._seen.record != digest(data):
            self._found(seq, "it is not the record that was here at the last scrub")
        elif pin is None and before_data is not None and record.parent != digest(before_data):
            self._found(before if before else seq, f"record {seq} follows another one than is here")
            return record
        elif seq == 1 and record.parent != NO_PARENT:
            self._found(seq, "it is the first record and names one before it")
        else:
            return record
        return None

    def _found(self, seq: int, cause: str) -> None:
        self.findings.append(
            ScrubFinding(
                "record",
                self._place.subject(self._place.point(seq)),
                cause,
                (seq,),
                "restore",
                "bring the object back, from the store's versions or a copy; until then this point and those behind "
                "it cannot be opened, and older ones can, by their number",
            )
        )


def _head(place: Place, seen: Seen | None) -> tuple[Head | None, bytes, ScrubFinding | None]:
    """The head if it can be read, its bytes, and what is wrong with it."""
    try:
        stored = place.store.get(place.head)
    except ObjectMissing:
        if seen is None and next(place.store.list(f"{place.name}/"), None) is None:
            raise InvalidRequest(
                f"there is no replica named {place.name}",
                subject=place.store.url,
                hint=f"`standby replica list {place.store.url}` shows those that there are",
            ) from None
        return None, b"", _head_finding(place, "the head is gone")
    try:
        head = place.decode_head(stored.data)
    except Damaged as error:
        return None, stored.data, _head_finding(place, error.cause)
    problem = None
    if seen and (seen.replica != str(head.replica) or head.changes < seen.changes):
        problem = f"it was rolled back: it had changed {seen.changes} times, now {head.changes}"
    elif seen and head.changes == seen.changes and digest(stored.data) != seen.head:
        problem = "it is another one than at the last scrub, and says it did not change"
    return head, stored.data, _head_finding(place, problem) if problem else None


def _head_finding(place: Place, cause: str) -> ScrubFinding:
    return ScrubFinding(
        "head",
        place.subject(place.head),
        cause,
        (),
        "restore",
        "bring the newest version of it back, from the store's versions or a copy; until then no point can be opened "
        "and nothing must be merged or swept",
    )


def _proof_finding(place: Place, one: proofs.ProofProblem) -> ScrubFinding:
    return ScrubFinding(
        "proof",
        place.subject(place.below(one.object)),
        one.cause,
        (one.seq,),
        "nothing",
        "the point itself is whole; `standby failover test` with --proof makes another proof of it",
    )


def _contents(place: Place, head: Head, records: Sequence[Record]) -> Iterator[_Content]:
    """Logs, layers and boot files that the records and the head name, each once."""
    points = [record.seq for record in records if record.is_point]
    layers = {layer.log.name for layer in head.layers}
    for needed in needed_logs(head, records):
        touched = _touched(head, records, needed)
        yield _Content(
            "layer" if needed.log.name in layers else "log",
            place.below(needed.log.name),
            needed.log.size,
            needed.log.sha256,
            needed.disk,
            touched,
            bool(touched) and touched[-1] == points[-1],
        )
    files: dict[str, tuple[BootFile, list[int]]] = {}
    for record in records:
        for file in record.machine.boot_files if record.machine else ():
            files.setdefault(file.sha256, (file, []))[1].append(record.seq)
    cipher = place.cipher(head)
    for file, seqs in files.values():
        name, size = place.below(boot.name_of(file, cipher)), boot.size_of(file, cipher)
        yield _Content("boot file", name, size, file.sha256, "", tuple(seqs), True, file)


def _touched(head: Head, records: Sequence[Record], needed: Needed) -> tuple[int, ...]:
    """The points that a log is part of: from its record to where its disk begins anew."""
    anew = {layer.last for layer in head.layers if layer.disk == needed.disk and layer.first == 0}
    points = []
    for record in records:
        if record.seq < needed.seq or record.kind == "fence":
            continue
        if record.disk(needed.disk) is None or (record.seq in anew and record.seq > needed.seq):
            break
        if record.is_point:
            points.append(record.seq)
    return tuple(points)


def _missing(place: Place, contents: Sequence[_Content]) -> list[ScrubFinding]:
    """What is not there or has another length, by listing."""
    sizes = {
        entry.name: entry.size
        for part in ("logs/", "layers/", "boot/")
        for entry in place.store.list(place.below(part))
    }
    findings = []
    for one in contents:
        size = sizes.get(one.name)
        if size is None:
            findings.append(one.finding(place, "it is gone"))
        elif size != one.size:
            findings.append(one.finding(place, f"it has {size} bytes instead of {one.size}"))
    return findings
