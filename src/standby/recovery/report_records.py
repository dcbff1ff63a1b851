"""The records of a report, from what recoveries and proofs left: run directories on this host, proofs in a store."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from standby.errors import StandbyError
from standby.hypervisor.host import RecoveryHost, RunningMachine
from standby.records import Finding
from standby.recovery import failover, live_view, run_directory
from standby.recovery.failover import FailoverTest
from standby.recovery.live_view import Failover
from standby.recovery.machine_steps import RunOrder
from standby.recovery.report import MachineReport, Picture, StepLine
from standby.recovery.steps import Journal, State
from standby.replica import proofs
from standby.replica.documents import Record
from standby.replica.journal import ReplicaLog, read_settled
from standby.replica.proofs import Proof, ProofStep

_CONSOLE: Final = 64 << 10
_GUEST: Final = {
    "pretty-name": "Guest system",
    "kernel-release": "Guest kernel",
    "machine": "Guest processor",
    "host-name": "Guest host name",
    "clock": "Guest clock",
}
_Find = Callable[[Path, RecoveryHost], RunningMachine]


def of_run(run: Path, host: RecoveryHost) -> MachineReport:
    """A test failover, a failover or a failback as it stands now, with a picture if its machine runs.

    Raises NoRecovery.
    """
    run = run.resolve()
    order = run_directory.read_order(run, RunOrder)
    shown: FailoverTest | Failover
    if order.kind == "test":
        shown = failover.look(run, host)
        kind, find = "test failover", failover.machine
    else:
        shown = live_view.look(run, host)
        kind, find = order.kind, live_view.machine
    problems = [_sentence(one) for one in shown.problems]
    record = _record(run, order, shown.seq, problems)
    pictures, console = _seen(run, host, find)
    asked = datetime.fromtimestamp(order.asked, UTC)
    rpo, rpo_told = _rpo(record, asked)
    rto, rto_told = _rto(shown.times.first_instruction, shown.times.agent)
    problems += [f"{row.task}: {row.error}" for row in shown.journal.rows if row.error]
    return MachineReport(
        machine=shown.name,
        kind=kind,
        source=f"{shown.replica} in {shown.store}",
        host=os.uname().nodename,
        point=shown.seq,
        point_at=record.at if record else "",
        consistency=record.consistency if record else "",
        started=asked.isoformat(),
        rpo=rpo,
        rpo_told=rpo_told,
        rto=rto,
        rto_told=rto_told,
        steps=_rows(shown.journal),
        pictures=pictures,
        console=console,
        problems=tuple(problems),
    )


def of_proof(log: ReplicaLog, proof: Proof) -> MachineReport:
    """A proof, with its pictures and texts. Raises Damaged, KeyMissing."""
    there = {one.name for one in proof.parts}
    console = proofs.part(log, proof, proofs.CONSOLE) if proofs.CONSOLE in there else b""
    pictures = (Picture("Screen", proofs.part(log, proof, proofs.SCREEN)),) if proofs.SCREEN in there else ()
    rto, rto_told = _rto(proof.times.get("first_instruction"), proof.times.get("agent"))
    started, point_at = datetime.fromisoformat(proof.at), datetime.fromisoformat(proof.point_at)
    return MachineReport(
        machine=proof.machine,
        kind="boot proof",
        source=f"{log.place.name} in {log.place.store.url}",
        host=proof.by,
        point=proof.seq,
        point_at=proof.point_at,
        consistency=proof.consistency,
        started=proof.at,
        verdict=proof.verdict,
        reasons=proof.reasons,
        rpo=max((started - point_at).total_seconds(), 0.0),
        rpo_told=_AGE,
        rto=rto,
        rto_told=rto_told,
        guest=tuple((_GUEST.get(name, name), value) for name, value in proof.guest.items()),
        checks=proof.checks,
        steps=_lines(proof.steps),
        pictures=pictures,
        console=console.decode(errors="replace"),
        problems=proof.reasons if proof.verdict == "failed" else (),
    )


_AGE: Final = "the point's age at the start"


def _rpo(record: Record | None, asked: datetime) -> tuple[float | None, str]:
    if record is None:
        return None, "the point could not be read"
    if record.kind == "seal":
        return 0.0, "the machine was shut down and sealed: nothing is lost"
    return max((asked - datetime.fromisoformat(record.at)).total_seconds(), 0.0), _AGE


def _rto(first: float | None, agent: float | None) -> tuple[float | None, str]:
    if agent is not None:
        return agent, "until the guest agent answered"
    if first is not None:
        return first, "until the first instruction; nothing tells when the guest was ready"
    return None, "the machine was not started"


def _record(run: Path, order: RunOrder, seq: int, problems: list[str]) -> Record | None:
    """The point's record; a store that is away makes a report with a gap, and not none."""
    if not seq:
        return None
    try:
        return read_settled(order.place_at(run), upto=seq)[0].point(str(seq))
    except StandbyError as error:
        problems.append(f"{error.subject}: {error.cause}")
        return None


def _seen(run: Path, host: RecoveryHost, find: _Find) -> tuple[tuple[Picture, ...], str]:
    """The screen as it is now, and the serial log; nothing of a machine that is not there."""
    pictures: tuple[Picture, ...] = ()
    try:
        machine = find(run, host)
        console = _tail(machine.console_log)
        with tempfile.TemporaryDirectory(prefix="standby-") as folder:
            path = Path(folder) / proofs.SCREEN
            machine.screenshot(path)
            pictures = (Picture("Screen now", path.read_bytes()),)
    except (StandbyError, OSError):
        # That it is gone, or hangs, is among its problems.
        return pictures, ""
    return pictures, console


def _tail(path: Path) -> str:
    data = path.read_bytes() if path.exists() else b""
    return data[-_CONSOLE:].decode(errors="replace")


def _rows(journal: Journal) -> tuple[StepLine, ...]:
    return tuple(
        StepLine(row.task, row.step, row.began, _seconds(row.began, row.ended), bool(row.error), row.error)
        for row in journal.rows
        if row.state is not State.PENDING
    )


def _lines(steps: Sequence[ProofStep]) -> tuple[StepLine, ...]:
    return tuple(
        StepLine(one.task, one.step, one.began, _seconds(one.began, one.ended), bool(one.error), one.error)
        for one in steps
    )


def _seconds(began: str, ended: str) -> float | None:
    if not (began and ended):
        return None
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()


def _sentence(one: Finding) -> str:
    return f"{one.subject}: {one.problem}. {one.fix}" if one.fix else f"{one.subject}: {one.problem}"
