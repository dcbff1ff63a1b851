"""Bringing an overlay into the image it lies upon, while the guest runs."""

from __future__ import annotations

import time
from typing import Final

from standby.hypervisor.host import MergeFailed
from standby.hypervisor.inventory import OURS
from standby.hypervisor.monitor import Monitor
from standby.hypervisor.qemu_arguments import backing_name, node_name
from standby.records import DiskDescription

_JOB: Final = f"{OURS}merge-"


def merge(qmp: Monitor, index: int, disk: DiskDescription, limit: float) -> None:
    """See `RunningMachine.merge`. limit: seconds.

    The guest is stopped before the machine goes over to the base: until the caller has noted that, image and
    base read the same, and so it does not matter which one is found to count.
    """
    if merged(qmp, index, disk):
        return
    job, deadline = f"{_JOB}{index}", time.monotonic() + limit
    with qmp.listening() as events:
        if not any(one["device"] == job for one in qmp.command("query-block-jobs")):
            qmp.command(
                "block-commit",
                job_id=job,
                device=node_name(index, disk),
                base_node=backing_name(index),
            )
        while not _ready(qmp, job, disk):
            if time.monotonic() > deadline:
                raise MergeFailed(
                    f"not done within {limit:g} s",
                    subject=f"{qmp.machine}, disk {disk.id}",
                    tried="it goes on in the background",
                    hint="commit again",
                )
            events.wait(lambda event: str(event["event"]).startswith("BLOCK_JOB_"), 0.5)
        qmp.command("stop")
        qmp.command("block-job-complete", device=job)
        done = events.wait(
            lambda event: event["event"] == "BLOCK_JOB_COMPLETED" and event["data"]["device"] == job,
            max(deadline - time.monotonic(), 10.0),
        )
    error = done["data"].get("error", "") if done else "QEMU did not end it in time"
    if error or not merged(qmp, index, disk):
        qmp.command("cont")
        raise MergeFailed(
            error or "QEMU still writes to the overlay",
            subject=f"{qmp.machine}, disk {disk.id}",
            tried="the machine runs on with its overlay",
            hint="see whether the old disk's volume has room, then commit again",
        )


def merged(qmp: Monitor, index: int, disk: DiskDescription) -> bool:
    wanted = backing_name(index)
    for block in qmp.command("query-block"):
        if _device(block.get("qdev", "")) == node_name(index, disk) and "inserted" in block:
            return bool(block["inserted"]["node-name"] == wanted)
    return False


def drop_overlay(qmp: Monitor, index: int, disk: DiskDescription) -> None:
    name = node_name(index, disk)
    nodes = qmp.command("query-named-block-nodes", flat=True)
    if merged(qmp, index, disk) and any(node["node-name"] == name for node in nodes):
        qmp.command("blockdev-del", node_name=name)


def _ready(qmp: Monitor, job: str, disk: DiskDescription) -> bool:
    found = next((one for one in qmp.command("query-block-jobs") if one["device"] == job), None)
    if found is None:
        raise MergeFailed(
            "QEMU gave it up",
            subject=f"{qmp.machine}, disk {disk.id}",
            tried="the machine runs on with its overlay",
            hint="see whether the old disk's volume has room, then commit again",
        )
    return bool(found["ready"])


def _device(path: str) -> str:
    """The id in a device's QOM path."""
    parts = path.removeprefix("/machine/peripheral/").split("/")
    return parts[0]
