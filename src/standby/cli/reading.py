"""Finding a replica, a point of it and a disk of that, as the operator named them."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import typer

from standby.errors import InvalidRequest
from standby.objects.address import open_store
from standby.objects.base import ObjectStore
from standby.replica.documents import DiskState, Head, Record, decode_record
from standby.replica.journal import Place, ReplicaLog, newest_machine, read_head
from standby.replica.keys import Key
from standby.replica.plan import WORDS

StoreAddress = Annotated[
    str, typer.Argument(metavar="STORE", help="A directory, s3://BUCKET/PREFIX or az://CONTAINER/PREFIX.")
]
ReplicaName = Annotated[str, typer.Argument(metavar="REPLICA", help="The replica's name in the store.")]
PointChoice = Annotated[
    str,
    typer.Option(
        "--point",
        metavar="P",
        help="A point's number, `newest`, `newest-application` (-consistent) or `newest-unflagged` (not suspicious).",
    ),
]
DiskChoice = Annotated[
    str | None,
    typer.Option("--disk", metavar="D", help="The disk; may be left out where there is only one."),
]


class Chosen(NamedTuple):
    log: ReplicaLog
    record: Record

    @property
    def title(self) -> str:
        return f"{self.log.place.name}, point {self.record.seq}"


def choose(address: str, replica: str, point: str, key: Key | None) -> Chosen:
    """To read what is in the point. Raises InvalidRequest naming what there is, and the next command; KeyMissing."""
    store = open_store(address)
    # Damage behind the point that was asked for must not keep anyone from it.
    upto = int(point) if point.isdecimal() else None
    log = ReplicaLog.read(store, replica, upto=upto, key=key)
    log.cipher()
    try:
        return Chosen(log, log.point(point))
    except InvalidRequest as error:
        whole = log if upto is None else log.again()
        if not whole.points:
            raise
        hint = f"choose one of {_numbers(whole)}" if upto is not None or not _word(point) else error.hint
        raise InvalidRequest(
            error.cause,
            subject=f"{replica} in {store.url}",
            hint=f"{hint}; `standby replica points {store.url} {replica}` lists them",
        ) from error


def choose_disk(chosen: Chosen, disk: str | None) -> DiskState:
    """Raises InvalidRequest naming the point's disks."""
    disks = chosen.record.disks
    names = ", ".join(one.id for one in disks)
    if disk is None:
        if len(disks) == 1:
            return disks[0]
        raise InvalidRequest(
            f"it has {len(disks)} disks", subject=chosen.title, hint=f"name one with --disk: {names}"
        )
    found = chosen.record.disk(disk)
    if found is None:
        raise InvalidRequest(
            f"it has no disk {disk}", subject=chosen.title, hint=f"name one with --disk: {names}"
        )
    return found


def newest_point(store: ObjectStore, name: str) -> Record | None:
    """The newest recovery point, by reading backwards from the tail: few requests, no proof of the chain."""
    place = Place(store, name)
    head, _ = read_head(place)
    for entry in reversed(list(store.list(place.points, after=place.point(head.floor - 1)))):
        record = decode_record(store.get(entry.name).data, place.subject(entry.name))
        if record.is_point:
            return record
    return None


def stored_bytes(store: ObjectStore, name: str) -> int:
    """What the replica takes in the store."""
    return sum(entry.size for entry in store.list(f"{name}/"))


def machine_name(head: Head, records: Sequence[Record]) -> str:
    machine = newest_machine(records)
    return machine.name if machine else head.name


def reader(command: str) -> str:
    """Who holds a point, for those who wonder why it is not merged away."""
    return f"standby {command} on {socket.gethostname()}, process {os.getpid()}"


def _numbers(log: ReplicaLog) -> str:
    points = log.points
    return f"points {points[0].seq} to {points[-1].seq}" if len(points) > 1 else f"point {points[0].seq}"


def _word(point: str) -> bool:
    return point in WORDS
