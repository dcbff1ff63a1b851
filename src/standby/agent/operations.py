"""Does what operators ask, on the engines of a running agent or on the books alone."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import singledispatchmethod
from pathlib import Path

from standby.agent.engines import Engines, reach
from standby.agent.seals import Seals
from standby.agent.together import common_point
from standby.agent.unchanged import as_known, check_unchanged
from standby.clock import Clock
from standby.errors import InvalidRequest, StandbyError
from standby.link import requests
from standby.link.requests import Answer, Done, OfMachine, Refused, Request
from standby.records import Finding
from standby.replica.keys import remembered
from standby.replication import enable, targets
from standby.replication.books import Books, find
from standby.replication.disable import disable
from standby.replication.engine import Engine
from standby.replication.policy import Measured, findings
from standby.replication.relationship import Relationship
from standby.replication.states import State
from standby.replication.unlock import set_key_file


class Operations:
    """Thread-safe: one request at a time, whoever asks. checked: told the findings of a prerequisites check.
    told: the name of each task as it begins, of requests that have several."""

    def __init__(
        self,
        books: Books,
        engines: Engines,
        clock: Clock,
        checked: Callable[[Sequence[Finding]], None] = lambda _: None,
        told: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._books = books
        self._engines = engines
        self._clock = clock
        self._checked = checked
        self._told = told
        self._seals = Seals(books, engines)

    def answer(self, request: Request) -> Answer:
        """What came of it; nothing is raised but defects."""
        try:
            with self._engines.asking:
                return self.do(request)
        except StandbyError as error:
            return Refused.of(error)

    @singledispatchmethod
    def do(self, request: Request) -> Done:
        """Raises InvalidRequest and what the request meets."""
        raise InvalidRequest("this agent does not know this request", subject=type(request).__name__)

    @do.register
    def _(self, request: requests.Protect) -> Done:
        found: list[Finding] = []

        def checked(all_of_them: Sequence[Finding]) -> None:
            found.extend(all_of_them)
            self._checked(all_of_them)

        known = next((one for one in self._books.relationships() if one.machine == request.machine), None)
        if known is not None and request.take_over and known.status.state in (State.FENCED, State.SEALED):
            return self._take_over(known, request)
        if known is not None and known.status.state is not State.NEW:
            raise InvalidRequest(
                f"it is protected already ({known.status.state.value})",
                subject=request.machine,
                hint=f"`standby vm show {request.machine}` tells how it stands",
            )
        store = self._engines.store(request.store)
        relationship = enable.enable(
            enable.Request(
                machine=request.machine,
                replica=request.replica,
                policy=request.policy,
                spool=request.spool,
                excluded=request.excluded,
                take_over=request.take_over,
                connection=request.connection,
                key=remembered(request.key_file),
            ),
            self._books,
            reach(request.machine, request.connection),
            store,
            socket.gethostname(),
            self._clock,
            checked,
            self._told,
        )
        self._engines.begin(relationship)
        return Done(findings=tuple(found))

    def _take_over(self, known: Relationship, request: requests.Protect) -> Done:
        """A machine that came back here, whose relationship waits in the books."""
        self._engines.refuse_lent(known)
        request = as_known(self._books, known, request)
        check_unchanged(known, request)
        self._engines.end(known.id)
        if request.key_file != known.key_file and request.key_file:
            set_key_file(self._books, known, self._engines.store(known.store), Path(request.key_file))
        self._books.set_policy(known.id, request.policy)
        self._books.set_connection(known.id, request.connection)
        enable.take_over(self._books, known.id)
        self._engines.begin(self._books.get(known.id))
        return Done()

    @do.register
    def _(self, request: requests.Seal) -> Done:
        self._seals.begin(request)
        return Done(working=True)

    @do.register
    def _(self, request: requests.SealStatus) -> Done:
        return self._seals.look(request.machine)

    @do.register
    def _(self, request: requests.Unprotect) -> Done:
        relationship = find(self._books, request.machine)
        self._engines.refuse_lent(relationship)
        if relationship.connection is None and not request.gone:
            raise InvalidRequest(
                "it is not known how the machine is reached, to end its change tracking",
                subject=request.machine,
                hint="give its socket with --qmp, or --machine-gone",
            )
        self._engines.end(relationship.id)
        connection = None if request.gone else relationship.connection
        try:
            dropped = disable(
                self._books, relationship.id, reach(request.machine, connection) if connection else None
            )
        except StandbyError:
            # Nothing was forgotten: it stays protected.
            self._engines.begin(relationship)
            raise
        return Done(dropped=dropped)

    @do.register
    def _(self, request: requests.Pause) -> Done:
        with self._engine(request) as engine:
            if find(self._books, request.machine).status.state is State.PAUSED:
                raise InvalidRequest(
                    "it is paused already",
                    subject=request.machine,
                    hint=f"`standby vm resume {request.machine}` ends the pause",
                )
            engine.pause()
        return Done()

    @do.register
    def _(self, request: requests.Resume) -> Done:
        with self._engine(request) as engine:
            state = find(self._books, request.machine).status.state
            if state is not State.PAUSED:
                raise InvalidRequest(
                    f"it is not paused but {state.value}",
                    subject=request.machine,
                    hint=f"`standby vm show {request.machine}` tells how it stands",
                )
            engine.resume()
        return Done()

    @do.register
    def _(self, request: requests.Retry) -> Done:
        with self._engine(request) as engine:
            engine.retry_now()
        return Done()

    @do.register
    def _(self, request: requests.MakePoint) -> Done:
        if request.together:
            named = (request.machine, *request.together)
            common_point([find(self._books, name) for name in named], self._engines)
            return Done()
        with self._engine(request) as engine:
            engine.request_application_consistent()
        return Done()

    @do.register
    def _(self, request: requests.Resync) -> Done:
        with self._engine(request, alone=True) as engine:
            self._check_disks(request.machine, request.disks)
            engine.resync_now(request.disks)
        return Done()

    @do.register
    def _(self, request: requests.CancelResync) -> Done:
        with self._engine(request, alone=True) as engine:
            engine.cancel_resync()
        return Done()

    @do.register
    def _(self, request: requests.LeaveOut) -> Done:
        with self._engine(request, alone=True) as engine:
            self._check_disks(request.machine, [request.disk])
            engine.leave_out(request.disk)
        return Done()

    @do.register
    def _(self, request: requests.TakeIn) -> Done:
        with self._engine(request, alone=True) as engine:
            relationship = find(self._books, request.machine)
            if request.disk not in relationship.excluded:
                raise InvalidRequest(
                    f"the disk {request.disk} is not left out",
                    subject=request.machine,
                    hint=f"left out are: {', '.join(relationship.excluded) or 'none'}",
                )
            engine.take_in(request.disk)
        return Done()

    @do.register
    def _(self, request: requests.SetPolicy) -> Done:
        with self._engine(request) as engine:
            relationship = find(self._books, request.machine)
            sizes = tuple(disk.size for disk in relationship.disks)
            told = findings(request.policy, Measured(sizes, engine.last_cut))
            if any(one.blocks for one in told):
                raise InvalidRequest(
                    "; ".join(f"{one.problem} ({one.fix})" for one in told if one.blocks),
                    subject=f"{request.machine}, policy",
                    hint="choose other values; nothing was changed",
                )
            engine.set_policy(request.policy)
            self._engines.bandwidths_changed()
        return Done(findings=told)

    @do.register
    def _(self, request: requests.SetConnection) -> Done:
        relationship = find(self._books, request.machine)
        self._engines.refuse_lent(relationship)
        self._engines.end(relationship.id)
        self._books.set_connection(relationship.id, request.connection)
        self._engines.begin(self._books.get(relationship.id))
        return Done()

    @do.register
    def _(self, request: requests.SetKeyFile) -> Done:
        relationship = find(self._books, request.machine)
        set_key_file(
            self._books, relationship, self._engines.store(relationship.store), Path(request.key_file)
        )
        with self._engine(request) as engine:
            engine.retry_now()
        return Done()

    @do.register
    def _(self, request: requests.AddTarget) -> Done:
        relationship = find(self._books, request.machine)
        self._engines.refuse_lent(relationship)
        targets.add(
            self._books,
            relationship,
            self._engines.store(relationship.store),
            self._engines.store(request.store),
            request.replica,
            take_over=request.take_over,
            origin=socket.gethostname(),
            clock=self._clock,
        )
        self._engines.follow(relationship)
        return Done()

    @do.register
    def _(self, request: requests.RemoveTarget) -> Done:
        relationship = find(self._books, request.machine)
        self._engines.refuse_lent(relationship)
        follower = targets.find(self._books, relationship, request.store, request.replica)
        self._engines.unfollow(relationship)
        try:
            targets.remove(self._books, follower)
        finally:
            self._engines.follow(relationship)
        return Done(dropped=follower.queued)

    @do.register
    def _(self, request: requests.SetBandwidth) -> Done:
        self._books.set_bandwidth(request.bandwidth)
        self._engines.bandwidths_changed()
        return Done()

    def _check_disks(self, machine: str, disks: Collection[str]) -> None:
        known = [disk.id for disk in find(self._books, machine).disks]
        if unknown := sorted(set(disks).difference(known)):
            raise InvalidRequest(
                f"it has no protected disk {unknown[0]}",
                subject=machine,
                hint=f"name one of {', '.join(known)}",
            )

    @contextmanager
    def _engine(self, request: OfMachine, *, alone: bool = False) -> Iterator[Engine]:
        """alone: while nothing is under way with the machine."""
        relationship = find(self._books, request.machine)
        self._engines.refuse_lent(relationship)
        with self._engines.held(relationship, alone=alone) as engine:
            yield engine
