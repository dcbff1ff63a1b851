"""`standby store`: making a place for replicas."""

from __future__ import annotations

import typer

from standby.cli import results
from standby.cli.help import Group
from standby.cli.output import Json, print_json, say, stdout
from standby.cli.reading import StoreAddress
from standby.objects.address import directory_of, is_cloud, open_store
from standby.objects.directory import DirectoryStore
from standby.objects.probe import probe

app = typer.Typer(cls=Group)


@app.callback()
def stores() -> None:
    """Keeps `create` a command of its own while there is only one."""


@app.command()
def create(store: StoreAddress, json: Json = False) -> None:
    """Make a directory a store, and prove that it gives what replicas rest on. Repeating it is harmless.

    A bucket or container must exist; it is only proven.
    """
    opened = open_store(store) if is_cloud(store) else DirectoryStore(directory_of(store), create=True)
    probe(opened)
    if json:
        print_json(results.StoreMade(store=opened.url))
    else:
        say(stdout(), f"{opened.url} is a store.")
