"""A disk that is a raw file or a block device of this host."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from standby.block.disk import DiskFailed, DiskReadOnly, check_extents
from standby.block.extent import Extent, Span, pieces
from standby.errors import InvalidRequest

_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10  # <linux/falloc.h>
_ZEROS = memoryview(bytes(1 << 20))

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate64.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class FileDisk:
    """A `WritableDisk` on a raw file or block device.

    size: where the disk ends, if not with the file (a fixed VHD's footer follows the data). A file opened
    `writable` that is shorter, or not there, is made this long, sparse.

    Raises InvalidRequest when the file cannot be opened or is too short; DiskFailed when a request fails.
    """

    def __init__(self, path: Path, size: int | None = None, writable: bool = False) -> None:
        self._path = path
        self._writable = writable
        flags = os.O_CLOEXEC | (os.O_RDWR if writable else os.O_RDONLY)
        if writable and size is not None:
            flags |= os.O_CREAT
        try:
            self._fd = os.open(path, flags, 0o600)
        except OSError as error:
            raise InvalidRequest(f"cannot be opened: {error.strerror}", subject=str(path)) from error
        self._device = stat.S_ISBLK(os.fstat(self._fd).st_mode)
        there = os.lseek(self._fd, 0, os.SEEK_END)
        if size is not None and size > there:
            if not writable or self._device:
                os.close(self._fd)
                raise InvalidRequest(f"has only {there} of the {size} bytes asked for", subject=str(path))
            os.ftruncate(self._fd, size)
        self._size = there if size is None else size

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, into: memoryview) -> None:
        self.read_all([Extent(offset, len(into))], into)

    def read_all(self, extents: Sequence[Extent], into: memoryview) -> None:
        check_extents(extents, self._size, len(into))
        at = 0
        for extent in extents:
            self._fill(extent, into[at : at + extent.length])
            at += extent.length

    def spans(self, extent: Extent) -> Iterator[Span]:
        """Holes of the file are zeros; a device, or a file system that cannot tell, is all data."""
        check_extents([extent], self._size, extent.length)
        offset = extent.offset
        while offset < extent.end:
            data = min(self._seek(offset, os.SEEK_DATA, extent.end), extent.end)
            if data > offset:
                yield Span(offset, data - offset, True)
                offset = data
            if offset < extent.end:
                hole = min(self._seek(offset, os.SEEK_HOLE, extent.end), extent.end)
                yield Span(offset, hole - offset, False)
                offset = hole

    def write(self, offset: int, data: memoryview) -> None:
        self._check_writable()
        extent = Extent(offset, len(data))
        check_extents([extent], self._size, len(data))
        try:
            while data:
                written = os.pwrite(self._fd, data, offset)
                offset, data = offset + written, data[written:]
        except OSError as error:
            raise self._failed("write", extent, error) from error

    def zero(self, extent: Extent) -> None:
        self._check_writable()
        check_extents([extent], self._size, extent.length)
        if not extent.length:
            return
        # On a device ZERO_RANGE is BLKZEROOUT; punching a hole there needs a device that can discard.
        mode = _KEEP_SIZE | (_ZERO_RANGE if self._device else _PUNCH_HOLE)
        if _libc.fallocate64(self._fd, mode, extent.offset, extent.length) == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise self._failed("zeroing", extent, OSError(number, os.strerror(number)))
        for piece in pieces([extent], len(_ZEROS)):
            self.write(piece.offset, _ZEROS[: piece.length])

    def flush(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._failed("flush", Extent(0, self._size), error) from error

    def clone(self) -> FileDisk:
        """Another descriptor of the same file, even if the path has meanwhile come to name another."""
        twin = FileDisk.__new__(FileDisk)
        twin.__dict__.update(self.__dict__)
        twin._fd = os.dup(self._fd)
        return twin

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _fill(self, extent: Extent, into: memoryview) -> None:
        offset = extent.offset
        try:
            while into:
                got = os.preadv(self._fd, [into], offset)
                if not got:
                    raise OSError(errno.EIO, "the file ends here, it was cut short")
                offset, into = offset + got, into[got:]
        except OSError as error:
            raise self._failed("read", Extent(offset, len(into)), error) from error

    def _seek(self, offset: int, whence: int, end: int) -> int:
        try:
            return os.lseek(self._fd, offset, whence)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data up to the end of the file
                return end
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                return offset if whence == os.SEEK_DATA else end
            raise self._failed("looking for holes", Extent(offset, end - offset), error) from error

    def _check_writable(self) -> None:
        if not self._writable:
            raise DiskReadOnly("is open for reading only", subject=str(self._path))

    def _failed(self, verb: str, extent: Extent, error: OSError) -> DiskFailed:
        return DiskFailed(
            f"{verb} of {extent.length} bytes at offset {extent.offset} failed: {error.strerror}",
            subject=str(self._path),
            extent=extent,
            errno=error.errno or 0,
            hint="see the kernel's log (dmesg) and the free space",
        )
