"""`standby site`: a vault's sites."""

from __future__ import annotations

from typing import Annotated

import typer

from standby.cli.help import lone
from standby.cli.output import Column, Json, print_json, say, stdout, table
from standby.cli.vault_client import connected

app = lone()

SiteName = Annotated[str, typer.Argument(metavar="SITE", help="Its name or id.")]


@app.command("list")
def list_sites(json: Json = False) -> None:
    """List a vault's sites: groups of hosts that can run each other's machines."""
    with connected() as client:
        found = client.get("sites")
        hosts = client.get("hosts")
    if json:
        print_json(found)
    elif not found:
        say(stdout(), "There is no site yet: `standby site create NAME`.")
    else:
        table(
            stdout(),
            [Column("Site"), Column("Hosts", right=True), Column("Id", 1, whole=True)],
            [
                (one["name"], str(sum(host["site"] == one["id"] for host in hosts)), one["id"])
                for one in found
            ],
        )


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as the town it is in.")],
    json: Json = False,
) -> None:
    """Make a site."""
    with connected() as client:
        made = client.post("sites", body={"name": name})
    if json:
        print_json(made)
    else:
        say(stdout(), f"There is a site {name} now. `standby host key {name}` lets a host register with it.")


@app.command()
def delete(site: SiteName, json: Json = False) -> None:
    """Delete a site that never had a host."""
    with connected() as client:
        client.delete("sites", site)
    if json:
        print_json({"site": site})
    else:
        say(stdout(), f"The site {site} is deleted.")
