"""An HTTP proxy between a store's client and a real server, which fails where a test says so.

    with FaultProxy(cloud.port) as proxy:
        proxy.next(Lose())                     # the next request is carried out, its answer is lost
        store = place.through(proxy.endpoint).open()

Requests that no fault names pass. `log` lists all as (verb, path), in order of arrival.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


class Request(NamedTuple):
    verb: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes


class Answer(NamedTuple):
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes


class Fault:
    """What happens to one request. The base class lets it pass."""

    def request(self, request: Request) -> Request | Answer | None:
        """What is sent on; an Answer in the server's place; None to close the connection at once."""
        return request

    def answer(self, answer: Answer) -> Answer | None:
        """What is sent back; None to close the connection."""
        return answer

    cut: int | None = None
    """Bytes of the body that are sent before the connection is closed."""


class Refuse(Fault):
    """The connection is closed before the request is passed on."""

    def request(self, request: Request) -> Request | Answer | None:
        return None


class Lose(Fault):
    """The server does it, and its answer is lost."""

    def answer(self, answer: Answer) -> Answer | None:
        return None


@dataclass
class Cut(Fault):
    """The answer's body ends after so many bytes, and the connection with it."""

    cut: int | None = 1


@dataclass
class Say(Fault):
    """The proxy answers in the server's place; the server never hears of it."""

    status: int
    code: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    def request(self, request: Request) -> Request | Answer | None:
        body = f"<Error><Code>{self.code}</Code><Message>injected</Message></Error>".encode()
        return Answer(self.status, "Injected", [*self.headers, ("Content-Type", "application/xml")], body)


@dataclass
class DoneBut(Say):
    """The server does it, and the proxy answers otherwise: a gateway's 500."""

    def request(self, request: Request) -> Request | Answer | None:
        return request

    def answer(self, answer: Answer) -> Answer | None:
        said = Say.request(self, Request("", "", [], b""))
        assert isinstance(said, Answer)
        return said


class Hold(Fault):
    """The answer comes only when the test sets `go`. The server has done it when `done` is set."""

    def __init__(self) -> None:
        self.done, self.go = threading.Event(), threading.Event()

    def answer(self, answer: Answer) -> Answer | None:
        self.done.set()
        self.go.wait(60)
        return answer


@dataclass
class Strip(Fault):
    """A server that knows nothing of these headers, so that it overwrites where it should refuse."""

    names: tuple[str, ...]

    def request(self, request: Request) -> Request | Answer | None:
        kept = [(name, value) for name, value in request.headers if name.lower() not in self.names]
        return request._replace(headers=kept)


class FaultProxy:
    def __init__(self, port: int) -> None:
        self._target = port
        self._lock = threading.Lock()
        self._next: list[tuple[Callable[[Request], bool], Fault]] = []
        self.always: Fault | None = None
        self.log: list[tuple[str, str]] = []
        self.times: list[float] = []
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._open: set[socket.socket] = set()
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def next(self, *faults: Fault, verb: str = "", times: int = 1) -> None:
        """The next requests (of a verb, or any) meet these faults, one each, in turn; `times` over."""
        with self._lock:
            matches = (lambda request: request.verb == verb) if verb else (lambda request: True)
            self._next += [(matches, fault) for fault in faults * times]

    @property
    def unused(self) -> int:
        """Faults that never struck."""
        return len(self._next)

    def heal(self) -> None:
        with self._lock:
            self._next.clear()
            self.always = None

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        # Only a shutdown wakes accept().
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in list(self._open):
            _close(connection)

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection.makefile("rb") as reader:
                while request := _read(reader):
                    if not self._one(request, connection):
                        break
        except OSError:
            pass  # the client has gone
        finally:
            self._open.discard(connection)
            _close(connection)

    def _one(self, request: Request, connection: socket.socket) -> bool:
        """Whether the connection goes on."""
        fault = self._fault(request)
        sent = fault.request(request)
        if sent is None:
            return False
        got = sent if isinstance(sent, Answer) else fault.answer(self._ask(sent))
        if got is None:
            return False
        headers = [(name, value) for name, value in got.headers if name.lower() not in _HOP]
        if request.verb != "HEAD":  # whose length is the object's
            headers = [one for one in headers if one[0].lower() != "content-length"]
            headers.append(("Content-Length", str(len(got.body))))
        lines = [f"HTTP/1.1 {got.status} {got.reason}", *(f"{name}: {value}" for name, value in headers)]
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        if request.verb != "HEAD":
            connection.sendall(got.body[: fault.cut] if fault.cut is not None else got.body)
        return fault.cut is None

    def _fault(self, request: Request) -> Fault:
        with self._lock:
            self.log.append((request.verb, request.path))
            self.times.append(time.monotonic())
            for place, (matches, fault) in enumerate(self._next):
                if matches(request):
                    del self._next[place]
                    return fault
            return self.always or Fault()

    def _ask(self, request: Request) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._target, timeout=60)
        try:
            connection.putrequest(request.verb, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers:
                connection.putheader(name, value)
            connection.endheaders(request.body)
            got = connection.getresponse()
            return Answer(got.status, got.reason, got.getheaders(), got.read())
        finally:
            connection.close()


_HOP = {"connection", "transfer-encoding", "keep-alive"}


def _read(reader) -> Request | None:
    line = reader.readline().decode("latin-1")
    if not line:
        return None
    verb, path, _ = line.split(" ", 2)
    headers: list[tuple[str, str]] = []
    while (line := reader.readline().decode("latin-1").rstrip("\r\n")) != "":
        name, _, value = line.partition(":")
        headers.append((name, value.strip()))
    length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
    return Request(verb, path, headers, reader.read(length))


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
