"""The bytes of a log: docs/format.md sections 2 and 3, nothing else."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, NamedTuple
from uuid import UUID

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from standby.errors import Damaged, InvalidRequest

FORMAT: Final = 1
BLOCK_SHIFT: Final = 16
PAGE_SHIFT: Final = 12
BLOCK: Final = 1 << BLOCK_SHIFT
PAGE: Final = 1 << PAGE_SHIFT
PAGES_PER_BLOCK: Final = BLOCK // PAGE
ALL_PAGES: Final = (1 << PAGES_PER_BLOCK) - 1
FRAME_PAGES: Final = 256
CHUNK_ROWS: Final = 65_536
NO_FRAME: Final = 0xFFFF_FFFF
HASH_BYTES: Final = 16

HEADER_MAGIC: Final = b"\x89HRL\r\n\x1a\n"
FOOTER_MAGIC: Final = b"\x89HRLEND\n"
_COMPRESSION_ZSTD: Final = 1
_FLAG_ENCRYPTED: Final = 1

_HEADER: Final = struct.Struct("<8sHHBBH16s16sQ64s8x")
_FOOTER: Final = struct.Struct("<8sQIIQ")
HEADER_SIZE: Final = _HEADER.size
ROOT_SIZE: Final = 32
FOOTER_SIZE: Final = _FOOTER.size + ROOT_SIZE

ROW: Final = np.dtype(
    [
        ("block", "<u4"),
        ("present", "<u2"),
        ("zero", "<u2"),
        ("frame", "<u4"),
        ("position", "<u2"),
        ("reserved", "<u2"),
        ("hash", "V16"),
    ]
)
"""One touched block (format.md 3.3)."""

FRAME: Final = np.dtype([("offset", "<u8"), ("stored", "<u4"), ("pages", "<u2"), ("reserved", "<u2")])
"""One frame's place (format.md 3.4)."""

SECTION: Final = np.dtype(
    [
        ("offset", "<u8"),
        ("stored", "<u4"),
        ("count", "<u4"),
        ("first", "<u4"),
        ("last", "<u4"),
        ("hash", "V16"),
    ]
)
"""One entry of the directory (format.md 3.5)."""

Rows = npt.NDArray[np.void]


BlockHash = Callable[[bytes | memoryview], bytes]
"""How a replica hashes whole blocks: `block_hash`, or what its key makes of it."""


def block_hash(block: bytes | memoryview) -> bytes:
    """The hash of one whole block (format.md 2)."""
    return blake3(block).digest(HASH_BYTES)


ZERO_BLOCK_HASH: Final = block_hash(bytes(BLOCK))
"""What a block hashes to that no log mentions."""


class LogHeader(NamedTuple):
    """replica: UUID. log_id: a ULID's 16 bytes. disk_size: bytes. encrypted: whether the log's parts are."""

    replica: UUID
    log_id: bytes
    disk_id: str
    disk_size: int
    encrypted: bool = False

    def pack(self) -> bytes:
        disk_id = self.disk_id.encode()
        if not 0 < len(disk_id) <= 64:
            raise InvalidRequest("a disk's id is 1 to 64 bytes long", subject=repr(self.disk_id))
        return _HEADER.pack(
            HEADER_MAGIC,
            FORMAT,
            _FLAG_ENCRYPTED if self.encrypted else 0,
            BLOCK_SHIFT,
            PAGE_SHIFT,
            _COMPRESSION_ZSTD,
            self.replica.bytes,
            self.log_id,
            self.disk_size,
            disk_id,
        )

    @classmethod
    def unpack(cls, raw: bytes, subject: str) -> LogHeader:
        """Raises Damaged if this is no log, InvalidRequest if it is one of a newer standby."""
        if len(raw) < HEADER_SIZE or raw[:8] != HEADER_MAGIC:
            raise Damaged("this is not a log: its first bytes are wrong", subject=subject)
        _magic, version, flags, block, page, compression, replica, log_id, size, disk = _HEADER.unpack(
            raw[:HEADER_SIZE]
        )
        if version > FORMAT or flags & ~_FLAG_ENCRYPTED or compression != _COMPRESSION_ZSTD:
            raise InvalidRequest(
                f"the log has format {version}, flags {flags:#x}, compression {compression}; "
                f"this standby reads format {FORMAT}",
                subject=subject,
                hint="use a newer standby",
            )
        if (block, page) != (BLOCK_SHIFT, PAGE_SHIFT):
            raise InvalidRequest(f"blocks of 2^{block} and pages of 2^{page} bytes", subject=subject)
        try:
            disk_id = disk.rstrip(b"\0").decode()
        except UnicodeDecodeError as error:
            raise Damaged("the disk's name in the header cannot be read", subject=subject) from error
        return cls(UUID(bytes=replica), log_id, disk_id, size, bool(flags & _FLAG_ENCRYPTED))


class LogFooter(NamedTuple):
    """Where the directory lies, and how much the log holds."""

    directory_offset: int
    directory_length: int
    chunks: int
    rows: int

    def pack(self) -> bytes:
        """All but the root."""
        return _FOOTER.pack(FOOTER_MAGIC, *self)

    @classmethod
    def unpack(cls, raw: bytes, subject: str) -> tuple[LogFooter, bytes]:
        """The footer and the root it carries. Raises Damaged."""
        if len(raw) != FOOTER_SIZE or raw[:8] != FOOTER_MAGIC:
            raise Damaged(
                "the log has no footer: it is truncated, or overwritten at its end", subject=subject
            )
        return cls(*_FOOTER.unpack(raw[: _FOOTER.size])[1:]), raw[_FOOTER.size :]


def root_of(header: bytes, directory: bytes, footer: bytes) -> bytes:
    """The root of a log that is not encrypted (format.md 3.6); `footer` without its root."""
    return blake3(header + directory + footer).digest()


def section_hash(stored: bytes | memoryview) -> bytes:
    return blake3(stored).digest(HASH_BYTES)


def block_count(disk_size: int) -> int:
    """How many blocks a disk of `disk_size` bytes has; the last may be short."""
    return -(-disk_size // BLOCK)
