"""Frozen records that cross module borders: machines as every hypervisor describes them."""

from __future__ import annotations

from typing import Literal

import msgspec


class DiskDescription(msgspec.Struct, frozen=True, kw_only=True):
    """One virtual disk, in terms that any hypervisor can rebuild.

    id: stable within the machine (the device's or node's name); [A-Za-z0-9._-]{1,64}.
    size: bytes that the guest sees. format: of the source's image, for export and the curious.
    path: the image's path on the source host; "" where the source does not tell.
    """

    id: str
    size: int
    format: str
    path: str = ""
    bus: str = "virtio"


class NicDescription(msgspec.Struct, frozen=True, kw_only=True):
    mac: str
    network: str = ""
    model: str = "virtio-net-pci"


BootRole = Literal["kernel", "initrd"]


class BootFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file beside the disks without which the machine does not boot (a kernel loaded directly)."""

    role: BootRole
    sha256: str
    size: int


class MachineDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed to start the machine elsewhere. Kept in every recovery point.

    memory: bytes. firmware: `kernel` means direct kernel boot from boot_files with kernel_cmdline.
    hypervisor_xml: the source hypervisor's own description, verbatim, where there is one.
    """

    name: str
    uuid: str
    memory: int
    cpus: int
    firmware: Literal["bios", "uefi", "kernel"]
    disks: tuple[DiskDescription, ...]
    nics: tuple[NicDescription, ...] = ()
    boot_files: tuple[BootFile, ...] = ()
    kernel_cmdline: str = ""
    hypervisor_xml: str = ""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a prerequisites check. `blocks` tells whether protection can be enabled despite it."""

    subject: str
    problem: str
    fix: str
    blocks: bool
