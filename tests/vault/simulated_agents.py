"""Not agents: N of them with M machines each, as a vault meets them, for load. They speak the real protocol over HTTP.

`Fleet` is for tests; `python -m tests.vault.simulated_agents KEYFILE...` runs one agent a key file until Ctrl-C.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import msgspec

from standby.link import recovery, requests
from standby.link.messages import (
    HEARTBEAT_PATH,
    REGISTER_PATH,
    Answer,
    DiskStanding,
    Heartbeat,
    Interval,
    Order,
    PointMade,
    Registered,
    Registration,
    RunStanding,
    Seen,
    SeenDisk,
    Standing,
    TaskReport,
    TaskState,
    VaultKey,
    WorkReport,
    WorkState,
)
from standby.link.requests import Refused
from standby.replication.policy import Policy
from standby.replication.relationship import Connection

PROTECT = (
    "Prerequisites check for enabling protection",
    "Identifying replication target",
    "Enable replication",
    "Starting initial replication",
)
TEST = (
    "Prerequisites check for test failover",
    "Create test virtual machine",
    "Preparing the virtual machine",
    "Start the virtual machine",
)
FAILOVER = (
    "Prerequisites check for failover",
    "Check the source virtual machine",
    "Synchronizing the latest changes",
    "Start failover",
    "Start the replica virtual machine",
)
SCAN_BEATS = 3
"""Heartbeats that an initial replication takes."""


def now() -> str:
    return datetime.now(UTC).isoformat()


@dataclass
class Machine:
    """relationship: None as long as it is not protected."""

    name: str
    uuid: str
    size: int
    relationship: Standing | None = None
    scanned: int = 0
    seq: int = 0
    due: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass
class Work:
    """An order on its way: `at` of its tasks is at work; each takes one heartbeat."""

    order: Order
    tasks: tuple[str, ...]
    at: int = 0
    report: WorkReport | None = None


class SimulatedAgent:
    """One host. Not thread-safe; a heartbeat at a time. Each of its heartbeats' seconds is in `latencies`."""

    def __init__(self, name: str, machines: int, rng: random.Random) -> None:
        self.name = name
        self.rng = rng
        self.instance = str(uuid.UUID(int=rng.getrandbits(128)))
        self.machines = {
            f"{name}-vm{number}": Machine(
                f"{name}-vm{number}", str(uuid.UUID(int=rng.getrandbits(128))), rng.choice((8, 32, 128)) << 30
            )
            for number in range(machines)
        }
        self.runs: dict[str, RunStanding] = {}
        self.work: dict[str, Work] = {}
        self.ended: dict[str, WorkState] = {}
        self.done: list[str] = []
        """Jobs in the order in which they were carried out; one twice would be a fault of the vault or of this."""
        self.untold: list[PointMade] = []
        self.latencies: list[float] = []
        self.failures: list[str] = []
        self.host = self.token = ""
        self._http: httpx.Client | None = None
        self._vault = ""

    def register(self, key: VaultKey) -> None:
        """Raises httpx.HTTPError."""
        if self._http is None:
            context = ssl.create_default_context(cadata=key.authority or None)
            self._http = httpx.Client(verify=context, timeout=30.0, trust_env=False)
        self._vault = key.vault.rstrip("/")
        body = Registration(key=key.key, name=self.name, version="0.1.0", host=self.host)
        registered = msgspec.json.decode(self._post(REGISTER_PATH, body).content, type=Registered)
        self.host, self.token = registered.host, registered.token

    def beat(self) -> float:
        """One heartbeat; seconds until the next. What the vault does wrong is in `failures`."""
        self._live()
        points = tuple(self.untold[:500])
        heartbeat = Heartbeat(
            instance=self.instance,
            version="0.1.0",
            time=now(),
            machines=tuple(map(self._seen, self.machines.values())),
            relationships=tuple(
                self._standing(one) for one in self.machines.values() if one.relationship is not None
            ),
            runs=tuple(self.runs.values()),
            points=points,
            work=tuple(map(_report, self.work.values())),
            room=8 - sum(one.report is None for one in self.work.values()),
        )
        began = time.perf_counter()
        try:
            response = self._post(HEARTBEAT_PATH, heartbeat)
        except httpx.HTTPError as error:
            self.failures.append(f"{type(error).__name__}: {error}")
            return self.rng.uniform(0.5, 2.0)
        self.latencies.append(time.perf_counter() - began)
        self._take_in(msgspec.json.decode(response.content, type=Answer))
        del self.untold[: len(points)]
        return self.answer_next

    def protect_all(self, policy: Policy | None = None, store: str = "/srv/replicas") -> None:
        """As if all had been protected long ago, by the host's operator."""
        for machine in self.machines.values():
            self._protect(machine, store, machine.name, policy or Policy(), state="protected")

    def close(self) -> None:
        if self._http:
            self._http.close()

    answer_next = 5.0

    def _post(self, path: str, body: msgspec.Struct) -> httpx.Response:
        assert self._http is not None, "register() comes first"
        headers = {"Content-Type": "application/json"}
        if self.token and path == HEARTBEAT_PATH:
            headers["Authorization"] = f"Bearer {self.token}"
        response = self._http.post(f"{self._vault}{path}", content=msgspec.json.encode(body), headers=headers)
        response.raise_for_status()
        return response

    def _take_in(self, answer: Answer) -> None:
        self.answer_next = answer.next
        if answer.token:
            self.token = answer.token
        for job in answer.taken:
            if (work := self.work.pop(job, None)) and work.report:
                self.ended[job] = work.report.state
        for order in answer.orders:
            known = self.work.get(order.job)
            if known is None or (known.report is not None and known.order.work != order.work):
                self.work[order.job] = Work(order, _tasks(order))
            elif known.order.lease < order.lease:
                known.order = order
                if known.report:
                    known.report = msgspec.structs.replace(known.report, lease=order.lease)
        for job in answer.cancel:
            if (work := self.work.get(job)) and work.report is None and work.at == 0:
                self._end(work, WorkState.CANCELLED)

    def _live(self) -> None:
        """A heartbeat's worth of replication and of orders."""
        instant = datetime.now(UTC)
        for machine in self.machines.values():
            self._replicate(machine, instant)
        for work in list(self.work.values()):
            if work.report is None:
                work.at += 1
                if work.at >= len(work.tasks):
                    self._carry_out(work)

    def _replicate(self, machine: Machine, instant: datetime) -> None:
        known = machine.relationship
        if known is None or known.state == "paused":
            return
        if known.state == "initial replication":
            machine.scanned = min(machine.size, machine.scanned + machine.size // SCAN_BEATS + 1)
            if machine.scanned < machine.size:
                return
            machine.relationship = known = msgspec.structs.replace(known, state="protected")
        while machine.due <= instant:
            machine.seq += 1
            at = machine.due.isoformat()
            self.untold.append(
                PointMade(
                    relationship=known.id,
                    seq=machine.seq,
                    at=at,
                    consistency="crash",
                    stored=self.rng.randrange(1 << 16, 1 << 24),
                )
            )
            machine.due += timedelta(seconds=known.policy.frequency)
            machine.relationship = msgspec.structs.replace(machine.relationship or known, newest_at=at)

    def _carry_out(self, work: Work) -> None:
        self.done.append(work.order.job)
        order = work.order.work
        result: dict[str, str] = {}
        machine = self.machines.get(getattr(order, "machine", ""))
        match order:
            case requests.Protect() if machine is not None:
                if machine.relationship is not None:
                    self._end(work, WorkState.FAILED, _refused(machine.name, "it is protected already"))
                    return
                self._protect(machine, order.store, order.replica, order.policy, state="initial replication")
                assert machine.relationship
                result = {
                    "relationship": machine.relationship.id,
                    "replica_id": machine.relationship.replica_id,
                }
            case requests.Unprotect() if machine is not None:
                machine.relationship = None
            case requests.Pause() | requests.Resume() | requests.SetPolicy() if (
                machine and machine.relationship
            ):
                changes: dict[str, object] = {"state": "protected"}
                if isinstance(order, requests.Pause):
                    changes = {"state": "paused", "before_pause": machine.relationship.state}
                elif isinstance(order, requests.SetPolicy):
                    changes = {"policy": order.policy}
                machine.relationship = msgspec.structs.replace(machine.relationship, **changes)
            case requests.OfMachine() if machine is None or machine.relationship is None:
                self._end(
                    work, WorkState.FAILED, _refused(order.machine, "it is not protected by this agent")
                )
                return
            case recovery.TestFailover() | recovery.FailOver():
                result = self._recover(work.order.job, order)
            case recovery.CleanUpTest() | recovery.CancelFailover():
                self.runs.pop(order.run, None)
            case recovery.Commit() if order.run in self.runs:
                self.runs[order.run] = msgspec.structs.replace(self.runs[order.run], phase="committed")
            case _:
                pass
        self._end(work, WorkState.SUCCEEDED, result=result)

    def _recover(self, job: str, order: recovery.TestFailover | recovery.FailOver) -> dict[str, str]:
        test = isinstance(order, recovery.TestFailover)
        run = f"/var/lib/standby/{'tests' if test else 'failovers'}/{job}"
        self.runs[run] = RunStanding(
            run=run,
            kind="test" if test else "failover",
            machine=f"{order.replica} - Test" if test else order.replica,
            store=order.store,
            replica=order.replica,
            point=1,
            phase="running" if test else "failed over",
            machine_state="running",
            disks=("vda",),
            first_instruction=2.5,
            agent_answered=21.0,
        )
        return {"run": run, "point": "1"}

    def _end(
        self,
        work: Work,
        state: WorkState,
        error: Refused | None = None,
        result: dict[str, str] | None = None,
    ) -> None:
        good = state is WorkState.SUCCEEDED
        work.report = WorkReport(
            job=work.order.job,
            lease=work.order.lease,
            state=state,
            tasks=tuple(
                TaskReport(
                    name=name,
                    state=TaskState.SUCCEEDED if good else TaskState.FAILED,
                    began=now(),
                    ended=now(),
                )
                for name in work.tasks
            ),
            error=error,
            result=result or {},
        )

    def _protect(self, machine: Machine, store: str, replica: str, policy: Policy, *, state: str) -> None:
        machine.seq = machine.scanned = 0
        # Spread over the interval, as real agents do.
        machine.due = datetime.now(UTC) + timedelta(seconds=self.rng.uniform(0, policy.frequency))
        machine.relationship = Standing(
            id=uuid.UUID(int=self.rng.getrandbits(128)).hex[:12],
            machine=machine.name,
            store=store,
            replica=replica,
            replica_id=str(uuid.UUID(int=self.rng.getrandbits(128))),
            state=state,
            policy=policy,
        )

    def _seen(self, machine: Machine) -> Seen:
        return Seen(
            name=machine.name,
            uuid=machine.uuid,
            connection=Connection(qmp=f"/run/standby/{machine.name}.qmp"),
            disks=(SeenDisk(id="vda", size=machine.size, format="qcow2"),),
        )

    def _standing(self, machine: Machine) -> Standing:
        known = machine.relationship
        assert known is not None
        newest = datetime.fromisoformat(known.newest_at) if known.newest_at else None
        scanning = known.state == "initial replication"
        return msgspec.structs.replace(
            known,
            level="Normal",
            rpo=(datetime.now(UTC) - newest).total_seconds() if newest else None,
            disks=(
                DiskStanding(
                    id="vda",
                    size=machine.size,
                    scan="it was never replicated" if scanning else "",
                    scanned=machine.scanned,
                ),
            ),
            interval=Interval(since=now(), points=machine.seq, churn={"vda": machine.seq << 20}),
        )


class Fleet:
    """Agents that beat as their vault tells them to, in a few threads, until it is stopped."""

    def __init__(
        self,
        make_key: Callable[[], VaultKey],
        agents: int,
        machines: int,
        *,
        seed: int = 20261124,
        threads: int = 8,
        protected: bool = True,
        policy: Policy | None = None,
    ) -> None:
        """make_key: a vault key that is not used yet. protected: as if all were protected long ago."""
        rng = random.Random(seed)
        self.agents = [
            SimulatedAgent(f"host{number:03}", machines, random.Random(rng.random()))
            for number in range(agents)
        ]
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._tie = itertools.count()
        self._due: list[tuple[float, int, SimulatedAgent]] = []
        for agent in self.agents:
            agent.register(make_key())
            if protected:
                agent.protect_all(policy)
            # They were not all started at once.
            self._push(agent, rng.uniform(0, 5.0))
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def __enter__(self) -> Fleet:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60.0)
        for agent in self.agents:
            agent.close()

    @property
    def latencies(self) -> list[float]:
        return [seconds for agent in self.agents for seconds in list(agent.latencies)]

    @property
    def failures(self) -> list[str]:
        return [f"{agent.name}: {text}" for agent in self.agents for text in list(agent.failures)]

    def percentile(self, share: float) -> float:
        """Of the heartbeats' seconds; share: 0 to 1."""
        found = sorted(self.latencies)
        return found[min(len(found) - 1, int(share * len(found)))]

    def ended(self, job: str) -> WorkState | None:
        """How a job ended, once its vault has taken that in."""
        return next((agent.ended[job] for agent in self.agents if job in agent.ended), None)

    def twice(self) -> list[str]:
        """Jobs that were carried out more than once."""
        done = [job for agent in self.agents for job in list(agent.done)]
        return sorted({job for job in done if done.count(job) > 1})

    def _push(self, agent: SimulatedAgent, wait: float) -> None:
        with self._lock:
            heapq.heappush(self._due, (time.monotonic() + wait, next(self._tie), agent))

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                at, _, agent = heapq.heappop(self._due) if self._due else (0.0, 0, None)
            if agent is None:
                self._stop.wait(0.01)
                continue
            if (wait := at - time.monotonic()) > 0:
                # It goes back rather than be slept for: another may be due before it by then.
                with self._lock:
                    heapq.heappush(self._due, (at, next(self._tie), agent))
                self._stop.wait(min(wait, 0.05))
                continue
            self._push(agent, agent.beat())


def _tasks(order: Order) -> tuple[str, ...]:
    match order.work:
        case requests.Protect():
            return PROTECT
        case recovery.TestFailover():
            return TEST
        case recovery.FailOver():
            return FAILOVER
    return (order.title,)


def _report(work: Work) -> WorkReport:
    if work.report:
        return work.report
    return WorkReport(
        job=work.order.job,
        lease=work.order.lease,
        state=WorkState.IN_PROGRESS,
        tasks=tuple(
            TaskReport(
                name=name,
                state=TaskState.SUCCEEDED
                if number < work.at
                else TaskState.IN_PROGRESS
                if number == work.at
                else TaskState.PENDING,
                began=now() if number <= work.at else "",
                progress=0.5 if number == work.at else None,
            )
            for number, name in enumerate(work.tasks)
        ),
    )


def _refused(subject: str, cause: str) -> Refused:
    return Refused(kind="InvalidRequest", subject=subject, cause=cause, tried="", hint="look at the machine")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Simulated agents against a vault, one a key file.")
    parser.add_argument("keys", nargs="+", type=Path)
    parser.add_argument("--machines", type=int, default=10)
    parser.add_argument("--unprotected", action="store_true")
    given = parser.parse_args(arguments)
    keys = iter([msgspec.json.decode(path.read_bytes(), type=VaultKey) for path in given.keys])
    fleet = Fleet(lambda: next(keys), len(given.keys), given.machines, protected=not given.unprotected)
    with fleet:
        try:
            while True:
                time.sleep(5.0)
                if fleet.latencies:
                    print(  # noqa: T201
                        f"{len(fleet.latencies)} heartbeats, p50 {fleet.percentile(0.5) * 1000:.0f} ms, "
                        f"p99 {fleet.percentile(0.99) * 1000:.0f} ms, {len(fleet.failures)} failures"
                    )
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
