"""`standby agent`: the process that replicates this host's machines."""

from __future__ import annotations

import logging
import sys
from contextlib import closing
from typing import Annotated

import typer

from standby.agent import daemon
from standby.agent.memory import give_back_large
from standby.cli.asking import carry_out
from standby.cli.foreground import stopping
from standby.cli.help import Group
from standby.cli.output import Json, print_json, say, stdout
from standby.cli.policy_options import Other, Work, WorkHours, bandwidth_of, rate_text
from standby.cli.state import State, folder_of, made
from standby.clock import SystemClock
from standby.link.requests import SetBandwidth
from standby.replication.books import Books

app = typer.Typer(cls=Group)


@app.command()
def run(
    state: State = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log each point and cycle, not only what changes.")
    ] = False,
) -> None:
    """Replicate all protected machines of this host, until SIGTERM or Ctrl-C. Logs go to stderr."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    # They tell at this level what is only of use to those who mend them.
    for noisy in ("asyncio", "qemu.qmp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    give_back_large()
    with closing(Books(made(folder_of(state)))) as books, stopping() as stop:
        daemon.run(books, SystemClock(), stop)


@app.command()
def bandwidth(
    work: Work = None,
    other: Other = None,
    work_hours: WorkHours = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Show or limit how fast all machines of this host together send. Takes effect at once."""
    folder = folder_of(state)
    with closing(Books.reading(folder)) as books:
        current = books.bandwidth()
    wanted = bandwidth_of(current, work, other, work_hours)
    if wanted != current:
        carry_out(folder, SetBandwidth(bandwidth=wanted))
    if json:
        print_json(wanted)
    else:
        say(stdout(), f"All machines together: {rate_text(wanted)}.")
