"""What tracking asks of a running QEMU, however its control connection comes about.

Nothing reconnects by itself: a connection that was lost says so in every later call, since whoever was in the
middle of something must look at the machine again before going on.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from standby.errors import Recoverable
from standby.hypervisor.base import MachineUnreachable

Event = Mapping[str, Any]


class QmpError(Recoverable):
    """QEMU refused a command. `kind` is QMP's error class, `desc` its text; callers map what they expect."""

    def __init__(self, command: str, kind: str, desc: str, *, subject: str) -> None:
        self.command = command
        self.kind = kind
        self.desc = desc
        super().__init__(
            f"QEMU refused {command}: {desc}",
            subject=subject,
            hint="look at the machine's log and at what else uses its disks; then try again",
        )


class Events:
    """The events since `Monitor.listening` was entered, in order."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()

    def wait(self, wanted: Callable[[Event], bool], limit: float) -> Event | None:
        """The next event that is `wanted`, dropping others; None after `limit` seconds without.

        Raises MachineUnreachable when the connection goes away.
        """
        deadline = time.monotonic() + limit
        while True:
            try:
                event = self._queue.get(timeout=max(deadline - time.monotonic(), 0))
            except queue.Empty:
                return None
            if event is None:
                self._queue.put(None)
                raise self._monitor.lost("waiting for an event")
            if wanted(event):
                return event


class Monitor(ABC):
    """One control connection. Thread-safe. Raises MachineUnreachable in every call once it is lost.

    path: the control socket, beside which a socket of ours may be made. version: of QEMU.
    copies_bitmaps: whether somebody who takes a snapshot copies bitmaps by name into the new image (libvirt
    does), where they are empty. shares_server: whether somebody else starts QEMU's one NBD server too, so that
    ours must not run longer than it is needed.
    """

    path: Path
    version: tuple[int, int, int]
    copies_bitmaps = False
    shares_server = False

    def __init__(self, machine: str) -> None:
        self.machine = machine
        self._cause = ""
        self._listeners: list[Events] = []
        self._listeners_lock = threading.Lock()
        self._commands: frozenset[str] | None = None

    @abstractmethod
    def command(self, name: str, /, **arguments: Any) -> Any:
        """Execute `name` and give back what it returns. An `_` in an argument's name stands for `-`.

        Raises QmpError when QEMU refuses. On MachineUnreachable it is unknown whether it took effect.
        """

    @abstractmethod
    def lost(self, doing: str) -> MachineUnreachable:
        """The error that tells this connection's end."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the machine, so that another client can have it. Idempotent."""

    @property
    def working_directory(self) -> Path | None:
        """Of the QEMU process, where this host tells it."""
        return None

    @contextlib.contextmanager
    def lent(self, path: Path) -> Iterator[str]:
        """What QEMU opens a file of ours by, within: its path, where QEMU may open it by that."""
        yield str(path)

    def disk_names(self) -> Mapping[str, str]:
        """By device id, what the machine's owner calls the disk, where that differs."""
        return {}

    def transaction(self, actions: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """All actions, given as (type, data), at one instant, or none of them (QmpError)."""
        if actions:
            self.command("transaction", actions=[{"type": kind, "data": data} for kind, data in actions])

    def has(self, command: str) -> bool:
        """Whether this QEMU knows the command."""
        if self._commands is None:
            self._commands = frozenset(entry["name"] for entry in self.command("query-commands"))
        return command in self._commands

    @contextlib.contextmanager
    def listening(self) -> Iterator[Events]:
        """Collect events from here on, so that none is missed between a command and the wait for it."""
        events = Events(self)
        with self._listeners_lock:
            self._listeners.append(events)
        if self._cause:
            events._queue.put(None)
        try:
            yield events
        finally:
            with self._listeners_lock:
                self._listeners.remove(events)

    @property
    def alive(self) -> bool:
        return not self._cause

    def _deliver(self, event: Event) -> None:
        with self._listeners_lock:
            for events in self._listeners:
                events._queue.put(event)

    def _end(self, cause: str) -> None:
        """The connection is lost: say so from now on, and to those who wait."""
        self._cause = self._cause or cause
        with self._listeners_lock:
            for events in self._listeners:
                events._queue.put(None)
