"""What stands against running a plan on this host now: all of it, at once, and nothing is changed by asking."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

from standby.errors import StandbyError
from standby.hypervisor.host import RecoveryHost
from standby.objects.address import open_store
from standby.records import Finding, MachineDescription
from standby.recovery import prerequisites, run_directory
from standby.recovery.machine_steps import Copy, RunOrder
from standby.recovery.networks import bridge_problem, network_named
from standby.recovery.plan_document import Command, Kind, Member, Plan, problems
from standby.recovery.plan_points import common
from standby.recovery.plan_steps import Does, Part, action_of, steps_of
from standby.replica.journal import ReplicaLog
from standby.replica.keys import remembered
from standby.replica.plan import last_state

_ASKED_AT_ONCE: Final = 8


class _Looked(NamedTuple):
    """What is known of a member. memory: that its machine needs, bytes; 0 where nothing is known."""

    findings: list[Finding]
    memory: int = 0


def check(
    plan: Plan,
    kind: Kind,
    host: RecoveryHost,
    root: Path,
    *,
    part: Part = Part.BOTH,
    confirmed: bool = False,
    meminfo: Path = Path("/proc/meminfo"),
) -> list[Finding]:
    """root: where run directories of failovers of this kind are. The other parameters as for a run.

    A plan that is wrong by itself is not held against the world.
    """
    if wrong := problems(plan):
        return wrong
    found = list(_of_programs(plan, kind, part))
    if part is Part.SEAL:
        return found
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        looked = list(pool.map(lambda one: _of_member(one, kind, host, root, part, confirmed), plan.members))
    for one in looked:
        found += one.findings
    if plan.together and kind is not Kind.PLANNED and not any(one.blocks for one in found):
        try:
            common(plan)
        except StandbyError as error:
            found.append(Finding(subject=error.subject, problem=error.cause, fix=error.hint, blocks=True))
    return found + _of_memory(plan, sum(one.memory for one in looked), meminfo)


def _of_programs(plan: Plan, kind: Kind, part: Part) -> Iterator[Finding]:
    for step in steps_of(plan, kind, part):
        if step.does is Does.SCRIPT:
            action = action_of(plan, step)
            yield from _of_program(f"script {action.name}", getattr(action, "argv", ()))
        elif step.does is Does.PROBE:
            probe = plan.member(step.member).probes[step.number]
            if isinstance(probe, Command):
                yield from _of_program(f"probe {step.number + 1} of {step.member}", probe.argv)


def _of_program(subject: str, argv: Sequence[str]) -> Iterator[Finding]:
    program = argv[0]
    if shutil.which(program) is None:
        there = Path(program).is_file()
        yield Finding(
            subject=subject,
            problem=f"{program} {'may not be run' if there else 'is not there'}",
            fix=f"`chmod +x {program}`" if there else "name a program that this host has",
            blocks=True,
        )


def _of_member(
    member: Member, kind: Kind, host: RecoveryHost, root: Path, part: Part, confirmed: bool
) -> _Looked:
    try:
        log = ReplicaLog.read(open_store(member.store), member.replica, key=remembered(member.key_file))
        log.cipher()
        record = log.point("newest" if kind is Kind.PLANNED else member.point)
        copy = Copy.of(record, prerequisites.machine_at(record, member.replica))
    except StandbyError as error:
        return _Looked([_blocking(member, str(error), "correct what it names")])
    found = [
        Finding(
            subject=f"member {member.id}, {one.subject}", problem=one.problem, fix=one.fix, blocks=one.blocks
        )
        for one in host.check(copy.machine)
        # How much memory is free is told for all members together.
        if one.blocks
    ]
    found += _of_place(member, copy.machine, kind)
    found += _of_others(member, log.head.replica, root)
    newest = last_state(log.records)
    sealed = newest is not None and newest.kind == "seal"
    if part is Part.START and not sealed:
        found.append(
            _blocking(
                member,
                "it is not sealed: its source was not shut down by `standby plan run` with --part seal",
                "run that part on the source first",
            )
        )
    if kind is Kind.UNPLANNED and not (sealed or confirmed or member.source_qmp):
        found.append(
            _blocking(
                member,
                "nothing will tell that its source is down",
                "`source_qmp` in the plan, where this host reaches it; or --yes-the-source-is-down",
            )
        )
    return _Looked(found, copy.machine.memory)


def _of_place(member: Member, machine: MachineDescription, kind: Kind) -> list[Finding]:
    if kind is Kind.TEST or not machine.nics:
        return []
    return bridge_problem(f"member {member.id}", network_named(member.network)[1])


def _of_others(member: Member, replica: UUID, root: Path) -> list[Finding]:
    return [
        _blocking(
            member,
            f"there is a failover of it on this host already, in {run}",
            f"`standby failover show {run}` tells how it stands",
        )
        for run in run_directory.recoveries(root)
        if run_directory.read_order(run, RunOrder).replica_id == replica
    ]


def _of_memory(plan: Plan, wanted: int, meminfo: Path) -> list[Finding]:
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    free = int(lines.get("MemAvailable", "0 kB").split()[0]) << 10
    if not free or free >= wanted:
        return []
    return [
        Finding(
            subject=f"plan {plan.name}",
            problem=f"its machines have {wanted >> 20} MiB of memory together, this host has {free >> 20} free",
            fix="run it on a larger host, or end something else first; it would be slow, or be killed",
            blocks=True,
        )
    ]


def _blocking(member: Member, problem: str, fix: str) -> Finding:
    return Finding(subject=f"member {member.id}", problem=problem, fix=fix, blocks=True)
