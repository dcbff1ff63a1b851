"""`standby agent`: the process that replicates this host's machines."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from standby.agent import daemon
from standby.agent.discovery import SOCKETS
from standby.agent.engines import Engines
from standby.agent.membership import linked
from standby.agent.memory import give_back_large
from standby.agent.metrics import AgentCollector, Counted, Counts, served
from standby.cli import agent_vault
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
    sockets: Annotated[
        Path,
        typer.Option(
            "--sockets",
            metavar="DIR",
            help="Where machines have control sockets for standby: NAME.qmp, NAME.ga for their guest agents.",
        ),
    ] = SOCKETS,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            metavar="ADDRESS:PORT",
            help="Serve /metrics for Prometheus there; `:PORT` is on this host alone.",
        ),
    ] = None,
) -> None:
    """Replicate all protected machines of this host, until SIGTERM or Ctrl-C. Logs go to stderr.

    Once the host is registered, it also talks to its vault and does what is ordered there.
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    # They tell at this level what is only of use to those who mend them.
    for noisy in ("asyncio", "qemu.qmp", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    give_back_large()
    clock, counts = SystemClock(), Counts()
    with closing(Books(made(folder_of(state)))) as books, stopping() as stop:

        @contextmanager
        def beside(engines: Engines) -> Iterator[None]:
            with linked(books, engines, clock, sockets=sockets.absolute()) as link, ExitStack() as stack:
                if metrics is not None:
                    stack.enter_context(served(metrics, AgentCollector(books, counts, link)))
                yield

        daemon.run(books, clock, stop, observer=lambda machine: Counted(machine, counts), beside=beside)


app.command()(agent_vault.register)
app.command()(agent_vault.show)
app.command()(agent_vault.leave)


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
