"""Machines started on plain QEMU: `RecoveryHost` and `RunningMachine` without libvirt."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from standby.clock import Clock, SystemClock
from standby.hypervisor import capacity, fetching, guest_exec, merging
from standby.hypervisor.accelerator import Accelerator, choose
from standby.hypervisor.agent import GuestAgent, GuestAgentRefused, GuestAgentSilent
from standby.hypervisor.base import MachineNotFound, MachineUnreachable
from standby.hypervisor.host import (
    BootTimes,
    DiskImage,
    Executed,
    Fetched,
    MachineState,
    Network,
    NotBooted,
    NotOurs,
    StartFailed,
    StartRefused,
)
from standby.hypervisor.process import ProcessIdentity, find_processes
from standby.hypervisor.qemu_arguments import RunFiles, arguments, machine_name
from standby.hypervisor.qmp import Qmp
from standby.records import DiskDescription, Finding, MachineDescription

_PROGRAM: Final = "qemu-system-x86_64"
_KILL_LIMIT: Final = 30.0
_AGENT_TRY: Final = 1.0
_SOCKET_PATH_LIMIT: Final = 107
"""unix(7): sun_path, less its final zero byte."""


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """machine.json: written before QEMU starts, and again once its process is known."""

    tag: str
    description: MachineDescription
    asked: float
    process: ProcessIdentity | None = None
    resumed: float = 0.0


class QemuHost:
    """Starts machines with qemu-system-x86_64; by KVM where it works, else emulated (see accelerator.py)."""

    def __init__(self, *, accelerator: Accelerator | None = None, clock: Clock | None = None) -> None:
        self.accelerator: Accelerator = accelerator or choose()
        self._clock = clock or SystemClock()

    def check(self, description: MachineDescription) -> Sequence[Finding]:
        return capacity.check(description, self.accelerator)

    def overlay(self, path: Path, backing: str, size: int) -> DiskImage:
        # -u: the server need not be up yet. The image itself names its backing too, for qemu-img and people.
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", backing]
        run = subprocess.run([*command, path, str(size)], capture_output=True, text=True, check=False)
        if run.returncode:
            raise StartFailed(
                f"qemu-img cannot create the overlay: {run.stderr.strip()}",
                subject=str(path),
                hint="see whether the directory exists and has space",
            )
        return DiskImage(path, "qcow2", backing)

    def start(
        self,
        description: MachineDescription,
        disks: Mapping[str, DiskImage],
        boot_files: Mapping[str, Path],
        run: Path,
        network: Network = Network.NONE,
        bridge: str = "",
    ) -> StartedMachine:
        files = RunFiles(run.absolute())
        tag = uuid.uuid4().hex
        command = arguments(
            description,
            disks,
            boot_files,
            files,
            tag=tag,
            network=network,
            bridge=bridge,
            accelerator=self.accelerator,
        )
        record = _Record(tag=tag, description=description, asked=self._clock.now().timestamp())
        self._prepare(files, description)
        _write(files, record)
        _spawn(command, files, description)
        machine = StartedMachine(files, _with_process(files, record), self._clock)
        machine.resume()
        _write(files, machine.resumed_at(self._clock.now().timestamp()))
        return machine

    def find(self, run: Path) -> StartedMachine:
        files = RunFiles(run.absolute())
        try:
            record = msgspec.json.decode(files.record.read_bytes(), type=_Record)
        except FileNotFoundError as error:
            raise MachineNotFound(
                "no machine was started with this run directory",
                subject=str(run),
                hint="give the directory that the machine was started with",
            ) from error
        return StartedMachine(files, record if record.process else _with_process(files, record), self._clock)

    def _prepare(self, files: RunFiles, description: MachineDescription) -> None:
        longest = max(len(str(path)) for path in (files.control, files.qmp, files.agent, files.console))
        if longest > _SOCKET_PATH_LIMIT:
            raise StartRefused(
                f"its path is {longest - _SOCKET_PATH_LIMIT} bytes too long for the sockets in it",
                subject=str(files.directory),
                hint="give one with a shorter path",
            )
        try:
            files.directory.mkdir(mode=0o700)
        except OSError as error:
            raise StartRefused(
                f"the run directory cannot be made: {error.strerror}",
                subject=str(files.directory),
                tried=f"starting {description.name}",
                hint="give one that does not exist, in a directory that does",
            ) from error


class StartedMachine:
    """A machine that QemuHost started, running or gone."""

    def __init__(self, files: RunFiles, record: _Record, clock: Clock) -> None:
        self._files = files
        self._record = record
        self._clock = clock

    @property
    def description(self) -> MachineDescription:
        return self._record.description

    @property
    def tag(self) -> str:
        return self._record.tag

    @property
    def process(self) -> ProcessIdentity | None:
        """None if QEMU never came up."""
        return self._record.process

    @property
    def qmp(self) -> Path:
        return self._files.qmp

    @property
    def agent(self) -> Path:
        return self._files.agent

    @property
    def console(self) -> Path:
        return self._files.console

    @property
    def console_log(self) -> Path:
        return self._files.console_log

    def state(self) -> MachineState:
        if not self._alive():
            return MachineState.GONE
        with self._control() as qmp:
            running: bool = qmp.command("query-status")["running"]
        return MachineState.RUNNING if running else MachineState.PAUSED

    def wait_booted(self, limit: float) -> BootTimes:
        deadline = time.monotonic() + limit
        try:
            # Only once the guest opened its port: what is sent before is thrown away.
            self._wait_agent_port(limit)
        except MachineUnreachable as error:
            raise self._not_booted("its machine ended", f"read {self._files.log}") from error
        while True:
            left = deadline - time.monotonic()
            try:
                GuestAgent(self.description.name, self.agent, limit=min(max(left, 0.0), _AGENT_TRY)).close()
                break
            except GuestAgentSilent as error:
                if left <= 0:
                    raise self._not_booted(
                        f"the guest agent did not answer within {limit:g} s", f"read {self.console_log}"
                    ) from error
        answered = self._clock.now().timestamp()
        return BootTimes(self._record.resumed - self._record.asked, answered - self._record.asked)

    def execute(self, argv: Sequence[str], limit: float) -> Executed:
        agent = GuestAgent(self.description.name, self.agent)
        try:
            return guest_exec.execute(agent, self.description.name, argv, limit)
        finally:
            agent.close()

    def screenshot(self, path: Path) -> None:
        with self._control() as qmp:
            qmp.command("screendump", filename=str(path.absolute()), format="png")

    def forward(self, port: int) -> int:
        """A port of 127.0.0.1 that leads to TCP `port` of the guest's first card. Only on QEMU's own networks.

        Raises StartRefused where the machine has none.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            local: int = free.getsockname()[1]
        said = self._monitor(f"hostfwd_add net0 tcp:127.0.0.1:{local}-:{port}")
        if said.strip():
            raise StartRefused(f"no way into it can be opened: {said.strip()}", subject=self.description.name)
        return local

    def connected(self, way: int) -> bool:
        """Whether the guest took a connection that came by `way`, a port that `forward` gave."""
        return any(
            words[:1] == ["TCP[ESTABLISHED]"] and words[3] == str(way)
            for words in (line.split() for line in self._monitor("info usernet").splitlines())
        )

    def pause(self) -> None:
        with self._control() as qmp:
            qmp.command("stop")

    def resume(self) -> None:
        with self._control() as qmp:
            qmp.command("cont")

    def fetched(self, disk: str) -> Fetched:
        with self._control() as qmp:
            return fetching.fetched(qmp, *self._disk(disk))

    def fetch(self, disk: str) -> None:
        with self._control() as qmp:
            fetching.fetch(qmp, *self._disk(disk))

    def flush(self, disk: str) -> None:
        with self._control() as qmp:
            fetching.flush(qmp, *self._disk(disk))

    def let_go(self, disk: str) -> None:
        with self._control() as qmp:
            fetching.let_go(qmp, self._disk(disk)[0])

    def merge(self, disk: str, limit: float) -> None:
        with self._control() as qmp:
            merging.merge(qmp, *self._disk(disk), limit)

    def merged(self, disk: str) -> bool:
        with self._control() as qmp:
            return merging.merged(qmp, *self._disk(disk))

    def drop_overlay(self, disk: str) -> None:
        with self._control() as qmp:
            merging.drop_overlay(qmp, *self._disk(disk))

    def power_down(self, limit: float) -> bool:
        if self._record.process is None or not self._alive():
            return True
        deadline = time.monotonic() + limit
        with self._control() as qmp:
            # A press of the power button; a guest that listens to its agent only is asked there as well.
            qmp.command("system_powerdown")
        with contextlib.suppress(GuestAgentSilent, GuestAgentRefused):
            self._shut_down_by_agent()
        return self._record.process.wait(max(deadline - time.monotonic(), 0))

    def kill(self) -> None:
        mark = f"standby:{self.tag}:"
        found = [self._record.process] if self._record.process else find_processes(_PROGRAM, mark)
        while found:
            for process in found:
                if not process.kill(mark, _KILL_LIMIT):
                    raise MachineUnreachable(
                        f"process {process.pid} did not end within {_KILL_LIMIT:g} s of SIGKILL",
                        subject=self.description.name,
                        hint="it hangs in the kernel, most often on storage: see `dmesg`, then try again",
                    )
            # Also one that whoever started it did not live to note: QEMU may not have its pid file yet, and
            # what it forked to become a daemon was not there a moment ago.
            found = find_processes(_PROGRAM, mark)

    def discard(self) -> None:
        self.kill()
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._files.directory)

    def resumed_at(self, moment: float) -> _Record:
        """Note when the first instruction ran; gives back the record to keep."""
        self._record = msgspec.structs.replace(self._record, resumed=moment)
        return self._record

    def _monitor(self, line: str) -> str:
        """A command of the human monitor, for what QMP has none for."""
        with self._control() as qmp:
            said: str = qmp.command("human-monitor-command", command_line=line)
        return said

    def _disk(self, disk: str) -> tuple[int, DiskDescription]:
        """Its place on the command line, and its description."""
        return next((index, one) for index, one in enumerate(self.description.disks) if one.id == disk)

    def _alive(self) -> bool:
        return self._record.process is not None and self._record.process.alive()

    @contextlib.contextmanager
    def _control(self) -> Iterator[Qmp]:
        """A connection to the machine, after seeing that it is this one."""
        qmp = Qmp(self.description.name, self._files.control)
        try:
            found, wanted = qmp.command("query-name").get("name"), machine_name(self.tag, self.description)
            if found != wanted:
                raise NotOurs(
                    f"the machine at {self._files.control} calls itself {found!r}, not {wanted!r}",
                    subject=self.description.name,
                    tried="nothing was done to it",
                    hint="see who uses this run directory",
                )
            yield qmp
        finally:
            qmp.close()

    def _wait_agent_port(self, limit: float) -> None:
        """Return when the guest has opened the agent's port, or after `limit` seconds without."""
        with self._control() as qmp, qmp.listening() as events:
            ports = qmp.command("query-chardev")
            if not any(port["label"] == "agent" and port["frontend-open"] for port in ports):
                events.wait(
                    lambda event: event["event"] == "VSERPORT_CHANGE" and event["data"]["open"], limit
                )

    def _shut_down_by_agent(self) -> None:
        agent = GuestAgent(self.description.name, self.agent)
        try:
            # It answers only if it fails: the guest goes down under it.
            agent.command("guest-shutdown", _AGENT_TRY)
        finally:
            agent.close()

    def _not_booted(self, cause: str, hint: str) -> NotBooted:
        return NotBooted(cause, subject=self.description.name, tried="starting it", hint=hint)


def _write(files: RunFiles, record: _Record) -> None:
    fresh = files.record.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(record))
    fresh.replace(files.record)


def _spawn(command: Sequence[str], files: RunFiles, description: MachineDescription) -> None:
    """Returns once QEMU opened its disks and sockets and left for the background."""
    try:
        run = subprocess.run(
            [_PROGRAM, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise StartRefused(
            "qemu-system-x86_64 is not installed",
            subject=description.name,
            hint="apt install qemu-system-x86",
        ) from error
    if run.returncode:
        # With a log file, QEMU sends there what it has to say from early on.
        said = run.stderr + (files.log.read_text() if files.log.exists() else "")
        shutil.rmtree(files.directory)
        raise StartFailed(
            f"QEMU refused to start: {said.strip()}",
            subject=description.name,
            hint="correct what QEMU names (its disks, memory, accelerator), then start again",
        )


def _with_process(files: RunFiles, record: _Record) -> _Record:
    """The record with the process that QEMU's pid file tells, if that runs and carries the tag."""
    try:
        identity = ProcessIdentity.of(int(files.pid.read_text()))
    except FileNotFoundError:
        identity = None
    if identity is None or not identity.carries(f"standby:{record.tag}:"):
        return record
    record = msgspec.structs.replace(record, process=identity)
    _write(files, record)
    return record
