"""Whether a proof of a replica's newest point is due, and whether its drills are overdue. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from standby.replica.documents import Record
from standby.replica.proofs import Proof


class Schedule(NamedTuple):
    """A proof after every so many points, or after so long a time, whichever comes first; None: not by that.

    overdue: the age of the newest proof that passed, from which on a person is told. None: never."""

    points: int | None = None
    every: timedelta | None = None
    overdue: timedelta | None = None


class Due(NamedTuple):
    """seq: the point to be proved. why: a clause."""

    seq: int
    why: str


def due(schedule: Schedule, points: Sequence[Record], proofs: Sequence[Proof], now: datetime) -> Due | None:
    """points: oldest first. A point that has a proof already is not proved again, however old that is."""
    if not points or any(proof.seq == points[-1].seq for proof in proofs):
        return None
    newest = points[-1].seq
    if schedule.points is None and schedule.every is None:
        return None
    if not proofs:
        return Due(newest, "no point was proved yet")
    last = max(proofs, key=lambda proof: datetime.fromisoformat(proof.at))
    behind = sum(point.seq > last.seq for point in points)
    if schedule.points is not None and behind >= schedule.points:
        return Due(newest, f"{behind} points were made since point {last.seq} was proved")
    ago = now - datetime.fromisoformat(last.at)
    if schedule.every is not None and ago >= schedule.every:
        return Due(newest, f"the last proof is {_spell(ago)} old")
    return None


def overdue(schedule: Schedule, since: datetime, proofs: Sequence[Proof], now: datetime) -> str:
    """A sentence for a person if the last proof that passed is too old; "" if not. since: when protection began."""
    if schedule.overdue is None:
        return ""
    passed = [datetime.fromisoformat(proof.at) for proof in proofs if proof.verdict == "passed"]
    ago = now - max(passed, default=since)
    if ago < schedule.overdue:
        return ""
    if passed:
        return f"The newest proof that passed is {_spell(ago)} old; the limit is {_spell(schedule.overdue)}."
    return f"No point was proved to boot in {_spell(ago)}; the limit is {_spell(schedule.overdue)}."


def _spell(length: timedelta) -> str:
    hours = int(length.total_seconds()) // 3600
    if hours >= 48:
        return f"{hours // 24} days"
    return f"{hours} h" if hours else f"{int(length.total_seconds()) // 60} min"
