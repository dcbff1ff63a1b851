"""Orders to run a recovery plan, with this host as the recovery host or as the one of its sources."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from standby.agent.engines import Engines
from standby.agent.job import Job, OrderWaits
from standby.agent.seals import Seals
from standby.clock import Clock
from standby.errors import Bug
from standby.hypervisor.host import RecoveryHost
from standby.link.recovery import CleanUpPlan, RunPlan
from standby.link.requests import Seal
from standby.recovery import plan_findings, plan_record, plan_run
from standby.recovery.plan_document import Kind, Manual, Member, PlanRefused, parse
from standby.recovery.plan_host import Here
from standby.recovery.plan_record import PlanRow, PlanRun, PlanStopped
from standby.recovery.plan_steps import Part, Phase, PlanStep, Stand, action_of
from standby.recovery.run_directory import FAILOVERS, PLANS, TESTS
from standby.replication.books import Books

_RUN: Final = "Running the plan"
_CLEAN: Final = "Ending its machines"


class PlanOrders:
    """See `Carrier` (orders.py). A run has a tag that comes of its job's id: after a kill it is found, and goes on."""

    def __init__(
        self, books: Books, engines: Engines, folder: Path, host: RecoveryHost, clock: Clock
    ) -> None:
        self._books = books
        self._engines = engines
        self._folder = folder
        self._host = host
        self._clock = clock

    def run(self, work: RunPlan, job: Job) -> None:
        """Raises PlanRefused, PlanStopped, OrderWaits."""
        job.task(_RUN)
        job.no_return()
        root = (self._folder / PLANS).resolve()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        run = Path(work.run) if work.run else root / job.tag
        if not run.exists():
            self._create(work, root, job.tag)
        job.result |= {"run": str(run), f"plan-{work.part}": str(run)}
        found = plan_record.look(run)
        if work.answered and found.phase is Phase.WAITING:
            plan_record.answer(run, clock=self._clock)
        elif work.run and found.phase is Phase.STOPPED:
            plan_record.retry(run, clock=self._clock)
        done: set[str] = set()
        count = len(found.order.steps)

        def told(step: PlanStep, row: PlanRow) -> None:
            if row.stand is Stand.DONE:
                done.add(step.id)
            job.progress(
                len(done) / count, f"{step.id}: {row.stand.value}" + (f" ({row.text})" if row.text else "")
            )

        ended = plan_run.go_on(run, self._effects(found, work), clock=self._clock, told=told)
        if ended.phase is Phase.WAITING:
            raise OrderWaits(
                _asked(ended), subject=f"plan {ended.order.plan.name}", hint="do it, then continue the job"
            )
        if ended.phase is not Phase.DONE:
            raise PlanStopped.of(ended)

    def clean_up(self, work: CleanUpPlan, job: Job) -> None:
        job.task(_CLEAN)
        job.no_return()
        run = Path(work.run)
        found = plan_record.look(run)
        if found.phase is not Phase.CLEAN:
            plan_run.take_back(run, self._effects(found, None), clock=self._clock)

    def _create(self, work: RunPlan, root: Path, tag: str) -> None:
        plan, kind, part = parse(work.document, "plan"), Kind(work.kind), Part(work.part)
        found = plan_findings.check(
            plan, kind, self._host, self._root(kind), part=part, confirmed=work.source_down
        )
        if any(one.blocks for one in found):
            raise PlanRefused(plan.name, tuple(found))
        plan_run.create(plan, kind, root, part=part, confirmed=work.source_down, clock=self._clock, tag=tag)

    def _effects(self, found: PlanRun, work: RunPlan | None) -> Here:
        order = found.order

        def seal(member: Member) -> str:
            if work is None:
                raise Bug("a machine is sealed while its plan is cleaned up", subject=member.id)
            request = Seal(machine=member.at_source, force=member.force, shutdown_limit=member.shutdown_limit)
            Seals(self._books, self._engines).run(request, lambda _task: None)
            return "shut down and sealed"

        return Here(
            order.kind,
            self._host,
            self._root(order.kind),
            self._clock,
            confirmed=order.confirmed,
            seal=seal,
        )

    def _root(self, kind: Kind) -> Path:
        """Where the machines of its runs are, as those of failovers one by one."""
        root = (self._folder / (TESTS if kind is Kind.TEST else FAILOVERS)).resolve()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return root


def _asked(found: PlanRun) -> str:
    """What a person has to do."""
    texts = []
    for row in found.waiting:
        step = next(one for one in found.order.steps if one.id == row.step)
        action = action_of(found.order.plan, step)
        texts.append(f"{action.name}: {action.text}" if isinstance(action, Manual) else step.id)
    return "; ".join(texts)
