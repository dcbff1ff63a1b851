"""The further targets of an agent's machines, each delivered to by a thread of its own: none waits for another."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Final

from standby.errors import StandbyError
from standby.replication.following import Following

log = logging.getLogger(__name__)

LOOK: Final = 1.0
"""Seconds between two looks at whether something waits."""


class Pursuits:
    """Thread-safe. Most machines have one target, and then there is no thread at all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, tuple[threading.Event, list[threading.Thread]]] = {}

    def begin(self, relationship: str, followings: Sequence[Following]) -> None:
        if not followings or relationship in self._running:
            return
        stop = threading.Event()
        threads = [
            threading.Thread(target=_run, args=(one, stop), name="standby-follow", daemon=True)
            for one in followings
        ]
        with self._lock:
            self._running[relationship] = (stop, threads)
        for thread in threads:
            thread.start()

    def end(self, relationship: str) -> None:
        """Returns once nothing of it is at work."""
        with self._lock:
            stop, threads = self._running.pop(relationship, (threading.Event(), []))
        stop.set()
        for thread in threads:
            thread.join()


def _run(following: Following, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            done = following.step()
        except StandbyError as error:
            log.error("a further target is delivered to no more: %s", error)
            return
        except Exception:  # a defect of one must not be silent, nor end the others
            log.exception("a further target is delivered to no more, by a defect")
            return
        if not done:
            stop.wait(LOOK)
