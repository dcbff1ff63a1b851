"""What an agent is asked to do for a replica in its store: any that reaches the store, under credentials of its own.

A key of an encrypted replica is the agent's: from its books, or from $STANDBY_KEY_FILE.
"""

from __future__ import annotations

import msgspec


class UpkeepOrder(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of all orders about a replica."""

    store: str
    replica: str


class Retain(UpkeepOrder, frozen=True, kw_only=True):
    """Decide which points stay, fold what the others leave, delete what nothing needs.

    keep: tiers, as `all:2h`, `1d:30d` (`replica.retention.parse_tier`).
    """

    keep: tuple[str, ...]


class Scrub(UpkeepOrder, frozen=True, kw_only=True):
    """Look for damage: the chain and all references, and this share of the objects in full."""

    fraction: float = 1.0
    seed: int = 0


AnyUpkeepOrder = Retain | Scrub
