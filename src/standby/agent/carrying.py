"""Which orders are whose: requests are replication's, recovery and upkeep have theirs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from standby.agent.engines import Engines
from standby.agent.job import Job
from standby.agent.plan_orders import PlanOrders
from standby.agent.recovery_orders import RecoveryOrders
from standby.agent.replication_orders import ReplicationOrders
from standby.agent.upkeep_orders import UpkeepOrders
from standby.clock import Clock
from standby.hypervisor.host import RecoveryHost
from standby.link.messages import Order
from standby.link.recovery import CleanUpPlan, RecoveryOrder, RunPlan
from standby.link.upkeep import UpkeepOrder
from standby.replication.books import Books


class HostCarrier:
    """The `Carrier` of a host's agent."""

    def __init__(
        self, books: Books, engines: Engines, host: RecoveryHost, folder: Path, clock: Clock
    ) -> None:
        self._replication = ReplicationOrders(books, engines, clock)
        self._upkeep = UpkeepOrders(books, engines, clock)
        self._plans = PlanOrders(books, engines, folder, host, clock)
        self._recovery = RecoveryOrders(folder, host, clock, self._replication)

    def before(self, order: Order) -> Mapping[str, str]:
        if isinstance(order.work, RecoveryOrder):
            return self._recovery.before(order.work)
        if isinstance(order.work, UpkeepOrder):
            return {}
        return self._replication.before(order.work)

    def carry_out(self, job: Job) -> None:
        work = job.order.work
        if isinstance(work, RunPlan):
            self._plans.run(work, job)
        elif isinstance(work, CleanUpPlan):
            self._plans.clean_up(work, job)
        elif isinstance(work, RecoveryOrder):
            self._recovery.carry_out(work, job)
        elif isinstance(work, UpkeepOrder):
            self._upkeep.carry_out(work, job)
        else:
            self._replication.carry_out(work, job)
