"""`standby login`: name the vault that commands speak to, and get a token of it. The password is not kept."""

from __future__ import annotations

import getpass
import socket
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from standby.cli import results
from standby.cli.help import lone
from standby.cli.key_options import ask
from standby.cli.output import Json, print_json, say, stdout
from standby.cli.vault_client import connected
from standby.cli.vault_login import Login, authority_of, keep, url_of
from standby.errors import InvalidRequest

app = lone()


@app.command()
def login(
    url: Annotated[str, typer.Argument(metavar="URL", help="The vault's, such as https://vault:8443.")],
    user: Annotated[
        str | None, typer.Option("--user", metavar="NAME", help="Log in by this user's password.")
    ] = None,
    token: Annotated[
        bool, typer.Option("--token", help="Ask for an API token, made in the portal, and no password.")
    ] = False,
    authority: Annotated[
        Path | None,
        typer.Option(
            "--authority", metavar="PEM", help="The authority of the vault's certificate, if it has its own."
        ),
    ] = None,
    days: Annotated[int, typer.Option("--days", min=1, max=365, help="How long it lasts.")] = 90,
    json: Json = False,
) -> None:
    """Log in to a vault: from then on, commands speak to it (docs/operator-guide.md: Commands against a vault).

    Asks for the password, or with --token for an API token; without a terminal, a line of standard input. Kept is a
    token only, readable by you alone. `standby logout` ends it.
    """
    vault, pem = url_of(url), authority_of(authority) if authority else ""
    if token and user:
        raise InvalidRequest(
            "a token needs no user", subject="standby login", hint="give --token or --user NAME"
        )
    if token:
        given = Login(vault=vault, token=ask("API token: ").strip(), authority=pem)
        with connected(given) as client:
            me = client.get("me")
        kept = msgspec.structs.replace(given, user=me["name"])
        role, expires = me["role"], ""
    else:
        name = user or getpass.getuser()
        with connected(Login(vault=vault, token="", authority=pem)) as client:
            made = client.post(
                "login",
                body={
                    "name": name,
                    "password": ask(f"Password of {name}: "),
                    "token": f"standby login on {socket.gethostname()}"[:100],
                    "days": days,
                },
            )
        kept = Login(vault=vault, token=made["token"], authority=pem, token_id=made["id"], user=name)
        role, expires = made["role"], made["expires"]
    file = keep(kept)
    if json:
        print_json(
            results.LoggedIn(vault=vault, user=kept.user, role=role, expires=expires or "", file=str(file))
        )
    else:
        until = f" until {expires[:10]}" if expires else ""
        say(
            stdout(),
            f"Logged in to {vault} as {kept.user} ({role}){until}. `standby status` shows the whole.",
        )
