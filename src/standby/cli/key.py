"""`standby key`: key files, and the keys that open an encrypted replica."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from standby.cli import results
from standby.cli.help import Group
from standby.cli.key_options import KeyFileOption, PassphraseOption, ask, key_of
from standby.cli.output import Column, Json, print_json, say, stdout, table
from standby.cli.quantities import instant, local
from standby.cli.reading import ReplicaName, StoreAddress
from standby.clock import SystemClock
from standby.errors import InvalidRequest
from standby.objects.address import open_store
from standby.replica import keyring
from standby.replica.journal import Place
from standby.replica.keys import Key, KeyFile, Passphrase, WrappedKey

app = typer.Typer(cls=Group)

NewKeyFile = Annotated[
    Path | None,
    typer.Option("--new-key-file", metavar="FILE", help="The new key's file; `standby key new` makes one."),
]
NewPassphrase = Annotated[
    bool,
    typer.Option("--new-passphrase", help="The new key is a passphrase, asked for (after the old one)."),
]


@app.command()
def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it; nothing may be there.")],
    json: Json = False,
) -> None:
    """Make a key file: 32 random bytes that only you may read. Keep a copy where no fire reaches both."""
    made = KeyFile.new(file)
    if json:
        print_json(results.KeyMade(key=made.id, file=str(file)))
    else:
        say(
            stdout(),
            f"Key {made.id} is in {file}. Without it, or another key of the replica, nobody can read "
            "what it protects: keep a copy elsewhere.",
        )


@app.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The key file.")], json: Json = False
) -> None:
    """Tell a key file's id, as `standby key list` names it. The id says nothing of the key."""
    found = KeyFile(file)
    if json:
        print_json(results.KeyMade(key=found.id, file=str(file)))
    else:
        say(stdout(), found.id)


@app.command("list")
def list_keys(store: StoreAddress, replica: ReplicaName, json: Json = False) -> None:
    """List the keys that open a replica. Needs none of them."""
    _show(keyring.list_keys(Place(open_store(store), replica)), json)


@app.command()
def add(
    store: StoreAddress,
    replica: ReplicaName,
    key_file: KeyFileOption = None,
    passphrase: PassphraseOption = False,
    new_key_file: NewKeyFile = None,
    new_passphrase: NewPassphrase = False,
    json: Json = False,
) -> None:
    """Let another key open a replica, too, and prove that it does. Nothing is encrypted anew."""
    place = Place(open_store(store), replica, key_of(key_file, passphrase))
    added = keyring.add_key(place, _new(new_key_file, new_passphrase), SystemClock())
    if json:
        print_json(results.ReplicaKey.of(added))
    else:
        say(stdout(), f"{_name(added)} opens {replica} now, too: proved.")


@app.command()
def remove(
    store: StoreAddress,
    replica: ReplicaName,
    key: Annotated[str, typer.Argument(metavar="KEY", help="Its id, as `standby key list` tells it.")],
    key_file: KeyFileOption = None,
    passphrase: PassphraseOption = False,
    json: Json = False,
) -> None:
    """Let a key open a replica no more. Another one that does must be given. Copies made before stay readable."""
    removed = keyring.remove_key(Place(open_store(store), replica, key_of(key_file, passphrase)), key)
    if json:
        print_json(results.ReplicaKey.of(removed))
    else:
        say(stdout(), f"{_name(removed)} opens {replica} no more.")


@app.command()
def rotate(
    store: StoreAddress,
    replica: ReplicaName,
    key_file: KeyFileOption = None,
    passphrase: PassphraseOption = False,
    new_key_file: NewKeyFile = None,
    new_passphrase: NewPassphrase = False,
    json: Json = False,
) -> None:
    """Replace a key: add the new one, prove that it opens the replica, remove the old one."""
    place = Place(open_store(store), replica, key_of(key_file, passphrase))
    came, went = keyring.rotate(place, _new(new_key_file, new_passphrase), SystemClock())
    if json:
        print_json(results.KeyRotated(added=results.ReplicaKey.of(came), removed=results.ReplicaKey.of(went)))
        return
    say(
        stdout(),
        f"{_name(came)} opens {replica} now, and {_name(went).lower()} no more. An agent that had the old one "
        "goes on until it is started again: give it the new one with `standby vm key`.",
    )


def _new(file: Path | None, passphrase: bool) -> Key:
    if (file is None) is not passphrase:
        raise InvalidRequest(
            "it must be told what the new key is",
            subject="new key",
            hint="give --new-key-file or --new-passphrase",
        )
    return KeyFile(file) if file else Passphrase(ask("New passphrase: ", twice=True))


def _name(wrapped: WrappedKey) -> str:
    return f"{'Key' if wrapped.kind == 'file' else 'Passphrase'} {wrapped.id}"


def _show(wrapped: Sequence[WrappedKey], json: bool) -> None:
    if json:
        print_json([results.ReplicaKey.of(one) for one in wrapped])
        return
    table(
        stdout(),
        [Column("Key", whole=True), Column("Kind"), Column("Since")],
        [
            (one.id, "key file" if one.kind == "file" else "passphrase", local(instant(one.created)))
            for one in wrapped
        ],
    )
