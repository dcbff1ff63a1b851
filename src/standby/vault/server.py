"""Serving the vault: one process of it, on one address."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Final, NamedTuple

import uvicorn
from fastapi import FastAPI

from standby.errors import InvalidRequest
from standby.vault.heartbeat import EVERY

KEPT_OPEN: Final = int(15 * EVERY)
"""Seconds for which an idle connection stays. uvicorn's own 5 s are just the time between two heartbeats: a beat that
was sent as the connection was closed got no answer."""

LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


class Address(NamedTuple):
    """Port 0: any that is free."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        return self.host in LOOPBACK


def address_of(text: str) -> Address:
    """`HOST:PORT` or `[V6]:PORT`. Raises InvalidRequest."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit() or int(port) > 65535:
        raise InvalidRequest(
            "this is no address to listen on", subject=text, hint="give HOST:PORT, such as 127.0.0.1:8443"
        )
    return Address(host, int(port))


class Server:
    """Listens from the start on; serves in a thread of its own from `start` until `close`."""

    def __init__(
        self, address: Address, *, certificate: Path | None = None, key: Path | None = None, proxies: str = ""
    ) -> None:
        """proxies: addresses whose X-Forwarded headers are believed. Raises InvalidRequest."""
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._socket = socket.socket(family)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind(address)
            # Who is told of the address and asks at once is answered once it is served.
            self._socket.listen(128)
        except OSError as error:
            self._socket.close()
            raise InvalidRequest(
                f"it cannot be listened on: {error.strerror}",
                subject=f"{address.host}:{address.port}",
                hint="see who has it (`ss -ltnp`), or choose another one with --listen",
            ) from error
        self.port: int = self._socket.getsockname()[1]
        self.scheme: Final = "https" if certificate else "http"
        self._certificate = certificate
        self._key = key
        self._proxies = proxies
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self, app: FastAPI) -> None:
        config = uvicorn.Config(
            app,
            ssl_certfile=self._certificate,
            ssl_keyfile=self._key,
            proxy_headers=bool(self._proxies),
            forwarded_allow_ips=self._proxies or None,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEPT_OPEN,
            timeout_graceful_shutdown=5,
        )
        server = self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=server.run, kwargs={"sockets": [self._socket]}, name="standby-web", daemon=True
        )
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        if self._server and self._thread:
            self._server.should_exit = True
            self._thread.join()
        self._socket.close()
