"""The libvirt adapter: the machines of one libvirt, as they stand, without a change to their definitions.

Capture goes through libvirt's QMP passthrough by the code that serves every QEMU (docs/decisions/0016).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from standby.clock import Clock, SystemClock
from standby.hypervisor.base import DiskInUse
from standby.hypervisor.findings import UNSAFE_JOBS, ChainProblems, image_chain_problems, survey
from standby.hypervisor.freeze import FROZEN_LIMIT, Freeze
from standby.hypervisor.inventory import OURS
from standby.hypervisor.libvirt_connection import Event, Libvirt, connect, unreachable
from standby.hypervisor.libvirt_domain import Role, boot_files, description, disks
from standby.hypervisor.libvirt_guest import LibvirtFreeze, agent_problem, thaw_leftover
from standby.hypervisor.libvirt_monitor import LibvirtMonitor
from standby.hypervisor.scratch import CutLimits
from standby.hypervisor.tracking import QemuTracking
from standby.records import Finding, MachineDescription

log = logging.getLogger(__name__)

_AGENT_LIMIT: Final = 2.0


class Domain(NamedTuple):
    """One machine of the host. disks: their targets."""

    name: str
    uuid: str
    running: bool
    persistent: bool
    disks: tuple[str, ...]


class LibvirtHypervisor:
    """A `Hypervisor`. Thread-safe. A machine is named by its domain's name or UUID."""

    def __init__(
        self,
        uri: str,
        *,
        limits: CutLimits | None = None,
        freeze_limit: float = FROZEN_LIMIT,
        chain_problems: ChainProblems = image_chain_problems,
        clock: Clock | None = None,
    ) -> None:
        self.uri = uri
        self._limits = limits or CutLimits()
        self._freeze_limit = freeze_limit
        self._chain_problems = chain_problems
        self._clock = clock or SystemClock()

    def machines(self) -> Sequence[str]:
        return [domain.name for domain in self.inventory()]

    def inventory(self) -> Sequence[Domain]:
        """All machines, running or off, by name. Raises MachineUnreachable."""
        host = connect(self.uri)
        with _telling(host, self.uri, "listing its domains"):
            found = [
                Domain(
                    name=domain.name(),
                    uuid=domain.UUIDString(),
                    running=bool(domain.isActive()),
                    persistent=bool(domain.isPersistent()),
                    disks=tuple(disk.target for disk in disks(domain.XMLDesc(0))),
                )
                for domain in host.raw.listAllDomains()
            ]
        return sorted(found)

    @contextlib.contextmanager
    def watching(self, told: Callable[[str, Event], None]) -> Iterator[None]:
        """Call `told` with a machine's name and what happened to it, from another thread, while within."""
        host = connect(self.uri)
        host.watch(told)
        try:
            yield
        finally:
            host.unwatch(told)

    def describe(self, machine: str) -> MachineDescription:
        """As the machine is now, running or not; with its definition's XML verbatim, but without passwords.

        Raises MachineNotFound, MachineUnreachable.
        """
        host = connect(self.uri)
        domain = host.domain(machine)
        with _telling(host, machine, "reading its definition"):
            return description(
                str(domain.XMLDesc(0)),
                _definition(host, domain),
                lambda target: int(domain.blockInfo(target)[0]),
            )

    def boot_files(self, machine: str) -> Mapping[Role, Path]:
        host = connect(self.uri)
        domain = host.domain(machine)
        with _telling(host, machine, "reading its definition"):
            return boot_files(_definition(host, domain))

    def check(self, machine: str, scratch: Path) -> Sequence[Finding]:
        host = connect(self.uri)
        if not host.domain(machine).isActive():
            return [
                Finding(
                    subject=machine,
                    problem="it is off: change tracking begins with a running machine",
                    fix=f"start it (`virsh -c {self.uri} start {machine}`) and check again",
                    blocks=True,
                )
            ]
        with contextlib.closing(LibvirtMonitor(machine, host)) as monitor:
            found = survey(
                monitor,
                scratch=scratch,
                agent_problem=agent_problem(machine, self.uri, _AGENT_LIMIT),
                nbd=None,
                limits=self._limits,
                chain_problems=self._chain_problems,
            )
        return [
            *found,
            Finding(
                subject=machine,
                problem="libvirt marks it tainted (custom-monitor): its QEMU is asked beside libvirt",
                fix="nothing: it is a note in the machine's log and in `virsh dominfo`, gone with its next start",
                blocks=False,
            ),
        ]

    @contextlib.contextmanager
    def ending(self, machine: str) -> Iterator[LibvirtEnding]:
        host = connect(self.uri)
        yield LibvirtEnding(machine, host)

    def tracking(self, machine: str, relationship: str, scratch: Path) -> LibvirtTracking:
        monitor = LibvirtMonitor(machine, connect(self.uri))
        try:
            return LibvirtTracking(
                monitor,
                relationship,
                scratch,
                uri=self.uri,
                limits=self._limits,
                freeze_limit=self._freeze_limit,
                clock=self._clock,
            )
        except BaseException:
            monitor.close()
            raise


class LibvirtTracking(QemuTracking):
    """Tracking that makes way for libvirt's own jobs, and reaches the guest through libvirt."""

    def __init__(
        self,
        monitor: LibvirtMonitor,
        relationship: str,
        scratch: Path,
        *,
        uri: str,
        limits: CutLimits,
        freeze_limit: float,
        clock: Clock,
    ) -> None:
        super().__init__(
            monitor,
            relationship,
            scratch,
            agent=None,
            nbd=None,
            limits=limits,
            freeze_limit=freeze_limit,
            clock=clock,
            done=monitor.close,
        )
        self._uri = uri

    def _check_free(self) -> None:
        # While a commit or a copy is under way, the image that the guest writes to is about to be another one.
        for job in self._qmp.command("query-jobs"):
            if job["type"] in UNSAFE_JOBS and not job["id"].startswith(OURS):
                raise DiskInUse(
                    f"a {job['type']} job of libvirt ({job['id']}) is under way on its disks",
                    subject=self._qmp.machine,
                    tried="nothing: the machine and its change tracking are left as they are",
                    hint="wait until it has ended (`virsh blockjob`, `virsh domjobinfo`); then it goes on by itself",
                )

    def _freeze(self) -> Freeze | None:
        return LibvirtFreeze(self._qmp.machine, self._uri, self._mark, limit=self._freeze_limit)

    def _thaw_leftover(self) -> None:
        thaw_leftover(self._qmp.machine, self._uri, self._mark)


class LibvirtEnding:
    """An `Ending`. libvirt ends a machine's process with its guest, so only a stop lets its last writes be read."""

    def __init__(self, machine: str, host: Libvirt) -> None:
        self._machine = machine
        self._host = host
        self._domain = host.domain(machine)

    def ended(self) -> bool:
        return False

    def stopped(self) -> bool:
        with _telling(self._host, self._machine, "asking for its state"):
            return bool(self._domain.state()[0] == self._host.module.VIR_DOMAIN_PAUSED)

    def shut_down(self, limit: float) -> bool:
        log.warning(
            "%s: it is not asked to shut down: libvirt would end its process with its guest, and its last writes "
            "could not be read any more",
            self._machine,
        )
        return False

    def spare(self) -> None:
        """It was never told to outlive its guest."""

    def stop(self) -> None:
        with _telling(self._host, self._machine, "suspending it"):
            self._domain.suspend()

    def quit(self) -> None:
        with _telling(self._host, self._machine, "ending it"):
            self._domain.destroy()


@contextlib.contextmanager
def _telling(host: Libvirt, subject: str, doing: str) -> Iterator[None]:
    """libvirt's errors within as ours."""
    try:
        yield
    except host.module.libvirtError as error:
        raise unreachable(subject, doing, error) from error


def _definition(host: Libvirt, domain: Any) -> str:
    flags = host.module.VIR_DOMAIN_XML_INACTIVE if domain.isPersistent() else 0
    return str(domain.XMLDesc(flags))
