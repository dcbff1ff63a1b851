"""Shutting machines down for good: by the agent of a state directory where one runs, else by this command."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from standby.agent.control import AgentSilent, ask
from standby.agent.daemon import Logged
from standby.agent.engines import Engines
from standby.agent.seals import Seals
from standby.clock import SystemClock
from standby.link.requests import Answer, Done, Refused, Seal, SealStatus
from standby.replication.books import Books
from standby.replication.seal import GuestUp, Task

POLL: Final = 0.2
"""Seconds between two questions to the agent."""

Tell = Callable[[str], None]
"""Told each task that is done."""


class Sealer:
    """Seals machines of one state directory, several at once from as many threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._own: Seals | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def seal(self, request: Seal, agreed: Callable[[], bool], tell: Tell) -> None:
        """Shut the machine down, its last write in the replica. agreed: asked whether a guest that does not shut
        down is stopped. Raises what Sealing.seal does, by its decision class where an agent did it."""
        answer = self._asked(request)
        if answer is None:
            own = self._seals()
            told: list[str] = []

            def done(task: Task) -> None:
                if task not in told:
                    told.append(task)
                    tell(task.value)

            try:
                own.run(request, done)
            except GuestUp:
                if request.force or not agreed():
                    raise
                own.run(_forced(request), done)
            return
        refused = self._watched(request.machine, answer, tell)
        if refused and refused.name == GuestUp.__name__ and not request.force and agreed():
            refused = self._watched(request.machine, self._asked(_forced(request)), lambda _: None)
        if refused:
            raise refused.error()

    def _watched(self, machine: str, answer: Answer | None, tell: Tell) -> Refused | None:
        """Until the agent is done with it; what it refuses with."""
        told = 0
        while True:
            if answer is None:
                raise AgentSilent(
                    "the agent ended while it shut the machine down",
                    subject=machine,
                    tried="nothing is lost, and it goes on from where it was",
                    hint="the same command again",
                )
            if isinstance(answer, Refused):
                return answer
            for task in answer.tasks[told:]:
                tell(task)
            told = len(answer.tasks)
            if not answer.working:
                return None
            time.sleep(POLL)
            answer = ask(self._folder, SealStatus(machine=machine))

    def _asked(self, request: Seal) -> Answer | Done | None:
        with self._lock:
            if self._own:
                return None
        return ask(self._folder, request) if self._folder.is_dir() else None

    def _seals(self) -> Seals:
        with self._lock:
            if self._own is None:
                # Without this, a wrong --state would make new books there.
                Books.reading(self._folder).close()
                books = self._stack.enter_context(closing(Books(self._folder)))
                engines = Engines(books, SystemClock(), Logged, running=False)
                self._own = Seals(books, self._stack.enter_context(closing(engines)))
            return self._own


def _forced(request: Seal) -> Seal:
    return Seal(
        machine=request.machine,
        connection=request.connection,
        force=True,
        shutdown_limit=request.shutdown_limit,
        patience=request.patience,
    )
