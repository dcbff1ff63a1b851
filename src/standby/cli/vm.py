"""`standby vm`: protected machines of this host, by the agent's books and their own control sockets."""

from __future__ import annotations

import typer

from standby.agent.engines import reach
from standby.cli import results, vm_requests, vm_show, vm_targets
from standby.cli.help import Group
from standby.cli.machine import (
    AgentSocket,
    LibvirtUri,
    MachineName,
    NbdSocket,
    QmpSocket,
    connection_of,
    show_findings,
)
from standby.cli.output import Json, print_json, say, stdout
from standby.cli.quantities import counted
from standby.cli.state import State, folder_of, made
from standby.cli.vm_protect import protect
from standby.replication.enable import NotReady

app = typer.Typer(cls=Group)


@app.command()
def check(
    machine: MachineName,
    qmp: QmpSocket = None,
    agent: AgentSocket = None,
    nbd: NbdSocket = None,
    libvirt: LibvirtUri = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Tell everything that stands against protecting a machine, or limits it. Changes nothing in it."""
    scratch = made(folder_of(state) / "scratch")
    connection = connection_of(machine, None, qmp, agent, nbd, libvirt)
    findings = tuple(reach(machine, connection).check(machine, scratch))
    blocking = [finding for finding in findings if finding.blocks]
    if json:
        print_json(results.Checked(machine=machine, ready=not blocking, findings=findings))
    else:
        console = stdout()
        show_findings(console, findings)
        if blocking:
            say(console, f"{machine} cannot be protected yet: {counted(len(blocking), 'problem')}.")
        else:
            remarks = f", {counted(len(findings), 'remark')}" if findings else ""
            say(console, f"{machine} is ready to be protected{remarks}.", style="green")
    if blocking:
        raise typer.Exit(NotReady.exit_status)


# Help lists commands in the order of their making.
app.command()(protect)
app.command("list")(vm_show.list_machines)
app.command()(vm_show.show)
app.command()(vm_show.churn)
app.command()(vm_requests.policy)
app.command()(vm_requests.disks)
app.add_typer(vm_targets.app, name="targets", help="The places that a machine is replicated to.")
app.command()(vm_requests.pause)
app.command()(vm_requests.resume)
app.command()(vm_requests.retry)
app.command()(vm_requests.resync)
app.command()(vm_requests.point)
app.command()(vm_requests.connect)
app.command()(vm_requests.key)
app.command()(vm_requests.unprotect)
