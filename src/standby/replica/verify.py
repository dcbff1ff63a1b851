"""Proving a replica: records, logs and every byte of every disk, end to end.

Findings are collected, not raised, so that one damaged block does not hide another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from standby.block.extent import Extent, pieces
from standby.errors import Damaged
from standby.objects.base import ObjectMissing
from standby.replica.documents import LogReference, Record
from standby.replica.format import BLOCK, BLOCK_SHIFT
from standby.replica.image import REGION, Image
from standby.replica.journal import Place, ReplicaLog
from standby.replica.plan import logs_of, needed_logs

READ: int = 1 << 20
SHA_READ: int = 8 << 20


class DamageFinding(NamedTuple):
    """subject: the object. problem: what is wrong with it. points: recovery points that cannot be trusted."""

    subject: str
    problem: str
    points: tuple[int, ...]


class Proof(NamedTuple):
    """What was verified: records, logs, and bytes of disks whose every block matched its hash."""

    records: int
    logs: int
    bytes: int
    findings: tuple[DamageFinding, ...]


Progress = Callable[[int], None]
"""Told, by any worker, the bytes looked at since the last call."""


def verify_point(
    log: ReplicaLog, record: Record, *, workers: int = 2, progress: Progress | None = None
) -> Proof:
    """Read every disk of one recovery point and compare each block with its hash."""
    findings: list[DamageFinding] = []
    proved = opened = 0
    for state in record.disks:
        references = logs_of(log.head, log.records, record.seq, state.id)
        try:
            image = log.image(record.seq, state.id)
        except Damaged as error:
            findings.append(DamageFinding(error.subject, error.cause, (record.seq,)))
            continue
        opened += len(references)
        for size, damage in _prove_disk(image, workers, progress):
            proved += size
            findings += [
                DamageFinding(d.subject, f"disk {state.id}: {d.cause}", (record.seq,)) for d in damage
            ]
    return Proof(len(log.records), opened, proved, tuple(findings))


def verify_logs(log: ReplicaLog, *, workers: int = 4, progress: Progress | None = None) -> Proof:
    """Compare every log that a record names with its SHA-256, as stored: finds damage in any point.

    progress: told bytes as stored, by any worker.
    """
    named = [(one.seq, one.log) for one in needed_logs(log.head, log.records)]
    with ThreadPoolExecutor(workers) as pool:
        problems = list(pool.map(lambda item: _log_problem(log, item[1], progress), named))
    findings = tuple(
        DamageFinding(log.place.subject(log.place.below(reference.name)), problem, _points_from(log, seq))
        for (seq, reference), problem in zip(named, problems, strict=True)
        if problem
    )
    return Proof(len(log.records), len(named), 0, findings)


def _points_from(log: ReplicaLog, seq: int) -> tuple[int, ...]:
    return tuple(record.seq for record in log.points if record.seq >= seq)


def _log_problem(log: ReplicaLog, reference: LogReference, progress: Progress | None) -> str:
    name = log.place.below(reference.name)
    return content_problem(log.place, name, reference.size, reference.sha256, progress)


def content_problem(place: Place, name: str, size: int, sha256: str, progress: Progress | None = None) -> str:
    """What is wrong with an object that should have this length and SHA-256 (hex); "" if nothing is."""
    digest = hashlib.sha256()
    try:
        found = place.store.size(name)
        if found != size:
            return f"it has {found} bytes instead of {size}"
        for part in pieces([Extent(0, size)], SHA_READ):
            digest.update(place.store.get_range(name, part.offset, part.length))
            if progress:
                progress(part.length)
    except ObjectMissing:
        return "it is named by a record or the head, and it is gone"
    except Damaged as error:
        return error.cause
    return "" if digest.hexdigest() == sha256 else "its bytes are not those that were written"


def _prove_disk(
    image: Image, workers: int, progress: Progress | None
) -> Iterator[tuple[int, Sequence[Damaged]]]:
    regions = list(pieces([Extent(0, image.size)], REGION))
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(lambda region: _prove_region(image.clone(), region, progress), regions)


def _prove_region(image: Image, region: Extent, progress: Progress | None) -> tuple[int, Sequence[Damaged]]:
    """Read the region in large steps; where one fails, block by block, so that each bad block is named."""
    damage: list[Damaged] = []
    buffer = memoryview(np.empty(READ, np.uint8).data).cast("B")
    try:
        spans = list(image.spans(region))
    except Damaged as error:
        if progress:
            progress(region.length)
        return region.length, [error]
    for span in spans:
        if span.zero:
            damage += _read_blocks_of_zeros(image, span.offset, span.length)
            if progress:
                progress(span.length)
            continue
        for part in pieces([Extent(span.offset, span.length)], READ):
            try:
                image.read(part.offset, buffer[: part.length])
            except Damaged:
                damage += _each_block(image, part, buffer)
            if progress:
                progress(part.length)
    return region.length, damage


def _each_block(image: Image, part: Extent, buffer: memoryview) -> Iterator[Damaged]:
    for block in pieces([part], BLOCK):
        try:
            image.read(block.offset, buffer[: block.length])
        except Damaged as error:
            number = block.offset >> BLOCK_SHIFT
            named = f"block {number} " in error.cause
            cause = error.cause if named else f"block {number} (byte {block.offset}): {error.cause}"
            yield Damaged(cause, subject=error.subject)


def _read_blocks_of_zeros(image: Image, offset: int, length: int) -> list[Damaged]:
    """A block whose pages are all told to be zeros must hash as zeros do."""
    first, count = offset >> BLOCK_SHIFT, -(-length // BLOCK)
    wrong = image.wrong_zero_blocks(first, count)
    return [
        Damaged(
            f"block {block} (byte {block << BLOCK_SHIFT}) is told to be zeros but is not", subject=subject
        )
        for block, subject in wrong
    ]
