"""`standby agent register`, `show` and `leave`: the host and its vault."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final

import typer

from standby.agent import link_state
from standby.agent.link_client import VaultClient
from standby.agent.link_state import Membership
from standby.cli import results
from standby.cli.failover_show import confirmed
from standby.cli.output import Field, Json, fields, print_json, say, stdout
from standby.cli.quantities import age, instant, local, zone
from standby.cli.state import State, folder_of, made
from standby.link.messages import Registration, VaultKey
from standby.replication.holder import holder

SKEW: Final = 30.0
"""Seconds by which two clocks may differ before it is told."""


def register(
    key: Annotated[Path, typer.Argument(metavar="KEYFILE", help="The vault key file, as the vault gave it.")],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="The host's name there [default: its own].")
    ] = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Make this host one of a vault's. A key is used once. A running agent takes it up by itself."""
    folder = made(folder_of(state))
    vault_key = link_state.read_key(key)
    before = link_state.membership(folder)
    named = name or (before.name if before else socket.gethostname())
    with VaultClient(vault_key.vault, vault_key.authority) as client:
        registered = client.register(
            Registration(
                key=vault_key.key, name=named, version=version("standby"), host=_known(before, vault_key)
            )
        )
    link_state.keep_membership(folder, link_state.membership_of(vault_key, named, registered))
    _tell(folder, json)


def show(state: State = None, json: Json = False) -> None:
    """Tell whether the agent runs, which vault this host belongs to, and whether they get on."""
    _tell(folder_of(state), json)


def leave(
    state: State = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Forget the vault. Machines stay protected; the vault is not told and shows the host as silent."""
    folder = folder_of(state)
    found = link_state.membership(folder)
    if found and not confirmed(
        "Leave it?",
        f"The vault {found.vault} sees and orders nothing here any more. To come back takes a new key.",
        found.vault,
        yes=yes,
        may_ask=not json,
    ):
        return
    link_state.forget_membership(folder)
    _tell(folder, json)


def _known(before: Membership | None, key: VaultKey) -> str:
    """The id that this host has with the same vault."""
    if before is None:
        return ""
    same = before.vault.rstrip("/") == key.vault.rstrip("/")
    return before.host if same or (key.authority and key.authority == before.authority) else ""


def _tell(folder: Path, json: bool) -> None:
    found = link_state.membership(folder)
    talk = link_state.talk(folder) if found else None
    if talk and found and talk.host != found.host:
        talk = None
    shown = results.AgentShown(
        running=holder(folder) is not None,
        vault=found.vault if found else "",
        host=found.host if found else "",
        name=found.name if found else "",
        site=found.site if found else "",
        token_expires=found.expires if found else "",
        answered=talk.answered if talk else "",
        problem=talk.problem if talk else "",
        failures=talk.failures if talk else 0,
        skew=talk.skew if talk else 0.0,
    )
    if json:
        print_json(shown)
        return
    _print(shown, folder)


def _print(shown: results.AgentShown, folder: Path) -> None:
    console, now = stdout(), datetime.now(UTC)

    def at(text: str) -> str:
        return f"{local(instant(text))} {zone(instant(text))}" if text else ""

    agent = "running" if shown.running else "stopped: `standby agent run` goes on"
    if not shown.vault:
        fields(console, [Field("Agent", agent), Field("Vault", "none")])
        say(console, "\nA key file of a vault and `standby agent register` make this host one of its own.")
        return
    answered = (
        f"{age(instant(shown.answered), now)} ({at(shown.answered)})" if shown.answered else "never yet"
    )
    skew = (
        f"its clock is {abs(shown.skew):.0f} s {'ahead of' if shown.skew > 0 else 'behind'} this host's: "
        "see that both keep time (NTP)"
    )
    fields(
        console,
        [
            Field("Agent", agent),
            Field("Vault", shown.vault),
            Field("Site", shown.site),
            Field("Host", f"{shown.name} ({shown.host})"),
            Field("Last heartbeat", answered),
            Field("Problem", shown.problem),
            Field("Clock", skew if abs(shown.skew) > SKEW else ""),
            Field("Token", f"good until {at(shown.token_expires)}" if shown.token_expires else ""),
            Field("State", str(folder)),
        ],
    )
