"""Disk image files of the formats that QEMU knows, by qemu-img."""

from __future__ import annotations

import subprocess
from enum import StrEnum
from pathlib import Path

import msgspec

from standby.errors import Damaged, InvalidRequest, NeedsPerson, Recoverable


class Format(StrEnum):
    """An image format. It is always named, never probed: a fixed VHD probes as raw, and a guest may write
    into its raw disk what looks like another format."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VHDX = "vhdx"
    VHD_DYNAMIC = "vhd-dynamic"
    VHD_FIXED = "vhd-fixed"

    @property
    def driver(self) -> str:
        """QEMU's name of the format."""
        return "vpc" if self in (Format.VHD_DYNAMIC, Format.VHD_FIXED) else self.value


class ImageInfo(msgspec.Struct, frozen=True, rename="kebab"):
    """What qemu-img tells of one image file. Sizes in bytes: `virtual_size` is what the guest sees."""

    filename: str
    format: str
    virtual_size: int
    actual_size: int
    backing_filename: str = ""
    full_backing_filename: str = ""
    backing_filename_format: str = ""


class ImageFailed(Recoverable):
    """qemu-img could not make or read an image; the message is its own."""


def create(path: Path, format: Format, size: int) -> None:
    """A new, empty image of exactly `size` bytes. Raises InvalidRequest if the path exists."""
    if path.exists():
        raise InvalidRequest("exists already", subject=str(path), hint="remove it, or choose another name")
    options = {
        Format.VHD_DYNAMIC: ["-o", "subformat=dynamic,force_size=on"],
        # Without force_size the size is rounded to what cylinders, heads and sectors can tell.
        Format.VHD_FIXED: ["-o", "subformat=fixed,force_size=on"],
    }.get(format, [])
    _qemu_img(path, "create", "-q", "-f", format.driver, *options, str(path), str(size))


def create_overlay(path: Path, base: Path, format: Format, size: int) -> None:
    """A new qcow2 image that takes writes and reads through to `base`, which is left as it is."""
    base_options = ["-b", str(base.absolute()), "-F", format.driver]
    _qemu_img(path, "create", "-q", "-f", "qcow2", *base_options, str(path), str(size))


def describe(path: Path, driver: str) -> ImageInfo:
    """One image, without its parents; a running machine may hold it. `driver`: QEMU's name of the format."""
    output = _qemu_img(path, "info", "--force-share", "--output=json", "-f", driver, str(path))
    return msgspec.json.decode(output, type=ImageInfo)


def check(path: Path, format: Format) -> None:
    """Raises Damaged if the image's own structures contradict one another. Raw and VHD have none to check."""
    if format not in (Format.QCOW2, Format.VHDX):
        return
    result = _run("check", "--force-share", "-q", "-f", format.driver, str(path))
    # qemu-img(1), check: 2 is damage, 3 is space that is lost but harms nothing, 1 is that it could not look.
    if result.returncode == 2:
        raise Damaged(
            f"the image is damaged: {_message(result)}",
            subject=str(path),
            hint=f"copy it, then qemu-img check -r all -f {format.driver} {path}",
        )
    if result.returncode not in (0, 3):
        raise ImageFailed(_message(result), subject=str(path))


def _qemu_img(path: Path, *arguments: str) -> str:
    result = _run(*arguments)
    if result.returncode:
        raise ImageFailed(_message(result), subject=str(path), tried=f"qemu-img {arguments[0]}")
    return result.stdout


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["qemu-img", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NeedsPerson("qemu-img is not installed", hint="apt install qemu-utils") from error


def _message(result: subprocess.CompletedProcess[str]) -> str:
    text = (result.stderr or result.stdout).strip()
    return text.removeprefix("qemu-img: ") or f"qemu-img ended with status {result.returncode}"
