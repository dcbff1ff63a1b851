"""`standby failover`: machines started from their replicas: tests, and what is common to all of them.

Needs a store and this host, no agent.
"""

from __future__ import annotations

import typer

from standby.cli import failover_back, failover_live, results
from standby.cli.failover_fixup import DryRun, SetAddress, SetHostname, preview
from standby.cli.failover_live import BootLimit, NoAgent
from standby.cli.failover_planned import planned
from standby.cli.failover_proof import KeepProof, ProbeLimit, Probes, test_and_prove
from standby.cli.failover_report import report
from standby.cli.failover_show import RunDirectory, Yes, kind_of, live_result, root_of, show_live, tell
from standby.cli.help import Group
from standby.cli.key_options import KeyFileOption, PassphraseOption, key_of
from standby.cli.machine import show_findings
from standby.cli.output import Column, Field, Json, fields, print_json, say, stdout, table
from standby.cli.quantities import duration
from standby.cli.reading import PointChoice, ReplicaName, StoreAddress
from standby.cli.state import State, made
from standby.errors import InvalidRequest
from standby.hypervisor.launch import QemuHost
from standby.recovery import failover, fixup_wish, live, live_view, proof_probes
from standby.recovery.failover import FailoverTest, Request
from standby.recovery.run_directory import FAILOVERS, TESTS

app = typer.Typer(cls=Group)


@app.command(name="test")
def start_test(
    store: StoreAddress,
    replica: ReplicaName,
    point: PointChoice = "newest",
    proof: KeepProof = False,
    probe: Probes = None,
    probe_limit: ProbeLimit = proof_probes.LIMIT,
    set_hostname: SetHostname = "",
    set_address: SetAddress = None,
    dry_run: DryRun = False,
    state: State = None,
    no_agent: NoAgent = False,
    boot_limit: BootLimit = 300.0,
    key_file: KeyFileOption = None,
    passphrase: PassphraseOption = False,
    json: Json = False,
) -> None:
    """Boot a point straight from the store, isolated from every network, beside whatever runs."""
    fix_up = fixup_wish.parse(set_hostname, set_address or ())
    key = key_of(key_file, passphrase)
    if dry_run:
        preview(store, replica, point, key, fix_up, json=json)
        return
    root = made(root_of(state, TESTS))
    request = Request(store, replica, point, None if no_agent else boot_limit, key, fix_up)
    if proof:
        test_and_prove(request, root, probe, probe_limit, json=json)
        return
    if probe:
        raise InvalidRequest("a probe is part of a proof", subject="--probe", hint="add --proof")
    started = failover.start(request, root, QemuHost(), told=None if json else tell)
    _show(started, json)


app.command()(planned)
app.command()(failover_live.unplanned)
app.command()(failover_live.change_point)
app.command()(failover_live.cancel)
app.command()(failover_live.commit)
app.command()(failover_live.hydrate)
app.command()(failover_back.reverse)
app.command()(failover_back.failback)
app.command()(failover_back.complete)
app.command()(failover_live.resume)


@app.command(name="list")
def list_all(state: State = None, json: Json = False) -> None:
    """List the failovers and test failovers on this host."""
    host = QemuHost()
    lives = live_view.list_failovers(root_of(state, FAILOVERS), host)
    tests = failover.list_tests(root_of(state, TESTS), host)
    if json:
        print_json([*map(live_result, lives), *map(_result, tests)])
    elif not lives and not tests:
        say(stdout(), "No failover and no test failover is here.")
    else:
        columns = (Column("Machine"), Column("Point", right=True), Column("Phase"), Column("Run"))
        rows = [(one.name, str(one.seq), one.phase.value, str(one.run)) for one in lives]
        rows += [(one.name, str(one.seq), one.phase.value, str(one.run)) for one in tests]
        table(stdout(), columns, rows)


@app.command()
def show(run: RunDirectory, json: Json = False) -> None:
    """Tell how a failover or a test of one stands, and what its machine suffers from."""
    if kind_of(run) == "test":
        _show(failover.look(run, QemuHost()), json)
    else:
        show_live(live_view.look(run, QemuHost()), json)


app.command()(report)


@app.command()
def mend(run: RunDirectory, json: Json = False) -> None:
    """Start again what serves the disks and has died; the machine that waits for them goes on."""
    mended = failover.mend(run) if kind_of(run) == "test" else live.mend(run, QemuHost())
    if json:
        print_json(results.Mended(run=str(run), disks=tuple(mended)))
    else:
        say(stdout(), f"Served again: {', '.join(mended)}." if mended else "Nothing was broken.")


@app.command()
def cleanup(run: RunDirectory, yes: Yes = False, json: Json = False) -> None:
    """End a test failover; or remove what is left of a failover whose machine has moved on.

    With --yes, also where nothing tells that it did: what its guest wrote may then be lost.
    """
    told = None if json else tell
    if not run.is_dir() or kind_of(run) == "test":
        failover.clean_up(run, QemuHost(), told=told)
    else:
        live.clean_up(run, QemuHost(), lose=yes, told=told)
    if json:
        print_json(results.CleanedUp(run=str(run)))
    else:
        say(stdout(), "Cleaned up: nothing of it is left.")


def _show(shown: FailoverTest, json: bool) -> None:
    if json:
        print_json(_result(shown))
        return
    times = shown.times
    console = stdout()
    fields(
        console,
        [
            Field("Machine", shown.name),
            Field("Point", f"{shown.seq} of {shown.replica} in {shown.store}"),
            Field("Phase", shown.phase.value),
            Field(
                "First instruction",
                "" if times.first_instruction is None else duration(times.first_instruction),
            ),
            Field("Guest agent", "" if times.agent is None else f"answered after {duration(times.agent)}"),
            Field("Hold", "" if shown.held else "none: a merge may take the point away meanwhile"),
            Field("Run", str(shown.run)),
            Field("To end it", f"standby failover cleanup {shown.run}"),
        ],
    )
    show_findings(console, shown.problems)


def _result(shown: FailoverTest) -> results.FailoverTest:
    return results.FailoverTest(
        run=str(shown.run),
        machine=shown.name,
        store=shown.store,
        replica=shown.replica,
        point=shown.seq,
        phase=shown.phase.value,
        held=shown.held,
        first_instruction=shown.times.first_instruction,
        agent=shown.times.agent,
        problems=shown.problems,
    )
