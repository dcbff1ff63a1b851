"""Runs of plans whose effects are recorded and not done: the loop, its rows, and what people change in them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from standby.errors import Bug, InvalidRequest, Recoverable
from standby.recovery import plan_record, plan_run
from standby.recovery.plan_document import Agent, Group, Kind, Manual, Member, Plan, PlanRefused, Script
from standby.recovery.plan_effects import Outcome
from standby.recovery.plan_record import NotWaiting, look
from standby.recovery.plan_steps import Phase, Stand
from standby.recovery.run_directory import NoRecovery, RecoveryBusy, run_lock


class Recorded:
    """Effects that note what they are asked, and fail where the test says so."""

    def __init__(self, **failing: Exception) -> None:
        self.failing = failing
        self.calls: list[str] = []
        self.told: dict[str, dict[str, str]] = {}
        self.tags: dict[str, set[str]] = {}
        self.at_once = self.most = 0
        self.lock = threading.Lock()
        self.gate: threading.Barrier | None = None

    def note(self, what: str, name: str) -> Outcome:
        with self.lock:
            self.calls.append(f"{what} {name}")
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        if self.gate:
            self.gate.wait(10)
        with self.lock:
            self.at_once -= 1
        if error := self.failing.get(name):
            raise error
        return Outcome("done so")

    def seal(self, member):
        return self.note("seal", member.id)

    def start(self, member, tag):
        self.tags.setdefault(member.id, set()).add(tag)
        return self.note("start", member.id)._replace(run=f"/runs/{tag}", facts={"agent": 1.5})

    def found(self, tag):
        return f"/found/{tag}"

    def probe(self, member, tag, probe, situation):
        self.told[f"probe {member.id}"] = dict(situation.environment)
        return self.note("probe", member.id)

    def script(self, script, situation):
        self.told[script.name] = dict(situation.environment)
        return self.note("script", script.name)

    def ask(self, manual):
        self.note("ask", manual.name)

    def take_back(self, member, tag):
        self.note("take back", member.id)


def plan(**more) -> Plan:
    def member(name, *probes):
        return Member(store="/s", replica=name, probes=probes)

    return Plan(
        name="p",
        groups=(
            Group(
                name="one",
                members=(member("a", Agent()), member("b")),
                after=(Script(name="s", argv=("x",)),),
            ),
            Group(
                name="two",
                members=(member("c"),),
                before=(Manual(name="m", text="do it", kinds=(Kind.UNPLANNED,)),),
            ),
        ),
        **more,
    )


def begun(tmp_path: Path, kind=Kind.TEST, **more) -> Path:
    return plan_run.create(plan(**more), kind, tmp_path / "plans")


def test_a_run_in_order_with_what_its_programs_are_told(tmp_path):
    run, effects = begun(tmp_path, Kind.PLANNED), Recorded()
    told = []
    found = plan_run.go_on(run, effects, told=lambda step, row: told.append((step.id, row.stand)))
    assert (found.phase, found.busy, found.failed) == (Phase.DONE, False, ())
    assert effects.calls[0] == "seal c"
    assert sorted(effects.calls[1:3]) == ["seal a", "seal b"]
    assert sorted(effects.calls[3:6]) == ["probe a", "start a", "start b"]
    assert effects.calls[6:] == ["script s", "start c"]
    environment = effects.told["s"]
    assert environment["STANDBY_PLAN"] == "p"
    assert environment["STANDBY_KIND"] == "planned"
    assert '"member":"c","group":"two","state":"pending"' in environment["STANDBY_MEMBERS"]
    assert effects.told["probe a"]["STANDBY_MEMBER_RUN"] == found.rows.row("start:a").run
    assert found.rows.row("start:a").facts == {"agent": 1.5}
    assert told.count(("start:c", Stand.DONE)) == 1
    with pytest.raises(NotWaiting):
        plan_record.retry(run, frozenset({"a"}))


def test_no_more_members_are_at_work_than_the_plan_says_and_so_many_are(tmp_path):
    members = tuple(Member(store="/s", replica=f"m{n}") for n in range(6))
    wide = Plan(name="p", groups=(Group(name="g", members=members),), parallel=3)
    run = plan_run.create(wide, Kind.TEST, tmp_path / "plans")
    effects = Recorded()
    effects.gate = threading.Barrier(3)
    assert plan_run.go_on(run, effects).phase is Phase.DONE
    assert effects.most == 3


def test_a_failure_stops_the_groups_behind_until_it_is_tried_again(tmp_path):
    run = begun(tmp_path)
    effects = Recorded(a=Recoverable("no", subject="a", hint="wait"))
    found = plan_run.go_on(run, effects)
    assert found.phase is Phase.STOPPED
    [failed] = found.failed
    assert (failed.step, failed.error) == ("start:a", "a: no. Next: wait")
    assert failed.run.startswith("/found/"), "what did start can be looked at"
    assert found.rows.row("start:b").stand is Stand.DONE
    assert "script s" not in effects.calls
    # Again without a retry: nothing is done.
    assert plan_run.go_on(run, Recorded()).phase is Phase.STOPPED
    assert plan_record.retry(run) == ["start:a"]
    effects.failing = {}
    assert plan_run.go_on(run, effects).phase is Phase.DONE
    assert (effects.calls.count("start a"), effects.calls.count("start b")) == (2, 1)
    assert len(effects.tags["a"]) == 1, "it is the same failover, whenever it is tried"
    assert look(run).rows.row("start:a").tries == 2


def test_a_failed_member_can_be_left_behind(tmp_path):
    run = begun(tmp_path)
    plan_run.go_on(run, Recorded(a=OSError(28, "No space left on device", "/runs")))
    assert "No space left" in look(run).failed[0].error
    assert plan_record.pass_over(run, frozenset({"a"})) == ["start:a"]
    effects = Recorded()
    assert plan_run.go_on(run, effects).phase is Phase.DONE
    assert effects.calls == ["script s", "start c"]


def test_a_manual_action_waits_until_somebody_answers(tmp_path):
    run, effects = begun(tmp_path, Kind.UNPLANNED), Recorded()
    found = plan_run.go_on(run, effects)
    assert (found.phase, [row.step for row in found.waiting]) == (Phase.WAITING, ["before:two:m"])
    assert plan_run.go_on(run, effects).phase is Phase.WAITING
    assert effects.calls.count("ask m") == 1
    assert plan_record.answer(run) == ["before:two:m"]
    assert plan_run.go_on(run, effects).phase is Phase.DONE
    with pytest.raises(NotWaiting, match="has not failed"):
        plan_record.pass_over(run, frozenset({"before:two:m"}))


def test_a_defect_is_raised_and_leaves_the_step_to_be_done_again(tmp_path):
    run = begun(tmp_path)
    with pytest.raises(Bug):
        plan_run.go_on(run, Recorded(b=Bug("broken")))
    assert look(run).phase is Phase.RUNNING
    effects = Recorded()
    assert plan_run.go_on(run, effects).phase is Phase.DONE
    assert "start b" in effects.calls


def test_taking_back_ends_machines_in_reverse_and_keeps_the_record(tmp_path):
    run = begun(tmp_path)
    plan_run.go_on(run, Recorded())
    with pytest.raises(NotWaiting, match="still needed"):
        plan_record.forget(run)
    effects = Recorded(b=Recoverable("stuck", subject="b"))
    with pytest.raises(Recoverable, match="stuck"):
        plan_run.take_back(run, effects)
    assert look(run).phase is Phase.CANCELLING
    assert effects.calls[0] == "take back c"
    with pytest.raises(NotWaiting, match="taken back"):
        plan_run.go_on(run, Recorded())
    again = Recorded()
    assert plan_run.take_back(run, again).phase is Phase.CLEAN
    assert "take back b" in again.calls
    assert "take back c" not in again.calls
    assert [one.run for one in plan_record.list_runs(tmp_path / "plans")] == [run]
    plan_record.forget(run)
    assert plan_record.list_runs(tmp_path / "plans") == []
    with pytest.raises(NoRecovery):
        look(run)


def test_one_process_at_a_time(tmp_path):
    run = begun(tmp_path)
    with run_lock(run):
        assert look(run).busy
        with pytest.raises(RecoveryBusy):
            plan_run.go_on(run, Recorded())
        with pytest.raises(RecoveryBusy):
            plan_record.answer(run)


def test_what_is_wrong_by_itself_is_never_begun(tmp_path):
    with pytest.raises(PlanRefused, match="no members") as refused:
        plan_run.create(Plan(name="p", groups=()), Kind.TEST, tmp_path / "plans")
    assert isinstance(refused.value, InvalidRequest)
    assert not (tmp_path / "plans").exists()
