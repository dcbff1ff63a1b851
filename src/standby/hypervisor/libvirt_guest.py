"""The guest agent of a libvirt machine: libvirt holds its channel and passes commands on.

Also a program: what thaws a guest whose freezer died (see thawer.py), over a connection of its own.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import sys
from pathlib import Path
from typing import Any, Final

from standby.hypervisor.agent import Agent, GuestAgentRefused, GuestAgentSilent
from standby.hypervisor.base import MachineNotFound, MachineUnreachable
from standby.hypervisor.freeze import Freeze, thaw_by
from standby.hypervisor.libvirt_connection import connect
from standby.hypervisor.thawer import SLACK, THAW_LIMIT, Thawer, thaw_until_done, told_to_thaw

_REFUSED: Final = "unable to execute QEMU agent command"


class LibvirtAgent(Agent):
    """Raises GuestAgentSilent from the constructor if the agent does not answer within `limit` seconds."""

    def __init__(self, machine: str, uri: str, limit: float) -> None:
        self._machine = machine
        self._uri = uri
        self.ping(limit)

    def command(self, name: str, limit: float, **arguments: Any) -> Any:
        options = {key.replace("_", "-"): value for key, value in arguments.items()}
        text = json.dumps({"execute": name, "arguments": options})
        try:
            host = connect(self._uri)
            domain = host.domain(self._machine)
        except (MachineUnreachable, MachineNotFound) as error:
            raise self._silent(error.cause) from error
        qemu = importlib.import_module("libvirt_qemu")
        try:
            return json.loads(qemu.qemuAgentCommand(domain, text, math.ceil(limit), 0))["return"]
        except host.module.libvirtError as error:
            if _REFUSED in str(error):
                raise GuestAgentRefused(
                    f"the guest agent refused {name}: {error}",
                    subject=self._machine,
                    hint="in the guest: see the log of qemu-guest-agent and its list of blocked commands",
                ) from error
            raise self._silent(str(error)) from error

    def close(self) -> None:
        """libvirt's connection is there for everybody."""

    def _silent(self, cause: str) -> GuestAgentSilent:
        return GuestAgentSilent(
            f"the guest agent is silent, libvirt says: {cause}",
            subject=self._machine,
            hint="give the machine the channel org.qemu.guest_agent.0, and install qemu-guest-agent in the guest; "
            "until then points are crash-consistent",
        )


class LibvirtFreeze(Freeze):
    """A `Freeze` by libvirt."""

    def __init__(self, machine: str, uri: str, mark: Path, *, limit: float) -> None:
        super().__init__(machine, None, mark, limit=limit)
        self._uri = uri

    def _connect(self, limit: float) -> Agent:
        return LibvirtAgent(self._machine, self._uri, limit)

    def _guard(self, agent: Agent) -> Thawer:
        return LibvirtThawer(self._machine, self._uri, self._mark, self.limit)


class LibvirtThawer(Thawer):
    """A `Thawer` that goes by libvirt."""

    def __init__(self, machine: str, uri: str, mark: Path, limit: float) -> None:
        command = [sys.executable, "-m", __name__, machine, uri, str(mark), str(limit + SLACK)]
        self._start(machine, command, [])


def thaw_leftover(machine: str, uri: str, mark: Path) -> None:
    """Thaw a guest that a dead process left frozen; in the background if it does not answer now."""
    if mark.exists():
        thaw_by(machine, lambda: thaw_now(machine, uri), mark)


def thaw_now(machine: str, uri: str) -> bool:
    """Thaw the guest; whether it is thawed now. Raises GuestAgentSilent, GuestAgentRefused."""
    agent = LibvirtAgent(machine, uri, THAW_LIMIT)
    agent.thaw(THAW_LIMIT)
    return agent.fsfreeze_status() == "thawed"


def agent_problem(machine: str, uri: str, limit: float) -> str:
    """Why the guest agent does not answer; "" if it does."""
    try:
        LibvirtAgent(machine, uri, limit)
    except (GuestAgentSilent, GuestAgentRefused) as error:
        return error.cause
    return ""


def _main() -> None:
    machine, uri, mark, limit = sys.argv[1:]
    logging.basicConfig()
    connect(uri)
    if told_to_thaw(machine, float(limit)):
        thaw_until_done(machine, lambda: thaw_now(machine, uri), Path(mark))


if __name__ == "__main__":
    _main()
