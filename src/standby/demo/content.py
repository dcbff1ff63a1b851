"""Data disks with real content: files of this machine in an ext4 file system, with a manifest of checksums.

The files are the first of `roots` in path order, small ones aside, that fill the wanted amount, so the same
machine gives the same disks. A disk of `size` bytes is an ext4 file system of `size` - stamps.AREA bytes,
then the stamp area. The manifest is the file MANIFEST in the file system's root, for `md5sum -c`. It is MD5,
for the guest checks a gigabyte on an emulated CPU: 170 MB/s, against 40 for SHA-256; nobody forges these.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from standby.demo import stamps
from standby.errors import NeedsPerson

MANIFEST: Final = "MANIFEST"
MIB: Final = 1 << 20

_RECIPE: Final = "2"
"""Part of the cache's key: count it up when the same plan and files shall give other disks."""
_SPARE: Final = 64 * MIB
"""Free space in the file system, for what the guest writes."""
_SMALLEST: Final = 16 << 10
"""Bytes of the smallest file taken: an emulated guest needs about 1 ms for each, however small."""
_BLOCK: Final = 4096
_OPTIONS: Final = {"vpc": ["-o", "force_size=on"]}


class NoContent(NeedsPerson):
    """The machine has no files to put on a data disk."""


class DiskPlan(NamedTuple):
    """A data disk to build: its image format in qemu-img's words, and the bytes of files on it, at least."""

    format: str
    content: int


class DataDisk(NamedTuple):
    """A built image. Do not boot from it: it is shared by all users of the cache; boot from a `copy`.

    size: bytes the guest sees. files, content: number and bytes of the files in the manifest.
    """

    path: Path
    format: str
    size: int
    files: int
    content: int

    def copy(self, path: Path) -> DataDisk:
        """The same disk at `path`, for a machine of its own; sparse, and shared blocks where the host can."""
        subprocess.run(["cp", "--reflink=auto", "--sparse=auto", "--", self.path, path], check=True)
        return self._replace(path=path)


def build(cache: Path, plans: Sequence[DiskPlan], roots: Sequence[Path] = (Path("/usr"),)) -> list[DataDisk]:
    """The planned disks, from `cache` when it has them already. Raises NoContent."""
    chosen = _choose(plans, roots)
    digest = hashlib.sha256(repr((_RECIPE, plans, chosen)).encode())
    directory = cache / f"content-{digest.hexdigest()[:16]}"
    images = [directory / f"disk{index}.{plan.format}" for index, plan in enumerate(plans)]
    if not directory.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=cache, prefix="building-") as work,
            ThreadPoolExecutor(max_workers=2) as pool,
        ):
            built = Path(work, "content")
            built.mkdir()
            jobs = [
                pool.submit(_build_disk, files, plan, built / image.name)
                for files, plan, image in zip(chosen, plans, images, strict=True)
            ]
            for job in jobs:
                job.result()
            # Whoever built the same meanwhile was as good.
            if not directory.is_dir():
                built.rename(directory)
    return [
        DataDisk(image, plan.format, _size(files), len(files), sum(file.size for file in files))
        for files, plan, image in zip(chosen, plans, images, strict=True)
    ]


class _File(NamedTuple):
    source: str
    name: str
    size: int
    changed: int


def _choose(plans: Sequence[DiskPlan], roots: Sequence[Path]) -> list[list[_File]]:
    files = _endless(roots)
    chosen = []
    for plan in plans:
        disk: list[_File] = []
        content = 0
        while content < plan.content:
            file = next(files)
            disk.append(file)
            content += file.size
        chosen.append(disk)
    return chosen


def _endless(roots: Sequence[Path]) -> Iterator[_File]:
    """The files in path order, again and again under another directory should they not suffice."""
    for turn in itertools.count():
        count = 0
        for root in roots:
            for path, status in _walk(str(root)):
                count += 1
                yield _File(path, f"{turn}{path}", status.st_size, status.st_mtime_ns)
        if not count:
            raise NoContent(
                f"no readable file of at least {_SMALLEST} bytes is there", subject=" ".join(map(str, roots))
            )


def _walk(directory: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(directory) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        # md5sum escapes names with a backslash or a line feed.
        if "\\" in entry.name or "\n" in entry.name or not os.access(entry.path, os.R_OK):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path)
        elif entry.is_file(follow_symlinks=False):
            status = entry.stat(follow_symlinks=False)
            if status.st_size >= _SMALLEST and stat.S_ISREG(status.st_mode):
                yield entry.path, status


def _size(files: Sequence[_File]) -> int:
    """Whole MiB, so that no image format rounds it."""
    data = sum(-(-file.size // _BLOCK) * _BLOCK for file in files)
    # Inodes and manifest lines, then the extents and groups of ext4.
    used = data + len(files) * 512 + data // 50
    return -(-(used + _SPARE) // MIB) * MIB + stamps.AREA


def _build_disk(files: Sequence[_File], plan: DiskPlan, image: Path) -> None:
    work = image.with_suffix(".work")
    tree, raw = work / "tree", work / "raw"
    tree.mkdir(parents=True)
    with (tree / MANIFEST).open("w") as manifest:
        for file in files:
            manifest.write(f"{_copy(file, tree / file.name)}  {file.name}\n")
    size = _size(files)
    with raw.open("wb") as empty:
        empty.truncate(size)
    inodes = len(files) + sum(1 for _ in tree.rglob("*")) + 1024
    options = "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0"
    subprocess.run(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-b", str(_BLOCK), "-N", str(inodes), "-J", "size=16"]
        + ["-E", options, "-d", tree, raw, str((size - stamps.AREA) // _BLOCK)],
        check=True,
        env=os.environ | {"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"},
    )
    shutil.rmtree(tree)
    if plan.format == "raw":
        raw.rename(image)
    else:
        subprocess.run(
            ["qemu-img", "convert", "-W", "-m", "8", "-f", "raw", "-O", plan.format]
            + [*_OPTIONS.get(plan.format, []), raw, image],
            check=True,
        )
    shutil.rmtree(work)


def _copy(file: _File, target: Path) -> str:
    """Copy and hash in one pass, so that the manifest is true of the copy whatever happens to the source."""
    digest = hashlib.md5(usedforsecurity=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    with Path(file.source).open("rb") as source, target.open("wb") as copy:
        while block := source.read(MIB):
            digest.update(block)
            copy.write(block)
    return digest.hexdigest()
