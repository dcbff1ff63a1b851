"""Several small machines with a replica each in one store: guests with an agent that boot within seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import msgspec

from standby.demo.guest import Guest
from standby.objects.directory import DirectoryStore
from standby.records import DiskDescription
from standby.replica import boot
from standby.replica.format import BLOCK
from standby.replica.journal import Place, ReplicaLog
from standby.replica.writer import attach, create
from tests.support.replicas import FixedClock, ModelDisk, commit_point, new_id

SIZE = 8 * BLOCK
MEMORY = 160 << 20


class Fleet:
    """Their store, `store`, and what they have in common."""

    def __init__(self, folder: Path, guest: Guest, names: Sequence[str]) -> None:
        self.store = folder / "store"
        spool = folder / "spool"
        spool.mkdir()
        opened = DirectoryStore(self.store, create=True)
        for number, name in enumerate(names, 1):
            create(
                opened,
                name,
                replica=UUID(int=number, version=4),
                origin="host-a",
                clock=FixedClock(),
            )
            writer = attach(opened, name, owner="agent@host-a", clock=FixedClock(), new_id=new_id)
            disk = ModelDisk("disk0", SIZE)
            disk.write(0, name.encode())
            machine = msgspec.structs.replace(
                guest.describe(name),
                memory=MEMORY,
                cpus=1,
                disks=(DiskDescription(id="disk0", size=SIZE, format="raw"),),
            )
            boot.put(Place(opened, name), machine.boot_files, guest.boot_files)
            commit_point(writer, [disk], spool, machine=machine)

    def log(self, name: str) -> ReplicaLog:
        return ReplicaLog.read(DirectoryStore(self.store), name)
