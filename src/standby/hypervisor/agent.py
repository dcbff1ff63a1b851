"""The QEMU guest agent: freezing and thawing the guest's file systems.

Wire format: JSON objects, one a line, without QMP's greeting. The channel may hold answers meant for an
earlier client, so a connection starts with guest-sync-delimited (QEMU's docs/interop/qemu-ga-ref), whose
answer comes behind a byte 0xFF that no JSON holds.
"""

from __future__ import annotations

import json
import secrets
import socket
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal

from standby.errors import Recoverable

SYNC_LIMIT = 5.0
"""Seconds in which a running agent surely answers; measured: 40-140 ms for a freeze, 3-13 ms for a thaw."""

_DELIMITER = b"\xff"


class GuestAgentSilent(Recoverable):
    """The guest agent does not answer in time: not installed, stopped, or the guest is busy or down."""


class GuestAgentRefused(Recoverable):
    """The guest agent answered with an error (a command it disables, a file system that cannot freeze)."""


class Agent(ABC):
    """A way to the guest agent. Used by one thread at a time."""

    @abstractmethod
    def command(self, name: str, limit: float, **arguments: Any) -> Any:
        """Execute `name` and give back what it returns. An `_` in an argument's name stands for `-`."""

    @abstractmethod
    def close(self) -> None: ...

    def ping(self, limit: float = SYNC_LIMIT) -> None:
        self.command("guest-ping", limit)

    def freeze(self, limit: float) -> int:
        """Freeze all file systems; how many. After GuestAgentSilent the freeze may still happen later."""
        return int(self.command("guest-fsfreeze-freeze", limit))

    def thaw(self, limit: float) -> int:
        """Thaw all file systems; how many were frozen. Harmless when none was."""
        return int(self.command("guest-fsfreeze-thaw", limit))

    def fsfreeze_status(self, limit: float = SYNC_LIMIT) -> Literal["frozen", "thawed"]:
        return "frozen" if self.command("guest-fsfreeze-status", limit) == "frozen" else "thawed"


class GuestAgent(Agent):
    """One connection to the agent, made and synchronized on construction."""

    def __init__(
        self, machine: str, path: Path, *, limit: float = SYNC_LIMIT, channel: socket.socket | None = None
    ) -> None:
        """channel: a connection that another process made. Raises GuestAgentSilent within `limit` seconds."""
        self._machine = machine
        self._path = path
        self._unread = b""
        deadline = time.monotonic() + limit
        self._socket = channel or socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(limit)
            if channel is None:
                self._socket.connect(str(path))
            self._synchronize(deadline)
        except OSError as error:
            self.close()
            raise self._silent(f"cannot reach it: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """The connection's descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def command(self, name: str, limit: float, **arguments: Any) -> Any:
        deadline = time.monotonic() + limit
        options = {key.replace("_", "-"): value for key, value in arguments.items()}
        try:
            self._send(json.dumps({"execute": name, "arguments": options}).encode(), deadline)
            answer = json.loads(self._read_until(b"\n", deadline))
        except OSError as error:
            raise self._silent(f"lost it during {name}: {error.strerror or error}") from error
        except ValueError as error:
            raise self._silent(f"its answer to {name} is not JSON") from error
        if "error" in answer:
            raise GuestAgentRefused(
                f"the guest agent refused {name}: {answer['error'].get('desc', 'no reason given')}",
                subject=self._machine,
                hint="in the guest: see the log of qemu-guest-agent and its list of blocked commands",
            )
        return answer.get("return")

    def _synchronize(self, deadline: float) -> None:
        token = secrets.randbits(31)
        request = json.dumps({"execute": "guest-sync-delimited", "arguments": {"id": token}}).encode()
        self._send(_DELIMITER + request, deadline)
        while True:
            self._read_until(_DELIMITER, deadline)
            answer = self._read_until(b"\n", deadline)
            try:
                if json.loads(answer).get("return") == token:
                    return
            except ValueError:
                continue  # the tail of an answer to a client before us

    def _send(self, line: bytes, deadline: float) -> None:
        self._socket.settimeout(self._left(deadline))
        self._socket.sendall(line + b"\n")

    def _read_until(self, end: bytes, deadline: float) -> bytes:
        while end not in self._unread:
            self._socket.settimeout(self._left(deadline))
            received = self._socket.recv(65536)
            if not received:
                raise self._silent("it closed the connection")
            self._unread += received
        found, _, self._unread = self._unread.partition(end)
        return found

    def _left(self, deadline: float) -> float:
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._silent("no answer in time")
        return left

    def _silent(self, cause: str) -> GuestAgentSilent:
        return GuestAgentSilent(
            f"the guest agent at {self._path} is silent: {cause}",
            subject=self._machine,
            hint="in the guest: install and start qemu-guest-agent; until then points are crash-consistent",
        )
