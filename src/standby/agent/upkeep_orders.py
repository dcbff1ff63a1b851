"""Orders about a replica in its store: retention and scrubs. One at a time, within the host's bandwidth."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import singledispatchmethod
from pathlib import Path
from typing import Final

from standby.agent.engines import Engines
from standby.agent.job import Job
from standby.clock import Clock
from standby.errors import Damaged, InvalidRequest
from standby.link import upkeep
from standby.link.upkeep import UpkeepOrder
from standby.objects.base import ObjectStore
from standby.replica.journal import Place, ReplicaLog, hold, read_head
from standby.replica.keys import Key, remembered
from standby.replica.merge import merge
from standby.replica.retention import Tier, decide, parse_tier
from standby.replica.scrub import scrub
from standby.replica.sweep import sweep
from standby.replication.books import Books

_DECIDE: Final = "Deciding which points stay"
_FOLD: Final = "Folding"
_SWEEP: Final = "Deleting what nothing needs"
_LOOK: Final = "Looking for damage"
"""Tasks as the vault expects them (vault/jobs.py)."""


class UpkeepOrders:
    """See `Carrier` (orders.py). Each may be begun again: what was done is not done twice."""

    def __init__(self, books: Books, engines: Engines, clock: Clock) -> None:
        self._books = books
        self._engines = engines
        self._clock = clock
        self._one_by_one = threading.Lock()

    def carry_out(self, work: UpkeepOrder, job: Job) -> None:
        with self._one_by_one:
            job.point_of_return()
            self._do(work, job)

    @singledispatchmethod
    def _do(self, work: UpkeepOrder, job: Job) -> None:
        raise InvalidRequest(
            "this agent does not know this order",
            subject=type(work).__name__,
            hint="use a standby of the vault's version on this host",
        )

    @_do.register
    def _(self, work: upkeep.Retain, job: Job) -> None:
        job.expect((_DECIDE, _FOLD, _SWEEP))
        job.task(_DECIDE)
        tiers = [parse_tier(text) for text in work.keep]
        store, key = self._engines.limited(work.store), self._key(work)
        log = ReplicaLog.read(store, work.replica, key=key)
        stays = self._stays(log, tiers)
        job.detail(f"{len(stays)} of {len(log.points)} points stay")
        job.point_of_return()
        job.no_return()
        job.task(_FOLD)
        merged = merge(
            store,
            work.replica,
            lambda now: self._stays(now, tiers),
            scratch=Path(tempfile.gettempdir()),
            key=key,
        )
        job.detail(f"{len(merged.ranges)} ranges" if merged.ranges else "nothing is worth it yet")
        job.task(_SWEEP)
        swept = sweep(store, work.replica)
        job.result |= {"stay": str(len(stays)), "ranges": str(len(merged.ranges)), "freed": str(swept.bytes)}

    @_do.register
    def _(self, work: upkeep.Scrub, job: Job) -> None:
        job.task(_LOOK)
        store, key = self._engines.limited(work.store), self._key(work)
        with _held(store, work.replica):
            found = scrub(store, work.replica, fraction=work.fraction, seed=work.seed, key=key)
        job.result |= {"read": str(found.read), "bytes": str(found.bytes)}
        if found.unproved:
            job.detail(f"Not proved, {found.unproved}")
        if found.findings:
            worst = found.findings[0]
            more = f", and {len(found.findings) - 1} more" if len(found.findings) > 1 else ""
            points = f"; it touches points {', '.join(map(str, worst.points[:10]))}" if worst.points else ""
            raise Damaged(
                f"{worst.kind}: {worst.cause}{points}{more}",
                subject=worst.object,
                tried=f"reading {found.read} objects in full and the whole chain",
                hint=worst.advice,
            )

    def _stays(self, log: ReplicaLog, tiers: Sequence[Tier]) -> set[int]:
        verdicts = decide(log.points, tiers, self._clock.now(), log.head.holds)
        return {verdict.point.seq for verdict in verdicts if verdict.keep}

    def _key(self, work: UpkeepOrder) -> Key | None:
        """From the books, where this agent replicates it, else as for every command."""
        own = next((one for one in self._books.relationships() if one.replica == work.replica), None)
        return remembered((own.key_file if own else "") or os.environ.get("STANDBY_KEY_FILE", ""))


def _held(store: ObjectStore, replica: str) -> AbstractContextManager[bool]:
    """Keep what is read from being merged away. A head that cannot be read is for the scrub to tell."""
    place = Place(store, replica)
    try:
        head, _ = read_head(place)
    except (Damaged, InvalidRequest):
        return nullcontext(False)
    return hold(place, head.floor, f"scrub by the agent of {socket.gethostname()}, process {os.getpid()}")
