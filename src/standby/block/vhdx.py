"""The fields of a VHDX that tell which disk it is and on which it depends. After [MS-VHDX] 8.0.

All numbers are little-endian, GUIDs in their Windows byte order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple
from uuid import UUID

_HEADERS = (64 << 10, 128 << 10)  # 2.2
_REGION_TABLES = (192 << 10, 256 << 10)  # 2.2.3
_METADATA_REGION = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")  # 2.2.3.2
_FILE_PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")  # 2.6.2.1
_PARENT_LOCATOR = UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")  # 2.6.2.6
_VHDX_PARENT = UUID("b04aefb7-d19e-4a81-b789-25b8e9445913")  # 2.6.2.6.1
_HAS_PARENT = 2  # 2.6.2.1
_MOST = 1 << 20  # no structure read here is longer (2.6.1.2: items have at most 1 MiB)


class VhdxParent(NamedTuple):
    """What a differencing VHDX says of its parent: the data write GUIDs it may have, and its names."""

    linkages: tuple[UUID, ...]
    names: tuple[str, ...]


class VhdxIdentity(NamedTuple):
    """data_write: changes whenever the disk's content does (2.2.2, DataWriteGuid)."""

    data_write: UUID
    parent: VhdxParent | None


def read_vhdx(path: Path) -> VhdxIdentity:
    """The identity of a VHDX file. ValueError if it is none, or damaged; OSError if it cannot be read."""
    with path.open("rb") as file:
        if file.read(8) != b"vhdxfile":
            raise ValueError("no VHDX signature ('vhdxfile') at its beginning")
        header = _current_header(file)
        return VhdxIdentity(_guid(header, 32), _parent(file))


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), the checksum of VHDX headers (2.2.2)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC_TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def _crc_step(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value


_CRC_TABLE = tuple(map(_crc_step, range(256)))


def _current_header(file: BinaryIO) -> bytes:
    """2.2.2: of the two headers the valid one with the greater sequence number."""
    valid = []
    for offset in _HEADERS:
        header = _at(file, offset, 4096)
        if header[:4] == b"head" and _checksum_holds(header):
            (sequence,) = struct.unpack_from("<Q", header, 8)
            valid.append((sequence, header))
    if not valid:
        raise ValueError("neither of its two headers is valid")
    return max(valid)[1]


def _checksum_holds(structure: bytes) -> bool:
    checksum: int = struct.unpack_from("<I", structure, 4)[0]
    return crc32c(structure[:4] + bytes(4) + structure[8:]) == checksum


def _parent(file: BinaryIO) -> VhdxParent | None:
    items = dict(_metadata(file))
    (flags,) = struct.unpack_from("<I", items.get(_FILE_PARAMETERS, bytes(8)), 4)
    if not flags & _HAS_PARENT:
        return None
    locator = items.get(_PARENT_LOCATOR, b"")
    if len(locator) < 20 or _guid(locator, 0) != _VHDX_PARENT:
        raise ValueError("it has a parent, but no parent locator of the VHDX type")
    entries = dict(_locator_entries(locator))
    try:
        linkages = [UUID(entries[key]) for key in ("parent_linkage", "parent_linkage2") if key in entries]
    except ValueError:
        raise ValueError("its parent linkage is no GUID") from None
    # 2.6.2.6.3: in this order are the paths to be tried.
    names = [
        entries[key] for key in ("relative_path", "volume_path", "absolute_win32_path") if key in entries
    ]
    return VhdxParent(tuple(linkages), tuple(names))


def _metadata(file: BinaryIO) -> Iterator[tuple[UUID, bytes]]:
    """2.6.1: the metadata items of interest, by id."""
    region = _metadata_offset(file)
    table = _at(file, region, 64 << 10)
    if table[:8] != b"metadata":
        raise ValueError(f"no metadata table at {region}")
    (count,) = struct.unpack_from("<H", table, 10)
    for at in range(32, 32 + 32 * min(count, 2047), 32):
        item = _guid(table, at)
        offset, length = struct.unpack_from("<II", table, at + 16)
        if item in (_FILE_PARAMETERS, _PARENT_LOCATOR) and length <= _MOST:
            yield item, _at(file, region + offset, length)


def _metadata_offset(file: BinaryIO) -> int:
    """2.2.3: from whichever of the two region tables is intact."""
    for offset in _REGION_TABLES:
        table = _at(file, offset, 64 << 10)
        if table[:4] != b"regi" or not _checksum_holds(table):
            continue
        (count,) = struct.unpack_from("<I", table, 8)
        for at in range(16, 16 + 32 * min(count, 2047), 32):
            if _guid(table, at) == _METADATA_REGION:
                found: int = struct.unpack_from("<Q", table, at + 16)[0]
                return found
    raise ValueError("no intact region table names a metadata region")


def _locator_entries(locator: bytes) -> Iterator[tuple[str, str]]:
    """2.6.2.6.2: keys and values in UTF-16, at offsets from the locator's beginning."""
    (count,) = struct.unpack_from("<H", locator, 18)
    if len(locator) < 20 + 12 * count:
        raise ValueError("its parent locator is cut short")
    for at in range(20, 20 + 12 * count, 12):
        key, value, key_length, value_length = struct.unpack_from("<IIHH", locator, at)
        yield (
            locator[key : key + key_length].decode("utf-16-le", "replace"),
            locator[value : value + value_length].decode("utf-16-le", "replace"),
        )


def _guid(data: bytes, at: int) -> UUID:
    return UUID(bytes_le=data[at : at + 16])


def _at(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    data = file.read(length)
    if len(data) < length:
        raise ValueError(f"it ends before {offset + length}")
    return data
