"""The cuts of several machines within one freeze: they meet when all are ready, all are frozen, and all are cut.

While all are frozen, none of their file systems changes; so whatever moment each cut has within that time, together
they show one instant. Nobody waits for ever, least of all while frozen: who is late, or fails, leaves the others to
make points of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Final

READY_LIMIT: Final = 120.0
"""Seconds in which the machine that comes last must be ready. Nothing is frozen while they wait."""

FROZEN_LIMIT: Final = 3.0
"""Seconds that a frozen guest waits for the others. Well below the limit of a freeze (freeze.py)."""


class Meeting:
    """A meeting of machines, whose cuts are made by a thread each. id: what tells their points as of one instant."""

    def __init__(
        self,
        identity: str,
        machines: Collection[str],
        *,
        ready: float = READY_LIMIT,
        frozen: float = FROZEN_LIMIT,
    ) -> None:
        self.id = identity
        self._machines = frozenset(machines)
        self._ready = ready
        self._frozen = frozen
        self._changed = threading.Condition()
        self._phase = 0
        self._here: set[str] = set()
        self._why = ""

    @property
    def why(self) -> str:
        """Why there is no common instant; "" as long as there may be one."""
        with self._changed:
            return self._why

    def ready(self, machine: str) -> bool:
        """All that a cut needs is prepared. Whether all others are ready too."""
        return self._agree(machine, self._ready)

    def agree(self, machine: str) -> bool:
        """This machine is as far as is asked: frozen, cut, thawed in time. Whether all others are too."""
        return self._agree(machine, self._frozen)

    def leave(self, machine: str, why: str) -> None:
        """There will be no common instant; the others do not wait any more. Harmless to repeat."""
        with self._changed:
            self._why = self._why or f"{machine} {why}"
            self._changed.notify_all()

    def _agree(self, machine: str, limit: float) -> bool:
        with self._changed:
            if self._why:
                return False
            phase = self._phase
            self._here.add(machine)
            if self._here == self._machines:
                # All are told the same: whoever leaves from now on is in the next phase.
                self._phase += 1
                self._here = set()
                self._changed.notify_all()
                return True
            self._changed.wait_for(lambda: self._phase > phase or bool(self._why), limit)
            if self._phase > phase:
                return True
            late = ", ".join(sorted(self._machines - self._here))
            self._why = self._why or f"{late} did not come while {machine} waited, {limit:g} s"
            self._changed.notify_all()
            return False
