"""What one agent costs that protects many machines: processor time, memory, points made against those due.

    .venv/bin/python benchmarks/host.py [--machines 100] [--busy 10] [--frequency 30] [--minutes 3] [--state DIR]

Each machine is a qemu-storage-daemon with one disk of 64 MiB. Most are idle; the busy ones get --pages random pages a
second each; one, which is none of these, is slow: its disk gives 1 MiB/s and 8 MiB of it are dirty at every cycle.
Counted is what happens after all machines are protected and each has had one cycle more.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from standby.agent.control import ask
from standby.block.nbd import NbdDisk
from standby.link.requests import Done, Protect
from standby.objects.directory import DirectoryStore
from standby.replica.journal import ReplicaLog
from standby.replication.books import Books
from standby.replication.policy import Policy
from standby.replication.relationship import Connection
from standby.replication.states import State

SIZE = 64 << 20
PAGE = 4096
SLOW = "slow"
SLOW_RATE = 1 << 20
SLOW_CHANGES = 8 << 20
SECOND = timedelta(seconds=1)
TICK = os.sysconf("SC_CLK_TCK")


class Used(NamedTuple):
    """Of a process. cpu: seconds so far. resident, most: bytes, now and at most."""

    cpu: float
    resident: int
    most: int

    @classmethod
    def by(cls, process: int) -> Used:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        status = dict(
            line.split(":", 1)
            for line in Path(f"/proc/{process}/status").read_text().splitlines()
            if ":" in line
        )
        kib = {name: int(status[name].split()[0]) << 10 for name in ("VmRSS", "VmHWM")}
        return cls((int(fields[11]) + int(fields[12])) / TICK, kib["VmRSS"], kib["VmHWM"])


class Machine(NamedTuple):
    name: str
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def connection(self) -> Connection:
        return Connection(qmp=str(self.folder / "qmp"), nbd=str(self.folder / "nbd"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--machines", type=int, default=100)
    parser.add_argument("--busy", type=int, default=10)
    parser.add_argument("--pages", type=int, default=50, help="written a second to each busy machine")
    parser.add_argument("--frequency", type=int, default=30)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--state", type=Path, help="of the agent (default: beside the machines)")
    parser.add_argument("--profile", type=Path, help="where py-spy, if installed, records the agent")
    asked = parser.parse_args()
    # A machine takes a few descriptors of the agent; distributions give a process 1024 unless it asks for more.
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        names = [f"vm{number:03d}" for number in range(asked.machines - 1)] + [SLOW]
        machines = [stack.enter_context(machine(folder, one)) for one in names]
        state = asked.state or folder / "state"
        agent = stack.enter_context(running(state, folder / "agent.log"))
        DirectoryStore(folder / "store", create=True)
        alone = Used.by(agent.pid)
        began = time.monotonic()
        for one in machines:
            protect(one, state, folder / "store", asked.frequency)
        wait_until_protected(state, len(machines))
        print(f"{len(machines)} machines protected in {time.monotonic() - began:.0f} s")
        stop = stack.enter_context(writing(machines, asked.busy, asked.pages, asked.frequency))
        time.sleep(asked.frequency)
        before, since, clock = Used.by(agent.pid), datetime.now(UTC), time.monotonic()
        if asked.profile:
            stack.enter_context(profiled(agent.pid, asked.profile, asked.minutes * 60))
        time.sleep(asked.minutes * 60)
        after, until, took = Used.by(agent.pid), datetime.now(UTC), time.monotonic() - clock
        stop.set()
        made = {one.name: points(folder / "store", one.name, since, until) for one in machines}
        report(asked.frequency, since, took, alone, before, after, made, machines)


@contextmanager
def machine(folder: Path, name: str) -> Iterator[Machine]:
    place = folder / name
    place.mkdir()
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", place / "disk.img", str(SIZE)], check=True)
    options: list[str] = []
    file: dict[str, object] = {"driver": "file", "filename": "disk.img"}
    if name == SLOW:
        options = [
            "--object",
            json.dumps({"qom-type": "throttle-group", "id": "slow", "x-bps-read": SLOW_RATE}),
        ]
        file = {"driver": "throttle", "throttle-group": "slow", "file": file}
    process = subprocess.Popen(
        [
            "qemu-storage-daemon",
            *["--chardev", "socket,path=qmp,server=on,wait=off,id=qmp", "--monitor", "chardev=qmp"],
            *["--nbd-server", "addr.type=unix,addr.path=nbd"],
            *options,
            *["--blockdev", json.dumps({"driver": "qcow2", "node-name": "disk", "file": file})],
            *["--export", "nbd,id=guest,node-name=disk,name=disk,writable=on"],
        ],
        cwd=place,
    )
    try:
        while not (place / "nbd").exists() or not (place / "qmp").exists():
            time.sleep(0.01)
        yield Machine(name, place, process)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def running(state: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    program = Path(sys.executable).parent / "standby"
    with log.open("wb") as out:
        process = subprocess.Popen([program, "agent", "run", "--state", state], stdout=out, stderr=out)
    try:
        while not (state / "control").exists():
            time.sleep(0.01)
        yield process
    finally:
        process.terminate()
        process.wait()
        for line in log.read_text().splitlines():
            if " WARNING " in line or " ERROR " in line:
                print(line)


def protect(one: Machine, state: Path, store: Path, frequency: int) -> None:
    # The volume of a benchmark is nobody's: what should stay free on it is no matter.
    policy = Policy(frequency=frequency, reserve=0)
    request = Protect(
        machine=one.name, connection=one.connection, store=str(store), replica=one.name, policy=policy
    )
    answer = ask(state, request)
    assert isinstance(answer, Done), answer


def wait_until_protected(state: Path, count: int) -> None:
    while True:
        with closing(Books.reading(state)) as books:
            states = [one.status.state for one in books.relationships()]
        if len(states) == count and set(states) <= {State.PROTECTED, State.DELTA}:
            return
        time.sleep(1)


@contextmanager
def writing(machines: list[Machine], busy: int, pages: int, frequency: int) -> Iterator[threading.Event]:
    """Guests at work, until the event is set."""
    stop = threading.Event()

    def work(one: Machine) -> None:
        chosen = random.Random(one.name)
        with closing(NbdDisk(one.folder / "nbd", "disk", connections=1)) as disk:
            while not stop.wait(1):
                for _ in range(pages):
                    disk.write(chosen.randrange(SIZE // PAGE) * PAGE, memoryview(chosen.randbytes(PAGE)))

    def hoard(one: Machine) -> None:
        chosen = random.Random(one.name)
        with closing(NbdDisk(one.folder / "nbd", "disk", connections=1)) as disk:
            while True:
                for offset in range(0, SLOW_CHANGES, 1 << 20):
                    disk.write(offset, memoryview(chosen.randbytes(1 << 20)))
                if stop.wait(frequency):
                    return

    tasks = [threading.Thread(target=work, args=(one,)) for one in machines[:busy]]
    tasks.append(threading.Thread(target=hoard, args=(machines[-1],)))
    for task in tasks:
        task.start()
    try:
        yield stop
    finally:
        stop.set()
        for task in tasks:
            task.join()


@contextmanager
def profiled(process: int, path: Path, seconds: float) -> Iterator[None]:
    command = [
        "py-spy",
        "record",
        "-p",
        str(process),
        "-o",
        path,
        "-f",
        "raw",
        "-d",
        str(int(seconds)),
        "-r",
        "50",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as recorder:
        yield
        recorder.wait()


def points(store: Path, name: str, since: datetime, until: datetime) -> list[datetime]:
    """The instants of the replica's points within the time."""
    instants = (datetime.fromisoformat(one.at) for one in ReplicaLog.read(DirectoryStore(store), name).points)
    return [one for one in instants if since <= one < until]


def report(
    frequency: int,
    since: datetime,
    took: float,
    alone: Used,
    before: Used,
    after: Used,
    made: Mapping[str, list[datetime]],
    machines: list[Machine],
) -> None:
    step = frequency * SECOND
    gaps = {
        name: [later - earlier for earlier, later in pairwise([since, *points, since + took * SECOND])]
        for name, points in made.items()
    }
    # A point is late by what others, the agent's workers and the machine take; one interval more is a miss.
    missed = {
        name: sum(round(gap / step) - 1 for gap in found if gap > 1.5 * step) for name, found in gaps.items()
    }
    count = len(machines)
    due = count * took / frequency
    total = sum(map(len, made.values()))
    others = {name: number for name, number in missed.items() if number and name != SLOW}
    longest = max((gap for name, found in gaps.items() if name != SLOW for gap in found), default=timedelta())
    daemons = sum(Used.by(one.process.pid).resident for one in machines)
    cpu = after.cpu - before.cpu
    for what, figure in (
        (
            "agent, processor time",
            f"{100 * cpu / took:.1f} % of one core ({1000 * cpu / total:.1f} ms a point)",
        ),
        ("agent, memory", f"{after.resident >> 20} MiB now, {after.most >> 20} MiB at most"),
        ("   of which per machine", f"{(after.resident - alone.resident) / count / 1024:.0f} KiB"),
        ("   growth while counted", f"{(after.resident - before.resident) >> 10} KiB"),
        ("points made / due", f"{total} / {due:.0f}"),
        ("longest from point to point", f"{longest.total_seconds():.1f} s of {frequency} (all but {SLOW})"),
        ("missed by all but the slow one", f"{sum(others.values())} {others or ''}"),
        ("missed by the slow one", f"{missed[SLOW]} of {took / frequency:.0f}"),
        ("storage daemons, memory", f"{daemons / count / (1 << 20):.0f} MiB each"),
    ):
        print(f"{what:32}{figure}")


if __name__ == "__main__":
    main()
