"""`standby up`: vault, portal and this host's agent in one process."""

from __future__ import annotations

import logging
import os
import socket
import sys
from contextlib import ExitStack, closing
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from standby.agent import daemon, link_state
from standby.agent.discovery import SOCKETS
from standby.agent.link_client import VaultClient
from standby.agent.membership import linked
from standby.agent.memory import give_back_large
from standby.cli.foreground import stopping
from standby.cli.help import lone
from standby.cli.output import say, stderr
from standby.cli.state import State, folder_of, made
from standby.cli.vault import certificate_names, opened, tell_first
from standby.clock import SystemClock
from standby.link.messages import Registration
from standby.objects.directory import DirectoryStore
from standby.portal.pages import attach
from standby.replication.books import Books
from standby.vault import access, begin, hosts
from standby.vault.api.app import create_app
from standby.vault.core import Vault
from standby.vault.schema import Host
from standby.vault.server import Server, address_of
from standby.vault.tls import identity

SITE = "This host"
app = lone()


@app.command()
def up(
    listen: Annotated[
        str,
        typer.Option(
            "--listen", metavar="HOST:PORT", help="Where the portal is; TLS unless it is on loopback."
        ),
    ] = "127.0.0.1:8443",
    store: Annotated[
        Path | None,
        typer.Option(
            "--store",
            metavar="DIR",
            help="The first store; made if missing [default: `replicas` in the state directory].",
            show_default=False,
        ),
    ] = None,
    sockets: Annotated[
        Path,
        typer.Option("--sockets", metavar="DIR", help="Where machines have control sockets for standby."),
    ] = SOCKETS,
    state: State = None,
) -> None:
    """Vault, portal and this host's agent in one process: all that one host needs. Until Ctrl-C.

    The first start prints the first user's password, once. A store beside the machines does not outlive their building:
    name one elsewhere in the portal, under Infrastructure.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for noisy in ("alembic", "asyncio", "qemu.qmp", "httpx", "httpcore", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    give_back_large()
    clock, folder, address = SystemClock(), made(folder_of(state)), address_of(listen)
    own = made(folder / "vault")
    certificate = key = None
    authority = ""
    if not address.loopback:
        found = identity(own, certificate_names(address.host, ""), clock.now())
        certificate, key, authority = found.certificate, found.key, found.authority
    with ExitStack() as stack:
        books = stack.enter_context(closing(Books(folder)))
        vault = stack.enter_context(opened(own, None))
        stop = stack.enter_context(stopping())
        vault.database.migrate()
        tell_first(begin.first_user(vault))
        begin.first_policies(vault)
        place = (store or folder / "replicas").absolute()
        begin.first_site(vault, SITE, DirectoryStore(place, create=True).url)
        server = stack.enter_context(closing(Server(address, certificate=certificate, key=key)))
        url = f"{server.scheme}://{address.host}:{server.port}"
        web = create_app(vault, url=url, authority=authority)
        attach(web)
        server.start(web)
        _join(vault, folder, url, authority)
        say(stderr(), f"The portal is at {url}")
        daemon.run(
            books,
            clock,
            stop,
            beside=lambda engines: linked(books, engines, clock, sockets=sockets.absolute()),
        )


def _join(vault: Vault, folder: Path, url: str, authority: str) -> None:
    """Make this host one of this vault's, unless it is."""
    known = link_state.membership(folder)
    if known is not None:
        with vault.session() as session:
            host = session.get(Host, known.host)
        if host is not None and not host.revoked and (known.vault, known.authority) == (url, authority):
            return
    actor = access.console(f"standby up, process {os.getpid()}")
    key = hosts.new_key(vault, actor, SITE, url, authority, days=1)
    name = socket.gethostname()
    with VaultClient(url, authority) as client:
        registered = client.register(
            Registration(key=key.key, name=name, version=version("standby"), host=known.host if known else "")
        )
    link_state.keep_membership(folder, link_state.membership_of(key, name, registered))
