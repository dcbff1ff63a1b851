"""`standby failover report`: a drill, or a failover, as one HTML file to be printed and kept."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from standby.cli import results
from standby.cli.output import Json, print_json, say, stdout
from standby.errors import InvalidRequest
from standby.hypervisor.launch import QemuHost
from standby.recovery import report_records
from standby.recovery.report import MachineReport, Report, render


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Their directories, as `failover list` names them.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The HTML file to be made.")],
    title: Annotated[str, typer.Option("--title", help="What it is called.")] = "",
    json: Json = False,
) -> None:
    """Write a printable report of failovers and of tests.

    It has points, times per step, RPO and RTO reached, screens and problems. Of proofs: `replica proof --report`.
    """
    host = QemuHost()
    machines = [report_records.of_run(run, host) for run in runs]
    write_report(out, title or f"{machines[0].kind.capitalize()} of {_names(machines)}", machines)
    if json:
        print_json(results.Reported(file=str(out), machines=tuple(one.machine for one in machines)))
    else:
        say(stdout(), f"Report: {out}.")


def write_report(out: Path, title: str, machines: Sequence[MachineReport]) -> None:
    """Raises InvalidRequest for a file that is there, or cannot be made."""
    by = f"{getpass.getuser()} on {socket.gethostname()}"
    html = render(Report(title=title, made=datetime.now(UTC), by=by, machines=tuple(machines)))
    try:
        # It shows screens and consoles: the caller's own.
        handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidRequest(
            f"it cannot be made: {error.strerror}", subject=str(out), hint="name another file"
        ) from error
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(html)


def _names(machines: Sequence[MachineReport]) -> str:
    names = [one.machine for one in machines]
    return names[0] if len(names) == 1 else f"{len(names)} machines"
