"""What a machine's writes take while a cut is open, by QEMU's own accounting of its devices.

A qemu-storage-daemon accounts nothing (seen on 7.2: query-blockstats is empty there, and zero for nodes): its
clients are not watched in this way.
"""

from __future__ import annotations

from standby.hypervisor.monitor import Monitor
from standby.hypervisor.scratch import CutLimits


class WriteLatency:
    """Looked at again and again while a cut is open."""

    def __init__(self, qmp: Monitor, limits: CutLimits) -> None:
        self._qmp = qmp
        self._limits = limits
        self._count, self._time = self._read()
        self._above: list[float] = []

    def too_long(self) -> str:
        """Why the cut should be given up, in words; "" while all is well."""
        count, time = self._read()
        done, took = count - self._count, time - self._time
        self._count, self._time = count, time
        if done > 0:
            average = took / done / 1e9
            self._above = [*self._above, average] if average > self._limits.latency else []
        # Between two looks perhaps no write was completed: that says nothing of those that wait.
        if len(self._above) < self._limits.latency_looks:
            return ""
        return (
            f"the guest's writes took {min(self._above):.2f} s or more, {len(self._above)} looks in a row, and "
            f"{self._limits.latency:g} s are allowed"
        )

    def _read(self) -> tuple[int, int]:
        """Writes that were completed, and the nanoseconds that they took, of all devices together."""
        stats = [device["stats"] for device in self._qmp.command("query-blockstats")]
        return sum(one["wr_operations"] for one in stats), sum(one["wr_total_time_ns"] for one in stats)
