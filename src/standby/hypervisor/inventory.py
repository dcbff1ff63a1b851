"""Which disks a QEMU process has, told from its answers to block queries.

A disk is known by the node that its changes are tracked on: the format node (qcow2, VHDX, raw …) that the
guest's writes reach, below filters such as throttling and whatever else others put on top. Only
x-debug-query-block-graph tells who is whose child; it is there, unchanged, since QEMU 4.0.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, NamedTuple

from standby.hypervisor.monitor import Monitor

OURS = "standby-"
"""What the names of all our nodes, exports, jobs and bitmaps begin with."""

FORMATS: Mapping[str, str] = {
    "raw": "raw",
    "qcow2": "qcow2",
    "vhdx": "vhdx",
    "vpc": "vhd",
}
"""Formats that are tracked, by QEMU's driver name."""

# Drivers that hand every request on to their one child.
_FILTERS = frozenset(
    [
        "throttle",
        "copy-on-read",
        "copy-before-write",
        "mirror_top",
        "commit_top",
        "compress",
        "preallocate",
        "blkdebug",
        "blklogwrites",
    ]
)
# Drivers that reach bytes somewhere, without a disk format.
_PROTOCOLS = frozenset(
    [
        "file",
        "host_device",
        "host_cdrom",
        "nbd",
        "nfs",
        "iscsi",
        "rbd",
        "ssh",
        "http",
        "https",
        "ftp",
        "ftps",
        "gluster",
        "null-co",
        "null-aio",
        "nvme",
        "io_uring",
        "nvme-io_uring",
        "virtio-blk-vfio-pci",
        "virtio-blk-vhost-user",
        "virtio-blk-vhost-vdpa",
    ]
)


class Bitmap(NamedTuple):
    name: str
    recording: bool
    busy: bool
    inconsistent: bool
    dirty: int = 0
    """Bytes it tells dirty; nothing of the kind while it is inconsistent."""


class SourceDisk(NamedTuple):
    """A disk of the machine, as tracking needs it.

    node: where its changes are tracked. driver: that node's. persistent: bitmaps survive a clean stop.
    snapshots: its image has internal ones.
    path: of the image, as QEMU was given it. device: the QOM path of the guest's device, "" without.
    """

    id: str
    node: str
    driver: str
    size: int
    path: str = ""
    device: str = ""
    persistent: bool = False
    snapshots: bool = False
    read_only: bool = False
    removable: bool = False
    bitmaps: tuple[Bitmap, ...] = ()

    @property
    def format(self) -> str:
        return FORMATS.get(self.driver, "raw" if self.driver in _PROTOCOLS else self.driver)

    @property
    def supported(self) -> bool:
        return self.driver in FORMATS or self.driver in _PROTOCOLS


def disks_of(qmp: Monitor) -> list[SourceDisk]:
    """All disks of the process, sorted by id, the read-only and removable ones too."""
    nodes = qmp.command("query-named-block-nodes", flat=True)
    graph = qmp.command("x-debug-query-block-graph")
    if qmp.has("query-cpus-fast"):
        found = machine_disks(nodes, graph, qmp.command("query-block"), qmp.disk_names())
    else:
        found = served_disks(nodes, graph, qmp.command("query-block-exports"))
    return sorted(found, key=lambda disk: disk.id)


def machine_disks(
    nodes: Sequence[Mapping[str, Any]],
    graph: Mapping[str, Any],
    blocks: Sequence[Mapping[str, Any]],
    names: Mapping[str, str] = MappingProxyType({}),
) -> list[SourceDisk]:
    """Of a running machine: what its devices have inserted. Firmware flash is none of the disks.

    names: see `Monitor.disk_names`.
    """
    tree = _Tree(nodes, graph)
    found = []
    for block in blocks:
        device = block.get("qdev", "")
        if "inserted" not in block or not (device or block["device"]) or is_flash(block):
            continue
        node = tree.tracked(block["inserted"]["node-name"])
        identity = _device_id(device, block["device"], node)
        disk = tree.disk(names.get(identity, identity), node)
        removable = block["removable"]
        found.append(
            disk._replace(device=_device_path(device), removable=removable, read_only=block["inserted"]["ro"])
        )
    return found


def served_disks(
    nodes: Sequence[Mapping[str, Any]], graph: Mapping[str, Any], exports: Sequence[Mapping[str, Any]]
) -> list[SourceDisk]:
    """Of a qemu-storage-daemon: every disk format that nothing but filters is built upon."""
    tree = _Tree(nodes, graph)
    exported = {export["node-name"] for export in exports if not export["id"].startswith(OURS)}
    found = {}
    for name in tree.tops():
        node = tree.tracked(name)
        if tree.nodes[node]["drv"] in _PROTOCOLS and name not in exported:
            continue
        found[node] = tree.disk(_sanitised(node), node)
    return list(found.values())


def is_flash(block: Mapping[str, Any]) -> bool:
    """Whether a query-block entry is firmware (pflash of UEFI)."""
    return "flash" in block.get("qdev", "") or block["device"].startswith("pflash")


class _Tree:
    """The block graph by node names, without what is ours."""

    def __init__(self, nodes: Sequence[Mapping[str, Any]], graph: Mapping[str, Any]) -> None:
        self.nodes = {node["node-name"]: node for node in nodes}
        drivers = {node["id"]: node["name"] for node in graph["nodes"] if node["type"] == "block-driver"}
        self.children: dict[str, dict[str, str]] = {}
        self._parents: dict[str, set[str]] = {}
        for edge in graph["edges"]:
            if edge["parent"] in drivers:
                parent, child = drivers[edge["parent"]], drivers[edge["child"]]
                self.children.setdefault(parent, {})[edge["name"]] = child
                self._parents.setdefault(child, set()).add(parent)

    def tops(self) -> Iterable[str]:
        for name in self.nodes:
            if not name.startswith(OURS) and all(up.startswith(OURS) for up in self._parents.get(name, ())):
                yield name

    def tracked(self, name: str) -> str:
        """Down from a top node to the one whose changes are tracked."""
        while (below := self._below(name)) is not None:
            name = below
        return name

    def _below(self, name: str) -> str | None:
        """The child, if `name` only hands requests on to it."""
        children = self.children.get(name, {})
        child = children.get("file") or children.get("backing")
        driver = self.nodes[name]["drv"]
        if child is None or child not in self.nodes:
            return None
        if driver in _FILTERS:
            return child
        # raw on top of another format is a mere passage, unless it shows a window (offset, size) of it.
        if driver == "raw" and self.nodes[self.tracked(child)]["drv"] not in _PROTOCOLS:
            sizes = {self.nodes[node]["image"].get("virtual-size") for node in (name, child)}
            return child if len(sizes) == 1 else None
        return None

    def disk(self, identity: str, name: str) -> SourceDisk:
        node = self.nodes[name]
        image = node["image"]
        specific = image.get("format-specific", {}).get("data", {})
        path = node["file"]
        return SourceDisk(
            id=identity,
            node=name,
            driver=node["drv"],
            size=image["virtual-size"],
            path="" if path.startswith("json:") or re.match(r"[a-z0-9+]+://", path) else path,
            persistent=node["drv"] == "qcow2"
            and specific.get("compat") != "0.10"
            and not node["ro"]
            # QEMU refuses to go back to an internal snapshot of an image that has bitmaps in it.
            and not image.get("snapshots"),
            snapshots=bool(image.get("snapshots")),
            read_only=node["ro"],
            bitmaps=tuple(
                Bitmap(
                    name=bitmap.get("name", ""),
                    recording=bitmap["recording"],
                    busy=bitmap["busy"],
                    inconsistent=bitmap.get("inconsistent", False),
                    dirty=bitmap["count"],
                )
                for bitmap in node.get("dirty-bitmaps", ())
            ),
        )


def _device_path(device: str) -> str:
    """A device's QOM path. QEMU gives the id alone, or the path of the device or of its virtio half."""
    if device and not device.startswith("/"):
        device = f"/machine/peripheral/{device}"
    return device.removesuffix("/virtio-backend")


def _device_id(device: str, drive: str, node: str) -> str:
    """A name that stays: the device's id, the drive's, or the node's; the device's place only at last."""
    path = PurePath(_device_path(device))
    if path.parent == PurePath("/machine/peripheral"):
        return _sanitised(path.name)
    if drive:
        return _sanitised(drive)
    return _sanitised(node if not node.startswith("#") else path.name)


def _sanitised(name: str) -> str:
    """As DiskDescription.id wants it: [A-Za-z0-9._-], 1 to 64 of them; two names never become one."""
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-")
    if cleaned == name and len(name) <= 64:
        return name
    return f"{cleaned[:55]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
