"""Which recovery points stay, each with the reason, as a pure function of points and time.

A policy is a list of tiers. A tier keeps one point of every slot of so many seconds, for points up to a
certain age: grandfather, father and son are three tiers. A slot keeps its first application-consistent
point, or where it has none its first point. As the best of a slot never depends on when one looks, what was
dropped once is never missed later, and running often or seldom ends with the same points. (Only where slots of one
tier cross those of another, as every 5 and every 7 hours, may running often keep a point more.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from standby.errors import InvalidRequest
from standby.replica.documents import KEPT, Hold, Record

APPLICATION: Final = "application-consistent"
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SPELLED: Final = (("week", 604_800), ("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1))


class Tier(NamedTuple):
    """One point of every `every` seconds (0: every point), up to an age of `age` seconds."""

    every: int
    age: int

    def __str__(self) -> str:
        kept = f"one point every {_name(self)}" if self.every else "every point"
        return f"{kept} for {spell(self.age)}"


class Verdict(NamedTuple):
    """What becomes of a point. reasons: a sentence each, the strongest first; never empty."""

    point: Record
    keep: bool
    reasons: tuple[str, ...]


def parse_tier(text: str) -> Tier:
    """`all:2h`, `1h:3d`, `1d:30d`: how often, and for how long. Units s, m, h, d, w. Raises InvalidRequest."""
    found = re.fullmatch(r"(all|(\d{1,9})([smhdw])):(\d{1,9})([smhdw])", text)
    every = int(found[2]) * _UNITS[found[3]] if found and found[2] else 0
    age = int(found[4]) * _UNITS[found[5]] if found else 0
    if not found or not age or (found[2] and not every):
        raise InvalidRequest(
            "a tier is HOW-OFTEN:HOW-LONG",
            subject=repr(text),
            hint="for example all:2h (every point of the last 2 hours), 1h:3d, 1d:30d; units are s, m, h, d, w",
        )
    if age < every:
        raise InvalidRequest(
            f"it is to keep one point every {_name(Tier(every, age))} for {spell(age)} only",
            subject=repr(text),
            hint="keep points at least as long as they lie apart",
        )
    return Tier(every, age)


def decide(
    points: Sequence[Record], tiers: Sequence[Tier], now: datetime, holds: Sequence[Hold] = ()
) -> list[Verdict]:
    """A verdict for each of `points` (oldest first), in their order.

    The newest point and those that a reader holds stay in any case. Ages are told from the newest point, or from
    `now` where that is earlier: neither a machine that is off for long nor one wrong clock takes points away.
    """
    if not points:
        return []
    reference = min(now, _at(points[-1]))
    kept: dict[int, list[str]] = {point.seq: [] for point in points}
    kept[points[-1].seq].append("it is the newest point")
    for hold in holds:
        if hold.seq in kept:
            kept[hold.seq].append(f"it is {'kept' if hold.since_version == KEPT else 'in use'} by {hold.by}")
    best = [_best(points, tier) for tier in tiers]
    for point in points:
        for tier, chosen in zip(tiers, best, strict=True):
            if reference - _at(point) > timedelta(seconds=tier.age):
                continue
            if not tier.every:
                kept[point.seq].append(f"it is not older than {spell(tier.age)}")
            elif chosen[_slot(point, tier)].seq == point.seq:
                kept[point.seq].append(_stands_for(point, tier))
    return [
        Verdict(point, True, tuple(kept[point.seq]))
        if kept[point.seq]
        else Verdict(point, False, (_why_dropped(point, tiers, best, reference),))
        for point in points
    ]


def spell(seconds: int) -> str:
    """2 hours, 1 day, 90 minutes."""
    for noun, length in _SPELLED:
        if seconds >= length and seconds % length == 0:
            count = seconds // length
            return f"{count} {noun}" + ("s" if count > 1 else "")
    return "0 seconds"


def _at(point: Record) -> datetime:
    return datetime.fromisoformat(point.at)


def _slot(point: Record, tier: Tier) -> int:
    """Slots are counted from 1970 in UTC, so that they lie at full hours and at midnight."""
    return int(_at(point).timestamp() // tier.every)


def _best(points: Sequence[Record], tier: Tier) -> Mapping[int, Record]:
    """The point that stands for each slot."""
    chosen: dict[int, Record] = {}
    for point in points if tier.every else ():
        best = chosen.setdefault(_slot(point, tier), point)
        if point.consistency == APPLICATION and best.consistency != APPLICATION:
            chosen[_slot(point, tier)] = point
    return chosen


def _name(tier: Tier) -> str:
    return spell(tier.every).removeprefix("1 ")


def _span(point: Record, tier: Tier) -> str:
    start = datetime.fromtimestamp(_slot(point, tier) * tier.every, UTC)
    if tier.every % 86_400 == 0:
        return f"the {_name(tier)} from {start:%Y-%m-%d} (UTC)"
    return f"the {_name(tier)} from {start:%Y-%m-%d %H:%M} (UTC)"


def _stands_for(point: Record, tier: Tier) -> str:
    first = f"first {APPLICATION} point" if point.consistency == APPLICATION else "first point"
    return f"it is the {first} of {_span(point, tier)}, kept for {spell(tier.age)}"


def _why_dropped(
    point: Record, tiers: Sequence[Tier], best: Sequence[Mapping[int, Record]], reference: datetime
) -> str:
    age = reference - _at(point)
    stands = [
        f"point {chosen[_slot(point, tier)].seq} stands for {_span(point, tier)}"
        for tier, chosen in zip(tiers, best, strict=True)
        if tier.every and age <= timedelta(seconds=tier.age)
    ]
    if stands:
        return " and ".join(stands)
    oldest = max((tier.age for tier in tiers), default=0)
    return f"it is older than {spell(oldest)}" if oldest else "nothing asks for it"
