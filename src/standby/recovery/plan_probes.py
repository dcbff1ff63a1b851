"""Whether a member is up: its guest agent, a command in the guest, a port, a URL, a program; asked until it is."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from standby.errors import InvalidRequest, Recoverable, StandbyError
from standby.hypervisor.host import MachineState, NotBooted, RunningMachine
from standby.recovery import plan_programs
from standby.recovery.plan_document import Agent, Command, Guest, Http, Probe, Tcp
from standby.recovery.plan_effects import Situation

POLL: Final = 1.0
"""Seconds between two tries."""

_TRY: Final = 10.0
"""Seconds for one answer."""


class ProbeFailed(Recoverable):
    """What a plan waits for did not come in time."""


def wait(machine: RunningMachine, probe: Probe, situation: Situation, subject: str) -> None:
    """Return once it succeeds. Raises ProbeFailed after its limit, or at once if the machine has ended."""
    deadline = time.monotonic() + probe.limit
    tries = 0
    while True:
        left = deadline - time.monotonic()
        cause = _ask(machine, probe, situation, max(0.1, min(left, _TRY)), subject)
        tries += 1
        if not cause:
            return
        if machine.state() is MachineState.GONE:
            raise _failed(subject, f"its machine has ended; {cause}", tries)
        if time.monotonic() + POLL >= deadline:
            raise _failed(subject, f"not within {probe.limit:g} s; at last {cause}", tries)
        time.sleep(POLL)


def shown(probe: Probe) -> str:
    """The probe, for people."""
    match probe:
        case Agent():
            return "the guest agent answers"
        case Guest():
            return f"`{' '.join(probe.argv)}` in the guest"
        case Tcp():
            return f"port {probe.port} of {probe.host}"
        case Http():
            return f"{probe.status} from {probe.url}"
        case Command():
            return f"`{' '.join(probe.argv)}`"


def _ask(machine: RunningMachine, probe: Probe, situation: Situation, limit: float, subject: str) -> str:
    """What was wrong; "" if nothing. One try."""
    try:
        match probe:
            case Agent():
                machine.wait_booted(limit)
                return ""
            case Guest():
                done = machine.execute(probe.argv, limit)
                said = (done.errors or done.output).decode(errors="replace").strip()
                return (
                    f"status {done.status}{f', saying {said[-200:]!r}' if said else ''}"
                    if done.status
                    else ""
                )
            case Tcp():
                return _closed(lambda: socket.create_connection((probe.host, probe.port), limit).close())
            case Http():
                return _http(probe, limit)
            case Command():
                plan_programs.run(probe.argv, probe.limit, situation, subject)
                return ""
    except InvalidRequest:
        # No patience helps a program that is not there.
        raise
    except NotBooted as error:
        return error.cause
    except StandbyError as error:
        return error.cause


def _http(probe: Http, limit: float) -> str:
    at = urlsplit(probe.url)
    kind = http.client.HTTPSConnection if at.scheme == "https" else http.client.HTTPConnection
    connection = kind(at.hostname or "", at.port, timeout=limit)
    answers: list[int] = []

    def get() -> None:
        try:
            connection.request("GET", f"{at.path or '/'}{f'?{at.query}' if at.query else ''}")
            answers.append(connection.getresponse().status)
        finally:
            connection.close()

    cause = _closed(get)
    if cause or answers[0] == probe.status:
        return cause
    return f"it answered {answers[0]}"


def _closed(connect: Callable[[], None]) -> str:
    try:
        connect()
    except (OSError, http.client.HTTPException) as error:
        return str(getattr(error, "strerror", None) or error or type(error).__name__)
    return ""


def _failed(subject: str, cause: str, tries: int) -> ProbeFailed:
    return ProbeFailed(
        cause,
        subject=subject,
        tried=f"{tries} times",
        hint="look at the guest's console; `standby plan continue` asks again",
    )
