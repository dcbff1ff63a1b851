"""What a machine's control socket tells of whether it runs, asked before a copy of it is started."""

from __future__ import annotations

import errno
import socket
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

from standby.errors import Recoverable
from standby.hypervisor.qmp import ControlSocketBusy, Qmp

_LIMIT: Final = 5.0


class SourceState(StrEnum):
    RUNS = "runs"
    STOPPED = "stopped"
    """Its process is there, its processors are stopped: anybody may let them go on."""
    SHUT_DOWN = "shut down"
    """Its process is there, its guest has shut down."""
    GONE = "gone"
    """The socket is there and nobody listens: its process has ended."""
    UNKNOWN = "unknown"


class Asked(NamedTuple):
    state: SourceState
    said: str
    """What was found, as a sentence's predicate."""


def ask(qmp: Path) -> Asked:
    """Never raises for what it finds: not to know is an answer."""
    if _refused(qmp) == errno.ECONNREFUSED:
        return Asked(SourceState.GONE, f"its process has ended: nobody listens at {qmp}")
    try:
        control = Qmp("the source machine", qmp, greeting_limit=_LIMIT)
        try:
            status = control.command("query-status")
        finally:
            control.close()
    except ControlSocketBusy as error:
        # Somebody listens, so its process is there.
        return Asked(SourceState.STOPPED, f"has a process that does not answer: {error.cause}")
    except Recoverable as error:
        return Asked(SourceState.UNKNOWN, f"cannot be asked: {error.cause}")
    if status["running"]:
        return Asked(SourceState.RUNS, f"runs: {qmp} says so")
    if status["status"] == "shutdown":
        return Asked(SourceState.SHUT_DOWN, f"has shut down: {qmp} says so")
    return Asked(SourceState.STOPPED, f"is stopped ({status['status']}) and may be continued: {qmp} says so")


def _refused(qmp: Path) -> int:
    """The error's number with which a connection fails; 0 if it does not."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_LIMIT)
        try:
            probe.connect(str(qmp))
        except OSError as error:
            return error.errno or 0
    return 0
