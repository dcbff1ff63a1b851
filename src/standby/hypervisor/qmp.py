"""A synchronous QMP client: commands, transactions and events of one QEMU or qemu-storage-daemon.

The protocol itself is `qemu.qmp` (asyncio); its event loop runs in one thread of ours for the whole process.
Nothing reconnects by itself: a connection that was lost says so in every later call, since whoever was in the
middle of something must look at the machine again before going on.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import socket
import struct
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any, TypeVar

from qemu.qmp import (
    ConnectError,
    EventListener,
    ExecuteError,
    QMPClient,
    QMPError,
    Runstate,
)
from qemu.qmp.message import Message
from qemu.qmp.qmp_client import NegotiationError

from standby.hypervisor.base import MachineUnreachable
from standby.hypervisor.monitor import Event, Monitor, QmpError

_T = TypeVar("_T")

GREETING_LIMIT = 5.0
"""Seconds in which a free QMP socket surely greets; one that another client holds stays silent."""

NEGOTIATIONS = 20
"""Handshakes that may be spoilt by an event, one behind the other."""

COMMAND_LIMIT = 30.0
"""Seconds for one command. A transaction drains the disks first, so slow storage of the guest counts."""

# The library logs what it also raises; without a handler Python would print it to stderr.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())


class ControlSocketBusy(MachineUnreachable):
    """The socket takes connections but does not greet: another client holds it, or QEMU is stuck."""


class _LoopThread:
    """The process's one event loop for control sockets, started when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def get(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="standby-qmp", daemon=True).start()
            return self._loop


_loop_thread = _LoopThread()
_open: weakref.WeakSet[Qmp] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """At the process's end the loop stops wherever it is; connections are let go of properly before."""
    for qmp in list(_open):
        qmp.close()


class _Dispatch(EventListener):
    """Hands each event on at once; the library's own listener would keep every event for ever."""

    def __init__(self, deliver: Callable[[Event], None]) -> None:
        super().__init__()
        self._deliver = deliver

    async def put(self, event: Message) -> None:
        self._deliver(dict(event))


class Qmp(Monitor):
    """A `Monitor` by a QMP socket."""

    def __init__(self, machine: str, path: Path, *, greeting_limit: float = GREETING_LIMIT) -> None:
        """Connect and negotiate. Raises MachineUnreachable; ControlSocketBusy if nobody greets in time."""
        super().__init__(machine)
        self.path = path
        self.command_limit = COMMAND_LIMIT
        self._loop = _loop_thread.get()
        for _ in range(NEGOTIATIONS):
            stream = self._open_socket(greeting_limit)
            self.process_id = _peer(stream)
            client = self._call(self._connect(stream, greeting_limit))
            if client:
                break
        else:
            raise MachineUnreachable(
                f"its control socket {path} sends events faster than it can be connected to",
                subject=machine,
                tried=f"connecting {NEGOTIATIONS} times",
                hint="see what its disks suffer from; it is tried again at the next cycle",
            )
        self._client: QMPClient = client
        self.version = self._version()
        _open.add(self)

    def command(self, name: str, /, **arguments: Any) -> Any:
        options = {key.replace("_", "-"): value for key, value in arguments.items()}
        if self._cause:
            raise self.lost(name)
        future = asyncio.run_coroutine_threadsafe(self._client.execute(name, options or None), self._loop)
        try:
            return future.result(self.command_limit)
        except ExecuteError as error:
            raise QmpError(name, error.error_class, str(error), subject=self.machine) from error
        except FutureTimeout as error:
            future.cancel()
            self._cause = f"no answer to {name} within {self.command_limit:g} s"
            self.close()
            raise self.lost(name) from error
        except (QMPError, CancelledError) as error:
            self._cause = self._cause or str(error) or "the connection was closed"
            raise self.lost(name) from error

    def lost(self, doing: str) -> MachineUnreachable:
        return MachineUnreachable(
            f"the control socket {self.path} went away ({self._cause})",
            subject=self.machine,
            tried=f"{doing}; whether it took effect is unknown",
            hint="see whether the machine runs; replication connects again and recovers by itself",
        )

    def close(self) -> None:
        self._cause = self._cause or "closed by us"
        _open.discard(self)
        self._loop.call_soon_threadsafe(self._closing.set)
        # A peer that takes no more bytes must not hold the caller up.
        with contextlib.suppress(FutureTimeout):
            self._watcher.result(GREETING_LIMIT)

    def _open_socket(self, limit: float) -> socket.socket:
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.settimeout(limit)
        try:
            stream.connect(str(self.path))
        except OSError as error:
            stream.close()
            raise MachineUnreachable(
                f"cannot connect to its control socket {self.path}: {error.strerror or error}",
                subject=self.machine,
                tried="connecting; nothing was changed, and it is tried again at the next cycle",
                hint="see whether the machine runs with `-qmp unix:PATH,server=on,wait=off` at this path",
            ) from error
        stream.setblocking(False)
        return stream

    @property
    def working_directory(self) -> Path | None:
        try:
            return Path(f"/proc/{self.process_id}/cwd").readlink()
        except OSError:
            return None

    async def _connect(self, stream: socket.socket, limit: float) -> QMPClient | None:
        """None if an event came before the answer to the handshake: QEMU sends them from other threads, and
        the library takes it for a broken peer."""
        client = QMPClient(self.machine)
        client.events.event_filter = lambda _: False
        client.register_listener(_Dispatch(self._deliver))
        try:
            await asyncio.wait_for(client.connect(stream), limit)
        except TimeoutError as error:
            stream.close()
            raise ControlSocketBusy(
                f"its control socket {self.path} did not greet within {limit:g} s",
                subject=self.machine,
                tried="connecting; a QMP socket serves one client at a time",
                hint="close the other client (`ss -xp` lists it), or give the machine another -qmp socket",
            ) from error
        except ConnectError as error:
            stream.close()
            if isinstance(error.exc, NegotiationError) and isinstance(error.exc.__cause__, AssertionError):
                return None
            raise MachineUnreachable(
                f"no QMP at its control socket {self.path}: {error}",
                subject=self.machine,
                hint="see whether the path is the machine's QMP socket and not its monitor, console or agent",
            ) from error
        self._closing = asyncio.Event()
        self._watcher = asyncio.run_coroutine_threadsafe(self._watch(client), self._loop)
        return client

    async def _watch(self, client: QMPClient) -> None:
        """Sees the connection's end, whoever ends it, and is the only one to tidy up behind it."""
        closing = asyncio.ensure_future(self._closing.wait())
        while client.runstate is Runstate.RUNNING and not closing.done():
            changed = asyncio.ensure_future(client.runstate_changed())
            await asyncio.wait({changed, closing}, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
        closing.cancel()
        try:
            await client.disconnect()
        except (OSError, EOFError, QMPError) as error:
            self._cause = self._cause or str(error) or "QEMU closed the connection"
        self._end("QEMU closed the connection")

    def _call(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _version(self) -> tuple[int, int, int]:
        greeting = self._client.greeting
        numbers: Mapping[str, int] = dict(greeting.QMP.version["qemu"]) if greeting else {}  # type: ignore[call-overload]
        return numbers.get("major", 0), numbers.get("minor", 0), numbers.get("micro", 0)


def _peer(stream: socket.socket) -> int:
    """The process that listens at the other end (SO_PEERCRED: pid, uid, gid)."""
    layout = struct.Struct("3i")
    credentials = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, layout.size)
    return int(layout.unpack(credentials)[0])
