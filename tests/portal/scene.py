"""A vault as it is after a day of work: three hosts of two sites that reported as agents do, over HTTP."""

from __future__ import annotations

import copy
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from fastapi import FastAPI
from fastapi.testclient import TestClient

from standby.link.messages import (
    HEARTBEAT_PATH,
    REGISTER_PATH,
    Answer,
    DiskStanding,
    Heartbeat,
    Interval,
    Order,
    PointMade,
    Reason,
    Registered,
    Registration,
    RunStanding,
    Seen,
    SeenDisk,
    Standing,
    TaskReport,
    TaskState,
    WorkReport,
    WorkState,
)
from standby.link.requests import Refused
from standby.portal import pages
from standby.replication.policy import Policy
from standby.replication.relationship import Connection
from standby.vault import access, catalogue, hosts, machines, ticks
from standby.vault.api.app import create_app
from standby.vault.core import Vault
from standby.vault.database import Database
from standby.vault.jobs import Role

GIB: Final = 1 << 30
MIB: Final = 1 << 20
PASSWORD: Final = "correct horse battery"
STORE: Final = "s3://acme-standby/replicas"
USERS: Final = {"ada": Role.ADMINISTRATOR, "olga": Role.OPERATOR, "rita": Role.READER}
ROOT: Final = access.console("root")


class SetClock:
    """Shows what it is set to; the time it is when it is not."""

    def __init__(self) -> None:
        self.at: datetime | None = None

    def now(self) -> datetime:
        return self.at or datetime.now(UTC)

    def monotonic(self) -> float:
        return self.now().timestamp()


class Agent:
    """Speaks as an agent does; what it says is up to the test."""

    def __init__(self, client: TestClient, vault: Vault, name: str, site: str) -> None:
        self.client, self.vault, self.name = client, vault, name
        key = hosts.new_key(vault, ROOT, site, "https://vault.acme.example", "")
        asked = Registration(key=key.key, name=name, version="0.1.0")
        answer = client.post(REGISTER_PATH, content=msgspec.json.encode(asked))
        assert answer.status_code == 200, answer.text
        registered = msgspec.json.decode(answer.content, type=Registered)
        self.host, self.token = registered.host, registered.token
        self.last = Heartbeat(instance="first", version="0.1.0", time="")

    def elsewhere(self, client: TestClient, vault: Vault) -> Agent:
        """The same agent, speaking to a copy of its vault."""
        found = copy.copy(self)
        found.client, found.vault = client, vault
        return found

    def beat(self, **changes: object) -> Answer:
        """What was said last, with `changes`; points and work are said once."""
        now = self.vault.clock.now().isoformat()
        self.last = msgspec.structs.replace(self.last, **{"points": (), "work": (), **changes, "time": now})
        answer = self.client.post(
            HEARTBEAT_PATH,
            content=msgspec.json.encode(self.last),
            headers={"Authorization": f"Bearer {self.token}"},
        )
        assert answer.status_code == 200, answer.text
        told = msgspec.json.decode(answer.content, type=Answer)
        self.token = told.token or self.token
        return told


class Scene(NamedTuple):
    vault: Vault
    app: FastAPI
    clock: SetClock
    agents: dict[str, Agent]


def opened(path: Path) -> Scene:
    """The vault whose database lies in the folder."""
    clock = SetClock()
    vault = Vault(Database(f"sqlite:///{path / 'vault.sqlite'}"), clock)
    app = create_app(vault, ticking=False)
    pages.attach(app)
    return Scene(vault, app, clock, {})


def empty(path: Path) -> Scene:
    """A vault with users and nothing else."""
    scene = opened(path)
    scene.vault.database.migrate()
    for name, role in USERS.items():
        access.new_user(scene.vault, ROOT, name, role, PASSWORD)
    return scene


def copied(scene: Scene, path: Path) -> Scene:
    """Another vault that is as this one is now, with its agents."""
    with scene.vault.database.engine.connect() as connection:
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql(f"VACUUM INTO '{path / 'vault.sqlite'}'")
        connection.exec_driver_sql("BEGIN")
    made = opened(path)
    client = TestClient(made.app)
    for name, agent in scene.agents.items():
        made.agents[name] = agent.elsewhere(client, made.vault)
    return made


class Vm(NamedTuple):
    name: str
    sizes: tuple[int, ...]
    state: str = "protected"
    level: str = "Normal"
    reasons: tuple[Reason, ...] = ()
    frequency: int = 30
    lag: float = 12.0
    queued: int = 0
    scans: tuple[tuple[str, int], ...] = ()
    error: str = ""


_NFS = "the store does not answer (timed out after 30 s)"
HOSTS: Final = {
    "kvm-berlin-1": (
        Vm("erp-db", (200 * GIB, 500 * GIB), frequency=5, lag=3),
        Vm("erp-app", (80 * GIB,), lag=14),
        Vm("mail", (120 * GIB,), lag=22),
        Vm(
            "files",
            (2048 * GIB,),
            level="Warning",
            lag=1260,
            queued=34 * GIB,
            reasons=(
                Reason(
                    level="Warning",
                    text="In this monitoring interval 61 of 240 cycles were missed; the limit is 20 %.",
                ),
                Reason(
                    level="Warning",
                    text="Disk vda: 34.0 GiB of logs wait, 1 % of its 2.0 TiB; the limit is 50 %.",
                ),
            ),
        ),
        Vm("wiki", (20 * GIB,), lag=9),
    ),
    "kvm-berlin-2": (
        Vm("web-1", (40 * GIB,), lag=17),
        Vm("web-2", (40 * GIB,), lag=19),
        Vm(
            "build",
            (160 * GIB,),
            state="resynchronizing",
            level="Warning",
            lag=5400,
            scans=(("its change tracking was lost: QEMU was started again", 96 * GIB),),
            reasons=(
                Reason(
                    level="Warning",
                    text="Disk vda must be compared with its replica: its change tracking was lost. "
                    "Resynchronization runs (60 % done); there is no new point until it ends.",
                ),
            ),
        ),
        Vm(
            "ldap",
            (16 * GIB,),
            level="Critical",
            lag=7900,
            queued=3 * GIB,
            error=f"{STORE}: {_NFS}",
            reasons=(
                Reason(
                    level="Critical",
                    text=f"{_NFS}. It failed 9 times in a row; the next try is at 15:31:04.",
                ),
                Reason(
                    level="Warning",
                    text="The replica was last sent changes 2 h 11 min ago; the limit is 1 h.",
                ),
            ),
        ),
        Vm("proxy", (10 * GIB,), state="paused", level="Warning", lag=3100),
    ),
    "kvm-munich-1": (Vm("jump", (10 * GIB,), lag=15), Vm("backup-idx", (60 * GIB,), lag=25)),
}
_UNPROTECTED: Final = {"kvm-berlin-1": ("sandbox",), "kvm-berlin-2": ("ci-runner",), "kvm-munich-1": ()}


def full(path: Path) -> Scene:
    """After a day. Its clock runs from then on."""
    scene = empty(path)
    vault, clock = scene.vault, scene.clock
    start = datetime.now(UTC) - timedelta(hours=24)
    clock.at = start
    client = TestClient(scene.app)
    for site in ("Berlin", "Munich"):
        hosts.new_site(vault, ROOT, site)
    catalogue.new_store(vault, ROOT, "S3 Frankfurt", STORE)
    catalogue.new_store(vault, ROOT, "NAS cellar", "/srv/replicas")
    catalogue.new_policy(vault, ROOT, "Gold", {"frequency": 5, "application_consistent_hours": 1}, 30)
    catalogue.new_policy(vault, ROOT, "Silver", {"frequency": 30, "retention_hours": 72}, 90)
    for name in HOSTS:
        scene.agents[name] = Agent(client, vault, name, "Munich" if "munich" in name else "Berlin")
    _begin_protection(scene)
    times = [start + timedelta(minutes=100 * step) for step in range(1, 15)]
    times += [start + timedelta(hours=24) - timedelta(minutes=left) for left in (5, 4, 3, 2, 1, 0)]
    for number, at in enumerate(times):
        clock.at = at
        for name, agent in scene.agents.items():
            if name == "kvm-munich-1" and at > times[-1] - timedelta(minutes=6):
                continue
            agent.beat(**_report(name, at, number, times[-1]))
    ticks.tick(vault)
    _failed_job(scene)
    clock.at = None
    _running_job(scene)
    return scene


def standing(vm: Vm, at: datetime, number: int, *, newest: float) -> Standing:
    """newest: seconds that its newest point is old."""
    wave = 1 + math.sin(number / 7 + len(vm.name)) * 0.6
    churn = {f"vd{'ab'[i]}": int((number % 35) * 60 * MIB * wave) for i in range(len(vm.sizes))}
    return Standing(
        id=f"rel-{vm.name}",
        machine=vm.name,
        store=STORE,
        replica=vm.name,
        replica_id=f"replica-{vm.name}",
        state=vm.state,
        policy=Policy(frequency=vm.frequency),
        before_pause="protected" if vm.state == "paused" else "",
        level=vm.level,
        reasons=vm.reasons,
        rpo=newest,
        newest_at=(at - timedelta(seconds=newest)).isoformat(),
        queued=vm.queued and 40,
        queued_bytes=int(vm.queued * (0.8 + number / 400)),
        error=vm.error,
        encrypted=vm.name == "erp-db",
        excluded=("swap",) if vm.name == "mail" else (),
        disks=tuple(
            DiskStanding(
                id=f"vd{'ab'[i]}",
                size=size,
                scan=vm.scans[i][0] if i < len(vm.scans) else "",
                scanned=vm.scans[i][1] if i < len(vm.scans) else 0,
            )
            for i, size in enumerate(vm.sizes)
        ),
        interval=Interval(
            since=at.isoformat(),
            points=120,
            missed=2,
            stored_average=14 * MIB,
            latency_average=2.4 * wave,
            latency_largest=9.1,
            churn=churn,
        ),
    )


def _begin_protection(scene: Scene) -> None:
    """By jobs, so that relationships have policies."""
    for name, vms in HOSTS.items():
        agent = scene.agents[name]
        agent.beat(machines=seen(name))
        for vm in vms:
            job = machines.begin(
                scene.vault,
                access.console("olga"),
                machine_id(scene, vm.name),
                "enable-protection",
                {
                    "policy": "Gold" if vm.frequency == 5 else "Silver",
                    "store": "S3 Frankfurt",
                    "replica": vm.name,
                },
            )
            order = agent.beat(room=1).orders[0]
            assert order.job == job.id
            agent.beat(
                room=0,
                work=(
                    WorkReport(
                        job=job.id, lease=order.lease, state=WorkState.SUCCEEDED, tasks=tasks(scene, 4)
                    ),
                ),
            )


def _report(name: str, at: datetime, number: int, end: datetime) -> dict[str, object]:
    last = at == end
    vms = HOSTS[name]
    calm = [vm if at > end - timedelta(minutes=70) else _calm(vm) for vm in vms]
    found = tuple(
        standing(vm, at, number, newest=vm.lag if last else min(vm.lag, 15 + (number * 7) % 20))
        for vm in calm
    )
    points = tuple(
        PointMade(
            relationship=f"rel-{vm.name}",
            seq=number + 2,
            at=(at - timedelta(seconds=min(vm.lag, 20))).isoformat(),
            consistency="application-consistent" if number % 9 == 0 else "crash-consistent",
            stored=int((8 + (number * 5) % 17) * MIB),
        )
        for vm in calm
        if vm.state == "protected" and not vm.error
    )
    runs: tuple[RunStanding, ...] = ()
    if name == "kvm-berlin-2" and last:
        runs = (
            RunStanding(
                run="/var/lib/standby/runs/wiki-test",
                kind="test",
                machine="wiki",
                store=STORE,
                replica="wiki",
                point=number,
                phase="running",
                machine_state="running",
                disks=("vda",),
                first_instruction=1.8,
            ),
        )
    return {"machines": seen(name), "relationships": found, "points": points, "runs": runs}


def _calm(vm: Vm) -> Vm:
    return Vm(vm.name, vm.sizes, frequency=vm.frequency, lag=min(vm.lag, 25))


def seen(name: str) -> tuple[Seen, ...]:
    connection = Connection(qmp="/run/qemu/vm.qmp")
    found = [
        Seen(
            name=vm.name,
            uuid=f"uuid-{vm.name}",
            connection=connection,
            disks=tuple(
                SeenDisk(id=f"vd{'ab'[i]}", size=size, format="qcow2") for i, size in enumerate(vm.sizes)
            ),
        )
        for vm in HOSTS[name]
    ]
    found += [
        Seen(
            name=one,
            uuid=f"uuid-{one}",
            connection=connection,
            disks=(SeenDisk(id="vda", size=30 * GIB, format="qcow2"), SeenDisk(id="swap", size=4 * GIB)),
        )
        for one in _UNPROTECTED[name]
    ]
    if name == "kvm-berlin-2":
        found.append(
            Seen(
                name="legacy-nt",
                uuid="uuid-legacy",
                running=False,
                problem="its disk hda has an internal snapshot; see that it is one chain of qcow2 images",
            )
        )
    return tuple(found)


def tasks(scene: Scene, done: int, share: float | None = None) -> tuple[TaskReport, ...]:
    names = (
        "Prerequisites check for enabling protection",
        "Identifying replication target",
        "Enable replication",
        "Starting initial replication",
    )
    now = scene.vault.clock.now()
    found = []
    for number, name in enumerate(names):
        state = TaskState.SUCCEEDED if number < done else TaskState.PENDING
        if number == done and share is not None:
            state = TaskState.IN_PROGRESS
        found.append(
            TaskReport(
                name=name,
                state=state,
                began=now.isoformat() if state is not TaskState.PENDING else "",
                ended=now.isoformat() if state is TaskState.SUCCEEDED else "",
                progress=share if state is TaskState.IN_PROGRESS else None,
            )
        )
    return tuple(found)


def _ordered(agent: Agent, job: str) -> Order:
    """The order of this job; others that came with it (retention, scrubs) are done at once."""
    orders = agent.beat(room=100).orders
    done = [
        WorkReport(job=one.job, lease=one.lease, state=WorkState.SUCCEEDED)
        for one in orders
        if one.job != job
    ]
    agent.beat(room=0, work=tuple(done))
    return next(one for one in orders if one.job == job)


def _failed_job(scene: Scene) -> None:
    agent = scene.agents["kvm-berlin-2"]
    job = machines.begin(
        scene.vault,
        access.console("olga"),
        machine_id(scene, "web-2"),
        "test-failover",
        {"host": scene.agents["kvm-berlin-2"].host},
    )
    order = _ordered(agent, job.id)
    error = Refused(
        kind="NeedsPerson",
        subject="web-2",
        cause="its guest agent did not answer within 300 s",
        tried="starting it from point 80 in isolation; its screen shows a boot menu",
        hint="look at the console of the test machine, then clean up and try an older point",
    )
    agent.beat(room=0, work=(WorkReport(job=job.id, lease=order.lease, state=WorkState.FAILED, error=error),))
    ticks.tick(scene.vault)


def _running_job(scene: Scene) -> None:
    agent = scene.agents["kvm-berlin-1"]
    job = machines.begin(
        scene.vault,
        access.console("olga"),
        machine_id(scene, "sandbox"),
        "enable-protection",
        {"policy": "Silver", "store": "S3 Frankfurt"},
    )
    order = _ordered(agent, job.id)
    work = WorkReport(job=job.id, lease=order.lease, state=WorkState.IN_PROGRESS, tasks=tasks(scene, 2, 0.35))
    agent.beat(room=0, work=(work,))


def machine_id(scene: Scene, name: str) -> str:
    return next(
        row.machine.id for row in machines.listed(scene.vault, search=name).rows if row.machine.name == name
    )
