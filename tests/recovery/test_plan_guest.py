"""Plans on real guests: three tiers of five, killed once in each kind of step, and their tests by the command line."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest

from standby import failpoints
from standby.hypervisor.host import MachineState
from standby.recovery import failover, live, live_view, plan_record, plan_run, run_directory
from standby.recovery.plan_document import Kind, read
from standby.recovery.plan_record import look
from standby.recovery.plan_steps import Does, Phase, Stand
from tests.cli.conftest import standby
from tests.guest.conftest import raw_guest  # noqa: F401 - a fixture
from tests.recovery.conftest import HOST
from tests.recovery.fleet import Fleet
from tests.recovery.killed import DONE, KILLED, Zygote
from tests.recovery.machines import processes

pytestmark = pytest.mark.guest

NAMES = ["db1", "db2", "app", "web1", "web2"]
KINDS = [Does.START, Does.PROBE, Does.SCRIPT, Does.MANUAL]

PLAN = """
name = "shop"
parallel = 3

[[groups]]
name = "data"
{data}
[[groups.after]]
kind = "script"
name = "note"
argv = ["./note.sh", "data"]

[[groups]]
name = "app"
{app}
[[groups.after]]
kind = "manual"
name = "licence"
text = "Move the licence to this site."

[[groups]]
name = "web"
{web}
"""

NOTE = """#!/bin/sh
# A line for each time it is run, of what it is told.
echo "$1 $STANDBY_PLAN $STANDBY_KIND $STANDBY_GROUP $STANDBY_TRY" >>"$(dirname "$0")/noted"
echo "$STANDBY_MEMBERS"
"""


def member(name: str, *probes: str) -> str:
    return f'[[groups.members]]\nstore = "store"\nreplica = "{name}"\nboot_limit = 120\n' + "".join(
        f"[[groups.members.probes]]\n{probe}\n" for probe in probes
    )


@pytest.fixture(scope="module")
def fleet(raw_guest, tmp_path_factory) -> Fleet:  # noqa: F811
    folder = tmp_path_factory.mktemp("fleet")
    fleet = Fleet(folder, raw_guest, NAMES)
    (folder / "note.sh").write_text(NOTE)
    (folder / "note.sh").chmod(0o755)
    up = 'kind = "guest"\nargv = ["grep", "-q", "{}", "/dev/vda"]\nlimit = 60'
    (folder / "plan.toml").write_text(
        PLAN.format(
            data=member("db1", up.format("db1")) + member("db2"),
            app=member("app", 'kind = "script"\nargv = ["./note.sh", "probe"]\nlimit = 10'),
            web=member("web1") + member("web2"),
        )
    )
    return fleet


@pytest.fixture
def state():
    folder = Path(tempfile.mkdtemp(prefix="sb-"))
    yield folder
    for run in run_directory.recoveries(folder / "failovers"):
        live.cancel(run, HOST)
    for run in run_directory.recoveries(folder / "tests"):
        failover.clean_up(run, HOST)
    shutil.rmtree(folder)


def test_every_failpoint_of_a_plan_is_killed_at():
    """Those of sealing: test_plan_planned."""
    killed = {f"plan.{does}_{when}" for does in Does for when in ("started", "did")}
    assert killed | {"plan.noted", "plan.taken_back"} == {
        name for name in failpoints.declared() if name.startswith("plan.")
    }


def test_three_tiers_killed_in_each_kind_of_step_come_up_in_order_and_go_away(fleet, state):
    folder = fleet.store.parent
    plan = read(folder / "plan.toml")
    run = plan_run.create(plan, Kind.UNPLANNED, state / "plans", confirmed=True)
    zygote = Zygote(run=run, root=state / "failovers")
    try:
        for does in KINDS:
            for when in ("started", "did"):
                assert zygote.live("plan", f"plan.{does}_{when}=kill") == KILLED, (does, when)
        assert zygote.live("plan") == DONE
        waiting = look(run)
        assert (waiting.phase, [row.step for row in waiting.waiting]) == (
            Phase.WAITING,
            ["after:app:licence"],
        )
        stands = waiting.rows.stands()
        assert {stands[f"start:{name}"] for name in ("web1", "web2")} == {Stand.PENDING}
        plan_record.answer(run)
        assert zygote.live("plan", "plan.noted=kill") == KILLED
        assert zygote.live("plan") == DONE
        done = look(run)
        assert done.phase is Phase.DONE, done.failed

        # One failover for each member, in order, whatever was killed.
        failovers = live_view.list_failovers(state / "failovers", HOST)
        assert sorted(one.name for one in failovers) == sorted(NAMES)
        assert {one.machine for one in failovers} == {MachineState.RUNNING}
        rows = {row.step: row for row in done.rows.rows}
        assert {rows[f"start:{one.name}"].run for one in failovers} == {str(one.run) for one in failovers}
        in_order = [
            "start:db1",
            "probe:db1:1",
            "after:data:note",
            "start:app",
            "after:app:licence",
            "start:web1",
        ]
        ended = [rows[step].ended for step in in_order]
        assert ended == sorted(ended)
        noted = (folder / "noted").read_text().splitlines()
        assert noted[-2].startswith("data shop unplanned data ")
        assert noted[-1].startswith("probe shop unplanned app ")
        told = plan_record.output_of(done, "after:data:note").read_text().splitlines()
        assert {json.loads(line)["state"] for line in told if '"group":"data"' in line} == {"done"}
        assert {json.loads(line)["state"] for line in told if '"group":"web"' in line} == {"pending"}

        assert zygote.live("plan back", "plan.taken_back=kill") == KILLED
        assert look(run).phase is Phase.CANCELLING
        assert zygote.live("plan back") == DONE
    finally:
        zygote.close()
    assert look(run).phase is Phase.CLEAN
    assert live_view.list_failovers(state / "failovers", HOST) == []
    assert processes(state) == []
    for name in NAMES:
        assert fleet.log(name).head.holds == ()


def test_a_failed_member_stops_what_is_behind_it_until_it_is_tried_again(fleet, state):
    """By the commands, as a test; in a terminal of 60 columns."""
    folder = fleet.store.parent
    (folder / "two.toml").write_text(
        'name = "two"\n[[groups]]\nname = "one"\n'
        + member("db1", f'kind = "script"\nargv = ["test", "-e", "{folder}/up"]\nlimit = 1')
        + '[[groups]]\nname = "two"\n'
        + member("web1")
    )
    ready = standby("plan", "check", folder / "two.toml", "--state", state)
    assert (ready.status, "ready for a test run" in ready.out) == (0, True)
    stopped = standby("plan", "run", folder / "two.toml", "--kind", "test", "--state", state)
    assert stopped.status == 5
    assert "probe:db1:1" in stopped.err
    assert all(len(line) <= 60 or "/" in line for line in stopped.out.splitlines()), stopped.out
    [shown] = standby("plan", "list", "--state", state, "--json").json
    assert (shown["phase"], shown["busy"]) == ("stopped", False)
    stands = {step["step"]: step["stand"] for step in shown["steps"]}
    assert stands == {"start:db1": "done", "probe:db1:1": "failed", "start:web1": "pending"}
    run = shown["run"]
    refused = standby("plan", "run", folder / "two.toml", "--kind", "test", "--state", state)
    said = " ".join(refused.err.split())
    assert (refused.status, "a failover of it on this host already" in said) == (3, True)
    assert standby("plan", "continue", run, "--retry", "web1").status == 3

    (folder / "up").touch()
    done = standby("plan", "continue", run, "--retry", "db1", "--json")
    assert (done.status, done.json["phase"]) == (0, "done"), done.err
    tests = standby("failover", "list", "--state", state, "--json").json
    assert sorted(one["machine"] for one in tests) == ["db1 - Test", "web1 - Test"]
    assert standby("plan", "cancel", run).status == 3

    cleaned = standby("plan", "cleanup", run, "--json")
    assert (cleaned.status, cleaned.json["phase"]) == (0, "taken back")
    assert standby("failover", "list", "--state", state, "--json").json == []
    assert processes(state) == []
    assert standby("plan", "show", run, "--json").json["steps"][0]["stand"] == "taken back"
    assert standby("plan", "cleanup", run).status == 0
    assert standby("plan", "list", "--state", state, "--json").json == []
