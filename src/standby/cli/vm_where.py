"""Whether `standby vm` is about this host's machines or a vault's, and what that means for its options."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from standby.cli.vault_login import needed
from standby.errors import InvalidRequest

Confirm = Annotated[
    str,
    typer.Option(
        "--confirm",
        metavar="NAME",
        help="Of a vault: the machine's name, for what cannot be taken back; else a terminal asks.",
    ),
]
Wait = Annotated[
    bool, typer.Option("--wait", help="Of a vault: watch the job to its end, which is the exit status.")
]


def through_vault() -> Any:
    """The module that speaks to the vault: loaded when it is needed, as its HTTP client takes long to load."""
    return importlib.import_module("standby.cli.vault_vm")


def only_here(options: Mapping[str, object]) -> None:
    """Refuse options that concern the host itself. Raises InvalidRequest."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise InvalidRequest(
            f"{', '.join(given)}: this concerns one host, and the command goes to {needed().vault}",
            subject="standby vm",
            hint="--local makes it one for this host's agent; a vault's machines have policies (`standby policy list`)",
        )


def only_in_a_vault(option: str, value: object) -> None:
    """Raises InvalidRequest where it was given."""
    if value:
        raise InvalidRequest(
            f"{option} is for a vault's machines, and no vault is named",
            subject="standby vm",
            hint="`standby login URL`",
        )
