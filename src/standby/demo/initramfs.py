"""The guest's initramfs: what Debian packages put on this machine, packed without root and without tools.

The archive is a cpio in the kernel's `newc` form (buffer-format.rst in its documentation), not compressed:
unpacking costs an emulated CPU more than reading.
"""

from __future__ import annotations

import lzma
import os
import re
import stat
import subprocess
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Final, NamedTuple

from standby.errors import NeedsPerson

_MODULES: Final = ("virtio_pci", "virtio_blk", "virtio_console", "virtio_net", "ext4")
_SOFT_MODULES: Final = ("crc32c_generic",)
"""What ext4 asks the kernel's crypto interface for: not in modules.dep, and built into some kernels."""

_PROGRAMS: Final = {
    "qemu-ga": "qemu-guest-agent",
    "perl": "perl-base",
    "md5sum": "coreutils",
    "e2fsck": "e2fsprogs",
}
_DIRECTORIES: Final = ("bin", "sbin", "dev", "proc", "sys", "run", "tmp", "etc", "var", "disk", "modules")


class PackageMissing(NeedsPerson):
    """Something that the guest is made of is not on this machine."""


class Kernel(NamedTuple):
    version: str
    image: Path
    modules: Path


def newest_kernel() -> Kernel:
    """The newest installed Debian cloud kernel. Raises PackageMissing."""
    found = [
        Kernel(version, image, modules)
        for image in Path("/boot").glob("vmlinuz-*-cloud-amd64")
        if (modules := Path("/lib/modules", version := image.name.removeprefix("vmlinuz-"))).is_dir()
    ]
    if not found:
        raise PackageMissing(
            "no /boot/vmlinuz-*-cloud-amd64 with its modules is there",
            subject="guest kernel",
            hint="apt install linux-image-cloud-amd64",
        )
    return max(found, key=lambda kernel: [int(part) for part in re.findall(r"\d+", kernel.version)])


def build(kernel: Kernel) -> bytes:
    """The archive. Raises PackageMissing."""
    entries: dict[str, _Entry] = {name: _directory() for name in _DIRECTORIES}
    modules = _load_order(kernel.modules)
    order = []
    for relative in modules:
        name = relative.name.removesuffix(".xz")
        entries[f"modules/{name}"] = _file(_module(kernel.modules / relative), 0o644)
        order.append(name)
    # A shell's `read` drops a last line that does not end.
    entries["modules/order"] = _file("".join(f"{one}\n" for one in order).encode(), 0o644)
    busybox = _found("busybox", "busybox-static")
    if "not a dynamic executable" not in _ldd(busybox):
        raise PackageMissing(
            "it is linked dynamically", subject=str(busybox), hint="apt install busybox-static"
        )
    entries["bin/busybox"] = _file(busybox.read_bytes())
    applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    for applet in applets:
        entries.setdefault(f"bin/{applet}", _link("busybox"))
    for program, package in _PROGRAMS.items():
        path = _found(program, package)
        entries[f"bin/{program}"] = _file(path.read_bytes())
        for library in re.findall(r"(/\S+) \(0x", _ldd(path)):
            _add(entries, library.lstrip("/"), _file(Path(library).read_bytes()))
    inside = resources.files("standby.demo") / "inside"
    entries["init"] = _file((inside / "init").read_bytes())
    entries["sbin/shutdown"] = _file((inside / "shutdown").read_bytes())
    entries["bin/stamp"] = _file((inside / "stamp").read_bytes())
    return b"".join(_newc(entries))


class _Entry(NamedTuple):
    mode: int
    data: bytes


def _directory() -> _Entry:
    return _Entry(stat.S_IFDIR | 0o755, b"")


def _file(data: bytes, mode: int = 0o755) -> _Entry:
    return _Entry(stat.S_IFREG | mode, data)


def _link(target: str) -> _Entry:
    return _Entry(stat.S_IFLNK | 0o777, target.encode())


def _add(entries: dict[str, _Entry], name: str, entry: _Entry) -> None:
    for parent in reversed(Path(name).parents[:-1]):
        entries.setdefault(str(parent), _directory())
    entries[name] = entry


def _newc(entries: Mapping[str, _Entry]) -> Iterator[bytes]:
    for number, (name, entry) in enumerate(sorted(entries.items()), 1):
        yield from _member(number, name, entry)
    yield from _member(0, "TRAILER!!!", _Entry(0, b""))


def _member(number: int, name: str, entry: _Entry) -> Iterator[bytes]:
    fields = (number, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, 0, 0, len(name) + 1, 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    yield header + bytes(-len(header) % 4)
    yield entry.data + bytes(-len(entry.data) % 4)


def _load_order(directory: Path) -> list[Path]:
    """The module files to insert, each behind what it depends on (paths relative to `directory`)."""
    dependencies: dict[str, tuple[Path, list[Path]]] = {}
    for line in (directory / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        dependencies[_module_name(Path(path))] = (Path(path), [Path(item) for item in rest.split()])
    builtin = {_module_name(Path(line)) for line in (directory / "modules.builtin").read_text().split()}
    order: dict[Path, None] = {}
    for name in (*_SOFT_MODULES, *_MODULES):
        if name in builtin or (name in _SOFT_MODULES and name not in dependencies):
            continue
        if name not in dependencies:
            raise PackageMissing(
                f"it has no module {name}",
                subject=str(directory),
                hint="apt install --reinstall linux-image-cloud-amd64",
            )
        module, needed = dependencies[name]
        # depmod lists a module's dependencies nearest first, each before what it needs itself.
        order.update(dict.fromkeys([*reversed(needed), module]))
    return list(order)


def _module_name(path: Path) -> str:
    return path.name.partition(".")[0].replace("-", "_")


def _module(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def _found(program: str, package: str) -> Path:
    for directory in ("/usr/bin", "/usr/sbin", "/bin", "/sbin"):
        path = Path(directory, program)
        if path.exists():
            return path
    raise PackageMissing("it is not installed", subject=program, hint=f"apt install {package}")


def _ldd(program: Path) -> str:
    run = subprocess.run(
        ["ldd", program], capture_output=True, text=True, check=False, env=os.environ | {"LC_ALL": "C"}
    )
    return run.stdout + run.stderr
