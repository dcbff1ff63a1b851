"""Made tests/replica/golden/v1 once (`python -m tests.replica.make_golden FOLDER`): a replica of format 1.

And v1-encrypted (with `--encrypted` behind it): with its key, `key`, and a passphrase, `golden`.

Never run over an existing golden replica: what an older standby wrote is opened for ever. A new format gets
a folder of its own.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from pathlib import Path

from standby.objects.directory import DirectoryStore
from standby.records import BootFile, MachineDescription
from standby.replica import boot, keyring
from standby.replica.documents import DiskState
from standby.replica.format import BLOCK, PAGE
from standby.replica.journal import Place, read_head
from standby.replica.keys import KeyFile, Passphrase
from standby.replica.writer import Draft, attach, create
from tests.support.replicas import REPLICA, FixedClock, ModelDisk, commit_point, new_id


def main() -> None:
    folder = Path(sys.argv[1])
    spool = folder / "spool"
    spool.mkdir(parents=True)
    store = DirectoryStore(folder / "store", create=True)
    rng = random.Random(1)
    disks = [ModelDisk("vda", 6 * BLOCK + 3 * PAGE + 512), ModelDisk("vdb", 2 * BLOCK)]
    key = KeyFile.new(folder / "key") if "--encrypted" in sys.argv else None
    create(store, "web", replica=REPLICA, origin="golden", clock=FixedClock(), key=key)
    cipher = None
    if key:
        place = Place(store, "web", key)
        keyring.add_key(place, Passphrase("golden", (1 << 10, 8, 1)), FixedClock())
        cipher = place.cipher(read_head(place)[0])
        content = b"golden kernel" * 1000
        (folder / "kernel").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        kernel = BootFile(role="kernel", sha256=digest, size=len(content))
        boot.put(place, [kernel], {"kernel": folder / "kernel"})
        (folder / "kernel").unlink()
        machine = MachineDescription(
            name="golden", uuid="u", memory=1, cpus=1, firmware="kernel", disks=(), boot_files=(kernel,)
        )
    expected: dict[str, dict[str, str]] = {}
    for life in range(2):
        writer = attach(store, "web", owner="golden", clock=FixedClock(), new_id=new_id, key=key)
        for number in range(3):
            disks[0].write(rng.randrange(6 * BLOCK), rng.randbytes(700))
            disks[0].write((number + life) * BLOCK, bytes([65 + number]) * BLOCK)
            disks[1].write(number * PAGE, rng.randbytes(PAGE) if number < 2 else bytes(PAGE))
            if (life, number) == (0, 0):
                log = writer.upload(disks[0].log(spool / "scan.hrl", cipher=cipher))
                states = (
                    DiskState(id="vda", size=disks[0].size, logs=(log,)),
                    DiskState(id="vdb", size=disks[1].size),
                )
                writer.commit(
                    Draft(kind="scan", nonce=new_id(), at=FixedClock().now().isoformat(), disks=states)
                )
            record = commit_point(writer, disks, spool, machine=machine if key else None)
            expected[str(record.seq)] = {disk.id: hashlib.sha256(disk.bytes).hexdigest() for disk in disks}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    for leftover in spool.iterdir():
        leftover.unlink()
    spool.rmdir()


if __name__ == "__main__":
    main()
