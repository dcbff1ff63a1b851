"""Requests to the agent of a state directory, or carried out here where none is running."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from standby.agent.control import ask
from standby.agent.daemon import Logged
from standby.agent.engines import Engines
from standby.agent.operations import Operations
from standby.clock import SystemClock
from standby.link.requests import Done, Refused, Request
from standby.records import Finding
from standby.replication.books import Books


def carry_out(
    folder: Path, request: Request, checked: Callable[[Sequence[Finding]], None] = lambda _: None
) -> Done:
    """Have it done. checked: told a prerequisites check's findings. Raises what the agent refuses with."""
    if (done := by_agent(folder, request)) is not None:
        checked(done.findings)
        return done
    # Without this, a wrong --state would make new books there.
    Books.reading(folder).close()
    clock = SystemClock()
    with closing(Books(folder)) as books, closing(Engines(books, clock, Logged, running=False)) as engines:
        return Operations(books, engines, clock, checked).do(request)


def by_agent(folder: Path, request: Request) -> Done | None:
    """None if no agent is running there."""
    answer = ask(folder, request) if folder.is_dir() else None
    if isinstance(answer, Refused):
        raise answer.error()
    return answer
