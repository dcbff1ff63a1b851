"""The archive is one that cpio reads, and its modules come in an order in which they load."""

from __future__ import annotations

import lzma
import os
import subprocess
from pathlib import Path

import pytest

from standby.demo import initramfs
from standby.demo.initramfs import Kernel, PackageMissing

MODULES = {
    "kernel/drivers/virtio/virtio_pci.ko.xz": "virtio.ko.xz virtio_ring.ko.xz",
    "kernel/drivers/virtio/virtio.ko.xz": "virtio_ring.ko.xz",
    "kernel/drivers/virtio/virtio_ring.ko.xz": "",
    "kernel/drivers/block/virtio-blk.ko.xz": "virtio.ko.xz virtio_ring.ko.xz",
    "kernel/drivers/char/virtio_console.ko.xz": "virtio.ko.xz virtio_ring.ko.xz",
    "kernel/drivers/net/virtio_net.ko.xz": "net_failover.ko.xz virtio.ko.xz virtio_ring.ko.xz",
    "kernel/drivers/net/net_failover.ko.xz": "",
    "kernel/unused.ko.xz": "",
}


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    """A kernel as Debian 13 has it: compressed modules, and ext4 built in."""
    modules = tmp_path / "modules"
    lines = []
    paths = {Path(path).name: path for path in MODULES}
    for path, needed in MODULES.items():
        (modules / path).parent.mkdir(parents=True, exist_ok=True)
        (modules / path).write_bytes(lzma.compress(path.encode()))
        lines.append(f"{path}: {' '.join(paths[name] for name in needed.split())}")
    (modules / "modules.dep").write_text("\n".join(lines) + "\n")
    (modules / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    return Kernel("6.12.0", tmp_path / "vmlinuz", modules)


def test_modules_are_unpacked_and_each_comes_behind_what_it_needs(kernel, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(
        ["cpio", "-i", "--quiet", "--make-directories"], input=initramfs.build(kernel), cwd=out, check=True
    )
    order = (out / "modules" / "order").read_text().split()
    assert sorted(order) == sorted(
        Path(path).name.removesuffix(".xz") for path in MODULES if "unused" not in path
    )
    for path, needed in MODULES.items():
        name = Path(path).name.removesuffix(".xz")
        if name in order:
            assert (out / "modules" / name).read_bytes() == path.encode()
            for other in needed.split():
                assert order.index(other.removesuffix(".xz")) < order.index(name)
    assert os.access(out / "init", os.X_OK)
    assert (out / "bin" / "sh").readlink() == Path("busybox")


def test_it_is_the_same_twice(kernel):
    assert initramfs.build(kernel) == initramfs.build(kernel)


def test_a_missing_module_is_named(kernel):
    dep = kernel.modules / "modules.dep"
    dep.write_text("".join(line for line in dep.read_text().splitlines(True) if "virtio-blk" not in line))
    with pytest.raises(PackageMissing, match="no module virtio_blk"):
        initramfs.build(kernel)
