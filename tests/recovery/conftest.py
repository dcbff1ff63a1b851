from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from standby.objects.base import StoreRefused
from standby.objects.directory import DirectoryStore
from standby.records import BootRole, MachineDescription
from standby.replica import boot
from standby.replica.documents import Head, Record
from standby.replica.format import BLOCK, HEADER_SIZE
from standby.replica.journal import Place, ReplicaLog, read_head
from standby.replica.writer import Draft, Writer, attach, create
from tests.support.replicas import REPLICA, FixedClock, ModelDisk, commit_point, new_id

NAME = "web"


class Replica:
    """A replica in a directory store, whose disks' true content is known."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "store"
        self.spool = folder / "spool"
        self.spool.mkdir()
        self.store = DirectoryStore(self.root, create=True)
        create(self.store, NAME, replica=REPLICA, origin="host-a", clock=FixedClock())
        self.writer: Writer = attach(
            self.store, NAME, owner="agent@host-a", clock=FixedClock(), new_id=new_id
        )

    @property
    def head(self) -> Head:
        return read_head(Place(self.store, NAME))[0]

    def log(self) -> ReplicaLog:
        return ReplicaLog.read(self.store, NAME)

    def commit(self, *disks: ModelDisk) -> int:
        """The point's number."""
        return commit_point(self.writer, list(disks), self.spool).seq

    def commit_machine(
        self, machine: MachineDescription, files: Mapping[BootRole, Path], *disks: ModelDisk
    ) -> int:
        """A point that describes a machine, which boots from the files and the disks."""
        boot.put(Place(self.store, NAME), machine.boot_files, files)
        commit = self.writer.commit

        def with_machine(draft: Draft) -> Record:
            return commit(draft._replace(machine=machine))

        self.writer.commit = with_machine  # type: ignore[method-assign]
        try:
            return self.commit(*disks)
        finally:
            self.writer.commit = commit  # type: ignore[method-assign]

    def damage(self, disk: str, into: int = 3 * BLOCK + 100) -> None:
        """Change one byte of the first frame of the newest log of a disk, `into` bytes behind its begin."""
        state = self.log().point().disk(disk)
        assert state
        path = self.root / NAME / state.logs[-1].name
        path.chmod(0o600)
        with path.open("r+b") as file:
            file.seek(HEADER_SIZE + into)
            byte = file.read(1)[0]
            file.seek(HEADER_SIZE + into)
            file.write(bytes([byte ^ 0xFF]))


class ReadOnly:
    """A directory store without the right to write; root may always write, so the refusal is the test's."""

    def __init__(self, inner) -> None:
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def swap(self, name, data, old):
        raise StoreRefused("read-only", subject=name)


@pytest.fixture
def replica(tmp_path: Path) -> Replica:
    return Replica(tmp_path)
