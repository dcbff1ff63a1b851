"""Plans without a world: what a document may say, which steps it makes, and which of them come next."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import msgspec
import pytest

from standby.errors import InvalidRequest
from standby.recovery.plan_document import (
    Agent,
    Command,
    Group,
    Guest,
    Http,
    Kind,
    Manual,
    Member,
    Plan,
    Script,
    Tcp,
    problems,
    read,
)
from standby.recovery.plan_steps import Does, Part, Phase, Stand, action_of, decide, decide_back, steps_of

EXAMPLE = """
name = "shop"
parallel = 2
shutdown = [["web1", "web2"], ["db"]]

[[groups]]
name = "database"
[[groups.members]]
store = "replicas"
replica = "db"
key_file = "keys/db"
[[groups.members.probes]]
kind = "guest"
argv = ["pg_isready"]
[[groups.after]]
kind = "script"
name = "dns"
argv = ["./dns.sh", "db"]

[[groups]]
name = "web"
go_on = true
[[groups.before]]
kind = "manual"
name = "licence"
text = "Move the licence to the other site."
kinds = ["planned", "unplanned"]
[[groups.members]]
store = "s3://backups/standby"
replica = "web1"
[[groups.members.probes]]
kind = "tcp"
host = "10.0.0.1"
port = 80
[[groups.members]]
store = "replicas"
replica = "web-two"
name = "web2"
"""


def member(replica: str, *probes, **more) -> Member:
    return Member(store="/s", replica=replica, probes=probes, **more)


def tiers(**more) -> Plan:
    """Two members, then two; with a probe, a script and a manual action between."""
    return Plan(
        name="p",
        groups=(
            Group(
                name="one",
                members=(member("a", Agent()), member("b")),
                after=(Script(name="s", argv=("true",)),),
            ),
            Group(name="two", members=(member("c"), member("d")), before=(Manual(name="m", text="do"),)),
        ),
        **more,
    )


def test_the_example_is_read_with_its_paths_placed_beside_it(tmp_path):
    (tmp_path / "plan.toml").write_text(EXAMPLE)
    plan = read(tmp_path / "plan.toml")
    assert problems(plan) == []
    db, web1, web2 = plan.members
    assert (db.store, db.key_file) == (str(tmp_path / "replicas"), str(tmp_path / "keys/db"))
    assert web1.store == "s3://backups/standby"
    assert (web2.id, web2.replica, web2.at_source) == ("web2", "web-two", "web-two")
    assert plan.groups[0].after[0].argv == (str(tmp_path / "dns.sh"), "db")
    assert db.probes[0].argv == ("pg_isready",)


def test_the_plan_in_the_documentation_is_one(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "plans.md").read_text()
    [block] = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "plan.toml").write_text(block)
    plan = read(tmp_path / "plan.toml")
    assert problems(plan) == []
    for kind in (Plan, Group, Member, Agent, Guest, Tcp, Http, Command, Script, Manual):
        for field in msgspec.structs.fields(kind):
            assert f"`{field.name}`" in page, (kind, field.name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = 'x'", "groups"),
        (EXAMPLE.replace("go_on", "goon"), "goon"),
        (EXAMPLE.replace('"tcp"', '"ping"'), "ping"),
        (EXAMPLE.replace("parallel = 2", "parallel = '2'"), "int"),
        ("name = ", "no plan"),
    ],
)
def test_what_is_no_plan_is_told_with_its_place(tmp_path, text, said):
    (tmp_path / "plan.toml").write_text(text)
    with pytest.raises(InvalidRequest, match=said):
        read(tmp_path / "plan.toml")


def test_json_says_the_same(tmp_path):
    document = {"name": "p", "groups": [{"name": "g", "members": [{"store": "/s", "replica": "a"}]}]}
    (tmp_path / "plan.json").write_text(json.dumps(document))
    assert read(tmp_path / "plan.json").members[0] == member("a")


def only(*members, **more) -> Plan:
    return Plan(name="p", groups=(Group(name="g", members=members),), **more)


@pytest.mark.parametrize(
    ("plan", "subject", "problem"),
    [
        (only(), "plan p", "no members"),
        (only(*(member(f"m{n}") for n in range(101))), "plan p", "101 members"),
        (only(member("a"), Member(store="/t", replica="a")), "member a", "twice"),
        (only(member("a"), member("a", name="b")), "replica a in /s", "two members"),
        (only(member("a", network="bridge")), "member a", "no network"),
        (only(member("a", boot_limit=0)), "member a", "limit"),
        (only(member("a", Tcp(host="h", port=0))), "probe 1 of a", "no port"),
        (only(member("a", Http(url="ftp://x"))), "probe 1 of a", "no address"),
        (only(member("a", Guest(argv=()))), "probe 1 of a", "no program"),
        (only(member("a", Command(argv=("x",), limit=-1))), "probe 1 of a", "limit"),
        (only(member("a", Agent(), agent=False)), "probe 1 of a", "has none"),
        (only(member("a"), parallel=0), "plan p", "parallel"),
        (only(member("a/b")), "member 'a/b'", "no name"),
        (only(member("a"), member("b"), shutdown=(("a",),)), "shutdown", "b is not in it"),
        (only(member("a"), shutdown=(("a", "c"),)), "shutdown", "no member c"),
        (only(member("a"), shutdown=(("a", "a"),)), "shutdown", "twice"),
    ],
)
def test_what_is_wrong_with_a_plan_is_told(plan, subject, problem):
    assert [(one.subject, one.blocks) for one in problems(plan)] == [(subject, True)]
    assert problem in problems(plan)[0].problem
    assert problems(plan)[0].fix


def test_a_hundred_members_are_taken():
    assert problems(only(*(member(f"m{n}") for n in range(100)))) == []


@pytest.mark.parametrize(
    ("kind", "part", "ids"),
    [
        (
            Kind.TEST,
            Part.BOTH,
            "start:a probe:a:1 start:b after:one:s before:two:m start:c start:d",
        ),
        (
            Kind.PLANNED,
            Part.BOTH,
            "seal:c seal:d seal:a seal:b start:a probe:a:1 start:b after:one:s before:two:m start:c start:d",
        ),
        (Kind.PLANNED, Part.SEAL, "seal:c seal:d seal:a seal:b"),
        (
            Kind.PLANNED,
            Part.START,
            "start:a probe:a:1 start:b after:one:s before:two:m start:c start:d",
        ),
    ],
)
def test_steps_by_kind_and_part(kind, part, ids):
    assert [step.id for step in steps_of(tiers(), kind, part)] == ids.split()


def test_an_isolated_test_asks_no_port_of_the_network():
    plan = only(member("a", Tcp(host="h", port=1), Agent()))
    assert [step.id for step in steps_of(plan, Kind.TEST)] == ["start:a", "probe:a:2"]
    assert steps_of(plan, Kind.TEST)[1].number == 1


def begins(plan: Plan, done: dict[str, Stand], kind=Kind.TEST, at_work=(), parallel=8):
    steps = steps_of(plan, kind)
    return decide(steps, {step.id: done.get(step.id, Stand.PENDING) for step in steps}, at_work, parallel)


DONE, FAILED, PASSED, WAITING, STARTED = Stand.DONE, Stand.FAILED, Stand.PASSED, Stand.WAITING, Stand.STARTED
FIRST = {"start:a": DONE, "probe:a:1": DONE, "start:b": DONE}


@pytest.mark.parametrize(
    ("stands", "phase", "begin"),
    [
        ({}, Phase.RUNNING, "start:a start:b"),
        ({"start:a": DONE}, Phase.RUNNING, "probe:a:1 start:b"),
        ({"start:a": STARTED}, Phase.RUNNING, "start:a start:b"),
        ({"start:a": FAILED, "start:b": DONE}, Phase.STOPPED, ""),
        ({"start:a": DONE, "probe:a:1": FAILED, "start:b": DONE}, Phase.STOPPED, ""),
        ({"start:a": PASSED, "start:b": DONE}, Phase.RUNNING, "after:one:s"),
        (FIRST, Phase.RUNNING, "after:one:s"),
        ({**FIRST, "after:one:s": FAILED}, Phase.STOPPED, ""),
        ({**FIRST, "after:one:s": DONE}, Phase.RUNNING, "before:two:m"),
        ({**FIRST, "after:one:s": DONE, "before:two:m": WAITING}, Phase.WAITING, ""),
        ({**FIRST, "after:one:s": DONE, "before:two:m": DONE}, Phase.RUNNING, "start:c start:d"),
        (
            {**FIRST, "after:one:s": DONE, "before:two:m": DONE, "start:c": DONE, "start:d": DONE},
            Phase.DONE,
            "",
        ),
    ],
)
def test_what_comes_next(stands, phase, begin):
    assert begins(tiers(), stands) == (phase, tuple(begin.split()))


def test_a_failure_in_a_group_that_goes_on_stops_nothing():
    groups = tiers().groups
    plan = Plan(name="p", groups=(Group(name="one", members=groups[0].members, go_on=True), groups[1]))
    assert begins(plan, {"start:a": FAILED, "start:b": DONE}).begin == ("before:two:m",)
    over = {"start:a": FAILED, "start:b": DONE, "before:two:m": DONE, "start:c": DONE, "start:d": DONE}
    assert begins(plan, over).phase is Phase.DONE


def test_no_machine_starts_before_all_are_sealed():
    stands = {"seal:c": DONE, "seal:d": DONE, "seal:a": DONE}
    assert begins(tiers(), stands, Kind.PLANNED).begin == ("seal:b",)
    assert begins(tiers(), {**stands, "seal:b": FAILED}, Kind.PLANNED) == (Phase.STOPPED, ())


def test_machines_are_taken_back_in_reverse():
    steps = steps_of(tiers(), Kind.TEST)
    stands = {step.id: DONE for step in steps}
    assert decide_back(steps, stands, (), 8) == (Phase.CANCELLING, ("start:c", "start:d"))
    stands |= {"start:c": Stand.UNDONE, "start:d": Stand.PENDING, "start:a": FAILED}
    assert decide_back(steps, stands, (), 1).begin == ("start:a",)
    stands |= {"start:a": Stand.UNDONE, "start:b": Stand.UNDONE}
    assert decide_back(steps, stands, (), 8).phase is Phase.CLEAN


def random_plan(rng: random.Random) -> Plan:
    groups = []
    for number in range(rng.randint(1, 5)):
        actions = [
            rng.choice((Script(name=f"s{n}", argv=("x",)), Manual(name=f"m{n}", text="t"))) for n in range(4)
        ]
        cut = rng.randint(0, 4)
        members = tuple(
            member(f"{number}-{n}", *[Agent()] * rng.randint(0, 2)) for n in range(rng.randint(0, 4))
        )
        groups.append(
            Group(
                name=f"g{number}",
                members=members,
                before=tuple(actions[:cut][: rng.randint(0, 2)]),
                after=tuple(actions[cut:][: rng.randint(0, 2)]),
                go_on=rng.random() < 0.3,
            )
        )
    return Plan(name="p", groups=tuple(groups), parallel=rng.randint(1, 5))


@pytest.mark.parametrize("seed", range(60))
def test_any_run_of_any_plan_keeps_order_and_bound_and_ends(seed):
    """Steps end in any order, some fail, the process is killed now and then, people answer, retry, or pass over."""
    rng = random.Random(seed)
    plan = random_plan(rng)
    steps = steps_of(plan, rng.choice(list(Kind)))
    order = {step.id: number for number, step in enumerate(steps)}
    group = {step.id: step for step in steps}
    stands = dict.fromkeys(order, Stand.PENDING)
    at_work: set[str] = set()
    for _ in range(40 * len(steps) + 40):
        decision = decide(steps, stands, at_work, plan.parallel)
        assert len(set(decision.begin)) == len(decision.begin)
        for one in decision.begin:
            step = group[one]
            assert stands[one] in (Stand.PENDING, Stand.STARTED)
            assert one not in at_work
            assert all(stands[need] is DONE for need in step.needs)
            for other in steps:
                before = other.group != step.group and order[other.id] < order[one]
                if before and stands[other.id] in (Stand.PENDING, STARTED, WAITING):
                    # Only what cannot be done any more may lie behind.
                    assert stands[other.id] is Stand.PENDING
                    assert any(stands[need] is not DONE for need in other.needs)
                if before and stands[other.id] is FAILED:
                    assert other.lenient
            if step.does is Does.MANUAL:
                assert isinstance(action_of(plan, step), Manual)
                stands[one] = WAITING
            else:
                stands[one] = STARTED
                at_work.add(one)
        assert len(at_work) <= plan.parallel
        if at_work and rng.random() < 0.1:
            at_work.clear()
        elif at_work:
            one = rng.choice(sorted(at_work))
            at_work.discard(one)
            stands[one] = DONE if rng.random() < 0.8 else FAILED
        elif decision.phase is Phase.WAITING:
            stands |= {one: DONE for one, stand in stands.items() if stand is WAITING}
        elif decision.phase is Phase.STOPPED:
            failed = [one for one, stand in stands.items() if stand is FAILED and not group[one].lenient]
            assert failed
            stands[rng.choice(failed)] = rng.choice((Stand.PENDING, PASSED))
        elif decision.phase is Phase.DONE:
            assert not {STARTED, WAITING} & set(stands.values())
            return
    raise AssertionError("it does not end")
