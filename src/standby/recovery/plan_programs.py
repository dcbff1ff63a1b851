"""Programs that a plan runs on this host: scripts, and probes that are scripts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Final

from standby.errors import InvalidRequest, NeedsPerson
from standby.hypervisor.process import ProcessIdentity
from standby.recovery.plan_effects import Situation

STEP: Final = "STANDBY_STEP"
"""Names in a program's environment the step that it is, by its run directory: how it is found again."""

_GRACE: Final = 5.0
_TAIL: Final = 400


class ScriptFailed(NeedsPerson):
    """A script of a plan ended with another status than 0, or not in time."""


class NotExecutable(InvalidRequest):
    """A program of a plan is not there, or may not be run."""


def run(argv: tuple[str, ...], limit: float, situation: Situation, subject: str) -> None:
    """Run it to its end; what it says is added to `situation.output`. Raises ScriptFailed, NotExecutable."""
    if situation.again:
        end_left(situation)
    situation.output.parent.mkdir(exist_ok=True)
    with situation.output.open("ab") as output:
        began = output.tell()
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **situation.environment},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise NotExecutable(
                f"{argv[0]} cannot be run: {error.strerror}",
                subject=subject,
                hint="correct that (`chmod +x`, its first line), then `standby plan continue`",
            ) from error
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            _end_group(process)
            raise ScriptFailed(
                f"it did not end within {limit:g} s{_said(situation.output, began)}",
                subject=subject,
                tried="it was ended, with all that it had started in its session",
                hint=f"all that it said is in {situation.output}; `standby plan continue` runs it again",
            ) from None
        except BaseException:
            _end_group(process)
            raise
    if status:
        how = f"with status {status}" if status > 0 else f"by signal {-status}"
        raise ScriptFailed(
            f"it ended {how}{_said(situation.output, began)}",
            subject=subject,
            hint=f"all that it said is in {situation.output}; `standby plan continue` runs it again",
        )


def end_left(situation: Situation) -> None:
    """End what an interrupted run of the step left at work, so that it is never at work twice."""
    mark = f"{STEP}={situation.environment[STEP]}\0".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            process = ProcessIdentity.of(int(entry.name))
            with contextlib.suppress(OSError):
                if process and mark in (entry / "environ").read_bytes() and process.alive():
                    os.kill(process.pid, signal.SIGKILL)
                    process.wait(_GRACE)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
            if number is signal.SIGKILL:
                return


def _said(output: Path, began: int) -> str:
    """The last words of a program, as a clause."""
    with output.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(began, end - _TAIL))
        words = " ".join(file.read().decode(errors="replace").split())
    return f'; its last words: "{words}"' if words else ", and said nothing"
