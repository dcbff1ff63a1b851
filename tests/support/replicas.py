"""Small replicas whose true content is known, built with the product's own packing and writing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import numpy as np

from standby.block.extent import Extent
from standby.records import MachineDescription
from standby.replica.cipher import Cipher
from standby.replica.documents import DiskState, Record
from standby.replica.format import (
    BLOCK,
    PAGE,
    PAGES_PER_BLOCK,
    ZERO_BLOCK_HASH,
    BlockHash,
    LogHeader,
    block_hash,
)
from standby.replica.log import LogWriter, SealedLog
from standby.replica.pack import Masks, pack
from standby.replica.writer import Draft, Writer

REPLICA = UUID("0194b5a0-0000-7000-8000-000000000001")
_counter = itertools.count(1)


class FixedClock:
    """A clock that stands still until it is set."""

    def __init__(self, now: datetime = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)) -> None:
        self.time = now

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()


def new_id() -> str:
    """Nonces in order, so that a failing example reads the same each time."""
    return f"{next(_counter):026d}"


def new_log_id() -> bytes:
    return next(_counter).to_bytes(16, "big")


class ModelDisk:
    """A disk whose content is a bytearray; remembers which pages were written since the last log."""

    def __init__(self, disk_id: str, size: int) -> None:
        self.id = disk_id
        self.size = size
        self.content = bytearray(-(-size // BLOCK) * BLOCK)
        self.dirty: dict[int, int] = {}

    @property
    def bytes(self) -> bytes:
        return bytes(self.content[: self.size])

    def write(self, offset: int, data: bytes) -> None:
        self.content[offset : offset + len(data)] = data
        for page in range(offset // PAGE, -(-(offset + len(data)) // PAGE)):
            block = page // PAGES_PER_BLOCK
            self.dirty[block] = self.dirty.get(block, 0) | 1 << page % PAGES_PER_BLOCK

    def log(self, path: Path, *, replica: UUID = REPLICA, cipher: Cipher | None = None) -> SealedLog:
        """A sealed log of everything written since the last call."""
        writer = LogWriter(path, LogHeader(replica, new_log_id(), self.id, self.size), cipher)
        append_changes(writer, self.content, self.dirty, cipher.block_hash if cipher else block_hash)
        self.dirty = {}
        return writer.seal()


def append_changes(
    writer: LogWriter, content: bytearray, dirty: Mapping[int, int], hashed: BlockHash = block_hash
) -> None:
    blocks = np.array(sorted(dirty), np.uint32)
    masks: Masks = np.array([dirty[block] for block in sorted(dirty)], np.uint16)
    whole = np.frombuffer(bytes(content), np.uint8).reshape(-1, BLOCK)
    known = np.full(len(blocks), np.void(ZERO_BLOCK_HASH), "V16")
    for frame in pack(blocks, whole[blocks], masks, known, np.ones(len(blocks), bool), hashed):
        writer.append(frame.pages, frame.rows)


def commit_point(
    writer: Writer,
    disks: list[ModelDisk],
    spool: Path,
    *,
    nonce: str = "",
    machine: MachineDescription | None = None,
) -> Record:
    """Seal, upload and commit what was written to the disks, as one point."""
    states = []
    for disk in disks:
        logs = ()
        if disk.dirty:
            sealed = disk.log(
                spool / f"{next(_counter)}.hrl",
                replica=writer.head.replica,
                cipher=writer.place.cipher(writer.head),
            )
            logs = (writer.upload(sealed),)
        states.append(DiskState(id=disk.id, size=disk.size, logs=logs))
    return writer.commit(
        Draft(
            kind="point",
            nonce=nonce or new_id(),
            at="2026-11-24T08:00:00+00:00",
            disks=tuple(states),
            consistency="crash-consistent",
            machine=machine,
        )
    )


def read_whole(read: Callable[[int, memoryview], None], size: int, *, step: int = 1 << 20) -> bytes:
    """The whole disk through `read`, in steps."""
    content = bytearray(size)
    for offset in range(0, size, step):
        read(offset, memoryview(content)[offset : offset + step])
    return bytes(content)


def whole(size: int) -> Extent:
    return Extent(0, size)
