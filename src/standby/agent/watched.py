"""What takes time to look at, looked at beside what must not wait for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from standby.clock import Clock
from standby.errors import StandbyError

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_SHARE: Final = 20
"""A look that lasts a second is not taken more often than every so many seconds."""


class Watched(Generic[_T]):
    """Looks every so often, in a thread of its own, until it is closed."""

    def __init__(self, name: str, look: Callable[[], _T], every: float, clock: Clock) -> None:
        self._name = name
        self._look = look
        self._every = every
        self._clock = clock
        self._wake = threading.Event()
        self._closed = False
        self._problem = ""
        self.newest: _T | None = None
        """As last seen; None as long as it cannot be told."""
        self._thread = threading.Thread(target=self._run, name=f"standby-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def again(self) -> None:
        """Look now: something has changed."""
        self._wake.set()

    def close(self) -> None:
        """Not waited for: a look may hang with what it looks at."""
        self._closed = True
        self._wake.set()

    def _run(self) -> None:
        while not self._closed:
            self._wake.clear()
            began = self._clock.monotonic()
            try:
                self.newest, problem = self._look(), ""
            except (StandbyError, OSError) as error:
                self.newest, problem = None, str(error)
            except Exception as defect:
                log.exception("%s cannot be told", self._name)
                self.newest, problem = None, repr(defect)
            if problem and problem != self._problem and not self._closed:
                log.warning("%s cannot be told: %s", self._name, problem)
            self._problem = problem
            self._wake.wait(max(self._every, _SHARE * (self._clock.monotonic() - began)))
