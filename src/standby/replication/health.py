"""The health of a relationship: computed from what is known, never stored. Pure.

Thresholds are Hyper-V Replica's ("Interpreting Replication Health"). Normal: at most 20 % of cycles missed, last
synchronized less than an hour ago, average latency at most 5 minutes. Warning and Critical: any one reason of
theirs. Numbers are of the monitoring interval; state and errors are of now. Where Hyper-V Replica is silent
about an error that is being retried: a warning during the back-off, critical once it has come to the steady
retries ("the primary cannot send").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from enum import IntEnum
from typing import Final, NamedTuple

from standby.replication.hours import shown
from standby.replication.retry import MINUTES
from standby.replication.states import State
from standby.replication.statistics import Statistics

MOST_MISSED: Final = 20
"""Percent of the cycles of a monitoring interval."""

LAST_SYNC: Final = timedelta(hours=1)
MOST_LATENCY: Final = 300.0

BACK_OFF: Final = timedelta(minutes=sum(MINUTES))
"""From the first failure to the one from which on the wait is half an hour."""

CLOCK_SKEW: Final = timedelta(minutes=1)
"""A newest point that is so far in the future tells that a clock was set back: the RPO is then unknown."""


class Level(IntEnum):
    """Azure Site Recovery calls NORMAL "Healthy". The higher, the more urgent."""

    NOT_APPLICABLE = 0
    NORMAL = 1
    WARNING = 2
    CRITICAL = 3

    def __str__(self) -> str:
        return self.name.replace("_", " ").capitalize()


class Reason(NamedTuple):
    """One or two sentences that say why the health is not better than `level`, and what a person can do."""

    level: Level
    text: str
    action: str = ""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is in the way at present. failures: tries in a row, the first one at `since`. retry_at: None if no
    retry is made. action: what a person can do (the error's hint, or its row in the table of errors)."""

    text: str
    since: datetime
    failures: int = 1
    retry_at: datetime | None = None
    action: str = ""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A disk that must be compared with its replica. why: a clause. opens: when that may begin; None if an
    operator must start it. action: what a person can do."""

    why: str
    opens: datetime | None = None
    action: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What an agent knows of a relationship.

    before_pause: the state that was paused. newest_point: the instant of the newest committed point.
    last_sync: when a record was last committed. statistics: of the running interval. disks: those that must
    be compared. scanned: share of a running scan that is done. forecasts: sentences about limits that come
    near. targets: sentences about further targets that are not level. suspicious: of the newest points, a sentence if
    they look as if somebody encrypted the disks. agent: an agent is at work.
    """

    state: State
    before_pause: State | None = None
    newest_point: datetime | None = None
    last_sync: datetime | None = None
    statistics: Statistics | None = None
    problems: tuple[Problem, ...] = ()
    disks: Mapping[str, Compared] = field(default_factory=dict)
    scanned: float | None = None
    forecasts: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    suspicious: str = ""
    agent: bool = True


class Health(NamedTuple):
    """level: of the gravest reason. reasons: all of them, the gravest first. newest_point: the instant that a
    failover now would bring back. rpo: seconds since then, what that failover would lose; None if there is no
    point, or a clock was set back."""

    level: Level
    reasons: tuple[Reason, ...]
    newest_point: datetime | None
    rpo: float | None


def health(facts: Facts, now: datetime, tz: tzinfo) -> Health:
    """tz: of the clock that the sentences tell."""
    if facts.state is State.NEW:
        reason = Reason(Level.NOT_APPLICABLE, "Replication has not been started.")
        return Health(Level.NOT_APPLICABLE, (reason,), None, None)
    found = [
        *_of_agent(facts),
        *_of_state(facts, now, tz),
        *_of_problems(facts, now, tz),
        *_of_times(facts, now, tz),
        *_of_statistics(facts),
        *(Reason(Level.WARNING, text) for text in (*facts.targets, *facts.forecasts)),
        *_of_changes(facts),
    ]
    # Stable: reasons of one level stay in the order above.
    reasons = tuple(sorted(found, key=lambda reason: -reason.level))
    level = reasons[0].level if reasons else Level.NORMAL
    return Health(level, reasons, facts.newest_point, _rpo(facts, now))


def _of_agent(facts: Facts) -> list[Reason]:
    if facts.agent:
        return []
    text = "No agent is at work on this machine: nothing is replicated."
    return [Reason(Level.CRITICAL, text, "start one: `standby vm protect`")]


_INITIAL: Final = (State.INITIAL_REPLICATION, State.FINALIZING)


def _of_state(facts: Facts, now: datetime, tz: tzinfo) -> list[Reason]:
    paused = facts.state is State.PAUSED
    state = (facts.before_pause if paused else None) or facts.state
    found = []
    if paused:
        text = "Replication is paused by an operator; changes go on being tracked."
        found.append(Reason(Level.WARNING, text, "resume it"))
    if state in _INITIAL:
        found.append(Reason(Level.WARNING, f"Initial replication is not complete{_done(facts)}."))
    elif state is State.RESYNC_REQUIRED:
        found += [
            Reason(Level.CRITICAL, f"{_must(disk, one)} {_begins(one, now, tz)}", one.action)
            for disk, one in _compared(facts)
        ]
    elif state is State.RESYNCHRONIZING:
        runs = f"Resynchronization runs{_done(facts)}; there is no new point until it ends."
        found += [
            Reason(Level.WARNING, f"{_must(disk, one)} {runs}", one.action) for disk, one in _compared(facts)
        ]
    elif state is State.FENCED:
        text = "Another agent has taken the replica over: nothing of this machine is replicated any more."
        found.append(Reason(Level.CRITICAL, text, "let it go on, or take the replica back with --take-over"))
    elif state is State.SEALED:
        text = "The machine was failed over, and its replication has not been reversed yet."
        found.append(Reason(Level.WARNING, text, "reverse its replication"))
    return found


def _compared(facts: Facts) -> list[tuple[str, Compared]]:
    # The state may be told a moment before the disks are.
    return sorted(facts.disks.items()) or [("", Compared(why="it is not known yet which"))]


def _must(disk: str, one: Compared) -> str:
    return f"{f'Disk {disk}' if disk else 'A disk'} must be compared with its replica: {one.why}."


def _begins(one: Compared, now: datetime, tz: tzinfo) -> str:
    if one.opens is None:
        return "Resynchronization waits for an operator to start it."
    if one.opens <= now:
        return "Resynchronization begins now."
    return f"Resynchronization begins at {shown(one.opens, now, tz)}."


def _done(facts: Facts) -> str:
    return "" if facts.scanned is None else f" ({int(facts.scanned * 100)} % done)"


def _of_problems(facts: Facts, now: datetime, tz: tzinfo) -> list[Reason]:
    found = []
    for problem in facts.problems:
        text, action = _sentence(problem.text), problem.action
        if problem.retry_at is None:
            found.append(Reason(Level.CRITICAL, f"{text} No retry is made: it needs a person.", action))
            continue
        level = Level.CRITICAL if now - problem.since >= BACK_OFF else Level.WARNING
        tries = "once" if problem.failures == 1 else f"{problem.failures} times in a row"
        retry = f"{problem.retry_at.astimezone(tz):%H:%M:%S}"
        found.append(Reason(level, f"{text} It failed {tries}; the next try is at {retry}.", action))
    return found


def _of_times(facts: Facts, now: datetime, tz: tzinfo) -> list[Reason]:
    found = []
    if facts.last_sync and now - facts.last_sync >= LAST_SYNC and facts.state is not State.SEALED:
        ago = _duration(now - facts.last_sync)
        found.append(Reason(Level.WARNING, f"The replica was last sent changes {ago} ago; the limit is 1 h."))
    if facts.newest_point and facts.newest_point - now > CLOCK_SKEW:
        when = shown(facts.newest_point, now, tz)
        text = f"The newest point is of {when}, which has not come yet: a clock was set back, and the RPO is unknown."
        found.append(Reason(Level.WARNING, text))
    return found


def _of_statistics(facts: Facts) -> list[Reason]:
    now = facts.statistics
    if now is None:
        return []
    found = []
    # In whole numbers: exactly 20 % must not depend on how a division is rounded.
    missed = now.missed + now.late
    if missed * 100 > MOST_MISSED * now.due:
        text = f"In this monitoring interval {missed} of {now.due} cycles were missed; the limit is {MOST_MISSED} %."
        found.append(Reason(Level.WARNING, text))
    if now.latency.average > MOST_LATENCY:
        average = _duration(timedelta(seconds=now.latency.average))
        text = f"A point is committed {average} after its instant on average; the limit is 5 min."
        found.append(Reason(Level.WARNING, text))
    return found


def _of_changes(facts: Facts) -> list[Reason]:
    if not facts.suspicious:
        return []
    action = "see what the guest writes; if that is not meant, recover with --point newest-unflagged"
    return [Reason(Level.WARNING, facts.suspicious, action)]


def _rpo(facts: Facts, now: datetime) -> float | None:
    if facts.newest_point is None or facts.newest_point - now > CLOCK_SKEW:
        return None
    return max(0.0, (now - facts.newest_point).total_seconds())


def _duration(length: timedelta) -> str:
    minutes = int(length.total_seconds()) // 60
    if minutes < 60:
        return f"{minutes} min {int(length.total_seconds()) % 60} s"
    if minutes < 2880:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} days"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
