"""Processes that work on a recovery and are killed: one that has imported everything forks them.

Run as `python -m tests.recovery.zygote`. Each line on standard input is a JSON object {failpoint, verb,
store, root, run, ...}; the forked process arms the failpoint and does what verb says. The answer is one line:
its exit status, negative for a signal.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from pathlib import Path

from standby import failpoints
from standby.clock import SystemClock
from standby.hypervisor.launch import QemuHost
from standby.recovery import failback, failover, hydrate, live, plan_run
from standby.recovery.failback_steps import OldDisk
from standby.recovery.plan_document import Kind, Member
from standby.recovery.plan_host import Here
from tests.recovery import sealing

FORCED = {"limit": 0.2, "force": True, "owner": f"standby@{socket.gethostname()}"}
"""For a machine without a guest that could shut down, protected by the command line."""


def work(order: dict[str, str]) -> None:
    failpoints.arm(order["failpoint"])
    host = QemuHost(accelerator="tcg")
    match order["verb"]:
        case "start":
            failover.start(
                failover.Request(order["store"], "web", boot_limit=None), Path(order["root"]), host
            )
        case "clean up":
            failover.clean_up(Path(order["run"]), host)
        case "resume":
            failover.resume(Path(order["run"]), host)
        case "fail over":
            live.start(
                live.Request(order["store"], "web", boot_limit=None, confirmed=True),
                Path(order["root"]),
                host,
            )
        case "go on":
            live.resume(Path(order["run"]), host)
        case "change point":
            live.change_point(Path(order["run"]), order["point"], host)
        case "cancel":
            live.cancel(Path(order["run"]), host)
        case "commit":
            live.commit(Path(order["run"]), host)
        case "hydrate":
            hydrate.hydrate(Path(order["run"]), host)
        case "fail back":
            old = [OldDisk(id=disk, path=path, format=kind) for disk, path, kind in json.loads(order["old"])]
            request = failback.Request(order["store"], "web", old, boot_limit=None)
            failback.start(request, Path(order["root"]), host)
        case "complete":
            failback.complete(Path(order["run"]), host)
        case "commit back":
            failback.commit(Path(order["run"]), host)
        case "plan":
            plan_run.go_on(Path(order["run"]), _here(order, host))
        case "plan back":
            plan_run.take_back(Path(order["run"]), _here(order, host))
        case "seal":
            sealing.seal(Path(order["books"]), Path(order["qmp"]), Path(order["agent"]))
        case verb:
            raise ValueError(verb)


def _here(order: dict[str, str], host: QemuHost) -> Here:
    root = Path(order["root"])

    def seal(member: Member) -> str:
        sealing.seal(Path(order[f"books of {member.id}"]), Path(order[f"qmp of {member.id}"]), None, **FORCED)
        return "sealed"

    return Here(Kind.UNPLANNED, host, root, SystemClock(), confirmed=True, seal=seal)


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                work(json.loads(line))
            except BaseException:
                traceback.print_exc()
                os._exit(9)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
