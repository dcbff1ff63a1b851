"""Whether to read from the live disk once more before the cut. Pure."""

from __future__ import annotations

from typing import Final

WORTH: Final = 1 << 20
"""Dirty bytes below which the cut alone is short enough."""

MOST_ROUNDS: Final = 8
SHRINK: Final = 0.7


def once_more(rounds: int, before: int, now: int) -> bool:
    """After `rounds` rounds, the last of which read `before` bytes, `now` bytes are dirty again.

    A round pays while it leaves clearly less for the cut than it found; a guest that dirties as fast as
    one reads would otherwise keep the agent reading for ever.
    """
    if now < WORTH or rounds >= MOST_ROUNDS:
        return False
    return rounds == 0 or now < before * SHRINK
