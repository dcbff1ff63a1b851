"""The server's side of serve.py: a script that nbdkit loads (nbdkit-python-plugin(3), API version 2).

Runs in nbdkit's process under the system's Python. Callback names are nbdkit's.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import msgspec
import nbdkit

from standby.block.disk import Disk, DiskFailed, WritableDisk
from standby.block.extent import Extent
from standby.block.serve import Order, Report
from standby.errors import InvalidRequest

API_VERSION = 2

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

LINGER = 2.0
"""Seconds that requests get to finish once the process that we are tied to is gone."""


class Handles:
    """Clones of one disk, lent to one request at a time and kept: as many as ever ran at once."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._idle: list[Disk] = []
        self._cloning = threading.Lock()
        self.size = disk.size

    @contextmanager
    def one(self) -> Iterator[Disk]:
        try:
            disk = self._idle.pop()
        except IndexError:
            with self._cloning:
                disk = self._disk.clone()
        try:
            yield disk
        except DiskFailed as error:
            nbdkit.set_error(error.errno or errno.EIO)
            raise
        finally:
            self._idle.append(disk)

    def close(self) -> None:
        for disk in [*self._idle, self._disk]:
            disk.close()


class Server:
    """What this process does; nbdkit's callbacks are functions of the module, so there is exactly one."""

    order: Order
    lifeline: int
    answers: int
    handles: Handles


def config_complete() -> None:
    # nbdkit puts /dev/null in place of both before it serves.
    Server.lifeline, Server.answers = os.dup(0), os.dup(1)
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(Server.lifeline, 65536)
        if not part:
            raise RuntimeError("standard input ended before the order did")
        line += part
    Server.order = msgspec.json.decode(line, type=Order)


def thread_model() -> int:
    # Two handles of a writable disk would not cover one another's writes at a flush.
    writable = Server.order.writable
    model = nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS if writable else nbdkit.THREAD_MODEL_PARALLEL
    return cast(int, model)


def after_fork() -> None:
    """The socket is bound, nobody is accepted yet: make the disk, and tell the caller what came of it."""
    # Debian's nbdkit 1.32 asks for SIGTERM at its parent's death whether told to or not, and the kernel
    # takes the thread that started it for the parent. Who is tied has the lifeline instead.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0)
    try:
        Server.handles = Handles(_factory(Server.order.factory)(**Server.order.arguments))
    except Exception as error:
        _answer(Report.of(error))
        raise
    _answer(Report())
    if Server.order.tied:
        threading.Thread(target=_end_with_parent, daemon=True).start()


def get_size(_handle: object) -> int:
    return Server.handles.size


def can_multi_conn(_handle: object) -> bool:
    return True


def can_extents(_handle: object) -> bool:
    return True


def can_write(_handle: object) -> bool:
    return Server.order.writable


def can_flush(_handle: object) -> bool:
    return Server.order.writable


def can_zero(_handle: object) -> bool:
    return Server.order.writable


def pread(_handle: object, buffer: bytearray, offset: int, _flags: int) -> None:
    with Server.handles.one() as disk:
        disk.read(offset, memoryview(buffer))


def extents(_handle: object, count: int, offset: int, flags: int) -> list[tuple[int, int, int]]:
    found = []
    with Server.handles.one() as disk:
        for span in disk.spans(Extent(offset, min(count, Server.handles.size - offset))):
            kind = nbdkit.EXTENT_HOLE | nbdkit.EXTENT_ZERO if span.zero else 0
            found.append((span.offset, span.length, kind))
            if flags & nbdkit.FLAG_REQ_ONE:
                break
    return found


def pwrite(_handle: object, buffer: bytearray, offset: int, _flags: int) -> None:
    with Server.handles.one() as disk:
        cast(WritableDisk, disk).write(offset, memoryview(buffer))


def zero(_handle: object, count: int, offset: int, _flags: int) -> None:
    with Server.handles.one() as disk:
        cast(WritableDisk, disk).zero(Extent(offset, count))


def flush(_handle: object, _flags: int) -> None:
    with Server.handles.one() as disk:
        cast(WritableDisk, disk).flush()


def cleanup() -> None:
    Server.handles.close()


def _factory(name: str) -> Callable[..., Disk]:
    module, _, attribute = name.partition(":")
    try:
        found: Callable[..., Disk] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InvalidRequest(f"there is no such factory: {error}", subject=name) from error
    return found


def _answer(report: Report) -> None:
    os.write(Server.answers, msgspec.json.encode(report) + b"\n")
    os.close(Server.answers)


def _end_with_parent() -> None:
    while os.read(Server.lifeline, 4096):
        pass
    nbdkit.shutdown()
    # That waits for clients to go, and one may stay for ever (a guest whose owner was killed).
    time.sleep(LINGER)
    os._exit(0)


# Last, and by assignment: from here on the name no longer means the builtin in this module.
def _connect(_readonly: bool) -> object:
    return Server


open = _connect
