"""A plan's effects on this host: each member is a failover of its own here, on which every command works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from standby.clock import Clock
from standby.errors import InvalidRequest
from standby.hypervisor.host import RecoveryHost
from standby.recovery import failover, live, plan_probes, plan_programs, run_directory
from standby.recovery.live_view import Failover
from standby.recovery.machine_steps import MACHINE
from standby.recovery.networks import network_named
from standby.recovery.plan_document import Kind, Manual, Member, Probe, Script
from standby.recovery.plan_effects import Outcome, Situation
from standby.recovery.run_directory import FileRows
from standby.replica.keys import remembered

Seal = Callable[[Member], str]
"""Shuts a member down at its source; what came of it, in a few words."""


class Here:
    """The recovery host of a run, and its source for those parts that seal."""

    def __init__(
        self,
        kind: Kind,
        host: RecoveryHost,
        root: Path,
        clock: Clock,
        *,
        confirmed: bool = False,
        seal: Seal | None = None,
        ask: Callable[[Manual], None] = lambda _: None,
    ) -> None:
        """root: where run directories of failovers of this kind are. confirmed: an operator says that all sources
        are down. seal: None where this host is not the source."""
        self._kind = kind
        self._host = host
        self._root = root.resolve()
        self._clock = clock
        self._confirmed = confirmed
        self._seal = seal
        self._ask = ask

    def seal(self, member: Member) -> Outcome:
        if self._seal is None:
            raise InvalidRequest(
                "it is not protected from this host",
                subject=member.id,
                hint="seal it where its agent is: `standby plan run` there with --part seal",
            )
        return Outcome(self._seal(member))

    def start(self, member: Member, tag: str) -> Outcome:
        run = self._root / tag
        if self._is_begun(run):
            if FileRows(run).load().undoing:
                # A start that failed was being taken back when its process died.
                self.take_back(member, tag)
            else:
                return self._resume(run)
        key = remembered(member.key_file)
        limit = member.boot_limit if member.agent else None
        if self._kind is Kind.TEST:
            wanted = failover.Request(member.store, member.replica, member.point, limit, key)
            tested = failover.start(wanted, self._root, self._host, clock=self._clock, tag=tag)
            return _outcome(tested)
        network, bridge = network_named(member.network)
        request = live.Request(
            member.store,
            member.replica,
            member.point if self._kind is Kind.UNPLANNED else "newest",
            limit,
            network,
            bridge,
            Path(member.source_qmp) if member.source_qmp else None,
            self._confirmed,
            key,
        )
        return _outcome(live.start(request, self._root, self._host, clock=self._clock, tag=tag))

    def found(self, tag: str) -> str:
        run = self._root / tag
        return str(run) if run in run_directory.recoveries(self._root) else ""

    def probe(self, member: Member, tag: str, probe: Probe, situation: Situation) -> Outcome:
        machine = self._host.find(self._root / tag / MACHINE)
        plan_probes.wait(machine, probe, situation, member.id)
        return Outcome(plan_probes.shown(probe))

    def script(self, script: Script, situation: Situation) -> Outcome:
        plan_programs.run(script.argv, script.limit, situation, f"script {script.name}")
        return Outcome("status 0")

    def ask(self, manual: Manual) -> None:
        self._ask(manual)

    def take_back(self, member: Member, tag: str) -> None:
        run = self._root / tag
        if run_directory.finish_removal(run) or not self._is_begun(run):
            return
        undo = failover.clean_up if self._kind is Kind.TEST else live.cancel
        undo(run, self._host, clock=self._clock)

    def _is_begun(self, run: Path) -> bool:
        run_directory.finish_removal(run)
        return run in run_directory.recoveries(self._root)

    def _resume(self, run: Path) -> Outcome:
        if self._kind is Kind.TEST:
            return _outcome(failover.resume(run, self._host, clock=self._clock))
        return _outcome(live.resume(run, self._host, clock=self._clock))


def _outcome(started: failover.FailoverTest | Failover) -> Outcome:
    facts = {name: value for name, value in started.times._asdict().items() if value is not None}
    return Outcome(f"point {started.seq}", {**facts, "point": started.seq}, str(started.run))
