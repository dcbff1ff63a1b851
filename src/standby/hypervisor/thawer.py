"""A process that thaws a frozen guest when the one that froze it no longer can: killed, stopped or stuck.

It is started before the guest is frozen, in a session of its own, with the connection to the guest agent (which
serves one client) and the end of a pipe. A byte in the pipe lets it go. The pipe's end without one (the other
process died) or the time limit make it thaw the guest. It needs nothing but the standard library.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from standby.errors import Recoverable
from standby.hypervisor.agent import GuestAgent, GuestAgentRefused, GuestAgentSilent

START_LIMIT: Final = 10.0
"""Seconds in which it has surely started; measured: 60 ms."""

SLACK: Final = 2.0
"""Seconds by which it is later than the limit: the process that froze the guest thaws it first, if it can."""

THAW_LIMIT: Final = 10.0

THAW_TRIES: Final = 600
"""About as many seconds is a guest asked to thaw that may have frozen behind our back."""

_READY: Final = b"r"
_LET_GO: Final = b"x"


class ThawerMissing(Recoverable):
    """It could not be started, so nothing was frozen."""


class Thawer:
    """Raises ThawerMissing from the constructor; then exactly one of `let_go` and `hand_over` is called."""

    def __init__(self, machine: str, agent: Path, channel: int, mark: Path, limit: float) -> None:
        """channel: the descriptor of the connection to the agent. mark: removed once the guest is thawed."""
        command = [sys.executable, "-S", "-m", __name__, machine, str(agent), str(channel), str(mark)]
        self._start(machine, [*command, str(limit + SLACK)], [channel])

    def _start(self, machine: str, command: Sequence[str], channels: Sequence[int]) -> None:
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=channels,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            )
        except OSError as error:
            raise self._missing(machine, error.strerror or str(error)) from error
        assert self._process.stdout is not None  # it is a pipe
        ready, _, _ = select.select([self._process.stdout], [], [], START_LIMIT)
        if not ready or self._process.stdout.read(1) != _READY:
            self._process.kill()
            self._process.communicate()
            raise self._missing(machine, "it ended, or did not get ready")

    def let_go(self) -> None:
        """The guest is thawed. Returns when the connection is ours alone again."""
        try:
            self._process.communicate(_LET_GO, START_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def hand_over(self) -> None:
        """The guest may be frozen and does not answer: it goes on trying, also when this process has ended."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def _missing(self, machine: str, cause: str) -> ThawerMissing:
        return ThawerMissing(
            f"the process that would thaw the guest if this one died could not be started: {cause}",
            subject=machine,
            tried="nothing was frozen: the point is crash-consistent",
            hint="see what this host is short of (processes, memory)",
        )


def thaw_until_done(machine: str, thaw: Callable[[], bool], mark: Path) -> None:
    """Ask once a second to thaw until the agent says the guest is thawed; then take away the mark."""
    for _ in range(THAW_TRIES):
        try:
            if thaw():
                mark.unlink(missing_ok=True)
                return
        except (GuestAgentSilent, GuestAgentRefused) as error:
            _tell(f"{machine}: may still be frozen: {error}")
        time.sleep(1)
    _tell(f"{machine}: gave up thawing the guest; thaw it with guest-fsfreeze-thaw")


def thaw_now(machine: str, path: Path, channel: socket.socket | None = None) -> bool:
    """Thaw the guest, over a connection that is there or a new one. Whether it is thawed now.

    Raises GuestAgentSilent, GuestAgentRefused.
    """
    agent = GuestAgent(machine, path, channel=channel)
    try:
        agent.thaw(THAW_LIMIT)
        return agent.fsfreeze_status() == "thawed"
    finally:
        agent.close()


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - this process has no log of its own


def _main() -> None:
    machine, path, channel, mark, limit = sys.argv[1:]
    connection = socket.socket(fileno=int(channel))
    if not told_to_thaw(machine, float(limit)):
        # What frees a channel that its parent closed must not be held here for longer than the guest is frozen.
        os._exit(0)
    try:
        if thaw_now(machine, Path(path), connection):
            Path(mark).unlink(missing_ok=True)
            return
    except (GuestAgentSilent, GuestAgentRefused) as error:
        _tell(str(error))
    thaw_until_done(machine, lambda: thaw_now(machine, Path(path)), Path(mark))


def told_to_thaw(machine: str, limit: float) -> bool:
    """Of the process itself: get ready, and wait. Whether the guest is to be thawed; else it was let go."""
    os.write(1, _READY)
    ready, _, _ = select.select([0], [], [], limit)
    if ready and os.read(0, 1) == _LET_GO:
        return False
    _tell(f"{machine}: {'its agent died' if ready else 'the limit passed'} while it was frozen: thawing it")
    return True


if __name__ == "__main__":
    _main()
