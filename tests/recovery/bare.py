"""Replicas for test failovers: of a machine without an operating system, or of a guest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from standby.hypervisor.launch import QemuHost
from standby.objects.directory import DirectoryStore
from standby.records import DiskDescription, MachineDescription
from standby.recovery.failover import Request
from standby.replica import boot
from standby.replica.documents import DiskState
from standby.replica.format import BLOCK, ZERO_BLOCK_HASH, LogHeader
from standby.replica.journal import Place, ReplicaLog
from standby.replica.log import LogWriter
from standby.replica.pack import pack
from standby.replica.writer import Draft, Writer, attach, create
from tests.support.replicas import REPLICA, FixedClock, new_id, new_log_id

MACHINE = "web"
SIZE = 64 << 20
HOST = QemuHost(accelerator="tcg")


def protect(folder: Path) -> Path:
    """A store with one point of a machine whose disks hold no system."""
    content = np.random.default_rng(1).integers(0, 256, (SIZE // BLOCK, BLOCK), np.uint8)
    described = MachineDescription(
        name=MACHINE,
        uuid="0194b5a0-0000-7000-8000-0000000000aa",
        memory=64 << 20,
        cpus=1,
        firmware="bios",
        disks=tuple(DiskDescription(id=disk, size=SIZE, format="qcow2") for disk in ("vda", "vdb")),
    )
    return protect_as(folder, described, {"vda": content, "vdb": content[::-1]}, {})


def protect_as(
    folder: Path,
    described: MachineDescription,
    contents: Mapping[str, np.ndarray],
    boot_files: Mapping[str, Path],
) -> Path:
    """A store with one point of the machine; `contents` by disk, one row a block."""
    store = DirectoryStore(folder / "store", create=True)
    create(store, MACHINE, replica=REPLICA, origin="host-a", clock=FixedClock())
    writer = attach(store, MACHINE, owner="agent@host-a", clock=FixedClock(), new_id=new_id)
    boot.put(Place(store, MACHINE), described.boot_files, boot_files)
    states = tuple(_state(writer, folder, disk, contents[disk.id]) for disk in described.disks)
    writer.commit(Draft("point", new_id(), "2026-11-24T08:00:00+00:00", states, machine=described))
    return folder / "store"


def _state(writer: Writer, folder: Path, disk: DiskDescription, content: np.ndarray) -> DiskState:
    log = LogWriter(folder / f"{disk.id}.hrl", LogHeader(REPLICA, new_log_id(), disk.id, disk.size))
    blocks = np.flatnonzero(content.any(axis=1)).astype(np.uint32)
    for part in np.array_split(blocks, -(-len(blocks) // 64)):
        masks = np.full(len(part), 0xFFFF, np.uint16)
        known = np.full(len(part), np.void(ZERO_BLOCK_HASH), "V16")
        for frame in pack(part, content[part], masks, known, np.ones(len(part), bool)):
            log.append(frame.pages, frame.rows)
    return DiskState(id=disk.id, size=disk.size, logs=(writer.upload(log.seal()),))


def request(store: Path) -> Request:
    return Request(str(store), MACHINE, boot_limit=None)


def holds(store: Path) -> list[str]:
    return [hold.by for hold in ReplicaLog.read(DirectoryStore(store), MACHINE).head.holds]


def damage(store: Path, disk: str) -> tuple[str, list[int]]:
    """Change a byte in the middle frame of the newest point's log of a disk; the log's name and the blocks in it."""
    log = ReplicaLog.read(DirectoryStore(store), MACHINE)
    state = log.point().disk(disk)
    assert state
    reference = state.logs[-1]
    reader = log.open_log(reference)
    number = len(reader.frames) // 2
    offset, length = reader.frames[number].tolist()[:2]
    path = store / MACHINE / reference.name
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[offset + length // 2] ^= 0xFF
    path.write_bytes(data)
    rows = reader.all_rows()
    return reference.name, rows["block"][rows["frame"] == number].tolist()
