"""What is wrong with an image's chain of parents, told by identity and not by name.

QEMU is no help with the formats of Hyper-V: it refuses a differencing VHDX, and opens a differencing VHD
without its parent, silently giving zeros for the parent's data (seen with 7.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from standby.block.images import ImageFailed, describe
from standby.block.vhd import VhdParent, read_vhd
from standby.block.vhdx import read_vhdx

_CLOCKS = 2
"""Seconds by which a VHD parent's time of change may differ: file systems keep it that coarsely."""


class ChainFault(StrEnum):
    MISSING = "missing"
    MISMATCHED = "mismatched"
    MODIFIED = "modified"
    UNREADABLE = "unreadable"
    UNSUPPORTED = "unsupported"


class ChainProblem(NamedTuple):
    """One fault. file: the image concerned (for MISSING, the one that is not there); child: who refers to it,
    empty for the image that was asked about; cause: a sentence for a person."""

    fault: ChainFault
    file: str
    child: str
    cause: str


def check_chain(path: Path, driver: str) -> list[ChainProblem]:
    """Every problem of the image at `path` (of QEMU's format `driver`) and of its parents; empty if none.

    An intact differencing VHD or VHDX is reported too, as UNSUPPORTED: QEMU does not read its parents.
    """
    walk = {"vpc": _vhd, "vhdx": _vhdx, "qcow2": _qcow2}.get(driver, _single)
    return list(walk(path, ""))


def _single(path: Path, child: str) -> Iterator[ChainProblem]:
    if not path.exists():
        yield _missing(path, child)


def _vhdx(path: Path, _child: str) -> Iterator[ChainProblem]:
    child = ""
    seen: set[Path] = set()
    expected: Sequence[object] = ()
    while True:
        if problem := _unwalkable(path, child, seen):
            yield problem
            return
        try:
            identity = read_vhdx(path)
        except (ValueError, OSError) as error:
            yield ChainProblem(
                ChainFault.UNREADABLE, str(path), child, f"{path} is no readable VHDX: {error}"
            )
            return
        if child and identity.data_write not in expected:
            # The GUID changes with the content, so another disk and a changed one look the same.
            yield ChainProblem(
                ChainFault.MODIFIED,
                str(path),
                child,
                f"{path} is another disk than the one {child} was made on, or was written to since: "
                f"its data write GUID is {identity.data_write}, not {' or '.join(map(str, expected))}",
            )
        if identity.parent is None:
            return
        if not child:
            yield _unsupported(path, "QEMU refuses differencing VHDX disks")
        expected = identity.parent.linkages
        child, path = str(path), _find(path, identity.parent.names)


def _vhd(path: Path, _child: str) -> Iterator[ChainProblem]:
    child = ""
    seen: set[Path] = set()
    expected: VhdParent | None = None
    while True:
        if problem := _unwalkable(path, child, seen):
            yield problem
            return
        try:
            identity = read_vhd(path)
        except (ValueError, OSError) as error:
            yield ChainProblem(ChainFault.UNREADABLE, str(path), child, f"{path} is no readable VHD: {error}")
            return
        if expected and identity.uuid != expected.uuid:
            yield ChainProblem(
                ChainFault.MISMATCHED,
                str(path),
                child,
                f"{path} is another disk than the parent of {child}: "
                f"its id is {identity.uuid}, not {expected.uuid}",
            )
        elif expected and abs(path.stat().st_mtime - expected.changed) > _CLOCKS:
            yield ChainProblem(
                ChainFault.MODIFIED,
                str(path),
                child,
                f"{path} was modified after {child} was made on it, or copied without its time of change",
            )
        if identity.parent is None:
            return
        if not child:
            yield _unsupported(path, "QEMU opens differencing VHD disks without the parent's data")
        expected = identity.parent
        child, path = str(path), _find(path, identity.parent.names)


def _qcow2(path: Path, child: str) -> Iterator[ChainProblem]:
    seen: set[Path] = set()
    driver = "qcow2"
    while True:
        if problem := _unwalkable(path, child, seen):
            yield problem
            return
        try:
            info = describe(path, driver)
        except ImageFailed as error:
            yield ChainProblem(
                ChainFault.UNREADABLE, str(path), child, f"{path} is no readable {driver}: {error.cause}"
            )
            return
        name = info.full_backing_filename or info.backing_filename
        if not name:
            return
        if not info.backing_filename_format:
            yield ChainProblem(
                ChainFault.UNSUPPORTED,
                str(path),
                child,
                f"{path} does not name its parent's format; a guest could make QEMU take it for another",
            )
            return
        if re.match(r"[a-z][a-z0-9+.-]*:", name):
            return  # served by another process (nbd:, json:): its server answers for it
        child, path, driver = str(path), Path(name), info.backing_filename_format


def _unwalkable(path: Path, child: str, seen: set[Path]) -> ChainProblem | None:
    if not path.exists():
        return _missing(path, child)
    real = path.resolve()
    if real in seen:
        return ChainProblem(ChainFault.UNREADABLE, str(path), child, f"{path} is its own ancestor")
    seen.add(real)
    return None


def _missing(path: Path, child: str) -> ChainProblem:
    cause = f"{path} is missing" + (
        f"; {child} has only what was changed since and needs it" if child else ""
    )
    return ChainProblem(ChainFault.MISSING, str(path), child, cause)


def _unsupported(path: Path, why: str) -> ChainProblem:
    return ChainProblem(
        ChainFault.UNSUPPORTED, str(path), "", f"{path} is a differencing disk: {why}; merge it first"
    )


def _find(child: Path, names: Sequence[str]) -> Path:
    """The parent's file. Windows' paths mean nothing here: each name is looked for beside the child too."""
    candidates = []
    for name in names:
        portable = Path(unquote(name) if name.startswith("file:") else name.replace("\\", "/"))
        candidates += [child.parent / portable, child.parent / portable.name]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    return candidates[-1] if candidates else child.parent / "(its name is not recorded)"
