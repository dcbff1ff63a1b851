"""`standby host`: a vault's hosts and the keys by which they register."""

from __future__ import annotations

import json as encoding
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from standby.cli.help import lone
from standby.cli.output import Column, Field, Json, fields, print_json, say, stdout, table
from standby.cli.quantities import age, duration, instant, local, zone
from standby.cli.site import SiteName
from standby.cli.vault_client import connected
from standby.errors import InvalidRequest

app = lone()

HostName = Annotated[str, typer.Argument(metavar="HOST", help="Its name or id.")]


@app.command("list")
def list_hosts(json: Json = False) -> None:
    """List a vault's hosts, and when their agents last reported."""
    with connected() as client:
        found = client.get("hosts")
        sites = {one["id"]: one["name"] for one in client.get("sites")}
    if json:
        print_json(found)
        return
    if not found:
        say(stdout(), "No host has registered yet: `standby host key SITE` makes a key file for one.")
        return
    table(
        stdout(),
        [
            Column("Host"),
            Column("Site", 1),
            Column("Agent"),
            Column("Reported", right=True),
            Column("Version", 2),
            Column("Id", 3, whole=True),
        ],
        [
            (one["name"], sites.get(one["site"], "?"), _agent(one), _beat(one), one["version"], one["id"])
            for one in found
        ],
    )


@app.command()
def show(host: HostName, json: Json = False) -> None:
    """Show a host: its agent, its machines, the recovered copies that it runs."""
    with connected() as client:
        found = client.get("hosts", host)
        sites = {one["id"]: one["name"] for one in client.get("sites")}
        machines = list(client.pages("machines", "machines", 10_000, turn="offset", host=found["id"]))
    if json:
        print_json(found)
        return
    console = stdout()
    protected = sum(one["protected"] for one in machines)
    fields(
        console,
        [
            Field("Host", f"{found['name']} ({found['id']})"),
            Field("Site", sites.get(found["site"], "?")),
            Field("Agent", f"{_agent(found)}, version {found['version']}"),
            Field("Reported", _beat(found)),
            Field(
                "Registered", f"{local(instant(found['registered']))} {zone(instant(found['registered']))}"
            ),
            Field(
                "Clock",
                f"{duration(abs(found['skew']))} {'ahead of' if found['skew'] > 0 else 'behind'} the vault's"
                if abs(found["skew"]) >= 1
                else "as the vault's",
            ),
            Field("Upkeep", "of its site's replicas" if found["upkeep"] else ""),
            Field("Machines", f"{len(machines)}, {protected} protected"),
            *(
                Field("Runs", f"{run['run']}: {run['kind']} of {run['machine']}, {run['phase']}")
                for run in found["runs"]
            ),
        ],
    )


@app.command()
def upkeep(
    host: HostName,
    on: Annotated[
        bool, typer.Option("--on/--off", help="Whether it does; where none does, each host does its own.")
    ] = True,
    json: Json = False,
) -> None:
    """Have a host take care of the replicas of its site's machines: retention and scrubs."""
    with connected() as client:
        found = client.patch("hosts", host, body={"upkeep": on})
    if json:
        print_json(found)
    else:
        say(
            stdout(),
            f"{found['name']} {'takes care' if on else 'does not take care'} of its site's replicas.",
        )


@app.command()
def key(
    site: SiteName,
    days: Annotated[float, typer.Option("--days", help="How long it opens a registration.")] = 5,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Where it goes [default: SITE.vault-key].", show_default=False
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Make a vault key file: it lets one host register with a site, once. Keep it secret until then."""
    file = out or Path(f"{site}.vault-key")
    if file.exists():
        raise InvalidRequest("it exists already", subject=str(file), hint="name another file with --out")
    with connected() as client:
        made = client.post("registration-keys", body={"site": site, "days": days})
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as written:
            encoding.dump(made, written)
    except OSError as error:
        raise InvalidRequest(
            f"the key cannot be written: {error.strerror}",
            subject=str(file),
            hint="name a file that can be, with --out; `standby host keys` lists the key that was made for nothing",
        ) from error
    if json:
        print_json({"file": str(file), "site": made["site"], "expires": made["expires"]})
    else:
        at = instant(made["expires"])
        say(
            stdout(),
            f"{file} lets one host register with {made['site']}, until {local(at)} {zone(at)}. It holds a "
            "secret: bring it there by a safe way.",
        )


@app.command()
def keys(json: Json = False) -> None:
    """List the keys that were made for registrations, and what became of them."""
    with connected() as client:
        found = client.get("registration-keys")
        hosts = {one["id"]: one["name"] for one in client.get("hosts", revoked=True)}
        sites = {one["id"]: one["name"] for one in client.get("sites")}
    if json:
        print_json(found)
        return
    if not found:
        say(stdout(), "No key was made yet: `standby host key SITE` makes one.")
        return
    now = datetime.now(UTC)
    table(
        stdout(),
        [
            Column("Key", whole=True),
            Column("Site"),
            Column("State"),
            Column("By", 1),
            Column("Made", 2, right=True),
        ],
        [
            (
                one["id"],
                sites.get(one["site"], "?"),
                f"used by {hosts.get(one['host'], '?')}"
                if one["used"]
                else "expired"
                if instant(one["expires"]) <= now
                else f"open for {duration((instant(one['expires']) - now).total_seconds())}",
                one["made_by"],
                age(instant(one["created"]), now),
            )
            for one in found
        ],
    )


@app.command()
def revoke(
    what: Annotated[str, typer.Argument(metavar="HOST", help="A host's name or id; with --key, a key's id.")],
    key: Annotated[bool, typer.Option("--key", help="A registration key, and no host.")] = False,
    json: Json = False,
) -> None:
    """Refuse a host's agent from now on. Its machines go on being replicated: that needs no vault."""
    with connected() as client:
        if key:
            client.delete("registration-keys", what)
        else:
            client.post("hosts", what, "revoke")
    if json:
        print_json({"revoked": what})
    elif key:
        say(stdout(), f"The key {what} opens no registration any more.")
    else:
        say(
            stdout(),
            f"{what} is refused from now on. Its machines go on being replicated, which needs no vault: stop "
            "its agent, or `standby vm unprotect MACHINE` there, if they are not to be.",
        )


def _agent(host: Any) -> str:
    if host["revoked"]:
        return "revoked"
    return "SILENT" if host["silent"] else "reports" if host["beat"] else "not yet"


def _beat(host: Any) -> str:
    return age(instant(host["beat"]), datetime.now(UTC)) if host["beat"] else "never"
