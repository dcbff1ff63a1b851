"""Agents to be killed: a process that has imported everything forks one agent per request.

Run as `python -m tests.replication.zygote FOLDER`. Each line on standard input is a JSON object
{failpoint, points, application}; the forked agent arms the failpoint, enables protection if it is not,
replicates until it is protected, makes that many points more and exits. The answer is one line: the
agent's exit status, negative for a signal. What the agent committed, it appends to FOLDER/acknowledged
(sequence number and nonce); what it scanned after it was protected, to FOLDER/rescanned.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

from standby import failpoints
from standby.hypervisor.base import Consistency
from standby.hypervisor.qemu import QemuHypervisor, QemuMachine
from standby.objects.directory import DirectoryStore
from standby.replica.keys import KeyFile
from standby.replication import precopy, source
from standby.replication.followers import Followers, Stage
from standby.replication.states import State
from tests.hypervisor.processes import SMALL
from tests.replication.rig import Recorder, Rig


class Witness(Recorder):
    """Writes down at once what counts as promised."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.protected = (folder / "protected").exists()

    def committed(self, record):
        super().committed(record)
        _append(self.folder / "acknowledged", f"{record.seq} {record.nonce}\n")

    def state(self, state):
        super().state(state)
        if state is State.PROTECTED:
            self.protected = True
            (self.folder / "protected").touch()

    def scanned(self, disk, count):
        super().scanned(disk, count)
        _append(self.folder / ("rescanned" if self.protected else "scanned"), f"{disk} {count}\n")


def _append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line)


def agent(folder: Path, machine: QemuMachine, order: dict[str, object]) -> None:
    """One life of an agent."""
    # Small steps, so that every part is passed through often.
    source.SCAN_LOG = source.SCAN_STEP = 1 << 20
    precopy.WORTH = 1
    precopy.MOST_ROUNDS = 1
    failpoints.arm(str(order["failpoint"]))
    key = KeyFile(folder / "key") if (folder / "key").exists() else None
    rig = Rig(folder, QemuHypervisor({"vm": machine}, limits=SMALL), key=key)
    rig.seen = Witness(folder)
    rig.enable()
    second = rig.follow(DirectoryStore(folder / "second", create=True))

    def level() -> bool:
        (one,) = Followers(rig.books).of(rig.id)
        return second.step() is False and one.stage is Stage.LEVEL and not one.queued

    rig.until(lambda: second.step() is False and rig.state is State.PROTECTED)
    if str(order["failpoint"]).startswith("follow."):
        followers = Followers(rig.books)
        for one in followers.of(rig.id):
            for path in followers.fall_behind(rig.id, one.id, "a test wants it so"):
                path.unlink(missing_ok=True)
    for number in range(int(order["points"])):
        application = order["application"] and number == 0
        rig.source.recover() if not rig.source.ready else None
        report = rig.source.cycle(Consistency.APPLICATION if application else Consistency.CRASH)
        assert report
        rig.until(lambda: not rig.books.queue(rig.id))
        rig.until(level)
    rig.close()


def main() -> None:
    folder = Path(sys.argv[1])
    machine = QemuMachine(
        qmp=folder / "qmp",
        nbd=folder / "served",
        agent=folder / "guest-agent" if (folder / "guest-agent").exists() else None,
    )
    print(json.dumps(failpoints.declared()), flush=True)  # noqa: T201
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                agent(folder, machine, json.loads(line))
            except BaseException:
                traceback.print_exc()
                os._exit(9)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
