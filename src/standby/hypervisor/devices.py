"""What a running machine's devices tell over QOM: buses, I/O threads, network cards, firmware."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from standby.hypervisor.monitor import Monitor, QmpError
from standby.records import NicDescription

_CONTAINERS = ("/machine/peripheral", "/machine/peripheral-anon")


def qom(qmp: Monitor, path: str, name: str) -> Any:
    """A property's value; None where the object or the property is not there."""
    try:
        return qmp.command("qom-get", path=path, property=name)
    except QmpError:
        return None


def bus_of(qmp: Monitor, device: str) -> str:
    """How the guest sees a disk's device: virtio, scsi, ide, nvme, usb; virtio where that is not told."""
    kind = str(qom(qmp, device, "type") or "")
    for prefix, bus in (("scsi-", "scsi"), ("ide-", "ide"), ("nvme", "nvme"), ("usb-", "usb")):
        if kind.startswith(prefix):
            return bus
    return "virtio"


def iothread_of(qmp: Monitor, device: str) -> str:
    """The I/O thread (QOM path) that serves a disk's device or its controller; "" for the main loop.

    A qemu-storage-daemon has no devices and does not tell which thread an export is on: if it has any
    I/O thread at all, each disk may be on it.
    """
    if not device:
        return next(
            (f"/objects/{name}" for name, kind in children(qmp, "/objects") if "iothread" in kind), ""
        )
    for path in (device, *_controllers(qmp, device)):
        for name in ("iothread", "iothread-vq-mapping"):
            if found := qom(qmp, path, name):
                return str(found)
    return ""


def shared_for_writing(qmp: Monitor, device: str) -> bool:
    """Whether the device lets others write to its disk (share-rw=on)."""
    return bool(device) and qom(qmp, device, "share-rw") is True


def network_cards(qmp: Monitor) -> list[NicDescription]:
    """The machine's network cards, by device id; which network they are on QEMU does not tell."""
    found = []
    for container in _CONTAINERS:
        for name, kind in sorted(children(qmp, container)):
            path = f"{container}/{name}"
            if kind not in ("container", "link") and (mac := qom(qmp, path, "mac")):
                found.append(NicDescription(mac=mac, model=kind))
    return found


def children(qmp: Monitor, path: str) -> Iterator[tuple[str, str]]:
    """(name, type) of the objects below a QOM path; nothing if it is not there."""
    try:
        properties = qmp.command("qom-list", path=path)
    except QmpError:
        return
    for entry in properties:
        if entry["type"].startswith("child<"):
            yield entry["name"], entry["type"].removeprefix("child<").removesuffix(">")


def _controllers(qmp: Monitor, device: str) -> Iterator[str]:
    """The objects above a device's bus, nearest first: a SCSI disk's thread is its controller's."""
    bus = qom(qmp, device, "parent_bus")
    if not isinstance(bus, str) or not bus:
        return
    for parent in PurePath(bus).parents:
        if len(parent.parts) > 3:  # below /machine/peripheral
            yield str(parent)
