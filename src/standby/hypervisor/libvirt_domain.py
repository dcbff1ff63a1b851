"""A libvirt domain's XML, read: its disks, and the machine as any hypervisor can rebuild it.

The format is libvirt's (formatdomain); nothing is written here.
"""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple
from xml.etree.ElementTree import Element

from standby.errors import InvalidRequest
from standby.records import BootFile, DiskDescription, MachineDescription, NicDescription

Role = Literal["kernel", "initrd"]

ROLES: Final[tuple[Role, ...]] = ("kernel", "initrd")

_FORMATS: Final = {"vpc": "vhd"}
_BUSES: Final = {"virtio": "virtio", "scsi": "scsi", "ide": "ide", "sata": "sata", "usb": "usb"}
_UNITS: Final = {
    "b": 1,
    "bytes": 1,
    "KB": 1000,
    "k": 1 << 10,
    "KiB": 1 << 10,
    "MB": 1000**2,
    "M": 1 << 20,
    "MiB": 1 << 20,
    "GB": 1000**3,
    "G": 1 << 30,
    "GiB": 1 << 30,
    "TB": 1000**4,
    "T": 1 << 40,
    "TiB": 1 << 40,
}


class DomainDisk(NamedTuple):
    """target: the name in the guest's definition (vda), which is the disk's id. format: in QEMU's words. path: ""
    where it is no file or block device of this host."""

    target: str
    alias: str
    format: str
    path: str
    bus: str
    left_out: bool


def disks(xml: str) -> list[DomainDisk]:
    """All of the domain, in the order of the definition; those without a writable medium are `left_out`."""
    return [_disk(element) for element in ElementTree.fromstring(xml).iterfind("devices/disk")]


def disk_aliases(xml: str) -> Mapping[str, str]:
    """By the device's id in QEMU, the disk's target, of a running domain."""
    return {disk.alias: disk.target for disk in disks(xml) if disk.alias}


def description(xml: str, definition: str, size_of: Callable[[str], int]) -> MachineDescription:
    """The machine by its XML. definition: what it is started from again. size_of: a disk's bytes by its target.

    Raises InvalidRequest where a part of it is missing that every domain has.
    """
    root = ElementTree.fromstring(xml)
    files = boot_files(xml)
    return MachineDescription(
        name=_text(root, "name"),
        uuid=_text(root, "uuid"),
        memory=_memory(root),
        cpus=int(_text(root, "vcpu")),
        firmware="kernel" if files else "uefi" if _is_uefi(root) else "bios",
        disks=tuple(
            DiskDescription(
                id=disk.target,
                size=size_of(disk.target),
                format=_FORMATS.get(disk.format, disk.format),
                path=disk.path,
                bus=disk.bus,
            )
            for disk in disks(xml)
            if not disk.left_out
        ),
        nics=tuple(_card(element) for element in root.iterfind("devices/interface")),
        boot_files=tuple(_boot_file(role, files[role]) for role in ROLES if role in files),
        kernel_cmdline=root.findtext("os/cmdline", "") if files else "",
        hypervisor_xml=definition,
    )


def boot_files(xml: str) -> dict[Role, Path]:
    """The kernel and the initial ram disk that the domain boots from directly, if it does."""
    root = ElementTree.fromstring(xml)
    return {role: Path(path) for role in ROLES if (path := root.findtext(f"os/{role}"))}


def _disk(element: Element) -> DomainDisk:
    target = element.find("target")
    source = element.find("source")
    kind = element.get("device", "disk")
    return DomainDisk(
        target=_attribute(target, "dev"),
        alias=_attribute(element.find("alias"), "name"),
        format=_attribute(element.find("driver"), "type") or "raw",
        path=_attribute(source, "file") or _attribute(source, "dev"),
        bus=_BUSES.get(_attribute(target, "bus"), "virtio"),
        left_out=kind not in ("disk", "lun")
        or source is None
        or element.find("readonly") is not None
        or element.find("transient") is not None,
    )


def _card(element: Element) -> NicDescription:
    """The network is the name that libvirt has for it, or the bridge's."""
    source = element.find("source")
    model = _attribute(element.find("model"), "type") or "virtio"
    return NicDescription(
        mac=_attribute(element.find("mac"), "address"),
        network=_attribute(source, "network") or _attribute(source, "bridge"),
        model="virtio-net-pci" if model == "virtio" else model,
    )


def _boot_file(role: Role, path: Path) -> BootFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return BootFile(role=role, sha256=digest, size=path.stat().st_size)


def _is_uefi(root: Element) -> bool:
    os = root.find("os")
    return _attribute(os, "firmware") == "efi" or _attribute(root.find("os/loader"), "type") == "pflash"


def _memory(root: Element) -> int:
    element = root.find("memory")
    unit = _attribute(element, "unit") or "KiB"
    if unit not in _UNITS:
        raise InvalidRequest(
            f"its memory is told in {unit!r}", subject=_text(root, "name"), hint="tell us libvirt's version"
        )
    return int(_text(root, "memory")) * _UNITS[unit]


def _text(root: Element, path: str) -> str:
    found = root.findtext(path)
    if not found:
        raise InvalidRequest(
            f"its definition has no {path}",
            subject=root.findtext("name", "a domain"),
            hint="see `virsh dumpxml`; libvirt itself always fills it in",
        )
    return found


def _attribute(element: Element | None, name: str) -> str:
    return element.get(name, "") if element is not None else ""
