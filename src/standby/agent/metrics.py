"""The agent's metrics for Prometheus: its machines by the books, and what it did since it was started.

Read from the books when they are asked for. No metric and no label holds a secret, a path or an address.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from standby.agent.daemon import Logged
from standby.agent.link import Link
from standby.agent.report import Look, Looking
from standby.errors import InvalidRequest, StandbyError
from standby.replica.documents import Record
from standby.replication.books import Books
from standby.replication.source import CycleReport
from standby.replication.states import State

_MACHINE: Final = ("machine",)


class Counts:
    """What happened to each machine since the agent was started. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, ...]] = Counter()

    def add(self, name: str, *labels: str, by: int = 1) -> None:
        with self._lock:
            self._counts[name, *labels] += by

    def of(self, name: str) -> dict[tuple[str, ...], int]:
        with self._lock:
            return {key[1:]: count for key, count in self._counts.items() if key[0] == name}


class Counted(Logged):
    """An Observer that also counts."""

    def __init__(self, machine: str, counts: Counts) -> None:
        super().__init__(machine)
        self._counts = counts

    def cycle(self, report: CycleReport) -> None:
        super().cycle(report)
        self._counts.add("cycles", self.machine)

    def committed(self, record: Record) -> None:
        super().committed(record)
        sent = sum(log.size for disk in record.disks for log in disk.logs)
        self._counts.add("sent", self.machine, by=sent)
        if record.is_point:
            self._counts.add("points", self.machine)

    def failed(self, error: StandbyError) -> None:
        super().failed(error)
        self._counts.add("failures", self.machine, type(error).__name__)


class AgentCollector(Collector):
    def __init__(self, books: Books, counts: Counts, link: Link) -> None:
        self._looking = Looking(books)
        self._counts = counts
        self._link = link
        self._lock = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            looks = self._looking.all(agent=True)
        yield _states(looks)
        yield from _gauges(looks)
        for name, what, labels in (
            ("cycles", "Cycles made", _MACHINE),
            ("points", "Recovery points committed", _MACHINE),
            ("sent", "Bytes of logs committed to the store", _MACHINE),
            ("failures", "Failed tries, by the class of the error", ("machine", "kind")),
        ):
            metric = f"standby_machine_{name}_bytes" if name == "sent" else f"standby_machine_{name}"
            family = CounterMetricFamily(metric, f"{what} since the agent was started", labels=labels)
            for values, count in self._counts.of(name).items():
                family.add_metric(values, count)
            yield family
        yield from _of_link(self._link)


def _states(looks: list[Look]) -> Metric:
    family = GaugeMetricFamily(
        "standby_machine_state", "1 for the state that the machine is in", labels=("machine", "state")
    )
    for look in looks:
        state = look.relationship.status.state
        # A cycle's own state comes and goes with each.
        shown = State.PROTECTED if state is State.DELTA else state
        family.add_metric((look.relationship.machine, shown.value), 1)
    return family


def _gauges(looks: list[Look]) -> Iterator[Metric]:
    health = GaugeMetricFamily(
        "standby_machine_health", "0 not applicable, 1 normal, 2 warning, 3 critical", labels=_MACHINE
    )
    rpo = GaugeMetricFamily(
        "standby_machine_rpo_seconds", "Seconds that a failover now would lose", labels=_MACHINE
    )
    every = GaugeMetricFamily(
        "standby_machine_frequency_seconds", "Seconds between two points, by its policy", labels=_MACHINE
    )
    queued = GaugeMetricFamily(
        "standby_machine_queue_entries", "Points and scans that wait for the store", labels=_MACHINE
    )
    waiting = GaugeMetricFamily(
        "standby_machine_queue_bytes", "Bytes that wait for the store", labels=_MACHINE
    )
    for look in looks:
        name = (look.relationship.machine,)
        health.add_metric(name, int(look.health.level))
        if look.health.rpo is not None:
            rpo.add_metric(name, look.health.rpo)
        every.add_metric(name, look.relationship.policy.frequency)
        queued.add_metric(name, look.queue.length)
        waiting.add_metric(name, sum(look.queue.bytes.values()))
    return iter((health, rpo, every, queued, waiting))


def _of_link(link: Link) -> Iterator[Metric]:
    answers = GaugeMetricFamily("standby_vault_answers", "1 if the vault answered the newest heartbeat")
    answers.add_metric((), int(link.answers))
    yield answers
    last = GaugeMetricFamily(
        "standby_vault_last_answer_timestamp_seconds",
        "When the vault last answered since the agent was started",
    )
    if link.answered_at is not None:
        last.add_metric((), link.answered_at.timestamp())
    yield last
    work = GaugeMetricFamily("standby_orders", "Orders of the vault that are carried out now")
    work.add_metric((), link.orders_at_work)
    yield work


@contextmanager
def served(address: str, collector: Collector) -> Iterator[tuple[str, int]]:
    """Serve /metrics at ADDRESS:PORT while it is entered; where it is served. Raises InvalidRequest."""
    host, _, port = address.rpartition(":")
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(collector)
    try:
        server, thread = start_http_server(int(port), host.strip("[]") or "127.0.0.1", registry)
    except (OSError, ValueError, OverflowError) as error:
        raise InvalidRequest(
            f"metrics cannot be served there: {error}",
            subject=address,
            hint="give ADDRESS:PORT of this host, as 127.0.0.1:9177",
        ) from error
    try:
        yield host, int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
