"""What a replica costs a month: what it takes in the store, and the requests of committing to it. Pure.

Stored bytes are the store's own listing. Requests are counted from the records that are there: the pace of the
newest ones, times what committing one asks of a store (docs/protocol.md W1 to W3; a test compares with a meter).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from standby.errors import InvalidRequest
from standby.objects.base import Entry
from standby.replica.documents import Head, Record

MONTH: Final = timedelta(days=365) / 12
_GIB: Final = 1 << 30
_LEAST_SPAN: Final = timedelta(minutes=1)
"""Records of less time than this tell no pace."""


class Prices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A price file (TOML). as_of, source: where the numbers are from, for people.

    gib_month: a GiB stored for a month. write_1000, read_1000: a thousand requests.
    """

    currency: str
    as_of: str
    source: str = ""
    gib_month: float
    write_1000: float
    read_1000: float


class Stored(NamedTuple):
    """Bytes in the store, by what they are. documents: the head and the records."""

    logs: int
    layers: int
    documents: int
    boot: int

    @property
    def total(self) -> int:
        return sum(self)


class Requests(NamedTuple):
    """A month's, at the pace of the newest records."""

    writes: float
    reads: float


class Cost(NamedTuple):
    """A month's, in the price file's currency."""

    storage: float
    requests: float

    @property
    def total(self) -> float:
        return self.storage + self.requests


def read_prices(path: Path) -> Prices:
    """Raises InvalidRequest naming the file and the key that is wrong."""
    try:
        prices = msgspec.toml.decode(path.read_bytes(), type=Prices)
        if min(prices.gib_month, prices.write_1000, prices.read_1000) < 0:
            raise msgspec.ValidationError("a price is below zero")
    except (OSError, msgspec.DecodeError) as error:
        raise InvalidRequest(
            f"it is no price file: {error}",
            subject=str(path),
            hint="start from docs/prices-example.toml",
        ) from error
    return prices


def stored(entries: Iterable[Entry], replica: str) -> Stored:
    """entries: everything below the replica, as the store lists it."""
    sums = dict.fromkeys(Stored._fields, 0)
    for entry in entries:
        kind = entry.name.removeprefix(f"{replica}/").partition("/")[0]
        sums[kind if kind in sums else "documents"] += entry.size
    return Stored(**sums)


def requests(head: Head, records: Sequence[Record]) -> Requests | None:
    """None where too little is there to tell a pace. Ranges that were merged say nothing of it."""
    first = max((one.last for one in head.merged), default=0)
    newest = [record for record in records if record.seq >= first and record.kind != "fence"]
    if len(newest) < 2:
        return None
    times = [datetime.fromisoformat(record.at) for record in newest]
    span = times[-1] - times[0]
    if span < _LEAST_SPAN:
        return None
    # The first only begins the span.
    counted = newest[1:]
    logs = sum(len(disk.logs) for record in counted for disk in record.disks)
    months = span / MONTH
    return Requests(writes=(logs + len(counted)) / months, reads=len(counted) / months)


def cost(held: Stored, asked: Requests | None, prices: Prices) -> Cost:
    per_month = asked or Requests(0.0, 0.0)
    return Cost(
        storage=held.total / _GIB * prices.gib_month,
        requests=(per_month.writes * prices.write_1000 + per_month.reads * prices.read_1000) / 1000,
    )
