"""A snapshot of several disks by fleecing: QEMU's backup job with `sync=none` and a scratch image per disk.

Before the guest overwrites a block, QEMU copies it to the scratch image, whose backing is the disk itself:
read through the scratch image, the disk is as it was when the job began (docs: QEMU, "image fleecing").
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from standby.errors import NeedsPerson
from standby.failpoints import declare
from standby.hypervisor.base import MachineUnreachable
from standby.hypervisor.exports import Exports
from standby.hypervisor.inventory import SourceDisk
from standby.hypervisor.monitor import Monitor, QmpError
from standby.hypervisor.rounds import Action
from standby.hypervisor.scratch import ScratchFiles

_END_LIMIT = 10.0

_hidden = declare("cut.hidden")
_cancelled = declare("cut.cancelled")


class Fleece:
    """Scratch nodes, jobs and exports of one cut. The steps come in the order of the methods."""

    def __init__(
        self, qmp: Monitor, exports: Exports, files: ScratchFiles, prefix: str, disks: Sequence[SourceDisk]
    ) -> None:
        self._qmp = qmp
        self._exports = exports
        self._files = files
        self._prefix = prefix
        self._disks = disks
        self._exported: list[str] = []
        self._running = False
        self.paths: list[Path] = []

    @property
    def jobs(self) -> list[str]:
        return [f"{self._prefix}j{number}" for number in range(len(self._disks))]

    @property
    def _nodes(self) -> list[str]:
        # QEMU takes at most 31 characters, so the disk's id does not fit.
        return [f"{self._prefix}s{number}" for number in range(len(self._disks))]

    def prepare(self) -> None:
        """Make the scratch images and open them. Raises NeedsPerson when QEMU cannot."""
        for number, (disk, node) in enumerate(zip(self._disks, self._nodes, strict=True)):
            path = self._files.create(number, disk.size)
            self.paths.append(path)
            try:
                with self._qmp.lent(path) as name:
                    # After a crash nobody reads it, so its flushes would only cost the guest's volume.
                    file = {"driver": "file", "filename": name, "cache": {"no-flush": True}}
                    self._qmp.command(
                        "blockdev-add", driver="qcow2", node_name=node, file=file, backing=disk.node
                    )
            except QmpError as error:
                raise NeedsPerson(
                    f"QEMU cannot open the scratch image {path}: {error.desc}",
                    subject=f"{self._qmp.machine}, disk {disk.id}",
                    tried="opening a cut; nothing was changed",
                    hint="let the user that QEMU runs as read and write in the scratch directory",
                ) from error

    def actions(self) -> list[Action]:
        """Of the transaction whose instant the snapshot shows."""
        self._running = True
        return [
            (
                "blockdev-backup",
                {
                    "job-id": job,
                    "device": disk.node,
                    "target": node,
                    "sync": "none",
                    "filter-node-name": f"{self._prefix}f{number}",
                },
            )
            for number, (disk, node, job) in enumerate(zip(self._disks, self._nodes, self.jobs, strict=True))
        ]

    def show(self, ended: Mapping[str, str]) -> dict[str, str]:
        """Export each disk's snapshot with the bitmap that `ended` names; the exports' names, by disk id."""
        shown = {}
        for disk, node in zip(self._disks, self._nodes, strict=True):
            shown[disk.id] = self._exports.add("cut", node, (disk.node, ended[disk.id]))
            self._exported.append(shown[disk.id])
        return shown

    def end(self) -> bool:
        """Take everything away. Whether the snapshot held until now. Idempotent."""
        self._exports.remove(self._exported)
        _hidden.reach()
        held = self._cancel()
        _cancelled.reach()
        delete_nodes(self._qmp, self._nodes[: len(self.paths)])
        self._remove_files()
        return held

    def give_up(self) -> None:
        """As `end`, but spare the guest first: from the first step on the snapshot shows wrong bytes."""
        self._cancel()
        self._exports.remove(self._exported)
        delete_nodes(self._qmp, self._nodes[: len(self.paths)])
        self._remove_files()

    def _cancel(self) -> bool:
        if not self._running:
            return True
        self._running = False
        return cancel_jobs(self._qmp, self.jobs)

    def _remove_files(self) -> None:
        self._files.remove(self.paths)
        self.paths = []


def cancel_jobs(qmp: Monitor, jobs: Collection[str]) -> bool:
    """Cancel jobs and wait until they are gone. Whether all had been running until then."""
    held = True
    with qmp.listening() as events:
        for job in jobs:
            try:
                qmp.command("job-cancel", id=job)
            except QmpError as error:
                if "not found" not in error.desc:
                    raise
                held = False
        waiting = set(jobs)
        while waiting & {job["id"] for job in qmp.command("query-jobs")}:
            event = events.wait(
                lambda event: event["event"] == "JOB_STATUS_CHANGE" and event["data"]["status"] == "null",
                _END_LIMIT,
            )
            if event is None:
                raise MachineUnreachable(
                    f"the jobs {', '.join(sorted(waiting))} did not end within {_END_LIMIT:g} s",
                    subject=qmp.machine,
                    hint="the machine's storage or scratch volume may hang; it goes on once it answers",
                )
    return held


def delete_nodes(qmp: Monitor, nodes: Collection[str]) -> None:
    """Delete scratch nodes; those that are gone already are no error."""
    for node in nodes:
        try:
            qmp.command("blockdev-del", node_name=node)
        except QmpError as error:
            if "Failed to find node" not in error.desc:
                raise


def remove_leftovers(qmp: Monitor, exports: Exports, files: ScratchFiles, prefix: str) -> None:
    """Take away what an agent that died left of its cuts and exports; the guest's burden first."""
    cancel_jobs(qmp, [job["id"] for job in qmp.command("query-jobs") if job["id"].startswith(prefix)])
    exports.remove_all()
    names = (node["node-name"] for node in qmp.command("query-named-block-nodes", flat=True))
    delete_nodes(qmp, [name for name in names if name.startswith(prefix)])
    files.remove(files.leftovers())
