"""Scratch images: where QEMU keeps what the guest overwrites while a cut is open.

When the scratch volume is full, the guest's own write fails with ENOSPC. So a cut is opened only with room to
spare and ended early, by whoever watches it, before the room runs out.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from standby.errors import NeedsPerson
from standby.hypervisor.base import ScratchFull


@dataclass(frozen=True)
class CutLimits:
    """What a cut may cost the guest and its host before it is given up.

    seconds: how long it may be open. budget: bytes of scratch for all its disks.
    reserve: bytes that stay free on the scratch volume: must take what the guest overwrites between two looks
    of the watch and while the cut is being ended (some tenths of a second), copied in units of 64 KiB.
    interval: seconds between two looks. latency: seconds that a write of the guest may take on average between
    two looks, `latency_looks` of those that saw a write in a row.
    """

    seconds: float = 120.0
    budget: int = 16 << 30
    reserve: int = 512 << 20
    interval: float = 0.05
    latency: float = 1.0
    latency_looks: int = 10


def free(directory: Path) -> int:
    """Bytes that an unprivileged process may still write there."""
    volume = os.statvfs(directory)
    return volume.f_bavail * volume.f_frsize


def needed(sizes: Iterable[int], limits: CutLimits) -> int:
    """Bytes that must be free to open a cut: the reserve, and as much to use, or the worst case if less.

    The worst case, every block of every disk overwritten, would refuse most cuts for nothing.
    """
    worst = sum(size + size // 512 + (1 << 20) for size in sizes)
    return limits.reserve + min(worst, limits.reserve)


def check_room(machine: str, directory: Path, sizes: Iterable[int], limits: CutLimits) -> None:
    """Raises ScratchFull."""
    have, want = free(directory), needed(sizes, limits)
    if have < want:
        raise ScratchFull(
            f"{have >> 20} MiB are free in the scratch directory {directory}, a cut needs {want >> 20} MiB",
            subject=machine,
            tried="opening a cut; nothing was changed",
            hint="free space on this volume or choose a scratch directory elsewhere",
        )


class ScratchFiles:
    """The scratch images of one relationship: `<prefix>s<n>.qcow2` in `directory`."""

    def __init__(self, directory: Path, prefix: str) -> None:
        self.directory = directory
        self._prefix = prefix
        self._templates: dict[int, bytes] = {}

    def create(self, number: int, size: int) -> Path:
        """A new, empty qcow2 image of `size` bytes."""
        path = self.directory / f"{self._prefix}s{number}.qcow2"
        if size not in self._templates:
            self._format(path, size)
            self._templates[size] = path.read_bytes()
        else:
            # An empty image of a size is always the same; starting qemu-img costs more than the rest.
            path.write_bytes(self._templates[size])
        return path

    def used(self, paths: Iterable[Path]) -> int:
        """Bytes that the images take on the volume."""
        taken = 0
        for path in paths:
            with contextlib.suppress(FileNotFoundError):  # the cut is just being released
                taken += path.stat().st_blocks * 512
        return taken

    def remove(self, paths: Iterable[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)

    def leftovers(self) -> Sequence[Path]:
        """The images there are, also those of an agent that died."""
        return sorted(self.directory.glob(f"{self._prefix}s*.qcow2"))

    def _format(self, path: Path, size: int) -> None:
        command = ["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(size)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            cause = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
            raise NeedsPerson(
                f"cannot make a scratch image: {cause}",
                subject=str(path),
                tried=" ".join(command),
                hint="install qemu-utils; make the scratch directory writable for this agent",
            ) from error
