from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from standby.hypervisor.launch import QemuHost
from standby.objects.base import StoreRefused
from standby.objects.directory import DirectoryStore
from standby.records import BootRole, MachineDescription
from standby.recovery import failover, live, run_directory
from standby.recovery.live_steps import COMMITTED
from standby.recovery.machine_steps import RunOrder
from standby.replica import boot
from standby.replica.documents import Head
from standby.replica.format import BLOCK, HEADER_SIZE
from standby.replica.journal import Place, ReplicaLog, read_head
from standby.replica.keys import KeyFile
from standby.replica.writer import Writer, attach, create
from tests.support.replicas import REPLICA, FixedClock, ModelDisk, commit_point, new_id

NAME = "web"
HOST = QemuHost(accelerator="tcg")


class Replica:
    """A replica in a directory store, whose disks' true content is known. key: it is encrypted."""

    def __init__(self, folder: Path, key: KeyFile | None = None) -> None:
        self.key = key
        self.root = folder / "store"
        self.spool = folder / "spool"
        self.spool.mkdir()
        self.store = DirectoryStore(self.root, create=True)
        create(self.store, NAME, replica=REPLICA, origin="host-a", clock=FixedClock(), key=key)
        self.writer: Writer = attach(
            self.store, NAME, owner="agent@host-a", clock=FixedClock(), new_id=new_id, key=key
        )

    @property
    def head(self) -> Head:
        return read_head(Place(self.store, NAME))[0]

    def log(self) -> ReplicaLog:
        return ReplicaLog.read(self.store, NAME, key=self.key)

    def commit(self, *disks: ModelDisk) -> int:
        """The point's number."""
        return commit_point(self.writer, list(disks), self.spool).seq

    def commit_machine(
        self, machine: MachineDescription, files: Mapping[BootRole, Path], *disks: ModelDisk
    ) -> int:
        """A point that describes a machine, which boots from the files and the disks."""
        boot.put(Place(self.store, NAME, self.key), machine.boot_files, files)
        return commit_point(self.writer, list(disks), self.spool, machine=machine).seq

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

    def damage_middle(self, seq: int, disk: str) -> tuple[str, list[int]]:
        """Change a byte in the middle frame of a point's log of a disk; the log's name and the frame's blocks."""
        log = self.log()
        state = log.point(str(seq)).disk(disk)
        assert state
        reader = log.open_log(state.logs[-1])
        number = len(reader.frames) // 2
        offset, length = reader.frames[number].tolist()[:2]
        path = self.root / NAME / state.logs[-1].name
        path.chmod(0o600)
        data = bytearray(path.read_bytes())
        data[offset + length // 2] ^= 0xFF
        path.write_bytes(data)
        rows = reader.all_rows()
        return state.logs[-1].name, rows["block"][rows["frame"] == number].tolist()


class ReadOnly:
    """A directory store without the right to write; root may always write, so the refusal is the test's."""

    def __init__(self, inner) -> None:
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def swap(self, name, data, old):
        raise StoreRefused("read-only", subject=name)


@pytest.fixture
def replica(request, tmp_path: Path) -> Replica:
    """Encrypted for tests that ask for it: `encrypted_replica`."""
    return Replica(tmp_path, KeyFile.new(tmp_path / "key") if hasattr(request, "param") else None)


encrypted_replica = pytest.mark.parametrize("replica", ["encrypted"], indirect=True)


@pytest.fixture
def root() -> Iterator[Path]:
    """Where run directories are: a short path, for the sockets in them. What still runs there is ended."""
    folder = Path(tempfile.mkdtemp(prefix="sb-"))
    yield folder
    for run in run_directory.recoveries(folder):
        if run_directory.read_order(run, RunOrder).kind == "test":
            failover.clean_up(run, HOST)
        else:
            for mark in (COMMITTED, "merging"):
                (run / mark).unlink(missing_ok=True)
            live.cancel(run, HOST)
    shutil.rmtree(folder)
