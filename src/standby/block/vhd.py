"""The fields of a VHD that tell which disk it is and on which it depends.

After "Virtual Hard Disk Image Format Specification" 1.0 (Microsoft, 2006). All numbers are big-endian.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple
from uuid import UUID

_SECTOR = 512
_DIFFERENCING = 4  # "Disk Type" in "Hard Disk Footer Format"
_EPOCH = 946_684_800  # "Time Stamp": seconds since 2000-01-01 UTC


class VhdParent(NamedTuple):
    """What a differencing VHD says of its parent: id, time of last change (Unix seconds), names."""

    uuid: UUID
    changed: int
    names: tuple[str, ...]


class VhdIdentity(NamedTuple):
    uuid: UUID
    parent: VhdParent | None


def read_vhd(path: Path) -> VhdIdentity:
    """The identity of a VHD file. ValueError if it is none; OSError if it cannot be read."""
    with path.open("rb") as file:
        file.seek(0, 2)
        if file.tell() < _SECTOR:
            raise ValueError("shorter than a VHD's footer")
        file.seek(-_SECTOR, 2)
        footer = file.read(_SECTOR)
        if footer[:8] != b"conectix":
            file.seek(0)
            footer = file.read(_SECTOR)  # the copy that dynamic and differencing disks begin with
        if footer[:8] != b"conectix":
            raise ValueError("no VHD footer ('conectix') at its end or beginning")
        (data_offset,) = struct.unpack_from(">Q", footer, 16)
        (kind,) = struct.unpack_from(">I", footer, 60)
        uuid = UUID(bytes=footer[68:84])
        return VhdIdentity(uuid, _parent(file, data_offset) if kind == _DIFFERENCING else None)


def _parent(file: BinaryIO, header_offset: int) -> VhdParent:
    """From "Dynamic Disk Header Format"."""
    file.seek(header_offset)
    header = file.read(1024)
    if header[:8] != b"cxsparse" or len(header) < 1024:
        raise ValueError(f"no dynamic disk header ('cxsparse') at {header_offset}")
    (changed,) = struct.unpack_from(">I", header, 56)
    names = []
    for at in range(576, 576 + 8 * 24, 24):
        code, _space, length, _reserved, offset = struct.unpack_from(">4sIIIQ", header, at)
        # W2ru: relative path, W2ku: absolute path, both UTF-16 little-endian ("Platform Code").
        if code in (b"W2ru", b"W2ku") and length <= 64 << 10:
            file.seek(offset)
            names.append(file.read(length).decode("utf-16-le", "replace").rstrip("\0"))
    names.append(header[64:576].decode("utf-16-be", "replace").partition("\0")[0])
    return VhdParent(UUID(bytes=header[40:56]), changed + _EPOCH, tuple(filter(None, names)))


def fixed_footer(size: int, uuid: UUID, created: int) -> bytes:
    """The last 512 bytes of a fixed VHD, whose data lie before them as a guest sees them.

    size: of the disk in bytes, a multiple of 512. created: Unix seconds. The creator is given as Windows:
    QEMU and Azure take the size of any other from the geometry, which cannot express most sizes.
    """
    cylinders, heads, sectors = _geometry(size // _SECTOR)
    footer = struct.pack(
        ">8sIIQI4sI4sQQHBBII16sB427x",
        b"conectix",
        2,  # features: the bit that is always set
        0x0001_0000,  # file format version
        0xFFFF_FFFF_FFFF_FFFF,  # data offset: none in a fixed disk
        max(created - _EPOCH, 0),
        b"win ",
        0x000A_0000,
        b"Wi2k",
        size,
        size,
        cylinders,
        heads,
        sectors,
        2,  # disk type: fixed
        0,  # checksum: of the footer without it
        uuid.bytes,
        0,  # saved state
    )
    checksum = ~sum(footer) & 0xFFFF_FFFF
    return footer[:64] + struct.pack(">I", checksum) + footer[68:]


def _geometry(total: int) -> tuple[int, int, int]:
    """Cylinders, heads, sectors per track: "Appendix: CHS Calculation"."""
    total = min(total, 65535 * 16 * 255)
    if total >= 65535 * 16 * 63:
        return total // 255 // 16, 16, 255
    sectors, tracks = 17, total // 17
    heads = max((tracks + 1023) // 1024, 4)
    if tracks >= heads * 1024 or heads > 16:
        sectors, heads, tracks = 31, 16, total // 31
    if tracks >= heads * 1024:
        sectors, heads, tracks = 63, 16, total // 63
    return tracks // heads, heads, sectors
