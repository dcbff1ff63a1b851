"""Shutting a machine down so that its last write can still be read.

QEMU ends with its guest, and its change tracking with it: too early for the last delta. So it is told
(`set-action`, QEMU 6.0) to stop in the state `shutdown` instead, where disks and tracking stay.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Final

from standby.errors import NeedsPerson
from standby.hypervisor.agent import GuestAgent, GuestAgentRefused, GuestAgentSilent
from standby.hypervisor.base import MachineUnreachable
from standby.hypervisor.monitor import Monitor

SHUT_DOWN: Final = "shutdown"
"""The run state in which the guest has ended and QEMU has not."""

_AGENT_TRY: Final = 1.0
_QUIT_LIMIT: Final = 10.0


class CannotOutlive(NeedsPerson):
    """The machine's process would end with its guest, and nothing could be read any more."""


class QemuEnding:
    """An `Ending` of a machine by its control connection."""

    def __init__(self, qmp: Monitor, agent: Path | None) -> None:
        self._qmp = qmp
        self._agent = agent

    def ended(self) -> bool:
        return bool(self._status() == SHUT_DOWN)

    def shut_down(self, limit: float) -> bool:
        if self.ended():
            return True
        if not self._qmp.has("set-action"):
            raise CannotOutlive(
                f"QEMU {'.'.join(map(str, self._qmp.version))} cannot be told to outlive its guest",
                subject=self._qmp.machine,
                tried="nothing was changed",
                hint="use QEMU 6.0 or newer; or shut the guest down and fail over unplanned",
            )
        deadline = time.monotonic() + limit
        with self._qmp.listening() as events:
            self._qmp.command("set-action", shutdown="pause")
            self._qmp.command("system_powerdown")
            self._ask_agent()
            # The event comes before the machine has stopped; the state tells when it has.
            while (left := deadline - time.monotonic()) > 0 and not self.ended():
                events.wait(lambda event: event["event"] in ("SHUTDOWN", "STOP"), min(left, 1.0))
        return self.ended()

    def spare(self) -> None:
        self._qmp.command("set-action", shutdown="poweroff")

    def stop(self) -> None:
        self._qmp.command("stop")

    def stopped(self) -> bool:
        return not self._qmp.command("query-status")["running"]

    def quit(self) -> None:
        with self._qmp.listening() as events, contextlib.suppress(MachineUnreachable):
            self._qmp.command("quit")
            events.wait(lambda _: False, _QUIT_LIMIT)

    def _status(self) -> str:
        return str(self._qmp.command("query-status")["status"])

    def _ask_agent(self) -> None:
        """A guest that does not heed the power button may heed its agent."""
        if self._agent is None:
            return
        with contextlib.suppress(GuestAgentSilent, GuestAgentRefused):
            agent = GuestAgent(self._qmp.machine, self._agent)
            try:
                # It answers only if it fails: the guest goes down under it.
                agent.command("guest-shutdown", _AGENT_TRY)
            finally:
                agent.close()
