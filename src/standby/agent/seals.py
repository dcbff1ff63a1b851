"""Machines that the agent shuts down for good, each sealed in a thread of its own while all others go on."""

from __future__ import annotations

import threading
from collections.abc import Callable

from standby.agent.engines import Engines
from standby.errors import Bug, InvalidRequest, StandbyError
from standby.link.requests import Done, Seal
from standby.replication.books import Books, find
from standby.replication.seal import Sealing, Task


class _Job:
    """One sealing. tasks: those done so far; error: with which it ended."""

    def __init__(self) -> None:
        self.tasks: list[str] = []
        self.error: StandbyError | None = None
        self.working = True


class Seals:
    """Thread-safe. What was sealed before the agent was restarted is told by the books, not here."""

    def __init__(self, books: Books, engines: Engines) -> None:
        self._books = books
        self._engines = engines
        self._lock = threading.Lock()
        self._jobs: dict[str, _Job] = {}

    def begin(self, request: Seal) -> None:
        """Seal it in the background. One that is under way already goes on. Raises InvalidRequest."""
        find(self._books, request.machine)
        with self._lock:
            before = self._jobs.get(request.machine)
            if before and before.working:
                return
            job = self._jobs[request.machine] = _Job()
        threading.Thread(target=self._work, args=(request, job), name="standby-seal", daemon=True).start()

    def look(self, machine: str) -> Done:
        """How far it is. Raises the error that ended it, InvalidRequest if there is none."""
        with self._lock:
            job = self._jobs.get(machine)
        if job is None:
            raise InvalidRequest(
                "nobody asked this agent to seal it since it was started",
                subject=machine,
                hint="`standby failover planned` asks it, and goes on from where that was",
            )
        if job.error:
            raise job.error
        return Done(tasks=tuple(job.tasks), working=job.working)

    def run(self, request: Seal, done: Callable[[Task], None]) -> None:
        """Seal it now, to the end. Raises what Sealing.seal does, InvalidRequest."""
        relationship = find(self._books, request.machine)
        if request.connection is None and relationship.connection is None:
            raise InvalidRequest(
                "it is not known how the machine is reached",
                subject=request.machine,
                hint="give its QMP socket with --qmp",
            )
        with self._engines.lent(relationship, request.connection) as parts:
            assert parts.hypervisor is not None, "it was looked for above"
            Sealing(
                self._books, relationship.id, parts.engine, parts.source, parts.target, parts.hypervisor
            ).seal(
                patience=request.patience,
                limit=request.shutdown_limit,
                force=lambda: request.force,
                done=done,
            )

    def _work(self, request: Seal, job: _Job) -> None:
        try:
            self.run(request, lambda task: job.tasks.append(task.value))
        except StandbyError as error:
            job.error = error
        except BaseException as error:
            # Whoever asked must hear that it has ended.
            job.error = Bug(f"sealing ended by a defect: {error!r}", subject=request.machine)
            raise
        finally:
            job.working = False
