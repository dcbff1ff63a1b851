"""`standby replica holds` and `release`: who keeps points from being merged away, and the end of one left behind."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from standby.cli import results
from standby.cli.output import Column, Json, print_json, say, stderr, stdout, table
from standby.cli.quantities import age, local, zone
from standby.cli.reading import ReplicaName, StoreAddress
from standby.errors import InvalidRequest
from standby.objects.address import open_store
from standby.replica.documents import Hold
from standby.replica.journal import Place, drop_hold, read_head


def holds(store: StoreAddress, replica: ReplicaName, json: Json = False) -> None:
    """List who reads a replica's points and so keeps them; a killed reader leaves its hold."""
    head, _ = read_head(Place(open_store(store), replica))
    if json:
        print_json([results.Hold.of(hold) for hold in head.holds])
    elif not head.holds:
        say(stdout(), f"Nobody holds a point of {replica}.")
    else:
        _print(head.holds)


def release(
    store: StoreAddress,
    replica: ReplicaName,
    hold: Annotated[
        str, typer.Argument(metavar="HOLD", help="The hold's id, as `standby replica holds` tells it.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: its reader is known to be gone.")] = False,
    json: Json = False,
) -> None:
    """End a hold that a killed reader left. A reader that still works may find its point gone."""
    place = Place(open_store(store), replica)
    head, _ = read_head(place)
    found = next((one for one in head.holds if one.id == hold), None)
    if found is None:
        raise InvalidRequest(
            f"it has no hold {hold}",
            subject=f"{replica} in {place.store.url}",
            hint=f"`standby replica holds {place.store.url} {replica}` lists those it has",
        )
    if not yes and not _confirmed(found, replica, may_ask=not json):
        say(stderr(), "Nothing was changed.")
        return
    drop_hold(place, found.id)
    if json:
        print_json(results.Hold.of(found))
    else:
        say(stdout(), f"Released: point {found.seq} of {replica} is no longer held by: {found.by}.")


def _confirmed(hold: Hold, replica: str, *, may_ask: bool) -> bool:
    """Raises InvalidRequest where there is nobody to ask."""
    if not (may_ask and sys.stdin.isatty()):
        raise InvalidRequest(
            f"point {hold.seq} is held by: {hold.by}; there is no terminal to ask whether that is gone",
            subject=f"hold {hold.id} of {replica}",
            hint="make sure that it no longer runs, then repeat the command with --yes",
        )
    say(
        stderr(),
        f"Point {hold.seq} of {replica} is held by: {hold.by}, since {_since(hold, datetime.now(UTC))}. "
        "If that still runs, its point may be merged away under it.",
    )
    return typer.confirm("Release the hold?", err=True)


def _print(found: tuple[Hold, ...]) -> None:
    now = datetime.now(UTC)
    table(
        stdout(),
        [
            Column("Hold", whole=True),
            Column("Point", right=True),
            Column("Age", right=True),
            Column(f"Since ({zone(now)})", priority=1),
            Column("By"),
        ],
        [
            (
                hold.id,
                str(hold.seq),
                age(hold.since, now) if hold.since else "unknown",
                local(hold.since) if hold.since else "",
                hold.by,
            )
            for hold in found
        ],
    )


def _since(hold: Hold, now: datetime) -> str:
    return (
        f"{local(hold.since)} {zone(hold.since)} ({age(hold.since, now)})"
        if hold.since
        else "an unknown time"
    )
