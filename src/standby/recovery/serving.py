"""The NBD servers of a recovery: one process a disk, found and ended by the socket in its run directory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from standby.block.serve import JSON, log_of, serve
from standby.errors import Recoverable
from standby.hypervisor.process import ProcessIdentity, find_processes
from standby.records import Finding
from standby.recovery import secret
from standby.recovery.image_source import OPEN_HELD

_PROGRAM: Final = "nbdkit"
_KILL_LIMIT: Final = 10.0


class ServerStuck(Recoverable):
    """A server does not end, though it was killed: it hangs in the kernel, most often on storage."""


class Source(NamedTuple):
    """A disk of a point to be served on `socket`. store: its address. patience: seconds in which a read waits
    for a store that is away."""

    store: str
    replica: str
    seq: int
    disk: str
    socket: Path
    patience: int = 0

    @property
    def uri(self) -> str:
        return f"nbd+unix:///?socket={self.socket}"

    @property
    def damage(self) -> Path:
        """Where the server writes what it found damaged."""
        return self.socket.with_suffix(".damage")


def start(sources: Sequence[Source]) -> None:
    """Serve the disks, side by side, by processes that outlive this one. Raises what `serve` raises."""
    with ThreadPoolExecutor(max(len(sources), 1)) as pool:
        list(pool.map(_start, sources))


def _start(source: Source) -> None:
    arguments: dict[str, JSON] = {
        "store": source.store,
        "replica": source.replica,
        "seq": source.seq,
        "disk": source.disk,
        "damage": str(source.damage),
        "patience": source.patience,
        "data_key": secret.read(source.socket.parent).hex(),
    }
    serve(OPEN_HELD, arguments, source.socket, tied=False).leave()


def process_of(source: Source) -> ProcessIdentity | None:
    """The process that serves the disk, started by whomever of us."""
    # The path holds the recovery's tag, so no process of another origin has it as an argument of nbdkit.
    return next(iter(find_processes(_PROGRAM, str(source.socket))), None)


def dead(sources: Sequence[Source]) -> list[Source]:
    """Those that no process serves."""
    return [source for source in sources if process_of(source) is None]


def stop(sources: Sequence[Source]) -> None:
    """End the servers at once; they have nothing to save. Raises ServerStuck."""
    for source in sources:
        for process in find_processes(_PROGRAM, str(source.socket)):
            if not process.kill(str(source.socket), _KILL_LIMIT):
                raise ServerStuck(
                    f"process {process.pid} did not end within {_KILL_LIMIT:g} s of SIGKILL",
                    subject=f"the server of disk {source.disk}",
                    hint="see `dmesg` for what it waits for, then clean up again",
                )
        source.socket.unlink(missing_ok=True)


def problems(sources: Sequence[Source], mend: str) -> list[Finding]:
    """What a machine that runs from these disks suffers from. mend: the command that restarts servers."""
    findings = [
        Finding(
            subject=f"disk {source.disk}",
            problem="the process that serves it is gone: what the machine did not read yet, it cannot read"
            f" (read {log_of(source.socket)})",
            fix=mend,
            blocks=True,
        )
        for source in dead(sources)
    ]
    for source in sources:
        if source.damage.exists():
            for line in source.damage.read_text().splitlines():
                told = json.loads(line)
                findings.append(
                    Finding(
                        subject=f"disk {source.disk}, {told['subject']}",
                        problem=f"{told['cause']}: the machine was given a read error",
                        fix=told["hint"] or "test an older point",
                        blocks=True,
                    )
                )
    return findings
