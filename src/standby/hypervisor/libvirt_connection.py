"""Connections to libvirt: one for each address, with libvirt's event loop in one thread of ours.

The binding is Debian's python3-libvirt, built for the system Python as libnbd's is; it is loaded when the first
connection is made, so that a host without libvirt does not need it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlsplit

from standby.errors import InvalidRequest, NeedsPerson
from standby.hypervisor.base import MachineNotFound, MachineUnreachable

log = logging.getLogger(__name__)

KEEPALIVE: Final = (5, 4)
"""Seconds between two probes of a libvirtd, and how many may stay without an answer."""

_lock = threading.Lock()
_bound: list[Any] = []
_open: dict[str, Libvirt] = {}


def binding() -> Any:
    """The module `libvirt`, with its event loop running. Raises NeedsPerson where it is not installed."""
    with _lock:
        if not _bound:
            try:
                libvirt = importlib.import_module("libvirt")
            except ImportError as error:
                raise NeedsPerson(
                    "libvirt's Python binding is not there",
                    subject="this host",
                    tried=f"loading it: {error}",
                    hint="install python3-libvirt, then run scripts/setup again",
                ) from error
            # It would print every error that we also raise.
            libvirt.registerErrorHandler(lambda *_: None, None)
            libvirt.virEventRegisterDefaultImpl()
            threading.Thread(target=_dispatch, args=(libvirt,), name="standby-libvirt", daemon=True).start()
            _bound.append(libvirt)
        return _bound[0]


def _dispatch(libvirt: Any) -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


class Event(StrEnum):
    """What happened to a machine of the host."""

    DEFINED = "defined"
    UNDEFINED = "undefined"
    STARTED = "started"
    STOPPED = "stopped"
    MOVED = "moved"
    """Here or away, by live migration."""
    DEVICE_ADDED = "device added"
    DEVICE_REMOVED = "device removed"


class Libvirt:
    """One connection. Thread-safe; once lost it stays lost, and `connect` makes another one."""

    def __init__(self, uri: str) -> None:
        """Raises MachineUnreachable, NeedsPerson."""
        self.module = binding()
        self.uri = uri
        self._listeners: weakref.WeakSet[Listener] = weakref.WeakSet()
        self._listening = threading.Lock()
        self._watchers: list[Callable[[str, Event], None]] = []
        self._subscribed = False
        self.alive = True
        try:
            self.raw = self.module.open(uri)
            self.raw.registerCloseCallback(lambda *_: self._lost(), None)
            with contextlib.suppress(self.module.libvirtError):  # the driver `test` has none, nor needs any
                self.raw.setKeepAlive(*KEEPALIVE)
        except self.module.libvirtError as error:
            raise unreachable(uri, "connecting to libvirt", error) from error

    def domain(self, machine: str) -> Any:
        """The domain of this name or UUID. Raises MachineNotFound, MachineUnreachable."""
        for find in (self.raw.lookupByName, self.raw.lookupByUUIDString):
            try:
                return find(machine)
            except self.module.libvirtError as error:
                if error.get_error_code() not in (
                    self.module.VIR_ERR_NO_DOMAIN,
                    self.module.VIR_ERR_INVALID_ARG,
                ):
                    raise unreachable(machine, f"looking it up at {self.uri}", error) from error
        raise MachineNotFound(
            "libvirt has no such domain",
            subject=machine,
            tried=f"looking it up by name and by UUID at {self.uri}",
            hint=f"`virsh -c {self.uri} list --all` lists those there are",
        )

    def listen(self, listener: Listener) -> None:
        """Tell it what happens, for as long as somebody else refers to it. Raises MachineUnreachable."""
        with self._listening:
            self._subscribe()
            self._listeners.add(listener)

    def unlisten(self, listener: Listener) -> None:
        with self._listening:
            self._listeners.discard(listener)

    def watch(self, told: Callable[[str, Event], None]) -> None:
        """Call it, from another thread, with a machine's name and what happened. Raises MachineUnreachable."""
        with self._listening:
            self._subscribe()
            self._watchers.append(told)

    def unwatch(self, told: Callable[[str, Event], None]) -> None:
        with self._listening:
            self._watchers.remove(told)

    def _subscribe(self) -> None:
        """For all domains at once: the binding takes one subscription of a kind from a connection, no second."""
        if self._subscribed:
            return
        module, qemu = self.module, importlib.import_module("libvirt_qemu")
        try:
            qemu.qemuMonitorEventRegister(self.raw, None, None, self._event, None, 0)
            for kind, callback in (
                (module.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._life),
                (module.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, self._added),
                (module.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, self._removed),
            ):
                self.raw.domainEventRegisterAny(None, kind, callback, None)
        except module.libvirtError as error:
            raise unreachable(self.uri, "subscribing to its events", error) from error
        self._subscribed = True

    def _tell(self, domain: Any, event: Event) -> None:
        with self._listening:
            watchers = list(self._watchers)
        for told in watchers:
            told(domain.name(), event)

    def _of(self, uuid: str) -> list[Listener]:
        with self._listening:
            return [listener for listener in self._listeners if listener.uuid == uuid]

    def _event(
        self, _conn: Any, domain: Any, event: str, _seconds: int, _micros: int, details: str | None, _: Any
    ) -> None:
        for listener in self._of(domain.UUIDString()):
            listener.qemu_event(event, json.loads(details or "{}"))

    def _life(self, _conn: Any, domain: Any, event: int, detail: int, _: Any) -> None:
        module = self.module
        # The halves of a migration are a start here, or an end there, with a reason of its own.
        moves = {
            (module.VIR_DOMAIN_EVENT_STARTED, module.VIR_DOMAIN_EVENT_STARTED_MIGRATED),
            (module.VIR_DOMAIN_EVENT_STOPPED, module.VIR_DOMAIN_EVENT_STOPPED_MIGRATED),
            (module.VIR_DOMAIN_EVENT_RESUMED, module.VIR_DOMAIN_EVENT_RESUMED_MIGRATED),
        }
        kinds = {
            module.VIR_DOMAIN_EVENT_DEFINED: Event.DEFINED,
            module.VIR_DOMAIN_EVENT_UNDEFINED: Event.UNDEFINED,
            module.VIR_DOMAIN_EVENT_STARTED: Event.STARTED,
            module.VIR_DOMAIN_EVENT_STOPPED: Event.STOPPED,
        }
        if event == module.VIR_DOMAIN_EVENT_STOPPED:
            for listener in self._of(domain.UUIDString()):
                listener.ended("the machine was stopped, or moved to another host")
        if (event, detail) in moves:
            self._tell(domain, Event.MOVED)
        elif event in kinds:
            self._tell(domain, kinds[event])

    def _added(self, _conn: Any, domain: Any, _alias: str, _: Any) -> None:
        self._tell(domain, Event.DEVICE_ADDED)

    def _removed(self, _conn: Any, domain: Any, _alias: str, _: Any) -> None:
        self._tell(domain, Event.DEVICE_REMOVED)

    def _lost(self) -> None:
        self.alive = False
        log.warning("the connection to libvirt at %s is lost", self.uri)
        with self._listening:
            listeners = list(self._listeners)
        for listener in listeners:
            listener.ended("the connection to libvirt was lost")


class Listener(ABC):
    """Is told what happens to the domain `uuid`, from the thread of libvirt's event loop."""

    uuid: str

    @abstractmethod
    def qemu_event(self, name: str, data: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def ended(self, cause: str) -> None:
        """The domain was stopped, or is no longer reached."""


_connecting = threading.Lock()


def connect(uri: str) -> Libvirt:
    """The connection to this address: the one there is, or a new one if it was lost.

    Raises MachineUnreachable, NeedsPerson; InvalidRequest for a libvirt on another host: disks are read over a
    socket of their QEMU.
    """
    if urlsplit(uri).hostname not in (None, "localhost"):
        raise InvalidRequest(
            "that libvirt is on another host",
            subject=uri,
            tried="nothing: a machine's disks are read on the host that it runs on",
            hint="run `standby agent run` there, and give an address without a host, as qemu:///system",
        )
    with _connecting:
        found = _open.get(uri)
        if found is None or not found.alive or not found.raw.isAlive():
            found = _open[uri] = Libvirt(uri)
        return found


def unreachable(subject: str, doing: str, error: Exception) -> MachineUnreachable:
    """libvirt's error as one of ours."""
    return MachineUnreachable(
        f"libvirt says: {error}",
        subject=subject,
        tried=doing,
        hint="see whether libvirtd runs, and whether this user may use it (group libvirt); it is tried again",
    )
