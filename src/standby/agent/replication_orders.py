"""Orders that are requests to replication, as operators of the host put them too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from standby.agent.engines import Engines
from standby.agent.job import Job
from standby.agent.operations import Operations
from standby.agent.seals import Seals
from standby.clock import Clock
from standby.link import requests
from standby.link.requests import Done, OfMachine, Refused, Request
from standby.records import Finding
from standby.replication import enable
from standby.replication.books import Books
from standby.replication.relationship import Relationship
from standby.replication.seal import Task
from standby.replication.states import State

_TASKS: Final[dict[type[Request], tuple[str, ...]]] = {
    requests.Protect: enable.TASKS,
    requests.Unprotect: ("Ending change tracking",),
    requests.Pause: ("Pausing",),
    requests.Resume: ("Resuming",),
    requests.Retry: ("Trying again",),
    requests.MakePoint: ("Asking for an application-consistent point",),
    requests.Resync: ("Starting resynchronization",),
    requests.CancelResync: ("Cancelling resynchronization",),
    requests.LeaveOut: ("Leaving the disk out",),
    requests.TakeIn: ("Taking the disk in",),
    requests.SetPolicy: ("Changing the policy",),
    requests.SetConnection: ("Changing how the machine is reached",),
    requests.SetKeyFile: ("Changing the key file",),
    requests.SetBandwidth: ("Changing the host's bandwidth",),
}

"""As the vault expects them (vault/jobs.py). Requests that are not here tell their tasks as they begin."""

_BEFORE: Final = "relationship"
_STATE: Final = "state"
_WAITING: Final = (State.FENCED, State.SEALED)
"""States that a relationship is taken over from."""


class ReplicationOrders:
    """See `Carrier` (orders.py)."""

    def __init__(self, books: Books, engines: Engines, clock: Clock) -> None:
        self._books = books
        self._engines = engines
        self._clock = clock

    def before(self, request: Request) -> Mapping[str, str]:
        known = self._known(request) if isinstance(request, OfMachine) else None
        if known is None or known.status.state is State.NEW:
            return {_BEFORE: ""}
        return {_BEFORE: known.id, _STATE: known.status.state.value}

    def carry_out(self, request: Request, job: Job) -> None:
        """request: what the job orders, or a part of it."""
        job.expect(_TASKS.get(type(request), ()))
        job.no_return()
        if job.again and self._already(request, job.facts):
            job.task(_TASKS[type(request)][-1])
            job.detail("It was done before the agent was restarted")
            self._keep(request, Done(), job)
        else:
            self._ask(request, job)

    def _ask(self, request: Request, job: Job) -> None:
        def checked(findings: Sequence[Finding]) -> None:
            job.detail("; ".join(f"{one.subject}: {one.problem} ({one.fix})" for one in findings))

        if isinstance(request, requests.Seal):
            self._seal(request, job)
            return
        if len(tasks := _TASKS.get(type(request), ())) == 1:
            job.task(tasks[0])
        answer = Operations(self._books, self._engines, self._clock, checked, job.task).answer(request)
        if isinstance(answer, Refused):
            raise answer.error()
        if answer.findings:
            checked(answer.findings)
        self._keep(request, answer, job)

    def _seal(self, request: requests.Seal, job: Job) -> None:
        """To its end, as the first half of a planned failover. Killed, it is gone on with from where it was."""
        left = list(Task)

        def done(task: Task) -> None:
            left.remove(task)
            if left:
                job.task(left[0].value)

        job.expect(task.value for task in left)
        job.task(left[0].value)
        Seals(self._books, self._engines).run(request, done)
        self._keep(request, Done(), job)

    def _keep(self, request: Request, done: Done, job: Job) -> None:
        found = self._known(request) if isinstance(request, OfMachine) else None
        if found:
            job.result |= {"relationship": found.id, "replica_id": str(found.replica_id)}
        if done.dropped:
            job.result["dropped"] = str(done.dropped)

    def _already(self, request: Request, facts: Mapping[str, str]) -> bool:
        """Whether a killed process has done it. Only of requests that cannot simply be put again."""
        if not isinstance(request, OfMachine):
            return False
        now = self._known(request)
        for kind, done in _DONE.items():
            if isinstance(request, kind):
                return done(request, facts, now)
        return False

    def _known(self, request: OfMachine) -> Relationship | None:
        return next((one for one in self._books.relationships() if one.machine == request.machine), None)


def _protected(request: OfMachine, facts: Mapping[str, str], now: Relationship | None) -> bool:
    if not isinstance(request, requests.Protect) or now is None or now.replica != request.replica:
        return False
    # Made since, or taken over since.
    waited = facts.get(_STATE) in _WAITING and now.status.state not in _WAITING
    return now.status.state is not State.NEW and (now.id != facts.get(_BEFORE) or waited)


def _excluded(request: OfMachine, _before: Mapping[str, str], now: Relationship | None) -> bool:
    return isinstance(request, requests.LeaveOut) and now is not None and request.disk in now.excluded


def _included(request: OfMachine, _before: Mapping[str, str], now: Relationship | None) -> bool:
    return (
        isinstance(request, requests.TakeIn)
        and now is not None
        and request.disk not in now.excluded
        and any(disk.id == request.disk for disk in now.disks)
    )


_DONE: Final[dict[type[OfMachine], Callable[[OfMachine, Mapping[str, str], Relationship | None], bool]]] = {
    requests.Protect: _protected,
    requests.Unprotect: lambda _request, facts, now: facts.get(_BEFORE) != "" and now is None,
    requests.Pause: lambda _request, _before, now: now is not None and now.status.state is State.PAUSED,
    requests.Resume: lambda _request, _before, now: now is not None and now.status.state is not State.PAUSED,
    requests.LeaveOut: _excluded,
    requests.TakeIn: _included,
}
