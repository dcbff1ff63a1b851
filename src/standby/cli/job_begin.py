"""Beginning jobs on a vault's machines: what is confirmed, what is told, and watching if that is wanted."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from standby.cli.job_watch import end_of, follow
from standby.cli.output import print_json, say, stderr, stdout
from standby.cli.vault_client import Client
from standby.errors import InvalidRequest

Confirm = Annotated[
    str,
    typer.Option(
        "--confirm",
        metavar="NAME",
        help="The machine's name, for what cannot be taken back; else a terminal asks.",
    ),
]
Wait = Annotated[bool, typer.Option("--wait", help="Watch the job to its end; its end is the exit status.")]


def begin(
    client: Client,
    machine: str,
    kind: str,
    params: Mapping[str, Any],
    *,
    confirm: str = "",
    dangerous: bool = False,
) -> Any:
    """The job. dangerous: the machine's name is asked for if it was not given."""
    if dangerous and not confirm:
        confirm = _asked(client, machine, kind)
    body = {"kind": kind, "params": dict(params), "confirm": confirm}
    return client.begin("machines", machine, "jobs", body=body)


def told(client: Client, job: Any, *, wait: bool, json: bool) -> None:
    """Show what was begun; with `wait`, how it goes on. Raises what the job ended with."""
    if wait:
        ended = follow(client, job["id"], stdout(), json=json)
        if error := end_of(ended):
            raise error
    elif json:
        print_json(job)
    else:
        say(
            stdout(),
            f"{job['title']} of {job['subject']} was begun in {client.vault}: "
            f"`standby job watch {job['id']}` follows it.",
        )


def _asked(client: Client, machine: str, kind: str) -> str:
    name = str(client.get("machines", machine)["name"])
    if not sys.stdin.isatty():
        raise InvalidRequest(
            f"{kind} is to be confirmed by the machine's name",
            subject=name,
            hint=f"the same command with `--confirm {name}`",
        )
    say(stderr(), f"{kind} of {name} in {client.vault}. Type the machine's name to confirm:")
    return sys.stdin.readline().strip()
