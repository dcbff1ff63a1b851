"""When to try again (Azure Site Recovery: retry logic). Pure."""

from __future__ import annotations

from typing import Final

MINUTES: Final = (1, 2, 4, 8, 10)
"""Waits after the first failures of a recoverable error."""

STEADY_MINUTES: Final = 30
"""Every wait after those."""


def wait_seconds(failures: int) -> int:
    """Seconds to wait after `failures` failures in a row (at least 1)."""
    minutes = MINUTES[failures - 1] if failures <= len(MINUTES) else STEADY_MINUTES
    return minutes * 60
