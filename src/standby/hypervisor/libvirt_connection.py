"""Connections to libvirt: one for each address, with libvirt's event loop in one thread of ours.

The binding is Debian's python3-libvirt, built for the system Python as libnbd's is; it is loaded when the first
connection is made, so that a host without libvirt does not need it.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
import weakref
from collections.abc import Callable
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


class Libvirt:
    """One connection. Thread-safe; once lost it stays lost, and `connect` makes another one."""

    def __init__(self, uri: str) -> None:
        """Raises MachineUnreachable, NeedsPerson."""
        self.module = binding()
        self.uri = uri
        self._told: weakref.WeakSet[LossListener] = weakref.WeakSet()
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

    def on_loss(self, listener: LossListener) -> None:
        """Have it told when the connection is lost; for as long as somebody else refers to it."""
        self._told.add(listener)

    def _lost(self) -> None:
        self.alive = False
        log.warning("the connection to libvirt at %s is lost", self.uri)
        for listener in list(self._told):
            listener.told()


class LossListener:
    """Calls `told` when its connection is lost."""

    def __init__(self, told: Callable[[], None]) -> None:
        self.told = told


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
