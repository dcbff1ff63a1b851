"""A vault with something of everything in it, and who may ask it: users of each role, a host, outsiders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime

import msgspec
from fastapi import FastAPI

from standby.clock import SystemClock
from standby.link.messages import (
    Answer,
    DiskStanding,
    Heartbeat,
    PointMade,
    Reason,
    Registered,
    Registration,
    RunStanding,
    Seen,
    SeenDisk,
    Standing,
    WorkReport,
    WorkState,
)
from standby.link.requests import Refused
from standby.replication.policy import Policy
from standby.replication.relationship import Connection
from standby.vault import access, begin, catalogue, heartbeat, hosts, machines, ticks
from standby.vault.api.app import create_app
from standby.vault.core import Actor, Vault
from standby.vault.database import Database
from standby.vault.jobs import Role
from standby.vault.server import Address, Server

PASSWORD = "correct horse battery"
STORE = "s3://replicas/berlin"
GIB = 1 << 30


class Served:
    """users: an actor for each role. tokens: an API token for each. ids: of one thing of each kind."""

    def __init__(self, database_url: str) -> None:
        database = Database(database_url)
        database.migrate()
        self.vault = Vault(database, SystemClock())
        self.users: dict[Role, Actor] = {}
        self.tokens: dict[Role, str] = {}
        for role in Role:
            user = access.new_user(self.vault, access.console("tests"), str(role), role, PASSWORD)
            actor = self.users[role] = Actor(user.name, role, "api", user.id)
            self.tokens[role] = access.new_token(self.vault, actor, "tests", role, 1)[1]
        self.administrator = self.users[Role.ADMINISTRATOR]
        begin.first_policies(self.vault)
        catalogue.new_store(self.vault, self.administrator, "cloud", STORE)
        self.site = hosts.new_site(self.vault, self.administrator, "Berlin")
        self.host = self.register("alpha")

    def register(self, name: str) -> Registered:
        return hosts.register(self.vault, Registration(key=self.key(), name=name, version="1"), "::1")

    def key(self) -> str:
        return hosts.new_key(self.vault, self.administrator, self.site.id, "https://vault", "").key

    def beat(self, token: str, **said: object) -> Answer:
        return heartbeat.take_in(self.vault, token, beat(**said))

    def app(self) -> FastAPI:
        return create_app(self.vault, ticking=False)

    def close(self) -> None:
        self.vault.database.close()


def beat(**said: object) -> Heartbeat:
    return Heartbeat(
        **{"instance": "one", "version": "1", "time": datetime.now(UTC).isoformat(), "room": 4, **said}
    )


def seen(name: str) -> Seen:
    return Seen(
        name=name,
        uuid=f"uuid-{name}",
        connection=Connection(qmp=f"/run/{name}.qmp"),
        disks=(SeenDisk(id="vda", size=GIB, format="qcow2"),),
    )


def standing(name: str, **more: object) -> Standing:
    now = datetime.now(UTC).isoformat()
    well = {
        "id": f"rel-{name}",
        "machine": name,
        "store": STORE,
        "replica": name,
        "replica_id": f"id-{name}",
        "state": "protected",
        "policy": Policy(),
        "level": "Normal",
        "rpo": 12.0,
        "newest_at": now,
        "disks": (DiskStanding(id="vda", size=GIB),),
    }
    return Standing(**{**well, **more})


def point(name: str, seq: int, **more: object) -> PointMade:
    said = {
        "relationship": f"rel-{name}",
        "seq": seq,
        "at": datetime.now(UTC).isoformat(),
        "consistency": "crash",
        "stored": 4096,
    }
    return PointMade(**{**said, **more})


def filled(database_url: str) -> Served:
    """A machine that is well, one in trouble, one not protected; jobs that ended each way; an alert."""
    served = Served(database_url)
    token = served.host.token
    ill = standing(
        "mail",
        level="Critical",
        state="resync required",
        reasons=(Reason(level="Critical", text="A disk must be compared with its replica."),),
        error="the store is away",
    )
    told: Mapping[str, object] = {
        "machines": (seen("web"), seen("mail"), seen("db")),
        "relationships": (standing("web"), ill),
        "runs": (
            RunStanding(
                run="test-web-1",
                kind="test",
                machine="web",
                store=STORE,
                replica="web",
                point=2,
                phase="started",
            ),
        ),
    }
    served.beat(token, **told, points=tuple(point("web", seq) for seq in range(1, 6)))
    for kind, state in (("pause", WorkState.SUCCEEDED), ("resume", WorkState.FAILED)):
        machines.begin(served.vault, served.administrator, "web", kind, {})
        (order,) = served.beat(token, **told).orders
        error = None
        if state is WorkState.FAILED:
            error = Refused(
                kind="Recoverable", subject="web", cause="it is busy", tried="once", hint="try again"
            )
        served.beat(
            token, **told, work=(WorkReport(job=order.job, lease=order.lease, state=state, error=error),)
        )
    ticks.tick(served.vault)
    return served


def encoded(said: object) -> bytes:
    return msgspec.json.encode(said)


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """The application on a port of its own; its URL."""
    with closing(Server(Address("127.0.0.1", 0))) as server:
        server.start(app)
        yield f"http://127.0.0.1:{server.port}"
