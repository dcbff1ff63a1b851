"""Probes: what is asked of a started guest's services, from outside and from within.

An isolated machine is reached through a port that its host opens for the probe alone, to the first address that
the machine's own DHCP gave out; a guest with a static address is not reached so, and the probe then fails.
"""

from __future__ import annotations

import http.client
import os
import shlex
import socket
import subprocess
import time
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol, runtime_checkable

from standby.errors import InvalidRequest, StandbyError
from standby.hypervisor.host import RunningMachine
from standby.replica.proofs import Check

LIMIT: Final = 60.0
"""Seconds in which a probe must pass: services come up after the agent does."""

_AGAIN: Final = 0.5
_OUTPUT: Final = 300


@runtime_checkable
class Reachable(Protocol):
    """A machine whose host can open a way to a port of its guest."""

    def forward(self, port: int) -> int:
        """A port of 127.0.0.1 that leads to TCP `port` of the guest."""
        ...

    def connected(self, way: int) -> bool:
        """Whether the guest took a connection that came by `way`, a port that `forward` gave."""
        ...


class Probe(NamedTuple):
    """target: a port, with a path behind it for http; the script's path; the command within the guest."""

    kind: Literal["tcp", "http", "script", "guest"]
    target: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.target}"


class Subject(NamedTuple):
    """What a script is told, in its environment."""

    machine: str
    replica: str
    point: int


def parse(text: str) -> Probe:
    """`tcp:22`, `http:80/health`, `script:/path/to/it`, `guest:COMMAND`. Raises InvalidRequest."""
    kind, _, target = text.partition(":")
    port = target.partition("/")[0]
    if kind in ("tcp", "http") and port.isdecimal() and 0 < int(port) < 65536:
        if kind == "http":
            return Probe("http", target)
        if port == target:
            return Probe("tcp", target)
    elif kind == "script" and os.access(target, os.X_OK) and Path(target).is_file():
        return Probe("script", str(Path(target).absolute()))
    elif kind == "guest" and _words(target):
        return Probe("guest", target)
    raise InvalidRequest(
        "this is no probe",
        subject=repr(text),
        hint="give tcp:PORT, http:PORT/PATH, script:FILE (one that can be executed) or guest:COMMAND",
    )


def run(probe: Probe, machine: RunningMachine, subject: Subject, limit: float = LIMIT) -> Check:
    """Try until it passes, or `limit` seconds are over; a script and a command in the guest are run once."""
    try:
        match probe.kind:
            case "script":
                return _script(probe, machine, subject, limit)
            case "guest":
                return _guest(probe, machine, limit)
            case _:
                return _network(probe, machine, limit)
    except StandbyError as error:
        return Check(name=str(probe), passed=False, text=error.cause)


def tcp(port: int, machine: Reachable, limit: float) -> str:
    """Connect to the guest's port by the forwarded one; "" if the guest took the connection, else why not."""
    with socket.create_connection(("127.0.0.1", port), limit) as connection:
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            # The forwarder takes every connection itself: only what it says of the guest's side counts.
            if machine.connected(port):
                return ""
            connection.settimeout(_AGAIN)
            try:
                if not connection.recv(1):
                    return "the guest refused the connection"
                return ""
            except TimeoutError:
                continue
    return "no answer"


def http_get(port: int, path: str, limit: float) -> str:
    """ "" for an answer that is no server error (below 500); else what there was instead."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=limit)
    try:
        connection.request("GET", f"/{path}")
        status = connection.getresponse().status
    finally:
        connection.close()
    return "" if status < 500 else f"status {status}"


def _network(probe: Probe, machine: RunningMachine, limit: float) -> Check:
    if not isinstance(machine, Reachable):
        return Check(name=str(probe), passed=None, text="this host opens no way into an isolated machine")
    if not machine.description.nics:
        return Check(name=str(probe), passed=False, text="the machine has no network card")
    port, _, path = probe.target.partition("/")
    way = machine.forward(int(port))
    deadline = time.monotonic() + limit
    while True:
        left = max(deadline - time.monotonic(), _AGAIN)
        try:
            wrong = http_get(way, path, left) if probe.kind == "http" else tcp(way, machine, left)
        except (OSError, http.client.HTTPException) as error:
            wrong = str(error) or type(error).__name__
        if not wrong:
            return Check(name=str(probe), passed=True, text="answered")
        if time.monotonic() >= deadline:
            return Check(name=str(probe), passed=False, text=f"{wrong} within {limit:g} s")
        time.sleep(min(_AGAIN, max(deadline - time.monotonic(), 0)))


def _script(probe: Probe, machine: RunningMachine, subject: Subject, limit: float) -> Check:
    environment = {
        **os.environ,
        "STANDBY_MACHINE": subject.machine,
        "STANDBY_REPLICA": subject.replica,
        "STANDBY_POINT": str(subject.point),
        "STANDBY_AGENT": str(machine.agent),
        "STANDBY_CONSOLE": str(machine.console),
    }
    try:
        done = subprocess.run(
            [probe.target],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Check(name=str(probe), passed=False, text=f"it did not end within {limit:g} s")
    except OSError as error:
        return Check(name=str(probe), passed=None, text=f"it could not be run: {error.strerror}")
    return _ended(probe, done.returncode, done.stdout, done.stderr)


def _guest(probe: Probe, machine: RunningMachine, limit: float) -> Check:
    done = machine.execute(_words(probe.target), limit)
    return _ended(probe, done.status, done.output, done.errors)


def _ended(probe: Probe, status: int, output: bytes, errors: bytes) -> Check:
    said = (errors if status else output).decode(errors="replace").strip()[-_OUTPUT:]
    return Check(name=str(probe), passed=status == 0, text=f"status {status}" + (f": {said}" if said else ""))


def _words(command: str) -> list[str]:
    """Its words, as a shell would have them; none if it is none."""
    try:
        return shlex.split(command)
    except ValueError:
        return []
