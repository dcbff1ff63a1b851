"""Options that give the key of an encrypted replica. It is never an argument, nor in the environment itself."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer

from standby.errors import InvalidRequest
from standby.replica.keys import Key, KeyFile, Passphrase

KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        metavar="FILE",
        envvar="STANDBY_KEY_FILE",
        show_envvar=False,
        help="The key file of an encrypted replica [default: $STANDBY_KEY_FILE].",
    ),
]
PassphraseOption = Annotated[
    bool,
    typer.Option(
        "--passphrase",
        help="Ask for the passphrase of an encrypted replica; without a terminal, a line of standard input.",
    ),
]


def key_of(key_file: Path | None, passphrase: bool) -> Key | None:
    """None if none was given. Raises KeyRefused."""
    if passphrase:
        return Passphrase(ask("Passphrase: "))
    return KeyFile(key_file) if key_file else None


def ask(prompt: str, *, twice: bool = False) -> str:
    """A passphrase, from the terminal or as a line of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    text = getpass.getpass(prompt)
    if twice and getpass.getpass("Again: ") != text:
        raise InvalidRequest("the two differ", subject="passphrase", hint="type the same twice")
    return text
