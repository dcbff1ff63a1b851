"""When a resynchronization may begin (Hyper-V Replica: AutoResynchronizeEnabled, ...IntervalStart, ...IntervalEnd).

The window governs the beginning only: one that runs goes on when the window closes, for until it ends there are
no new points. Bandwidth limits hold it back in office hours, and an operator may pause it. Pure.
"""

from __future__ import annotations

from datetime import datetime, time, tzinfo
from enum import StrEnum

import msgspec

from standby.replication.hours import Hours


class Start(StrEnum):
    AUTOMATIC = "automatic"
    SCHEDULED = "scheduled"
    MANUAL = "manual"


class ResyncWindow(msgspec.Struct, frozen=True, kw_only=True):
    """start: at once, in `hours` of the host's clock, or when an operator asks. The default of `hours` is Hyper-V
    Replica's and Azure Site Recovery's (outside office hours, across midnight); that of `start` is not."""

    start: Start = Start.AUTOMATIC
    hours: Hours = Hours(start=time(18, 30), end=time(6, 0))

    def is_open(self, at: datetime, tz: tzinfo) -> bool:
        if self.start is Start.SCHEDULED:
            return self.hours.is_open(at, tz)
        return self.start is Start.AUTOMATIC

    def next_opening(self, at: datetime, tz: tzinfo) -> datetime | None:
        """`at` itself if the window is open, None if only an operator opens it."""
        if self.start is Start.MANUAL:
            return None
        return at if self.is_open(at, tz) else self.hours.next_opening(at, tz)
