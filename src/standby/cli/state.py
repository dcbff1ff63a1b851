"""Where the agent's books lie, and opening them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from standby.errors import InvalidRequest

State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="DIR",
        help="Where the agent keeps its books [default: /var/lib/standby, or "
        "$XDG_STATE_HOME/standby (~/.local/state/standby) for others than root].",
        show_default=False,
    ),
]


def default_state() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/standby")
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "standby"


def folder_of(state: Path | None) -> Path:
    return (state or default_state()).absolute()


def made(folder: Path) -> Path:
    """`folder`, made if missing. Raises InvalidRequest where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(
            f"this directory cannot be made: {error.strerror}",
            subject=str(folder),
            hint=f"`mkdir -p {folder}` as one who may, or name another one",
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InvalidRequest(
            "nothing can be written in this directory",
            subject=str(folder),
            hint="give its owner's rights, or name another one",
        )
    return folder
