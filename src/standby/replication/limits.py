"""How fast may be sent, by time of day and weekday (Microsoft Azure Recovery Services agent: Throttling). Pure.

Work hours have one rate, all other hours another. A host has a schedule and each machine may have one: what
a machine sends counts against both. This module decides rates; a token bucket over the store keeps them.
"""

from __future__ import annotations

from datetime import datetime, time, tzinfo
from typing import Final

import msgspec

from standby.errors import InvalidRequest
from standby.replication.hours import Hours

LOWEST: Final = 512_000 // 8
"""Bytes per second: 512 kbit/s, as in Azure's agent. Below it a point of some MiB takes minutes."""

UPLOAD_THREADS: Final = 4
"""Of one machine, at most MOST_UPLOAD_THREADS (Azure Site Recovery: UploadThreadsPerVM)."""

MOST_UPLOAD_THREADS: Final = 32

WORK_HOURS: Final = Hours(start=time(9, 0), end=time(18, 0), days=frozenset(range(5)))


class Bandwidth(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes per second in and outside of the work hours; None for no limit."""

    work: int | None = None
    other: int | None = None
    work_hours: Hours = WORK_HOURS

    def __post_init__(self) -> None:
        for rate in (self.work, self.other):
            if rate is not None and rate < LOWEST:
                raise InvalidRequest(
                    f"a bandwidth of {rate * 8 // 1000} kbit/s; it can be 512 kbit/s or more, or no limit",
                    subject="policy",
                )

    def rate(self, at: datetime, tz: tzinfo) -> int | None:
        return self.work if self.work_hours.is_open(at, tz) else self.other

    def next_change(self, at: datetime, tz: tzinfo) -> datetime | None:
        """When the rate becomes another one; None if it never does. To be asked again after a new policy."""
        return None if self.work == self.other else self.work_hours.next_change(at, tz)


UNLIMITED: Final = Bandwidth()
