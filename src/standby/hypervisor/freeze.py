"""Freezing a guest for the instant of a cut, and never leaving it frozen.

A frozen guest stops at its next write, so four things thaw it: the cut itself, a watchdog thread after a time
limit, a process of its own should this one die or stop in between (thawer.py), and, should both be killed,
`recover` of the next agent, by a mark beside the scratch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from standby.hypervisor.agent import SYNC_LIMIT, Agent, GuestAgent, GuestAgentRefused, GuestAgentSilent
from standby.hypervisor.thawer import Thawer, ThawerMissing, thaw_now, thaw_until_done

log = logging.getLogger(__name__)

FROZEN_LIMIT = 10.0
"""Seconds after which a frozen guest is thawed no matter what."""


class Freeze:
    """One freeze of one guest. `begin` at most once, then `end` always; `end` may be called again."""

    def __init__(self, machine: str, agent: Path | None, mark: Path, *, limit: float = FROZEN_LIMIT) -> None:
        """agent: its socket; None where a subclass reaches it otherwise."""
        self._machine = machine
        self._path = agent
        self._mark = mark
        self.limit = limit
        self._lock = threading.Lock()
        self._agent: Agent | None = None
        self._pending = False
        self._expired = False
        self._watchdog: threading.Timer | None = None
        self._thawer: Thawer | None = None

    def ask(self) -> None:
        """Whether the agent answers, before anything is frozen. Raises GuestAgentSilent."""
        self._connect(min(SYNC_LIMIT, self.limit)).close()

    def begin(self) -> None:
        """Freeze. Raises GuestAgentSilent, GuestAgentRefused or ThawerMissing; by then it is thawed or being thawed."""
        with self._lock:
            self._agent = self._connect(min(SYNC_LIMIT, self.limit))
            try:
                self._thawer = self._guard(self._agent)
            except ThawerMissing:
                self._agent.close()
                raise
            self._mark.touch()
            self._pending = True
            started = time.monotonic()
            try:
                self._agent.freeze(self.limit)
            except (GuestAgentSilent, GuestAgentRefused):
                # It may have frozen some, or freeze later, in its own time.
                self._thaw()
                raise
            left = max(self.limit - (time.monotonic() - started), 0)
            self._watchdog = threading.Timer(left, self._expire)
            self._watchdog.daemon = True
            self._watchdog.start()

    def end(self) -> bool:
        """Thaw. Whether the guest was held frozen from `begin` until now."""
        if self._watchdog:
            self._watchdog.cancel()
        with self._lock:
            held = self._pending and not self._expired
            return self._thaw() > 0 and held

    def _connect(self, limit: float) -> Agent:
        assert self._path is not None  # else this is overridden
        return GuestAgent(self._machine, self._path, limit=limit)

    def _guard(self, agent: Agent) -> Thawer:
        # Both are so of what `_connect` gives back.
        assert self._path is not None
        assert isinstance(agent, GuestAgent)
        return Thawer(self._machine, self._path, agent.fileno(), self._mark, self.limit)

    def _expire(self) -> None:
        with self._lock:
            if self._pending:
                log.warning("%s: thawed after %g s by the watchdog", self._machine, self.limit)
                self._expired = True
                self._thaw()

    def _thaw(self) -> int:
        """How many file systems were thawed. If the agent is silent, the thawer goes on trying."""
        if not self._pending:
            return 0
        self._pending = False
        if self._agent is None or self._thawer is None:
            raise AssertionError("pending without an agent")
        try:
            thawed = self._agent.thaw(self.limit)
        except (GuestAgentSilent, GuestAgentRefused):
            self._agent.close()
            self._thawer.hand_over()
            return 0
        self._mark.unlink(missing_ok=True)
        # The agent serves one client: whoever comes next needs it free.
        self._agent.close()
        self._thawer.let_go()
        return thawed


def thaw_leftover(machine: str, agent: Path | None, mark: Path) -> None:
    """Thaw a guest that a dead process left frozen; in the background if it does not answer now."""
    if not mark.exists():
        return
    if agent is None:
        log.error("%s: may be frozen and has no guest agent socket any more; thaw it by hand", machine)
        return
    thaw_by(machine, lambda: thaw_now(machine, agent), mark)


def thaw_by(machine: str, thaw: Callable[[], bool], mark: Path) -> None:
    """Call `thaw` until it says that the guest is thawed, the first time at once, then in the background."""
    try:
        if thaw():
            mark.unlink(missing_ok=True)
            return
    except (GuestAgentSilent, GuestAgentRefused) as error:
        log.warning("%s: may still be frozen: %s", machine, error)
    threading.Thread(
        target=thaw_until_done, args=(machine, thaw, mark), name=f"standby-thaw-{machine}", daemon=True
    ).start()
