"""`standby replica cost`: what replicas cost a month, by a price file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from standby.cli import results
from standby.cli.output import Column, Json, print_json, say, stdout, table
from standby.cli.quantities import size
from standby.cli.reading import StoreAddress
from standby.objects.address import open_store
from standby.objects.base import ObjectStore
from standby.replica.cost import Prices, read_prices, requests, stored
from standby.replica.cost import cost as cost_of
from standby.replica.journal import ReplicaLog, replica_names
from standby.replica.sweep import find_unneeded


def cost(
    store: StoreAddress,
    replica: Annotated[
        str | None, typer.Argument(metavar="[REPLICA]", help="One replica [default: all].")
    ] = None,
    *,
    prices: Annotated[
        Path, typer.Option("--prices", metavar="FILE", help="Prices of the store (docs/prices-example.toml).")
    ],
    json: Json = False,
) -> None:
    """Tell what replicas cost a month: bytes as listed, requests at the pace of the newest points."""
    known = read_prices(prices)
    opened = open_store(store)
    found = [_of(opened, name, known) for name in ([replica] if replica else replica_names(opened))]
    result = results.Costs(
        store=opened.url,
        currency=known.currency,
        as_of=known.as_of,
        replicas=tuple(found),
        total=round(sum(one.total for one in found), 4),
    )
    if json:
        print_json(result)
    else:
        _print(result)


def _of(store: ObjectStore, name: str, prices: Prices) -> results.ReplicaCost:
    log = ReplicaLog.read(store, name)
    held = stored(store.list(f"{name}/"), name)
    asked = requests(log.head, log.records)
    costs = cost_of(held, asked, prices)
    return results.ReplicaCost(
        replica=name,
        logs=held.logs,
        layers=held.layers,
        documents=held.documents,
        boot=held.boot,
        stored=held.total,
        unneeded=find_unneeded(log).bytes,
        writes=round(asked.writes) if asked else None,
        reads=round(asked.reads) if asked else None,
        storage=round(costs.storage, 4),
        requests=round(costs.requests, 4) if asked else None,
        total=round(costs.total, 4),
    )


def _print(result: results.Costs) -> None:
    console = stdout()
    table(
        console,
        [
            Column("Replica"),
            Column("Stored", priority=1, right=True),
            Column("Logs", priority=4, right=True),
            Column("Layers", priority=4, right=True),
            Column("Writes a month", priority=3, right=True),
            Column("Storage", priority=2, right=True),
            Column("Requests", priority=2, right=True),
            Column(f"{result.currency} a month", right=True),
        ],
        [
            (
                one.replica,
                size(one.stored),
                size(one.logs),
                size(one.layers),
                "?" if one.writes is None else f"{one.writes:,}",
                f"{one.storage:.2f}",
                "?" if one.requests is None else f"{one.requests:.2f}",
                f"{one.total:.2f}",
            )
            for one in result.replicas
        ],
    )
    say(
        console,
        f"\n{result.total:.2f} {result.currency} a month in all, by prices of {result.as_of}; without reading, "
        "retention's own requests, traffic, redundancy and taxes.",
    )
    for one in result.replicas:
        if one.unneeded:
            say(
                console,
                f"{one.replica}: {size(one.unneeded)} of it nothing needs; `standby replica sweep` deletes what the "
                "store allows to delete.",
            )
    if any(one.writes is None for one in result.replicas):
        say(console, "?: too few points since the last merge to tell their pace.")
