"""`standby vm targets`: the places that a machine is replicated to, from one capture."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Annotated

import typer

from standby.cli import results
from standby.cli.asking import carry_out
from standby.cli.help import Group
from standby.cli.machine import MachineName
from standby.cli.output import Column, Json, print_json, say, stdout, table
from standby.cli.quantities import age, instant
from standby.cli.state import State, folder_of
from standby.link import requests
from standby.objects.address import open_store
from standby.replication.books import Books, find
from standby.replication.entries import Queue
from standby.replication.followers import Follower, Followers, Stage
from standby.replication.relationship import Relationship, Trouble

app = typer.Typer(cls=Group)

Store = Annotated[
    str, typer.Option("--store", metavar="STORE", help="Where: a directory, s3:// or az:// address.")
]
Replica = Annotated[
    str | None,
    typer.Option("--replica", metavar="NAME", help="The replica's name there [default: the machine's]."),
]


@app.command()
def add(
    machine: MachineName,
    store: Store,
    replica: Replica = None,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Also if another agent owns this machine's replica there.")
    ] = False,
    state: State = None,
    json: Json = False,
) -> None:
    """Replicate a protected machine to one more store, from the same capture.

    What is there already is compared by hashes; what lacks is fetched from the machine's first store.
    """
    folder, address = folder_of(state), open_store(store).url
    carry_out(
        folder,
        requests.AddTarget(machine=machine, store=address, replica=replica or machine, take_over=take_over),
    )
    _tell(machine, state, json, f"{machine} is replicated to {address} too.")


@app.command()
def remove(
    machine: MachineName, store: Store, replica: Replica = None, state: State = None, json: Json = False
) -> None:
    """Replicate a machine to a store no more. The replica there stays, with all its points."""
    address = open_store(store).url
    done = carry_out(
        folder_of(state), requests.RemoveTarget(machine=machine, store=address, replica=replica or machine)
    )
    lost = f" What waited for it is given up: {done.dropped}." if done.dropped else ""
    _tell(machine, state, json, f"{machine} is replicated to {address} no more; its replica stays.{lost}")


@app.command("list")
def list_targets(machine: MachineName, state: State = None, json: Json = False) -> None:
    """List the places that a machine is replicated to, and how each stands."""
    with closing(Books.reading(folder_of(state))) as books:
        relationship = find(books, machine)
        found = targets_of(relationship, books.queued(relationship.id), Followers(books).of(relationship.id))
    if json:
        print_json(results.VmTargets(machine=machine, targets=found))
    else:
        print_targets(found)


def targets_of(
    relationship: Relationship, queue: Queue, followers: Sequence[Follower]
) -> tuple[results.VmTarget, ...]:
    """All of them, the first one first."""
    first = results.VmTarget(
        store=relationship.store,
        replica=relationship.replica,
        first=True,
        stage=Stage.LEVEL.value,
        why="",
        queued=queue.length,
        queued_bytes=queue.first_bytes,
        newest_at=relationship.newest,
        lag=_lag(relationship.newest),
        error=relationship.send.error if relationship.send else "",
        retry_at=_retry(relationship.send),
    )
    return (
        first,
        *(
            results.VmTarget(
                store=one.store,
                replica=one.replica,
                first=False,
                stage=one.stage.value,
                why=one.why,
                queued=one.queued,
                queued_bytes=one.queued_bytes,
                newest_at=one.newest,
                lag=_lag(one.newest),
                error=one.trouble.error if one.trouble else "",
                retry_at=_retry(one.trouble),
            )
            for one in followers
        ),
    )


def print_targets(found: Sequence[results.VmTarget]) -> None:
    console, now = stdout(), datetime.now(UTC)
    table(
        console,
        [
            Column("Target"),
            Column("Replica", priority=2),
            Column("Stands", priority=1),
            Column("Newest point", right=True),
            Column("Queue", priority=3, right=True),
        ],
        [
            (
                one.store,
                one.replica,
                "first" if one.first else one.stage,
                age(instant(one.newest_at), now) if one.newest_at else "none yet",
                str(one.queued) if one.queued else "-",
            )
            for one in found
        ],
    )
    for one in found:
        if one.error:
            say(console, f"\n{one.store}: {one.error}", style="yellow")


def _lag(newest: str) -> float | None:
    return (datetime.now(UTC) - datetime.fromisoformat(newest)).total_seconds() if newest else None


def _retry(trouble: Trouble | None) -> str:
    if trouble is None or trouble.retry_at is None:
        return ""
    return datetime.fromtimestamp(trouble.retry_at, UTC).isoformat()


def _tell(machine: str, state: State, json: bool, text: str) -> None:
    if json:
        list_targets(machine, state, json=True)
    else:
        say(stdout(), text)
