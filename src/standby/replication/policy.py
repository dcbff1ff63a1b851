"""What an operator decides about a protected machine."""

from __future__ import annotations

from typing import Final

import msgspec

from standby.errors import InvalidRequest

FREQUENCIES: Final = (1, 5, 30, 300, 900)
"""Seconds between points. Azure Site Recovery and Hyper-V Replica offer 30, 300 and 900."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """frequency: seconds between points. application_consistent_hours: every so many hours a point with
    the guest's file systems frozen; 0 for never (Azure Site Recovery: 1 to 12). backlog_percent: of a disk's
    size, how much of logs may wait for the store. reserve: bytes that logs leave free where they lie.
    """

    frequency: int = 30
    application_consistent_hours: int = 0
    backlog_percent: int = 50
    reserve: int = 1 << 30

    def __post_init__(self) -> None:
        if self.frequency not in FREQUENCIES:
            raise InvalidRequest(
                f"a frequency of {self.frequency} s; it can be {', '.join(map(str, FREQUENCIES))}",
                subject="policy",
            )
        if not 0 <= self.application_consistent_hours <= 12:
            raise InvalidRequest(
                f"an application-consistent point every {self.application_consistent_hours} hours; "
                "it can be every 1 to 12, or 0 for never",
                subject="policy",
            )
