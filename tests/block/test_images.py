"""Image files made, described and checked by the real qemu-img; differencing ones built by hand."""

import os
import subprocess
from uuid import uuid4

import pytest

from standby.block.chains import ChainFault, check_chain
from standby.block.images import Format, ImageFailed, check, create, describe
from standby.block.vhd import read_vhd
from standby.block.vhdx import crc32c, read_vhdx
from standby.errors import Damaged, InvalidRequest
from tests.support.differencing import make_differencing_vhd, make_differencing_vhdx, touch_vhdx, vhd_uuid

pytestmark = pytest.mark.slow

MIB = 1 << 20
SIZE = 64 * MIB + 512  # not a size that cylinders, heads and sectors can tell


def faults(path, driver):
    return [(problem.fault, problem.file, problem.child) for problem in check_chain(path, driver)]


@pytest.mark.parametrize("format", Format)
def test_a_new_image_has_exactly_the_size_asked_for(tmp_path, format):
    path = tmp_path / "image"
    size = SIZE if format is not Format.VHDX else 64 * MIB
    create(path, format, size)
    assert describe(path, format.driver).virtual_size == size
    check(path, format)
    assert check_chain(path, format.driver) == []


def test_an_image_is_never_made_over_another_file(tmp_path):
    (tmp_path / "image").write_bytes(b"mine")
    with pytest.raises(InvalidRequest, match="exists already"):
        create(tmp_path / "image", Format.RAW, MIB)
    assert (tmp_path / "image").read_bytes() == b"mine"


def test_qemu_img_s_complaint_is_the_error(tmp_path):
    with pytest.raises(ImageFailed, match="none/image"):
        create(tmp_path / "none" / "image", Format.QCOW2, MIB)
    noise = tmp_path / "noise"
    noise.write_bytes(os.urandom(MIB))
    with pytest.raises(ImageFailed, match="not in qcow2 format"):
        describe(noise, "qcow2")


def test_damage_of_a_qcow2_is_found(tmp_path):
    path = tmp_path / "image"
    create(path, Format.QCOW2, MIB)
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write 0 128k", str(path)], check=True, capture_output=True
    )
    with path.open("r+b") as file:
        file.seek(0x20000)  # the refcounts of the first clusters
        file.write(bytes(64))
    with pytest.raises(Damaged, match="the image is damaged"):
        check(path, Format.QCOW2)


def test_crc32c_is_castagnoli_s():
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32/ISCSI


def test_a_missing_image_is_told(tmp_path):
    for driver in ("raw", "qcow2", "vpc", "vhdx"):
        assert faults(tmp_path / "no", driver) == [(ChainFault.MISSING, str(tmp_path / "no"), "")]


@pytest.mark.parametrize("driver", ["vpc", "vhdx", "qcow2"])
@pytest.mark.parametrize("length", [0, 100, 70000, 3 * MIB])
def test_a_file_of_another_kind_is_unreadable(tmp_path, driver, length):
    path = tmp_path / "image"
    path.write_bytes(os.urandom(length))
    assert faults(path, driver) == [(ChainFault.UNREADABLE, str(path), "")]


class TestVhdx:
    @pytest.fixture
    def parent(self, tmp_path):
        path = tmp_path / "parent.vhdx"
        create(path, Format.VHDX, 64 * MIB)
        return path

    @pytest.fixture
    def child(self, tmp_path, parent):
        path = tmp_path / "child.vhdx"
        create(path, Format.VHDX, 64 * MIB)
        make_differencing_vhdx(
            path,
            read_vhdx(parent).data_write,
            {"relative_path": ".\\parent.vhdx", "absolute_win32_path": "C:\\vms\\parent.vhdx"},
        )
        return path

    def test_an_intact_chain_is_only_unsupported_by_qemu(self, child):
        assert faults(child, "vhdx") == [(ChainFault.UNSUPPORTED, str(child), "")]
        with pytest.raises(ImageFailed):
            describe(child, "vhdx")

    def test_a_missing_parent_is_named_with_its_child(self, parent, child):
        parent.unlink()
        assert (ChainFault.MISSING, str(child.parent / "parent.vhdx"), str(child)) in faults(child, "vhdx")

    def test_a_parent_that_was_written_to_is_found(self, parent, child):
        touch_vhdx(parent)
        problem = check_chain(child, "vhdx")[-1]
        assert (problem.fault, problem.file, problem.child) == (ChainFault.MODIFIED, str(parent), str(child))
        assert str(read_vhdx(parent).data_write) in problem.cause

    def test_qemu_s_own_write_to_the_parent_is_found(self, parent, child):
        command = ["qemu-io", "-f", "vhdx", "-c", "write 0 64k", str(parent)]
        subprocess.run(command, check=True, capture_output=True)
        assert (ChainFault.MODIFIED, str(parent), str(child)) in faults(child, "vhdx")

    def test_another_disk_in_the_parent_s_place_is_found(self, parent, child):
        parent.unlink()
        create(parent, Format.VHDX, 64 * MIB)
        assert (ChainFault.MODIFIED, str(parent), str(child)) in faults(child, "vhdx")

    def test_a_grandparent_is_looked_at(self, tmp_path, parent, child):
        grandchild = tmp_path / "grandchild.vhdx"
        create(grandchild, Format.VHDX, 64 * MIB)
        make_differencing_vhdx(grandchild, read_vhdx(child).data_write, {"relative_path": "child.vhdx"})
        assert faults(grandchild, "vhdx") == [(ChainFault.UNSUPPORTED, str(grandchild), "")]
        parent.unlink()
        assert faults(grandchild, "vhdx")[-1][0] == ChainFault.MISSING

    def test_an_image_that_is_its_own_parent_is_no_endless_walk(self, tmp_path):
        path = tmp_path / "loop.vhdx"
        create(path, Format.VHDX, 64 * MIB)
        make_differencing_vhdx(path, read_vhdx(path).data_write, {"relative_path": "loop.vhdx"})
        assert faults(path, "vhdx")[-1] == (ChainFault.UNREADABLE, str(path), str(path))

    def test_one_torn_header_does_not_matter_two_do(self, parent):
        before = read_vhdx(parent)
        with parent.open("r+b") as file:
            file.seek(64 << 10)
            file.write(os.urandom(4096))
        assert read_vhdx(parent).parent == before.parent
        with parent.open("r+b") as file:
            file.seek(128 << 10)
            file.write(os.urandom(4096))
        with pytest.raises(ValueError, match="neither of its two headers"):
            read_vhdx(parent)


class TestVhd:
    @pytest.fixture
    def parent(self, tmp_path):
        path = tmp_path / "parent.vhd"
        create(path, Format.VHD_DYNAMIC, 64 * MIB)
        return path

    @pytest.fixture
    def child(self, tmp_path, parent):
        path = tmp_path / "child.vhd"
        create(path, Format.VHD_DYNAMIC, 64 * MIB)
        make_differencing_vhd(path, vhd_uuid(parent), parent.stat().st_mtime, "parent.vhd")
        return path

    def test_an_intact_chain_is_only_unsupported_by_qemu(self, child):
        assert faults(child, "vpc") == [(ChainFault.UNSUPPORTED, str(child), "")]
        # The reason for the reader of our own: QEMU sees nothing wrong.
        assert describe(child, "vpc").backing_filename == ""

    def test_a_missing_parent_is_named_with_its_child(self, parent, child):
        parent.unlink()
        assert faults(child, "vpc")[-1] == (ChainFault.MISSING, str(parent), str(child))

    def test_another_disk_in_the_parent_s_place_is_found(self, parent, child):
        make_differencing_vhd(child, uuid4(), parent.stat().st_mtime, "parent.vhd")
        assert faults(child, "vpc")[-1] == (ChainFault.MISMATCHED, str(parent), str(child))

    def test_a_parent_changed_since_is_found(self, parent, child):
        later = parent.stat().st_mtime + 60
        os.utime(parent, (later, later))
        assert faults(child, "vpc")[-1] == (ChainFault.MODIFIED, str(parent), str(child))

    def test_a_fixed_vhd_is_read_by_its_footer(self, tmp_path):
        path = tmp_path / "fixed.vhd"
        create(path, Format.VHD_FIXED, SIZE)
        assert read_vhd(path) == (vhd_uuid(path), None)


class TestQcow2:
    @pytest.fixture
    def chain(self, tmp_path):
        """base.raw ← middle.qcow2 ← top.qcow2"""
        create(tmp_path / "base.raw", Format.RAW, MIB)
        for name, base, driver in (("middle", "base.raw", "raw"), ("top", "middle.qcow2", "qcow2")):
            command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", driver, "-b", base, f"{name}.qcow2"]
            subprocess.run(command, check=True, cwd=tmp_path)
        return tmp_path

    def test_an_intact_chain_is_fine(self, chain):
        assert check_chain(chain / "top.qcow2", "qcow2") == []

    @pytest.mark.parametrize(("name", "child"), [("middle.qcow2", "top.qcow2"), ("base.raw", "middle.qcow2")])
    def test_a_missing_parent_is_named_with_its_child(self, chain, name, child):
        (chain / name).unlink()
        assert faults(chain / "top.qcow2", "qcow2") == [
            (ChainFault.MISSING, str(chain / name), str(chain / child))
        ]

    def test_a_parent_of_another_format_is_unreadable(self, chain):
        (chain / "middle.qcow2").write_bytes(os.urandom(MIB))
        assert faults(chain / "top.qcow2", "qcow2") == [
            (ChainFault.UNREADABLE, str(chain / "middle.qcow2"), str(chain / "top.qcow2"))
        ]

    def test_a_parent_of_unnamed_format_is_a_fault(self, chain):
        # Rename the header extension that holds it (0xE2792ACA, qcow2.txt) to one that nobody knows.
        image = chain / "middle.qcow2"
        content = image.read_bytes()
        image.write_bytes(content.replace(bytes.fromhex("E2792ACA"), b"\1\2\3\4", 1))
        assert faults(chain / "top.qcow2", "qcow2") == [
            (ChainFault.UNSUPPORTED, str(image), str(chain / "top.qcow2"))
        ]
