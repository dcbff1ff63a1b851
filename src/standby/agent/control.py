"""The agent's control socket: requests and answers, each one line of JSON, between processes of one host."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from standby.errors import InvalidRequest, Recoverable
from standby.link.requests import Answer, AnyRequest, Refused, Request

log = logging.getLogger(__name__)

_NAME: Final = "control"
_LONGEST: Final = 1 << 20
_SLOWEST: Final = 600.0
"""Seconds that an answer may take: enabling protection probes a store and a machine."""

_requests: Final[msgspec.json.Decoder[Request]] = msgspec.json.Decoder(AnyRequest)
_answers: Final[msgspec.json.Decoder[Answer]] = msgspec.json.Decoder(Answer)


class AgentSilent(Recoverable):
    """An agent is there and does not answer."""


def ask(folder: Path, request: Request) -> Answer | None:
    """What the agent with the books in `folder` answers; None if none is running. Raises AgentSilent."""
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.settimeout(_SLOWEST)
        try:
            with _short(folder) as path:
                client.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        try:
            client.sendall(msgspec.json.encode(request) + b"\n")
            return _answers.decode(_line(client))
        except (OSError, msgspec.DecodeError) as error:
            raise AgentSilent(
                f"the agent did not answer: {error}",
                subject=str(folder),
                tried="asking once; it may have done what was asked",
                hint="see whether its process runs and what it logs, then look again with `standby vm list`",
            ) from error


class Control:
    """Answers requests in threads of its own until it is closed."""

    def __init__(self, folder: Path, answer: Callable[[Request], Answer]) -> None:
        """For the one agent that holds the books in `folder`; a socket that a dead one left is replaced."""
        self._answer = answer
        self._path = folder / _NAME
        self._path.unlink(missing_ok=True)
        self._server = socket.socket(socket.AF_UNIX)
        with _short(folder) as path:
            self._server.bind(path)
        self._path.chmod(0o600)
        self._server.listen()
        threading.Thread(target=self._serve, name="standby-control", daemon=True).start()

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._converse, args=(client,), daemon=True).start()

    def _converse(self, client: socket.socket) -> None:
        with closing(client):
            client.settimeout(_SLOWEST)
            try:
                try:
                    request = _requests.decode(_line(client))
                except msgspec.DecodeError as error:
                    answer: Answer = Refused.of(
                        InvalidRequest(
                            f"not understood: {error}",
                            subject="the agent's control socket",
                            hint="use the standby of the agent's version",
                        )
                    )
                else:
                    answer = self._answer(request)
                client.sendall(msgspec.json.encode(answer) + b"\n")
            except OSError as error:
                log.warning("a client of the control socket went away: %s", error)


def _line(stream: socket.socket) -> bytes:
    with stream.makefile("rb") as file:
        return file.readline(_LONGEST)


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """The socket's path within the 107 bytes that an address takes, however deep the folder lies (unix(7))."""
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{_NAME}"
    finally:
        os.close(handle)
