"""A point's disk as an image file, or onto a block device."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from standby import failpoints
from standby.block import images
from standby.block.copy import copy
from standby.block.disk import Disk
from standby.block.extent import Extent, pieces
from standby.block.images import Format
from standby.errors import Damaged, InvalidRequest
from standby.objects.durable import sync
from standby.recovery.image_writer import opened
from standby.replica.documents import Record
from standby.replica.format import BLOCK, BLOCK_SHIFT, ZERO_BLOCK_HASH, block_count
from standby.replica.image import REGION, Image
from standby.replica.journal import ReplicaLog, hold

PARTIAL: Final = ".partial"
CHUNK: Final = 4 << 20
VHD_LIMIT: Final = 2040 << 30
"""Bytes. What Hyper-V attaches, and QEMU's VHD_MAX_SECTORS less a rounding."""

_CREATED = failpoints.declare("export.created")
_COPIED = failpoints.declare("export.copied")
_NAMED = failpoints.declare("export.named")

Progress = Callable[[int], None]
"""Told, by any worker, the bytes of the disk dealt with since the last call: the size in all, once for the
copy and once more for a verification."""


class ExportTaken(InvalidRequest):
    """The target is there already, or an interrupted export of it is."""


class ExportDiffers(Damaged):
    """What was read back is not what was exported: the target's storage does not keep what it is given."""


class Exported(NamedTuple):
    """size: bytes that a guest sees; written: bytes of data; held: whether the point was held meanwhile."""

    path: Path
    size: int
    written: int
    held: bool


def export(
    log: ReplicaLog,
    record: Record,
    disk: str,
    path: Path,
    format: Format,
    *,
    progress: Progress | None = None,
    workers: int = 2,
    overwrite: bool = False,
    verify: bool = False,
) -> Exported:
    """Write the disk as at the point; every block is compared with its hash on the way.

    The image comes to be as `<path>.partial` and gets its name when it is complete and durable; an export
    that is killed leaves only that. A block device (raw only) is written in place, and needs `overwrite`.
    verify: read it all back as a guest would, and compare with the hashes again.
    Raises ExportTaken, Damaged (naming log and block), ExportDiffers, and what the target's storage raises.
    """
    with hold(log.place, record.seq, f"export by process {os.getpid()} on {os.uname().nodename}") as held:
        # Read again: before the hold a merge may have moved the floor.
        image = log.again(upto=record.seq).image(record.seq, disk)
        _refuse_too_large(format, image.size, path)
        refuse_false_zeros(image)
        with _target(path, format, image.size, overwrite) as target:
            with opened(target, format, image.size, writable=True) as writable:
                new = target != path
                result = copy(image, writable, workers=workers, progress=progress, new=new)
            _COPIED.reach()
            if verify:
                with opened(target, format, image.size, writable=False) as written:
                    _compare(image, written, target, workers, progress)
    return Exported(path, image.size, result.written, held)


def _refuse_too_large(format: Format, size: int, path: Path) -> None:
    if format in (Format.VHD_FIXED, Format.VHD_DYNAMIC) and size > VHD_LIMIT:
        raise InvalidRequest(
            f"the disk has {size} bytes, a VHD at most {VHD_LIMIT}",
            subject=str(path),
            hint="export as VHDX",
        )


def _is_device(path: Path) -> bool:
    try:
        return stat.S_ISBLK(path.stat().st_mode)
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _target(path: Path, format: Format, size: int, overwrite: bool) -> Iterator[Path]:
    """What to write to; takes the name `path` when the block was left well."""
    device = _is_device(path)
    if device and format is not Format.RAW:
        raise InvalidRequest(
            f"it is a block device, which cannot hold a {format.value} image",
            subject=str(path),
            hint="export as raw",
        )
    if path.exists() and not overwrite:
        what = "it is a block device, and what it holds would be lost" if device else "it exists already"
        raise ExportTaken(
            what, subject=str(path), hint="choose another name, or --overwrite to lose what is there"
        )
    if device:
        yield path
        return
    partial = path.with_name(path.name + PARTIAL)
    if partial.exists():
        if not overwrite:
            raise ExportTaken(
                "an export to this name was interrupted, or is at work",
                subject=str(partial),
                hint="if none is at work, remove the file; then export again",
            )
        partial.unlink()
    if not path.parent.is_dir():
        raise InvalidRequest(
            "there is no such directory", subject=str(path.parent), hint="create it, or choose another name"
        )
    try:
        images.create(partial, format, size)
        _CREATED.reach()
        yield partial
        sync(partial)
        if path.exists() and not overwrite:
            raise ExportTaken("it has come to exist meanwhile", subject=str(path), hint="choose another name")
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _NAMED.reach()
    sync(path.parent)


def refuse_false_zeros(image: Image) -> None:
    """What the image tells to be zeros is not read by a copy, and so not compared with its hash there."""
    for region in pieces([Extent(0, image.size)], REGION):
        wrong = image.wrong_zero_blocks(region.offset >> BLOCK_SHIFT, block_count(region.length))
        for block, subject in wrong[:1]:
            raise Damaged(
                f"block {block} (byte {block << BLOCK_SHIFT}) is told to be zeros but is not",
                subject=subject,
                hint="`standby replica verify` lists all damage; an older point may be whole",
            )


def _compare(image: Image, written: Disk, path: Path, workers: int, progress: Progress | None) -> None:
    """Raises ExportDiffers unless every block of `written` has the hash that the point says."""
    if written.size != image.size:
        raise ExportDiffers(f"it has {written.size} bytes, the disk {image.size}", subject=str(path))
    cloning = threading.Lock()

    def work(region: Extent) -> None:
        with cloning:
            mine = written.clone()
        with contextlib.closing(mine):
            _compare_region(image, mine, region, path)
        if progress:
            progress(region.length)

    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(work, region) for region in pieces([Extent(0, image.size)], REGION)]:
            done.result()


def _compare_region(image: Image, written: Disk, region: Extent, path: Path) -> None:
    first = region.offset >> BLOCK_SHIFT
    expected = image.hashes(first, block_count(region.length))
    has_data = np.zeros(len(expected), bool)
    for span in written.spans(region):
        if not span.zero:
            has_data[(span.offset >> BLOCK_SHIFT) - first : block_count(span.end) - first] = True
    wrong = np.flatnonzero(~has_data & (expected != np.void(ZERO_BLOCK_HASH)))
    if len(wrong):
        raise _differs(first + int(wrong[0]), path)
    buffer = np.zeros(CHUNK, np.uint8)
    for chunk in pieces(_runs(has_data, region), CHUNK):
        written.read(chunk.offset, buffer.data[: chunk.length])
        buffer[chunk.length :] = 0
        for at in range(0, chunk.length, BLOCK):
            block = (chunk.offset + at) >> BLOCK_SHIFT
            if image.block_hash(buffer.data[at : at + BLOCK]) != bytes(expected[block - first]):
                raise _differs(block, path)


def _runs(has_data: npt.NDArray[np.bool_], region: Extent) -> Iterator[Extent]:
    """The runs of blocks with data, as extents of the disk."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], has_data, [False]]).astype(np.int8)))
    for start, stop in edges.reshape(-1, 2).tolist():
        offset = region.offset + (start << BLOCK_SHIFT)
        yield Extent(offset, min(region.offset + (stop << BLOCK_SHIFT), region.end) - offset)


def _differs(block: int, path: Path) -> ExportDiffers:
    return ExportDiffers(
        f"block {block} (byte {block << BLOCK_SHIFT}) reads back as something else than was written",
        subject=str(path),
        hint="do not trust the storage it lies on; export to another",
    )
