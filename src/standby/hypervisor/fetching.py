"""Fetching all of a started machine's disk into its image while the guest runs, and letting go of the rest."""

from __future__ import annotations

from typing import Final

from standby.hypervisor.host import Fetched, FlushFailed
from standby.hypervisor.inventory import OURS
from standby.hypervisor.monitor import Monitor
from standby.hypervisor.qemu_arguments import backing_name, node_name
from standby.records import DiskDescription

_JOB: Final = f"{OURS}fetch-"


def fetched(qmp: Monitor, index: int, disk: DiskDescription) -> Fetched:
    job = f"{_JOB}{index}"
    found = next((one for one in qmp.command("query-block-jobs") if one["device"] == job), None)
    if found:
        return Fetched(found["offset"], found["len"], whole=False, at_work=True)
    whole = not _has_backing(qmp, node_name(index, disk))
    return Fetched(disk.size if whole else 0, disk.size, whole=whole, at_work=False)


def fetch(qmp: Monitor, index: int, disk: DiskDescription) -> None:
    """QEMU needs nobody to stay. To begin, it waits for all requests at work, of every disk (seen with 7.2)."""
    qmp.command("block-stream", job_id=f"{_JOB}{index}", device=node_name(index, disk))


def flush(qmp: Monitor, index: int, disk: DiskDescription) -> None:
    """Make durable what the image has, its tables too: a stream that has ended has not (QEMU 7.2).

    Raises FlushFailed.
    """
    # QMP has no flush of its own but that of `stop`, which the guest would feel.
    said = qmp.command("human-monitor-command", command_line=f'qemu-io {node_name(index, disk)} "flush"')
    if said.strip():
        raise FlushFailed(f"QEMU cannot flush it: {said.strip()}", subject=f"{qmp.machine}, disk {disk.id}")


def let_go(qmp: Monitor, index: int) -> None:
    """Close the connection to the server of a disk that is whole. Harmless to repeat."""
    name = backing_name(index)
    if any(node["node-name"] == name for node in qmp.command("query-named-block-nodes", flat=True)):
        qmp.command("blockdev-del", node_name=name)


def _has_backing(qmp: Monitor, node: str) -> bool:
    nodes = qmp.command("query-named-block-nodes", flat=True)
    return any("backing_file" in one for one in nodes if one["node-name"] == node)
