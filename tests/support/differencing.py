"""Differencing VHD and VHDX images, built by hand: qemu-img makes neither.

Each is an empty child (all data is the parent's) of an image that qemu-img made.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from uuid import UUID, uuid4

from standby.block import vhdx

VHD_EPOCH = 946_684_800


def make_differencing_vhd(image: Path, parent_uuid: UUID, parent_changed: float, name: str) -> None:
    """Turn a dynamic VHD of qemu-img into a child ("Hard Disk Footer", "Dynamic Disk Header")."""
    data = bytearray(image.read_bytes())
    for footer in (0, len(data) - 512):
        struct.pack_into(">I", data, footer + 60, 4)
        data[footer + 68 : footer + 84] = uuid4().bytes
        _seal_vhd(data, footer, 512, 64)
    (header,) = struct.unpack_from(">Q", data, 16)
    data[header + 40 : header + 56] = parent_uuid.bytes
    struct.pack_into(">I", data, header + 56, int(parent_changed) - VHD_EPOCH)
    encoded = name.encode("utf-16-be")
    data[header + 64 : header + 64 + len(encoded)] = encoded
    # The relative path, in a sector of its own before the last footer.
    locator = f".\\{name}".encode("utf-16-le")
    place = len(data) - 512
    struct.pack_into(">4sIIIQ", data, header + 576, b"W2ru", 512, len(locator), 0, place)
    _seal_vhd(data, header, 1024, 36)
    data[place:place] = locator.ljust(512, b"\0")
    image.write_bytes(data)


def vhd_uuid(image: Path) -> UUID:
    return UUID(bytes=image.read_bytes()[-512:][68:84])


def make_differencing_vhdx(image: Path, linkage: UUID, names: dict[str, str]) -> None:
    """Turn a VHDX of qemu-img into a child ([MS-VHDX] 2.6.2.1, 2.6.2.6)."""
    data = bytearray(image.read_bytes())
    table = data.index(b"metadata", 1 << 20)
    (count,) = struct.unpack_from("<H", data, table + 10)
    end = 64 << 10
    for at in range(table + 32, table + 32 + 32 * count, 32):
        item, offset, length = (
            UUID(bytes_le=bytes(data[at : at + 16])),
            *struct.unpack_from("<II", data, at + 16),
        )
        end = max(end, offset + length)
        if item == vhdx._FILE_PARAMETERS:
            struct.pack_into("<I", data, table + offset + 4, 2)
    locator = _locator({"parent_linkage": f"{{{linkage}}}", **names})
    entry = table + 32 + 32 * count
    data[entry : entry + 16] = vhdx._PARENT_LOCATOR.bytes_le
    struct.pack_into("<III", data, entry + 16, end, len(locator), 4)
    struct.pack_into("<H", data, table + 10, count + 1)
    data[table + end : table + end + len(locator)] = locator
    image.write_bytes(data)


def touch_vhdx(image: Path) -> None:
    """Give the image a new DataWriteGuid in a newer header, as a write to it does (2.2.2.1)."""
    data = bytearray(image.read_bytes())
    headers = [data[at : at + 4096] for at in vhdx._HEADERS]
    sequences = [struct.unpack_from("<Q", header, 8)[0] for header in headers]
    older = sequences.index(min(sequences))
    newest = headers[1 - older]
    struct.pack_into("<Q", newest, 8, max(sequences) + 1)
    newest[32:48] = os.urandom(16)
    newest[4:8] = bytes(4)
    struct.pack_into("<I", newest, 4, vhdx.crc32c(bytes(newest)))
    at = vhdx._HEADERS[older]
    data[at : at + 4096] = newest
    image.write_bytes(data)


def _seal_vhd(data: bytearray, at: int, length: int, checksum: int) -> None:
    """ "Checksum": the one's complement of the sum of all bytes, the checksum's own not counted."""
    struct.pack_into(">I", data, at + checksum, 0)
    struct.pack_into(">I", data, at + checksum, ~sum(data[at : at + length]) & 0xFFFFFFFF)


def _locator(entries: dict[str, str]) -> bytes:
    table, texts = b"", b""
    first = 20 + 12 * len(entries)
    for key, value in entries.items():
        key_text, value_text = key.encode("utf-16-le"), value.encode("utf-16-le")
        at = first + len(texts)
        table += struct.pack("<IIHH", at, at + len(key_text), len(key_text), len(value_text))
        texts += key_text + value_text
    return vhdx._VHDX_PARENT.bytes_le + struct.pack("<HH", 0, len(entries)) + table + texts
