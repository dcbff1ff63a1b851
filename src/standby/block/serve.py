"""Serve a `Disk` over NBD from a process of its own: nbdkit with our Python plugin (decision 0002).

The caller names a factory; it runs in the server's process, so that the disk's memory and its work are
there and not in ours. The order goes through the server's standard input, since arguments may hold
secrets and a command line is public; what became of it comes back through its standard output.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket as sockets
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypeAlias

import msgspec

from standby import errors
from standby.errors import InvalidRequest, NeedsPerson, Recoverable, StandbyError

JSON: TypeAlias = "str | int | float | bool | Sequence[JSON] | Mapping[str, JSON] | None"

PLUGIN = Path(__file__).with_name("nbdkit_plugin.py")


class ServerFailed(Recoverable):
    """The serving process died, or was not ready in time. The message has the end of its log."""


class Order(msgspec.Struct, frozen=True):
    """What the serving process shall do: the first line of its standard input.

    tied: end when standard input does, that is when the process that gave the order is gone.
    """

    factory: str
    arguments: dict[str, object]
    writable: bool
    tied: bool


class Report(msgspec.Struct, frozen=True):
    """The one line that the serving process answers. `decision` is empty when the disk is served."""

    decision: str = ""
    cause: str = ""
    subject: str = ""
    tried: str = ""
    hint: str = ""

    @classmethod
    def of(cls, error: Exception) -> Report:
        """The error, reduced to what the caller decides by (a class of errors.py) and what a person reads."""
        if not isinstance(error, StandbyError):
            return cls("Bug", f"{type(error).__name__}: {error}")
        decision = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
        return cls(decision, error.cause, error.subject, error.tried, error.hint)

    def error(self) -> StandbyError:
        kind: type[StandbyError] = getattr(errors, self.decision)
        return kind(self.cause, subject=self.subject, tried=self.tried, hint=self.hint)


class Served:
    """A running server. Leaving the `with` block, or `stop`, ends it; a daemon may also just be left alone.

    socket: where it listens; pid: its process; log: what it and its disk had to say.
    """

    def __init__(self, socket: Path, pid: int, process: subprocess.Popen[bytes] | None = None) -> None:
        self.socket = socket
        self.pid = pid
        self.log = log_of(socket)
        self._process = process
        self._pidfd = os.pidfd_open(pid)

    @property
    def uri(self) -> str:
        return f"nbd+unix:///?socket={self.socket}"

    @property
    def alive(self) -> bool:
        return self._pidfd >= 0 and not self._ended(0)

    def check(self) -> None:
        """Raises ServerFailed when the process is gone."""
        if not self.alive:
            raise ServerFailed(
                f"the process {self.pid} that served it is gone{tail(self.log)}",
                subject=str(self.socket),
                hint="serve the disk again",
            )

    def stop(self, grace: float = 2.0) -> None:
        """End the server: politely, after `grace` seconds by force. Stopping twice is harmless.

        nbdkit waits for its clients to go, so one that stays costs the whole grace.
        """
        if self._pidfd < 0:
            return
        for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, grace)):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)
            if self._ended(patience):
                break
        else:
            raise NeedsPerson(
                f"process {self.pid} cannot be killed, it hangs in the kernel",
                subject=str(self.socket),
                hint=f"see what it waits for: cat /proc/{self.pid}/stack",
            )
        os.close(self._pidfd)
        self._pidfd = -1
        if self._process:
            _reap(self._process)
        self.socket.unlink(missing_ok=True)
        if self.log.exists() and not self.log.stat().st_size:
            self.log.unlink()

    def leave(self) -> None:
        """Let go of a daemon without ending it."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _ended(self, patience: float) -> bool:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(patience * 1000))


def serve(
    factory: str,
    arguments: Mapping[str, JSON],
    socket: Path,
    *,
    writable: bool = False,
    threads: int = 8,
    tied: bool = True,
    patience: float = 120.0,
) -> Served:
    """Serve the disk that `factory` ("package.module:name") returns for `arguments`, on the Unix socket.

    tied:     the server ends when this process does, however that ends. False makes a daemon, to be found
              again with `attach`: a machine that runs from the disk outlives the command that started it.
    threads:  requests worked on at once; each has its own clone of the disk. A writable disk has one.
    patience: seconds for the factory, and the server's start.

    Returns once clients can connect. What the factory raised is raised here, as the same decision class;
    ServerFailed if the server died or took too long; InvalidRequest if something listens there already.
    """
    if not socket.parent.is_dir():
        raise InvalidRequest(
            "its directory does not exist", subject=str(socket), hint=f"mkdir {socket.parent}"
        )
    _make_room(socket)
    log = log_of(socket)
    command = ["nbdkit", "--foreground", "--unix", str(socket), "--threads", str(threads)]
    if not writable:
        command.append("--readonly")
    with log.open("wb") as messages:
        try:
            # A session of its own: Ctrl-C at the terminal is for us; we end the server in our own order.
            process = subprocess.Popen(
                [*command, "python", str(PLUGIN)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=messages,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())},
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise NeedsPerson(
                "nbdkit is not installed", subject=str(socket), hint="apt install nbdkit nbdkit-plugin-python"
            ) from error
    try:
        order = Order(factory, dict(arguments), writable, tied)
        report = _ask(process, order, patience)
        if report is None:
            raise ServerFailed(
                f"nbdkit ended before it served anything{tail(log)}", subject=str(socket), hint=f"read {log}"
            )
        if report.decision:
            raise report.error()
        if not tied and process.stdin:
            process.stdin.close()
        return Served(socket, process.pid, process)
    except BaseException:
        process.kill()
        _reap(process)
        socket.unlink(missing_ok=True)
        raise


def attach(socket: Path) -> Served:
    """The server that listens on the socket, started by whomever. Raises ServerFailed if there is none."""
    with sockets.socket(sockets.AF_UNIX) as endpoint:
        try:
            endpoint.connect(str(socket))
        except OSError as error:
            raise ServerFailed(
                f"nobody listens: {error}", subject=str(socket), hint="serve the disk again"
            ) from error
        # The kernel's word for who listens: unlike a pid file it cannot be stale.
        credentials = endpoint.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, struct.calcsize("3i"))
    pid, _uid, _gid = struct.unpack("3i", credentials)
    try:
        return Served(socket, pid)
    except ProcessLookupError as error:
        raise ServerFailed(
            "its server just ended", subject=str(socket), hint="serve the disk again"
        ) from error


def log_of(socket: Path) -> Path:
    """Where the server of that socket writes its messages."""
    return socket.with_name(socket.name + ".log")


def tail(log: Path) -> str:
    """The last lines of a log, ready to follow a message."""
    try:
        text = log.read_text(errors="replace").strip()[-2000:]
    except FileNotFoundError:
        return ""
    return f"; it said:\n{text}" if text else ""


def _make_room(socket: Path) -> None:
    """Remove the socket file of a server that is dead. InvalidRequest if the server is alive."""
    with sockets.socket(sockets.AF_UNIX) as endpoint:
        try:
            endpoint.connect(str(socket))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            socket.unlink(missing_ok=True)
            return
        except OSError as error:
            raise InvalidRequest(f"cannot be a Unix socket: {error}", subject=str(socket)) from error
    raise InvalidRequest(
        "another server listens there already", subject=str(socket), hint="stop it, or choose another socket"
    )


def _import_path() -> list[str]:
    """Where the server's Python (the system's own) finds what this one finds beyond its standard library."""
    home = str(Path(os.__file__).parent)
    entries = [str(Path(entry).absolute()) for entry in sys.path]  # "" is the working directory
    # A virtual environment's packages do not lie below the standard library, those of the system do.
    return [entry for entry in entries if not entry.startswith(home) and not entry.endswith(".zip")]


def _ask(process: subprocess.Popen[bytes], order: Order, patience: float) -> Report | None:
    """Hand over the order; the answer, or None if the server ended without one."""
    assert process.stdin
    assert process.stdout
    # A server that died at once leaves a broken pipe; its log tells more than that.
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(msgspec.json.encode(order) + b"\n")
        process.stdin.flush()
    with process.stdout:
        line = _line(process.stdout, time.monotonic() + patience)
    if line is None:
        raise ServerFailed(
            f"the disk was not ready within {patience:g} s",
            subject=order.factory,
            tried="the server was killed",
        )
    return msgspec.json.decode(line, type=Report) if line else None


def _line(stream: IO[bytes], deadline: float) -> bytes | None:
    """One line, or empty at the end of the stream; None when the time is over."""
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    line = b""
    while not line.endswith(b"\n"):
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return None
        part = os.read(stream.fileno(), 65536)
        if not part:
            return b""
        line += part
    return line


def _reap(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    if process.stdin and not process.stdin.closed:
        # Whatever was left in the pipe's buffer has no reader any more.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
