"""`standby vault`: the control plane's own process and its console."""

from __future__ import annotations

import getpass
import logging
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from standby.cli.foreground import stopping
from standby.cli.help import lone
from standby.cli.output import Column, Json, print_json, say, stderr, stdout, table
from standby.cli.quantities import age, instant
from standby.cli.reading import StoreAddress
from standby.cli.state import default_state, made
from standby.clock import SystemClock
from standby.errors import Bug, InvalidRequest
from standby.portal.pages import attach
from standby.vault import access, begin
from standby.vault import rebuild as rebuilding
from standby.vault.api.app import create_app
from standby.vault.core import Vault
from standby.vault.database import Database
from standby.vault.server import Server, address_of
from standby.vault.tls import identity

app = lone()

Folder = Annotated[
    Path | None,
    typer.Option(
        "--folder",
        metavar="DIR",
        help="Where the vault keeps its certificates, and its database unless --database names one "
        "[default: `vault` in the agent's state directory].",
        show_default=False,
    ),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        envvar="STANDBY_DATABASE",
        show_envvar=False,
        help="postgresql://USER@HOST/NAME, for several vault processes [default: $STANDBY_DATABASE, or SQLite "
        "in the folder].",
        show_default=False,
    ),
]


@app.command()
def run(
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where people and agents reach it.")
    ] = "127.0.0.1:8443",
    url: Annotated[
        str,
        typer.Option(
            "--url",
            metavar="URL",
            help="How agents reach it from outside: into vault key files [default: from --listen].",
            show_default=False,
        ),
    ] = "",
    database: DatabaseUrl = None,
    folder: Folder = None,
    certificate: Annotated[
        Path | None,
        typer.Option(
            "--certificate", metavar="FILE", help="PEM chain [default: one of the vault's own authority]."
        ),
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", metavar="FILE", help="Of the certificate.")] = None,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="Speak HTTP: on loopback, or behind a proxy that speaks TLS."),
    ] = False,
    proxies: Annotated[
        str,
        typer.Option(
            "--proxies", metavar="ADDRESSES", help="Proxies whose X-Forwarded headers are believed."
        ),
    ] = "",
) -> None:
    """Serve the vault: REST, portal and agents. The first start prints the first user's password, once.

    Several of these on one PostgreSQL are one vault: put a load balancer before them.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    address = address_of(listen)
    where = made(_folder(folder))
    if plain and not (address.loopback or proxies):
        raise InvalidRequest(
            "passwords and tokens would go over the network in clear",
            subject=f"--plain on {listen}",
            hint="leave --plain away, or name with --proxies the proxy that speaks TLS before it",
        )
    if (certificate is None) is not (key is None):
        raise InvalidRequest(
            "a certificate and its key go together", subject="--certificate", hint="give both"
        )
    authority = ""
    if not plain and certificate is None:
        own = identity(where, certificate_names(address.host, url), SystemClock().now())
        certificate, key, authority = own.certificate, own.key, own.authority
    with opened(where, database) as vault, stopping() as stop:
        vault.database.migrate()
        tell_first(begin.first_user(vault))
        begin.first_policies(vault)
        with closing(Server(address, certificate=certificate, key=key, proxies=proxies)) as server:
            reached = url or f"{server.scheme}://{_named(address.host)}:{server.port}"
            web = create_app(vault, url=reached, authority=authority)
            attach(web)
            server.start(web)
            say(stderr(), f"The vault is at {reached}")
            while not stop.wait(1.0):
                if not server.alive:
                    raise Bug("the web server ended by itself", subject="vault", hint="see its log above")


@app.command()
def password(
    name: Annotated[str, typer.Argument(help="The user.")],
    database: DatabaseUrl = None,
    folder: Folder = None,
    json: Json = False,
) -> None:
    """Give a user a new password, printed once. On the vault's own machine, for who has lost it."""
    fresh = secrets.token_urlsafe(12)
    with opened(_folder(folder), database) as vault:
        vault.database.migrate()
        access.change_user(vault, access.console(getpass.getuser()), name, password=fresh, enabled=True)
    if json:
        print_json({"user": name, "password": fresh})
    else:
        say(stdout(), f"The new password of {name}: {fresh}")


@app.command()
def rebuild(
    store: StoreAddress,
    site: Annotated[
        str, typer.Option("--site", metavar="NAME", help="The site that its machines belong to.")
    ] = "Recovered",
    database: DatabaseUrl = None,
    folder: Folder = None,
    json: Json = False,
) -> None:
    """Take in all replicas of a store, after a vault was lost. The store is only read.

    Then register the hosts anew: what their agents go on with becomes theirs again.
    """
    with opened(_folder(folder), database) as vault:
        vault.database.migrate()
        found = rebuilding.rebuild(vault, access.console(getpass.getuser()), store, site)
    if json:
        print_json([one._asdict() for one in found])
        return
    console, now = stdout(), datetime.now(UTC)
    if not found:
        say(console, f"There is no replica in {store}.")
    else:
        table(
            console,
            [
                Column("Replica"),
                Column("Machine", priority=1),
                Column("Points", right=True),
                Column("Newest", right=True),
                Column(""),
            ],
            [
                (
                    one.replica,
                    one.machine,
                    str(one.points),
                    age(instant(one.newest), now) if one.newest else "none",
                    "damaged" if one.problem else "taken in" if one.new else "known already",
                )
                for one in found
            ],
        )
    for one in found:
        if one.problem:
            say(console, f"\n{one.replica}: {one.problem}", style="yellow")


@contextmanager
def opened(folder: Path, database: str | None) -> Iterator[Vault]:
    """The vault of a folder or database."""
    if database is None:
        made(folder)
        database = f"sqlite:///{folder / 'vault.sqlite'}"
    with closing(Database(database)) as found:
        yield Vault(found, SystemClock())


def _folder(folder: Path | None) -> Path:
    return (folder or default_state() / "vault").absolute()


def tell_first(fresh: str | None) -> None:
    """The first user's password, where there is one."""
    if fresh:
        say(stderr(), f"First user: {begin.FIRST_USER}, password: {fresh} (told this once; change it)")


def certificate_names(host: str, url: str) -> list[str]:
    """What the certificate is for."""
    outside = url.partition("://")[2].partition("/")[0].rpartition(":")[0] or url.partition("://")[2]
    names = [outside.strip("[]"), _named(host), socket.gethostname(), "localhost", "127.0.0.1"]
    return list(dict.fromkeys(one for one in names if one))


def _named(host: str) -> str:
    return socket.gethostname() if host in ("0.0.0.0", "::") else host
