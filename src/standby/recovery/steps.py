"""A workflow as steps, each with a durable row: killed anywhere, it goes on or is undone.

A row says STARTED durably before its step touches the world, and DONE after. So what a killed workflow left
lies in the steps that are neither PENDING nor UNDONE, and nowhere else. Going on asks the world about each
of them before it believes its row; undoing takes them back in reverse order. Once undoing has begun it is
never turned round: half of what the steps built may be gone. A workflow may also be taken back to one of its
steps, to go on from there otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

import msgspec

from standby import failpoints
from standby.clock import Clock
from standby.errors import Bug, InvalidRequest, Recoverable, StandbyError

_STARTED = failpoints.declare("steps.started")
_DID = failpoints.declare("steps.did")
_DONE = failpoints.declare("steps.done")
_UNDOING = failpoints.declare("steps.undoing")
_UNDID = failpoints.declare("steps.undid")
_UNDONE = failpoints.declare("steps.undone")

Facts = Mapping[str, float]
"""What a step measured, by name."""


class State(StrEnum):
    PENDING = "pending"
    STARTED = "started"
    DONE = "done"
    UNDOING = "undoing"
    UNDONE = "undone"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One step. began, ended: of its last run in either direction, RFC 3339; error: why that failed."""

    step: str
    task: str
    state: State = State.PENDING
    began: str = ""
    ended: str = ""
    error: str = ""
    facts: dict[str, float] = {}


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """All rows, in order. undoing: the workflow is being taken back, for good. back_to: it is being taken back
    to before this step; "" where it is not."""

    rows: tuple[Row, ...]
    undoing: bool = False
    back_to: str = ""

    @property
    def complete(self) -> bool:
        return not (self.undoing or self.back_to) and all(row.state is State.DONE for row in self.rows)

    @property
    def clean(self) -> bool:
        """Nothing of it is left in the world."""
        return all(row.state in (State.PENDING, State.UNDONE) for row in self.rows)

    def row(self, step: str) -> Row:
        return next(row for row in self.rows if row.step == step)

    def with_row(self, index: int, row: Row) -> Journal:
        return msgspec.structs.replace(self, rows=(*self.rows[:index], row, *self.rows[index + 1 :]))


class Rows(Protocol):
    """Where a workflow's journal is kept. A save is durable and whole, or did not happen."""

    def load(self) -> Journal: ...

    def save(self, journal: Journal) -> None: ...


def nothing() -> None:
    """The `undo` of a step that only looks."""


class Step(NamedTuple):
    """do:   make it so. Begins from nothing: what an interrupted run left was undone before.
    undo: take back all that `do` made, or the part of it that is there; also twice.
    done: None unless the world is as `do` leaves it, then the facts that can still be told. Asked of a step
          that an earlier process began.
    """

    name: str
    task: str
    do: Callable[[], Facts | None]
    undo: Callable[[], None]
    done: Callable[[], Facts | None]


class Verb(StrEnum):
    DO = "do"
    ASK = "ask"
    UNDO = "undo"


class Action(NamedTuple):
    verb: Verb
    step: int


class CleanUpBegun(InvalidRequest):
    """The workflow is being undone, or was: it cannot go on."""


class StepFailed(Recoverable):
    """The host refused what a step asked of it."""


def plan(states: Sequence[State], confirmed: int, undoing: bool, first: int = 0) -> Action | None:
    """What comes next; None when nothing is left. Pure.

    confirmed: the first so many steps are known to be as their DONE says, to this process.
    first: undoing leaves the steps before this one as they are.
    """
    if undoing:
        for index in reversed(range(first, len(states))):
            if states[index] not in (State.PENDING, State.UNDONE):
                return Action(Verb.UNDO, index)
        return None
    if confirmed == len(states):
        return None
    return Action(Verb.DO if states[confirmed] is State.PENDING else Verb.ASK, confirmed)


class Workflow:
    """Runs steps and keeps their rows. One process at a time: the caller holds whatever lock says so."""

    def __init__(self, steps: Sequence[Step], rows: Rows, clock: Clock) -> None:
        """Raises Bug if the rows are those of other steps."""
        self._steps = steps
        self._rows = rows
        self._clock = clock
        self.journal = rows.load()
        if [row.step for row in self.journal.rows] != [step.name for step in steps]:
            raise Bug(f"the rows are not those of {', '.join(step.name for step in steps)}")

    def run(self, told: Callable[[Row], None] | None = None, *, before: str = "") -> Journal:
        """Go on from wherever it stands until all is done, or until the step `before` is next.

        An error of a step stops it there and is raised, an OSError as StepFailed.

        told: called with the row of every step that begins or ends. Raises CleanUpBegun.
        """
        if self.journal.undoing:
            raise CleanUpBegun("its clean-up has begun", hint="finish the clean-up, then start anew")
        if self.journal.back_to:
            self.rewind(self.journal.back_to, told)
        confirmed = 0
        end = next((index for index, step in enumerate(self._steps) if step.name == before), len(self._steps))
        while action := plan([row.state for row in self.journal.rows[:end]], confirmed, False):
            step = self._steps[action.step]
            if action.verb is Verb.DO:
                self._do(action.step, told)
                confirmed += 1
            elif (facts := step.done()) is not None:
                known = self.journal.rows[action.step].facts
                self._note(action.step, told, state=State.DONE, error="", facts={**known, **facts})
                confirmed += 1
            else:
                self._attempt(action.step, told, step.undo)
                self._note(action.step, None, state=State.PENDING, facts={})
        return self.journal

    def undo(self, told: Callable[[Row], None] | None = None) -> Journal:
        """Take all of it back. An error leaves the rest for the next call."""
        if not self.journal.undoing:
            self._save(msgspec.structs.replace(self.journal, undoing=True))
        self._take_back(0, told)
        return self.journal

    def rewind(self, step: str, told: Callable[[Row], None] | None = None) -> Journal:
        """Take back this step and all behind it, so that `run` does them anew. Once begun, `run` ends it first.

        An error leaves the rest for the next call. Raises CleanUpBegun.
        """
        if self.journal.undoing:
            raise CleanUpBegun("its clean-up has begun", hint="finish the clean-up, then start anew")
        first = next(index for index, row in enumerate(self.journal.rows) if row.step == step)
        if self.journal.back_to != step:
            self._save(msgspec.structs.replace(self.journal, back_to=step))
        self._take_back(first, told)
        fresh = [Row(step=row.step, task=row.task) for row in self.journal.rows[first:]]
        rows = (*self.journal.rows[:first], *fresh)
        self._save(msgspec.structs.replace(self.journal, rows=rows, back_to=""))
        return self.journal

    def _take_back(self, first: int, told: Callable[[Row], None] | None) -> None:
        while action := plan([row.state for row in self.journal.rows], 0, True, first):
            self._note(action.step, told, state=State.UNDOING, began=self._now(), ended="", error="")
            _UNDOING.reach()
            self._attempt(action.step, told, self._steps[action.step].undo)
            _UNDID.reach()
            self._note(action.step, told, state=State.UNDONE, ended=self._now())
            _UNDONE.reach()

    def _do(self, index: int, told: Callable[[Row], None] | None) -> None:
        self._note(index, told, state=State.STARTED, began=self._now(), ended="", error="", facts={})
        _STARTED.reach()
        facts = self._attempt(index, told, self._steps[index].do)
        _DID.reach()
        self._note(index, told, state=State.DONE, ended=self._now(), facts=dict(facts or {}))
        _DONE.reach()

    def _attempt(
        self, index: int, told: Callable[[Row], None] | None, work: Callable[[], Facts | None]
    ) -> Facts | None:
        try:
            return work()
        except StandbyError as error:
            self._note(index, told, ended=self._now(), error=str(error))
            raise
        except OSError as error:
            failed = StepFailed(
                f"the host's file system refuses: {error.strerror or error}",
                subject=str(error.filename or self._steps[index].task),
                hint="see whether it has space and is writable, then try again",
            )
            self._note(index, told, ended=self._now(), error=str(failed))
            raise failed from error

    def _note(self, index: int, told: Callable[[Row], None] | None, **changes: object) -> None:
        row = msgspec.structs.replace(self.journal.rows[index], **changes)
        self._save(self.journal.with_row(index, row))
        if told:
            told(row)

    def _save(self, journal: Journal) -> None:
        self._rows.save(journal)
        self.journal = journal

    def _now(self) -> str:
        return self._clock.now().isoformat()
