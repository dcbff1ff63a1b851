"""NBD connections to one export, with many requests in flight and a time limit on every wait.

libnbd has no threads of its own: a reply moves only while `run` polls. So a buffer is never touched
behind the caller's back once `run` has returned or raised.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import nbd

from standby.block.disk import DiskFailed, DiskUnreachable
from standby.block.extent import Extent
from standby.errors import InvalidRequest

Issue = Callable[["nbd.NBD", int, Any], int]
"""Start a request on a handle for (offset, buffer or length); the cookie that libnbd gave it."""


def connect(path: Path, export: str, contexts: Sequence[str], patience: float) -> nbd.NBD:
    """A handle that is ready for requests. `contexts` are asked for; the server may know none of them.

    Raises DiskUnreachable when nobody answers within `patience` seconds, InvalidRequest when the server has
    no such export.
    """
    subject = _name(path, export)
    endpoint = socket.socket(socket.AF_UNIX)
    try:
        endpoint.settimeout(patience)
        endpoint.connect(str(path))
    except OSError as error:
        endpoint.close()
        if "too long" in str(error):
            raise InvalidRequest(
                "the path is too long for a Unix socket (107 bytes)",
                subject=subject,
                hint="use a shorter one",
            ) from error
        raise DiskUnreachable(
            f"nobody serves it: {error}", subject=subject, hint="start its server, then try again"
        ) from error
    handle = nbd.NBD()
    handle.set_export_name(export)
    handle.set_pread_initialize(False)
    for context in contexts:
        handle.add_meta_context(context)
    try:
        handle.aio_connect_socket(endpoint.detach())
        while not handle.aio_is_ready():
            if handle.aio_is_dead() or handle.aio_is_closed():
                raise DiskUnreachable("the server hung up during the handshake", subject=subject)
            if not _move([handle], patience):
                raise _silent(subject, patience, "the handshake")
    except nbd.Error as error:
        if "has no export" in error.string:
            raise InvalidRequest(
                f"the server has no export {export!r}",
                subject=subject,
                hint=f"nbdinfo --list 'nbd+unix:///?socket={path}'",
            ) from error
        raise DiskUnreachable(f"the handshake failed: {error}", subject=subject) from error
    return handle


class Connections:
    """One or more connections to an export, as one: requests go to whichever has room."""

    def __init__(
        self, path: Path, export: str, contexts: Sequence[str], *, count: int, depth: int, patience: float
    ) -> None:
        self.subject = _name(path, export)
        self._patience = patience
        self._depth = depth
        self._lost = ""
        self._handles = [connect(path, export, contexts, patience)]
        # Without this promise a flush covers only the writes of its own connection.
        if self._handles[0].can_multi_conn():
            try:
                self._handles += [connect(path, export, contexts, patience) for _ in range(count - 1)]
            except BaseException:
                self.drop("not all connections could be made")
                raise

    @property
    def first(self) -> nbd.NBD:
        """The first handle, for what the handshake agreed on."""
        self._check()
        return self._handles[0]

    def run(self, verb: str, issue: Issue, jobs: Iterable[tuple[int, Any]]) -> None:
        """Issue every job (offset, buffer or length) and return when all are done.

        `verb` (as "read") is for the message. Raises DiskFailed for the first job that the server refused,
        after those in flight came back; DiskUnreachable when the connection broke or nothing moved for the
        time limit.
        """
        self._check()
        try:
            failure = self._pump(verb, issue, jobs)
        except nbd.Error as error:
            self.drop(f"the connection broke: {error}")
            raise DiskUnreachable(f"the connection broke: {error}", subject=self.subject) from error
        except BaseException as error:
            # Requests in flight own parts of the caller's buffer: nobody may ever answer them.
            self.drop(str(error))
            raise
        if failure:
            raise failure

    def drop(self, why: str) -> None:
        """Cut all connections; every later `run` tells `why`. Dropping twice is harmless."""
        self._lost = self._lost or why or "an interruption"
        handles, self._handles = self._handles, []
        for handle in handles:
            # A server that is gone already needs no goodbye.
            with contextlib.suppress(nbd.Error, OSError):
                descriptor = os.dup(handle.aio_get_fd())
                with socket.socket(fileno=descriptor) as endpoint:
                    if handle.aio_is_ready():
                        handle.aio_disconnect()
                    # A traceback may keep the handle alive for long; the server must see the end now.
                    endpoint.shutdown(socket.SHUT_RDWR)

    def _check(self) -> None:
        if self._lost:
            raise DiskUnreachable(
                "the connection was dropped earlier",
                subject=self.subject,
                tried=self._lost,
                hint="open the disk anew",
            )

    def _pump(self, verb: str, issue: Issue, jobs: Iterable[tuple[int, Any]]) -> DiskFailed | None:
        queue = iter(jobs)
        flying: list[dict[int, tuple[int, Any]]] = [{} for _ in self._handles]
        failure: DiskFailed | None = None
        exhausted = False
        while True:
            busy = []
            for handle, mine in zip(self._handles, flying, strict=True):
                while not exhausted and len(mine) < self._depth:
                    job = next(queue, None)
                    if job is None:
                        exhausted = True
                        break
                    mine[issue(handle, *job)] = job
                if mine:
                    busy.append(handle)
            if not busy:
                return failure
            if not _move(busy, self._patience):
                raise _silent(self.subject, self._patience, f"a {verb}")
            for handle, mine in zip(self._handles, flying, strict=True):
                while mine and (cookie := handle.aio_peek_command_completed()):
                    job = mine.pop(cookie)
                    try:
                        handle.aio_command_completed(cookie)
                    except nbd.Error as error:
                        if handle.aio_is_dead() or handle.aio_is_closed():
                            raise
                        failure = failure or self._failed(verb, job, error)
                        exhausted = True

    def _failed(self, verb: str, job: tuple[int, Any], error: nbd.Error) -> DiskFailed:
        offset, what = job
        extent = Extent(offset, what if isinstance(what, int) else len(what))
        return DiskFailed(
            f"{verb} of {extent.length} bytes at offset {offset} failed: {error}",
            subject=self.subject,
            extent=extent,
            errno=error.errnum,
            hint="look at the log of the server and at the storage below it",
        )


def _name(path: Path, export: str) -> str:
    return f"NBD export {export!r} on {path}"


def _silent(subject: str, patience: float, what: str) -> DiskUnreachable:
    return DiskUnreachable(
        f"the server did not answer {what} within {patience:g} s",
        subject=subject,
        tried="the connection was dropped",
        hint="see whether its process and the storage below it respond",
    )


def _move(handles: Sequence[nbd.NBD], patience: float) -> bool:
    """Wait until a socket is ready, and let those that are go as far as they can; False when time is over."""
    poll = select.poll()
    by_descriptor = {}
    for handle in handles:
        direction = handle.aio_get_direction()
        events = select.POLLIN if direction & nbd.AIO_DIRECTION_READ else 0
        if direction & nbd.AIO_DIRECTION_WRITE:
            events |= select.POLLOUT
        descriptor = handle.aio_get_fd()
        by_descriptor[descriptor] = handle
        poll.register(descriptor, events)
    ready = poll.poll(patience * 1000)
    for descriptor, events in ready:
        handle = by_descriptor[descriptor]
        # Reading first, as libnbd's manual wants it; what it read may have ended the wish to write.
        if events & ~select.POLLOUT and handle.aio_get_direction() & nbd.AIO_DIRECTION_READ:
            handle.aio_notify_read()
        elif events & ~select.POLLIN and handle.aio_get_direction() & nbd.AIO_DIRECTION_WRITE:
            handle.aio_notify_write()
    return bool(ready)
