"""Boot proof: a test failover that is looked at, kept beside its point, and cleaned up (decision 0018).

Killed in between, what it leaves is a test failover like any other, which `standby failover cleanup` ends.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from ulid import ULID

from standby.clock import Clock, SystemClock
from standby.errors import Damaged, StandbyError
from standby.hypervisor.agent import SYNC_LIMIT, GuestAgent, GuestAgentRefused, GuestAgentSilent
from standby.hypervisor.base import MachineNotFound
from standby.hypervisor.host import MachineState, NotBooted, RecoveryHost, RunningMachine
from standby.objects.address import open_store
from standby.recovery import failover, proof_probes, screen
from standby.recovery.failover import Request, Told
from standby.recovery.proof_probes import Probe, Subject
from standby.recovery.proof_verdict import Seen, judge
from standby.recovery.steps import Journal
from standby.replica import proofs
from standby.replica.documents import Record
from standby.replica.journal import ReplicaLog
from standby.replica.proofs import Check, Proof, ProofStep

CONSOLE_TAIL: Final = 64 << 10
"""Bytes of the serial log that are kept."""


class Collected(NamedTuple):
    """What was seen, what the guest said of itself, times in seconds from the command, and pictures and texts."""

    seen: Seen
    guest: dict[str, str]
    times: dict[str, float]
    steps: tuple[ProofStep, ...]
    parts: dict[str, bytes]


def prove(
    request: Request,
    root: Path,
    host: RecoveryHost,
    *,
    probes: Sequence[Probe] = (),
    probe_limit: float = proof_probes.LIMIT,
    clock: Clock | None = None,
    told: Told | None = None,
) -> Proof:
    """Start a point, look at it, keep the proof beside it and clean up; the proof, whatever its verdict.

    request: its `boot_limit` is the time for the guest agent, None where the guest has none. Raises what
    `failover.start` raises where it says nothing of the point: the host is not ready, another test runs.
    """
    clock = clock or SystemClock()
    log = ReplicaLog.read(open_store(request.store), request.replica, key=request.key)
    log.cipher()
    record = log.point(request.point)
    asked = clock.now()
    # Waiting is part of the proof: a guest that is silent is a finding here and no error.
    quiet = request._replace(point=str(record.seq), boot_limit=None)
    try:
        test = failover.start(quiet, root, host, clock=clock, told=told)
    except Damaged as error:
        found = Collected(Seen(refused=f"{error.subject}: {error.cause}"), {}, {}, (), {})
        return _keep(log, record, found, asked.isoformat())
    try:
        found = _collect(test.run, request, record, host, probes, probe_limit, clock, asked.timestamp())
        return _keep(log, record, found, asked.isoformat())
    finally:
        failover.clean_up(test.run, host, clock=clock, told=told)


def introduce(machine: RunningMachine, clock: Clock) -> tuple[dict[str, str], float | None]:
    """What the guest says of itself, and by how many seconds its clock is ahead; nothing if it does not answer."""
    try:
        connection = GuestAgent(machine.description.name, machine.agent)
    except GuestAgentSilent:
        return {}, None
    try:
        return _introduced(connection, clock)
    finally:
        connection.close()


def _keep(log: ReplicaLog, record: Record, found: Collected, at: str) -> Proof:
    judged = judge(found.seen)
    machine = record.machine
    proof = Proof(
        replica=log.head.replica,
        id=str(ULID()),
        seq=record.seq,
        record=next(one.digest for one in log.chain if one.record.seq == record.seq),
        machine=machine.name if machine else log.head.name,
        at=at,
        point_at=record.at,
        consistency=record.consistency,
        by=os.uname().nodename,
        verdict=judged.verdict,
        reasons=judged.reasons,
        checks=found.seen.probes,
        guest=found.guest,
        times=found.times,
        steps=found.steps,
    )
    return proofs.keep(log, proof, found.parts)


def _collect(
    run: Path,
    request: Request,
    record: Record,
    host: RecoveryHost,
    probes: Sequence[Probe],
    probe_limit: float,
    clock: Clock,
    asked: float,
) -> Collected:
    machine = failover.machine(run, host)
    times = _told_times(failover.look(run, host).journal)
    answered: bool | None = None
    if request.boot_limit is not None:
        try:
            machine.wait_booted(request.boot_limit)
            answered = True
            times["agent"] = clock.now().timestamp() - asked
        except NotBooted:
            answered = False
    subject = Subject(machine.description.name, request.replica, record.seq)
    # A guest that is not there answers no probe: its silence is told once.
    checks = (
        tuple(proof_probes.run(one, machine, subject, probe_limit) for one in probes)
        if answered is not False
        else tuple(Check(name=str(one), passed=None, text="not tried") for one in probes)
    )
    guest, clock_off = introduce(machine, clock) if answered else ({}, None)
    parts, blank = _picture(machine, run)
    console = _tail(machine.console_log)
    if console:
        parts[proofs.CONSOLE] = console
    if checks:
        parts[proofs.PROBES] = "".join(
            f"{_word(one.passed)}  {one.name}: {one.text}\n" for one in checks
        ).encode()
    now = failover.look(run, host)
    times["whole"] = clock.now().timestamp() - asked
    seen = Seen(
        running=_runs(machine),
        agent=answered,
        limit=request.boot_limit or 0.0,
        damage=tuple(f"{one.subject}: {one.problem}" for one in now.problems if one.blocks),
        probes=checks,
        console=console.decode(errors="replace"),
        blank=blank,
        clock_off=clock_off,
    )
    return Collected(seen, guest, times, steps_of(now.journal), parts)


def steps_of(journal: Journal) -> tuple[ProofStep, ...]:
    """The steps of a recovery that began, as reports tell them."""
    return tuple(
        ProofStep(task=row.task, step=row.step, began=row.began, ended=row.ended, error=row.error)
        for row in journal.rows
        if row.began
    )


def _told_times(journal: Journal) -> dict[str, float]:
    facts = {name: value for row in journal.rows for name, value in row.facts.items()}
    return {"first_instruction": facts["first_instruction"]} if "first_instruction" in facts else {}


def _runs(machine: RunningMachine) -> bool:
    try:
        return machine.state() is MachineState.RUNNING
    except MachineNotFound:
        return False


def _picture(machine: RunningMachine, run: Path) -> tuple[dict[str, bytes], bool | None]:
    path = run / proofs.SCREEN
    try:
        machine.screenshot(path)
        data = path.read_bytes()
    except (StandbyError, OSError):
        # A machine that is gone has no screen; that it is gone is told by its state.
        return {}, None
    return {proofs.SCREEN: data}, screen.blank(data)


def _tail(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - CONSOLE_TAIL, 0))
            return file.read()
    except FileNotFoundError:
        return b""


def _introduced(agent: GuestAgent, clock: Clock) -> tuple[dict[str, str], float | None]:
    found: dict[str, str] = {}
    system = _asked(agent, "guest-get-osinfo")
    if isinstance(system, dict):
        for name in ("pretty-name", "kernel-release", "machine"):
            if isinstance(system.get(name), str):
                found[name] = system[name][:200]
    host = _asked(agent, "guest-get-host-name")
    if isinstance(host, dict) and isinstance(host.get("host-name"), str):
        found["host-name"] = host["host-name"][:200]
    nanoseconds = _asked(agent, "guest-get-time")
    off = None
    if isinstance(nanoseconds, int):
        off = nanoseconds / 1e9 - clock.now().timestamp()
        found["clock"] = f"{off:+.1f} s to this host's"
    return found, off


def _asked(agent: GuestAgent, command: str) -> Any:
    """None where the guest's agent does not tell it (its administrator may forbid commands)."""
    try:
        return agent.command(command, SYNC_LIMIT)
    except (GuestAgentRefused, GuestAgentSilent):
        return None


def _word(passed: bool | None) -> str:
    return {True: "passed", False: "FAILED", None: "unsure"}[passed]


def as_document(proof: Proof) -> bytes:
    """A proof for people and programs, as JSON."""
    return msgspec.json.format(msgspec.json.encode(proof), indent=2)
