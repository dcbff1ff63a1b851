"""The command line: its nouns, and the one place where whatever happens becomes an exit status."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from standby.cli import agent, failover, failure, key, plan, replica, store, vm
from standby.cli.demo import demo, demo_end
from standby.cli.help import Program
from standby.cli.output import say, stderr
from standby.errors import StandbyError

app = typer.Typer(
    cls=Program,
    add_completion=False,
    # Plain help: it reads well on a narrow terminal, in a pipe and in a log.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.add_typer(replica.app, name="replica", help="Replicas in a store: list, verify, restore, serve, release.")
app.add_typer(store.app, name="store", help="Stores: where replicas are kept.")
app.add_typer(key.app, name="key", help="Keys of encrypted replicas.")
app.command()(demo)
app.command(name="demo-end")(demo_end)
app.add_typer(failover.app, name="failover", help="Machines started from their replicas.")
app.add_typer(plan.app, name="plan", help="Many machines started in order: recovery plans.")
app.add_typer(agent.app, name="agent", help="The process that replicates this host's machines.")
app.add_typer(vm.app, name="vm", help="Protected machines of this host.")


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"standby {version('standby')}\n")
        raise typer.Exit


@app.callback()
def standby(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Site recovery for virtual machines: replicas in your own storage, seconds behind, bootable at once."""


def main() -> None:
    """The program `standby`."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit status (docs/cli.md). Nothing escapes but SystemExit."""
    given = list(arguments)
    json = "--json" in given
    try:
        status = int(typer.main.get_command(app)(args=given, prog_name="standby", standalone_mode=False) or 0)
    except StandbyError as error:
        shown = failure.of(error)
    except typer.TyperException as error:
        shown = failure.of_usage(error, given)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(json)
    except Exception as error:  # noqa: BLE001 - the outermost caller: it is told with its traceback
        shown = failure.of_bug(error)
    else:
        # Typer turns Ctrl-C into this status, silently.
        return _interrupted(json) if status == failure.INTERRUPTED else status
    failure.show(shown, json=json)
    return shown.exit_status


def _interrupted(json: bool) -> int:
    if json:
        failure.show(failure.of_interrupt(), json=True)
    else:
        say(stderr(), "Interrupted.")
    return failure.INTERRUPTED
