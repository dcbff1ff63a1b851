"""Commands inside a guest, through its agent (guest-exec)."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import Final

from standby.hypervisor.agent import SYNC_LIMIT, GuestAgent, GuestAgentSilent
from standby.hypervisor.host import Executed

_POLL: Final = 0.02


def execute(agent: GuestAgent, machine: str, argv: Sequence[str], limit: float) -> Executed:
    """Run `argv` to its end; qemu-ga keeps at most 16 MiB of output.

    Raises GuestAgentSilent when it takes longer than `limit` seconds: it then goes on in the guest.
    """
    deadline = time.monotonic() + limit
    started = agent.command("guest-exec", SYNC_LIMIT, path=argv[0], arg=list(argv[1:]), capture_output=True)
    while True:
        status = agent.command("guest-exec-status", SYNC_LIMIT, pid=started["pid"])
        if status["exited"]:
            break
        if time.monotonic() > deadline:
            raise GuestAgentSilent(
                f"the command `{' '.join(argv)}` did not end within {limit:g} s",
                subject=machine,
                hint="see on the guest's console what it waits for",
            )
        time.sleep(_POLL)
    return Executed(
        -status["signal"] if "signal" in status else status["exitcode"],
        base64.b64decode(status.get("out-data", "")),
        base64.b64decode(status.get("err-data", "")),
    )
