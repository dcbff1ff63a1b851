"""The vault's database: SQLite beside the vault, or one PostgreSQL for several vault processes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import alembic.command
import alembic.config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError as BadUrl
from sqlalchemy.exc import DataError, DBAPIError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from standby.errors import InvalidRequest, NeedsPerson, Recoverable

MIGRATIONS: Final = Path(__file__).parent / "migrations"
_LOCK: Final = 0x5741_4C54
"""Of PostgreSQL's advisory locks: one process migrates at a time."""


class DatabaseAway(Recoverable):
    """The vault's database does not answer, or gave up a transaction."""


class DatabaseNewer(NeedsPerson):
    """The database was written by a newer version of standby."""


class Database:
    """Thread-safe. Sessions are short: nothing waits for the network while one is open."""

    def __init__(self, url: str, *, pool: int = 10) -> None:
        """url: as SQLAlchemy has it (`sqlite:///PATH`, `postgresql+psycopg://…`). Raises InvalidRequest."""
        try:
            parsed = make_url(url)
        except BadUrl as error:
            raise InvalidRequest(
                "this is no database URL",
                subject=url.partition("@")[2] or url,
                hint="give sqlite:////var/lib/standby/vault.sqlite or postgresql://USER@HOST/NAME",
            ) from error
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.shown: Final = parsed.render_as_string(hide_password=True)
        self.lite: Final = parsed.drivername.startswith("sqlite")
        if self.lite:
            self.engine = create_engine(parsed, connect_args={"timeout": 30}, pool_size=pool)
            event.listen(self.engine, "connect", _begin_is_ours)
            event.listen(self.engine, "begin", _begin)
        else:
            self.engine = create_engine(parsed, pool_size=pool, max_overflow=5, pool_pre_ping=True)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """One transaction; committed unless it is left by an exception. Raises DatabaseAway, InvalidRequest."""
        try:
            with self._sessions.begin() as session:
                yield session
        except OperationalError as error:
            raise DatabaseAway(
                f"the database did not carry out a transaction: {_words(error)}",
                subject=self.shown,
                tried="once; nothing of it was changed",
                hint="see whether the database runs and has room, then try again",
            ) from error
        except (DataError, OverflowError) as error:
            # Of PostgreSQL: a NUL character in a text. Of either: a number beyond 64 bits.
            cause = _words(error) if isinstance(error, DataError) else str(error)
            raise InvalidRequest(
                f"a value of the request cannot be kept: {cause}",
                subject="request",
                tried="nothing of it was changed",
                hint="leave out NUL characters and numbers that no 64 bits hold",
            ) from error

    def migrate(self) -> None:
        """Bring its tables to this version's. Raises DatabaseAway, DatabaseNewer."""
        config = alembic.config.Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        known = {one.revision for one in ScriptDirectory.from_config(config).walk_revisions()}
        try:
            with self.engine.begin() as connection:
                if not self.lite:
                    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
                current = MigrationContext.configure(connection).get_current_revision()
                if current is not None and current not in known:
                    raise DatabaseNewer(
                        f"its tables are of version {current}, which this standby does not know",
                        subject=self.shown,
                        hint="run the standby that wrote it, or a newer one",
                    )
                config.attributes["connection"] = connection
                alembic.command.upgrade(config, "head")
        except OperationalError as error:
            raise DatabaseAway(
                f"the database cannot be used: {_words(error)}",
                subject=self.shown,
                hint="see that it runs, that the URL is right and that its user may create tables",
            ) from error

    def close(self) -> None:
        self.engine.dispose()


def _words(error: DBAPIError) -> str:
    return " ".join(str(error.orig).split())


def _begin_is_ours(connection: Any, _record: Any) -> None:
    # The driver's own transactions begin late, and lose updates (facts-libraries.md: 100 of 400 survived).
    assert isinstance(connection, sqlite3.Connection)
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
