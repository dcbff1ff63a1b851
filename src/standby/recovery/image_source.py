"""A disk at a point, opened in the process that serves it (block/serve.py): the factories to name there."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from ulid import ULID

from standby.block.extent import Extent, Span
from standby.errors import Damaged
from standby.objects.address import open_store
from standby.objects.base import StoreUnreachable
from standby.replica.format import BLOCK
from standby.replica.image import Image
from standby.replica.journal import Place, ReplicaLog, add_hold, drop_hold, read_settled
from standby.replica.keys import DataKey, Key

OPEN_HELD: Final = "standby.recovery.image_source:open_held"
OPEN_POINT: Final = "standby.recovery.image_source:open_point"


_T = TypeVar("_T")

AGAIN: Final = 1.0
"""Seconds between two tries to read from a store that is away."""


def open_held(
    store: str,
    replica: str,
    seq: int,
    disk: str,
    damage: str = "",
    patience: float = 0.0,
    data_key: str = "",
) -> ServedImage:
    """The disk as at record `seq`, under a hold that somebody else has (a recovery, in its run directory).

    store: its address. damage: a file that gets a line of JSON for everything damaged that was asked for.
    patience: seconds in which a read waits for a store that is away.
    data_key: of an encrypted replica, hex. Raises InvalidRequest, ChainBroken, Damaged, KeyMissing.
    """
    log = ReplicaLog.read(open_store(store), replica, upto=seq, key=_key(data_key))
    record = log.point(str(seq))
    return ServedImage(log.image(record.seq, disk), Path(damage) if damage else None, patience=patience)


def open_point(
    store: str, replica: str, point: str = "newest", disk: str = "", damage: str = "", data_key: str = ""
) -> ServedImage:
    """The disk as at a point (see `ReplicaLog.point`), under a hold that ends when the disk is closed.

    damage: as with `open_held`. On a store that cannot be written there is no hold, and the server's log says
    so. A server that is killed leaves its hold, which names it. data_key: of an encrypted replica, hex.
    """
    place = Place(open_store(store), replica, _key(data_key))
    seq = read_settled(place)[0].point(point).seq
    hold_id = str(ULID())
    held = add_hold(place, hold_id, seq, f"served by process {os.getpid()} on {os.uname().nodename}")
    if not held:
        print(f"{replica}: served without a hold, the store cannot be written", file=sys.stderr)  # noqa: T201
    try:
        # Read again: before the hold a merge may have moved the floor.
        log = read_settled(place, upto=seq)[0]
        image = log.image(log.point(str(seq)).seq, disk)
    except BaseException:
        if held:
            drop_hold(place, hold_id)
        raise
    return ServedImage(
        image, Path(damage) if damage else None, (lambda: drop_hold(place, hold_id)) if held else None
    )


def _key(data_key: str) -> Key | None:
    return DataKey(bytes.fromhex(data_key)) if data_key else None


class ServedImage:
    """An `Image` every byte of which is checked before it is given out: it is always read by whole blocks.

    A client that asks for less than a block, as a guest does, would otherwise get bytes that no hash covers.
    """

    def __init__(
        self,
        image: Image,
        damage: Path | None,
        ended: Callable[[], None] | None = None,
        *,
        patience: float = 0.0,
    ) -> None:
        self._image = image
        self._damage = damage
        self._patience = patience
        self._ended = ended
        self._told: set[str] = set()
        self._telling = threading.Lock()

    @property
    def size(self) -> int:
        return self._image.size

    def read(self, offset: int, into: memoryview) -> None:
        start, end = offset // BLOCK * BLOCK, min(-(-(offset + len(into)) // BLOCK) * BLOCK, self.size)
        with self._telling_damage():
            if (start, end - start) == (offset, len(into)):
                self._waiting(lambda: self._image.read(offset, into))
                return
            blocks = memoryview(np.empty(max(end - start, 0), np.uint8).data).cast("B")
            self._waiting(lambda: self._image.read(start, blocks))
            into[:] = blocks[offset - start : offset - start + len(into)]

    def read_all(self, extents: Sequence[Extent], into: memoryview) -> None:
        done = 0
        for extent in extents:
            self.read(extent.offset, into[done : done + extent.length])
            done += extent.length

    def spans(self, extent: Extent) -> Iterator[Span]:
        with self._telling_damage():
            yield from self._waiting(lambda: list(self._image.spans(extent)))

    def clone(self) -> ServedImage:
        twin = ServedImage(self._image.clone(), self._damage, patience=self._patience)
        twin._told, twin._telling = self._told, self._telling
        return twin

    def close(self) -> None:
        """Of the first handle: also ends the hold."""
        self._image.close()
        ended, self._ended = self._ended, None
        if ended:
            ended()

    def _waiting(self, read: Callable[[], _T]) -> _T:
        """What `read` gives, once the store is there. A guest waits for its disk; an error it would remember."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return read()
            except StoreUnreachable:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(AGAIN)

    @contextlib.contextmanager
    def _telling_damage(self) -> Iterator[None]:
        try:
            yield
        except Damaged as error:
            self._tell(error)
            raise

    def _tell(self, error: Damaged) -> None:
        if self._damage is None:
            return
        line = json.dumps({"subject": error.subject, "cause": error.cause, "hint": error.hint})
        with self._telling:
            if line not in self._told:
                self._told.add(line)
                with self._damage.open("a") as file:
                    file.write(line + "\n")
