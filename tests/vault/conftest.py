"""A vault on each database, with a clock that tests set and agents that tests speak for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from argon2 import PasswordHasher
from sqlalchemy import text

from standby.link.messages import Answer, Heartbeat, Registration, Seen
from standby.replication.relationship import Connection
from standby.vault import access, begin, catalogue, heartbeat, hosts
from standby.vault.core import Actor, Vault
from standby.vault.database import Database
from standby.vault.jobs import Role
from standby.vault.schema import Base
from tests.support.postgres import Postgres

BEGIN = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)


class Hand:
    """A clock that goes on when it is told to, and a little with each look: what happens later is later."""

    def __init__(self) -> None:
        self.at = BEGIN

    def now(self) -> datetime:
        self.at += timedelta(milliseconds=1)
        return self.at

    def monotonic(self) -> float:
        return (self.at - BEGIN).total_seconds()

    def forward(self, **by: float) -> None:
        self.at += timedelta(**by)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.stop()


@pytest.fixture(scope="session", autouse=True)
def quick_passwords() -> Iterator[None]:
    """Argon2 with little work: what is tested is who may log in, not how long guessing takes."""
    with pytest.MonkeyPatch.context() as patch:
        hasher = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
        patch.setattr(access, "hasher", hasher)
        patch.setattr(access, "_NOBODY", hasher.hash("nobody's"))
        yield


@pytest.fixture(scope="session")
def server_url(postgres) -> str:
    """Of one database for all tests: making and removing one for each takes longer than they do."""
    url = postgres.database()
    database = Database(url)
    database.migrate()
    database.close()
    return url


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory) -> Path:
    """An SQLite vault without anything in it, to be copied."""
    file = tmp_path_factory.mktemp("vault") / "empty.sqlite"
    database = Database(f"sqlite:///{file}")
    database.migrate()
    database.close()
    return file


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database_url(request, tmp_path) -> str:
    if request.param == "sqlite":
        file = shutil.copy(request.getfixturevalue("empty_file"), tmp_path / "vault.sqlite")
        return f"sqlite:///{file}"
    url: str = request.getfixturevalue("server_url")
    with closing(Database(url)) as database, database.engine.begin() as connection:
        tables = ", ".join(f'"{table.name}"' for table in Base.metadata.sorted_tables)
        connection.execute(text(f"TRUNCATE {tables} CASCADE"))
    return url


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def vault(database_url, clock) -> Iterator[Vault]:
    database = Database(database_url)
    yield Vault(database, clock)
    database.close()


@pytest.fixture
def administrator(vault) -> Actor:
    user = access.new_user(vault, access.console("tests"), "anna", Role.ADMINISTRATOR, "correct horse")
    return Actor(user.name, Role.ADMINISTRATOR, "portal", user.id)


class Agent:
    """Speaks for one host, as its agent would: what it says last is its whole state."""

    def __init__(self, vault: Vault, key: str, name: str, host: str = "") -> None:
        self.vault = vault
        self.registered = hosts.register(
            vault, Registration(key=key, name=name, version="1", host=host), "::1"
        )
        self.token = self.registered.token
        self.instance = f"{name}-1"
        self.machines: tuple[Seen, ...] = ()
        self.state: dict[str, object] = {"room": 4}

    def beat(self, **changes: object) -> Answer:
        """With these parts changed from now on. `work` is said once."""
        work = changes.pop("work", ())
        self.state.update(changes)
        return self.send(work=work)

    def send(self, **more: object) -> Answer:
        time = self.vault.clock.now().isoformat()
        said = {"instance": self.instance, "version": "1", "time": time, **self.state, **more}
        # Through the wire's form, as a real one's.
        beat = msgspec.json.decode(msgspec.json.encode(Heartbeat(**said)), type=Heartbeat)
        return heartbeat.take_in(self.vault, self.token, beat)


@pytest.fixture
def site(vault, administrator) -> str:
    begin.first_policies(vault)
    catalogue.new_store(vault, administrator, "cloud", "s3://replicas/berlin")
    return hosts.new_site(vault, administrator, "Berlin").id


@pytest.fixture
def key(vault, administrator, site):
    """Makes a registration key."""
    return lambda: hosts.new_key(vault, administrator, site, "https://vault", "").key


@pytest.fixture
def agent(vault, key) -> Agent:
    """Of a host with two running machines."""
    found = Agent(vault, key(), "alpha")
    found.beat(machines=(seen("web"), seen("db")))
    return found


def seen(name: str, **more: object) -> Seen:
    connection = Connection(qmp=f"/run/standby/{name}.qmp")
    return Seen(**{"name": name, "uuid": f"uuid-{name}", "connection": connection, **more})
