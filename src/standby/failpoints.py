"""Named places where a test may stop the process, so that faults are injected by name and not by luck.

A module declares its failpoints once, at import, and reaches them as it goes. Without STANDBY_FAILPOINT
in the environment, reaching one costs a comparison. The value is `name=action` or `name=action@n`
(the n-th time it is reached), several separated by commas; the actions are `kill` (SIGKILL to this
process: no cleanup of any kind runs) and `raise` (a FailpointHit).
"""

from __future__ import annotations

import os
import signal
from typing import Final


class FailpointHit(BaseException):
    """Raised by a `raise` action. Not an Exception: no handler of the product may swallow it."""


class Failpoint:
    def __init__(self, name: str) -> None:
        self.name: Final = name
        self._action = ""
        self._left = 0

    def reach(self) -> None:
        if self._action:
            self._hit()

    def _hit(self) -> None:
        self._left -= 1
        if self._left:
            return
        if self._action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise FailpointHit(self.name)


_declared: dict[str, Failpoint] = {}


def declare(name: str) -> Failpoint:
    """A new failpoint named `<phase>.<step>`; a name is declared once in the whole program."""
    if name in _declared:
        raise ValueError(f"failpoint {name!r} is declared twice")
    point = _declared[name] = Failpoint(name)
    _arm_from(point, os.environ.get("STANDBY_FAILPOINT", ""))
    return point


def declared() -> tuple[str, ...]:
    """The names of all failpoints declared so far, in order of declaration."""
    return tuple(_declared)


def arm(setting: str) -> None:
    """Disarm every failpoint, then arm those that `setting` names (same syntax as the environment)."""
    for point in _declared.values():
        point._action = ""
        _arm_from(point, setting)


def _arm_from(point: Failpoint, setting: str) -> None:
    for item in filter(None, setting.split(",")):
        name, _, action = item.partition("=")
        kind, _, count = action.partition("@")
        if kind not in ("kill", "raise"):
            raise ValueError(f"failpoint {item!r}: the action must be kill or raise")
        if name == point.name:
            point._action, point._left = kind, int(count or 1)
