"""A real PostgreSQL in a directory of its own, reached over a Unix socket."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg


class Postgres:
    """A running server. `database` makes a new, empty one and gives its URL."""

    def __init__(self) -> None:
        # Short, and not below pytest's directories: a socket's path has 107 bytes, and the server runs as another user.
        self.folder = Path(tempfile.mkdtemp(prefix="sb-pg-", dir="/tmp"))
        self.folder.chmod(0o755)
        self._data = self.folder / "data"
        self._data.mkdir()
        self._as: dict[str, object] = {}
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root.
            for path in (self.folder, self._data):
                shutil.chown(path, "postgres", "postgres")
            self._as = {"user": "postgres", "group": "postgres", "extra_groups": []}
        self._run(
            "initdb",
            "-D",
            self._data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
        )
        options = f"-k {self.folder} -c listen_addresses='' -c fsync=off -c max_connections=200"
        self._run("pg_ctl", "-D", self._data, "-w", "-l", self.folder / "log", "-o", options, "start")
        self._count = 0

    def database(self) -> str:
        self._count += 1
        name = f"vault{self._count}"
        with psycopg.connect(host=str(self.folder), user="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
        return f"postgresql://postgres@/{name}?host={self.folder}"

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self._data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(self.folder)

    def _run(self, program: str, *arguments: object) -> None:
        command = [_binary(program), *map(str, arguments)]
        # The server keeps the pipes of whoever starts it, so it gets none.
        done = subprocess.run(
            command,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **self._as,
        )
        if done.returncode:
            log = self.folder / "log"
            raise RuntimeError(
                f"{program} ended with {done.returncode}: {log.read_text() if log.exists() else ''}"
            )


def _binary(program: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    if not found:
        raise RuntimeError(f"no {program}: Debian's package postgresql is missing (scripts/setup)")
    return str(found[-1])
