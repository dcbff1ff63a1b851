"""QMP through libvirt (virDomainQemuMonitorCommand), so that machines of libvirt are tracked as any other.

libvirt stays the master of its machine: what is ours there (bitmaps, nodes, jobs, exports) is named ours and
gone after each cycle, but for the bitmaps. The domain is marked tainted (custom-monitor), which is how libvirt
tells its support that somebody talks to QEMU beside it.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from standby.hypervisor.base import MachineUnreachable
from standby.hypervisor.inventory import OURS
from standby.hypervisor.libvirt_connection import Libvirt, Listener, unreachable
from standby.hypervisor.libvirt_domain import disk_aliases
from standby.hypervisor.monitor import Monitor, QmpError

_FIRST_FDSET: Final = 731_000_000
"""Above what libvirt numbers its own file descriptor sets with (it counts up from 0)."""


class LibvirtMonitor(Monitor, Listener):
    """A `Monitor` of one run of a domain: when the domain is stopped, it is lost, and stays lost."""

    copies_bitmaps = True
    shares_server = True

    def __init__(self, machine: str, host: Libvirt) -> None:
        """Raises MachineNotFound; MachineUnreachable while the machine is off."""
        super().__init__(machine)
        self._host = host
        self._qemu = importlib.import_module("libvirt_qemu")
        self._domain = host.domain(machine)
        self.uuid = self._domain.UUIDString()
        self._run = self._domain.ID()
        if self._run == -1:
            raise MachineUnreachable(
                "it is off",
                subject=machine,
                tried="reaching its QEMU through libvirt; nothing was changed",
                hint=f"start it (`virsh -c {host.uri} start {machine}`); replication goes on by itself then",
            )
        host.listen(self)
        numbers = self.command("query-version")["qemu"]
        self.version = (numbers["major"], numbers["minor"], numbers["micro"])
        self.path = self._control_socket()

    def command(self, name: str, /, **arguments: Any) -> Any:
        return self._execute(name, arguments)

    def lost(self, doing: str) -> MachineUnreachable:
        return MachineUnreachable(
            f"its QEMU is no longer reached through libvirt ({self._cause})",
            subject=self.machine,
            tried=f"{doing}; whether it took effect is unknown",
            hint="see whether the machine and libvirtd run; replication connects again and recovers by itself",
        )

    def close(self) -> None:
        self._cause = self._cause or "closed by us"
        self._host.unlisten(self)

    @contextlib.contextmanager
    def lent(self, path: Path) -> Iterator[str]:
        """By a descriptor that is ours: QEMU runs as another user, who may not enter the directory."""
        taken = {fdset["fdset-id"] for fdset in self.command("query-fdsets")}
        number = next(one for one in itertools.count(_FIRST_FDSET) if one not in taken)
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._execute("add-fd", {"fdset_id": number, "opaque": f"{OURS}{path.name}"}, [descriptor])
        finally:
            os.close(descriptor)
        try:
            yield f"/dev/fdset/{number}"
        finally:
            # What QEMU has opened by then stays open.
            self.command("remove-fd", fdset_id=number)

    def disk_names(self) -> Mapping[str, str]:
        try:
            return disk_aliases(self._domain.XMLDesc(0))
        except self._host.module.libvirtError as error:
            raise unreachable(self.machine, "reading its definition", error) from error

    def _execute(self, name: str, arguments: Mapping[str, Any], files: list[int] | None = None) -> Any:
        if self._cause:
            raise self.lost(name)
        options = {key.replace("_", "-"): value for key, value in arguments.items()}
        text = json.dumps({"execute": name, "arguments": options})
        try:
            # The same domain may run in another process by now, which knows nothing of this connection.
            if self._host.raw.lookupByUUIDString(self.uuid).ID() != self._run:
                self._end("the machine was stopped")
                raise self.lost(name)
            if files:
                answer, _ = self._qemu.qemuMonitorCommandWithFiles(self._domain, text, files, 0)
            else:
                answer = self._qemu.qemuMonitorCommand(self._domain, text, 0)
        except self._host.module.libvirtError as error:
            self._end(str(error))
            raise self.lost(name) from error
        found = json.loads(answer)
        if "error" in found:
            raise QmpError(name, found["error"]["class"], found["error"]["desc"], subject=self.machine)
        return found["return"]

    def qemu_event(self, name: str, data: Mapping[str, Any]) -> None:
        self._deliver({"event": name, "data": data})

    def ended(self, cause: str) -> None:
        self._end(cause)

    def _control_socket(self) -> Path:
        """libvirt's own, which it holds; its directory is the machine's, and QEMU may make a socket there."""
        for device in self.command("query-chardev"):
            if device["label"] == "charmonitor":
                return Path(device["filename"].removeprefix("unix:").partition(",")[0])
        raise MachineUnreachable(
            "its QEMU has no control socket by libvirt's name (charmonitor)",
            subject=self.machine,
            hint="tell us the versions of libvirt and QEMU",
        )
