"""Not a vault: answers agents as one does, or fails as it is told to."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec

from standby.link.messages import (
    HEARTBEAT_PATH,
    REGISTER_PATH,
    Answer,
    Heartbeat,
    Order,
    Registered,
    Registration,
    VaultKey,
    WorkReport,
    WorkState,
)


class StandInVault:
    """Of one site. faults: what the next requests meet, one each (see `_Handler`); the last one is repeated while
    `stuck` is set. Orders are given until a heartbeat reports on them, as a vault does."""

    def __init__(self, next_heartbeat=0.05):
        self.keys = {"key-1"}
        self.hosts: dict[str, str] = {}
        self.tokens: dict[str, str] = {}
        self.fresh: dict[str, str] = {}
        self.heartbeats: list[Heartbeat] = []
        self.orders: dict[str, Order] = {}
        self.to: dict[str, str] = {}
        self.ended: dict[str, WorkReport] = {}
        self.reported: dict[str, WorkReport] = {}
        self.cancel: set[str] = set()
        self.taken: set[str] = set()
        self.points: list[tuple[str, int]] = []
        self.faults: deque[str] = deque()
        self.next_heartbeat = next_heartbeat
        self.clock_ahead = 0.0
        self.released = threading.Event()
        self._lock = threading.Lock()
        self._count = 0
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.up()

    def up(self):
        """Serve, on the same port as before."""
        self.away = False
        handler = type("Handler", (_Handler,), {"vault": self})
        ThreadingHTTPServer.allow_reuse_address = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def down(self):
        """Be away: connections are refused."""
        assert self._server
        self.away = True
        self._server.shutdown()
        self._server.server_close()
        self._server = None

    def close(self):
        self.released.set()
        if self._server:
            self.down()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def key(self, url="", authority=""):
        return VaultKey(
            vault=url or self.url, site="s1", key="key-1", expires="2099-01-01T00:00:00Z", authority=authority
        )

    def key_file(self, folder: Path, **more):
        path = folder / "vault.key"
        path.write_bytes(msgspec.json.encode(self.key(**more)))
        return path

    def order(self, job, work, lease=1, host="host-1"):
        with self._lock:
            self.to[job] = host
            self.orders[job] = Order(job=job, lease=lease, title=f"{type(work).__name__} {job}", work=work)

    def renew(self, host):
        """Give the host another token; both are good until the new one is used."""
        with self._lock:
            self._count += 1
            self.fresh[host] = f"token-{self._count}"
            self.tokens[self.fresh[host]] = host
            return self.fresh[host]

    def revoke(self):
        with self._lock:
            self.tokens.clear()
            self.fresh.clear()

    def register(self, asked: Registration):
        with self._lock:
            if asked.key not in self.keys:
                return 403, _problem(403, "InvalidRequest", "the key was used already", "make another one")
            self.keys.discard(asked.key)
            host = asked.host if asked.host in self.hosts else f"host-{len(self.hosts) + 1}"
            self.hosts[host] = asked.name
            self._count += 1
            token = f"token-{self._count}"
            self.tokens = {one: owner for one, owner in self.tokens.items() if owner != host} | {token: host}
            return 200, Registered(host=host, site="s1", token=token, expires="2099-01-01T00:00:00Z")

    def heartbeat(self, told: Heartbeat, token: str):
        with self._lock:
            host = self.tokens.get(token)
            if host is None:
                return 401, _problem(401, "NeedsPerson", "the token is unknown", "")
            if token == self.fresh.get(host):
                self.tokens = {
                    one: owner for one, owner in self.tokens.items() if one == token or owner != host
                }
                del self.fresh[host]
            self.heartbeats.append(told)
            self.points += [(point.relationship, point.seq) for point in told.points]
            taken = set(self.taken)
            for report in told.work:
                self.reported[report.job] = report
                known = self.orders.get(report.job)
                if report.state is not WorkState.IN_PROGRESS:
                    taken.add(report.job)
                    if known and report.lease == known.lease:
                        self.ended[report.job] = report
                        del self.orders[report.job]
            known_jobs = {report.job for report in told.work if report.job in self.orders}
            given = [
                order
                for job, order in self.orders.items()
                if self.to[job] == host and (job not in known_jobs or self.reported[job].lease < order.lease)
            ]
            token = self.fresh.get(host, "")
            return 200, Answer(
                orders=tuple(given),
                taken=tuple(taken),
                cancel=tuple(self.cancel),
                next=self.next_heartbeat,
                token=token,
                token_expires="2099-06-01T00:00:00Z" if token else "",
            )


def _problem(status, kind, cause, hint):
    return {
        "title": "Refused",
        "status": status,
        "detail": f"{cause}.",
        "kind": kind,
        "subject": "the vault",
        "cause": cause,
        "tried": "",
        "hint": hint,
    }


class _Handler(BaseHTTPRequestHandler):
    """A fault of the vault is met once each: `500`, `503`, `hang` (until released), `drip` (an answer that does not
    end), `cut` (reset before the request is looked at), `lose` (done, and the answer is lost), `half` (half an answer),
    `html` (a proxy's page), `empty`, `refuse` (400), `redirect`."""

    vault: StandInVault
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def date_time_string(self, timestamp=None):
        return super().date_time_string(time.time() + self.vault.clock_ahead)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fault = self.vault.faults.popleft() if self.vault.faults else ""
        if self.vault.away:
            fault = "cut"
        if fault == "cut":
            self._reset()
            return
        if fault == "hang":
            self.vault.released.wait()
            return
        if fault in ("500", "503"):
            self._answer(int(fault), _problem(int(fault), "Bug", "something broke", ""))
            return
        if fault == "refuse":
            self._answer(400, _problem(400, "InvalidRequest", "this version is not known here", "update it"))
            return
        if fault == "html":
            self._send(200, "text/html", b"<html>Log in to the network</html>")
            return
        if fault == "empty":
            self._send(200, "application/json", b"")
            return
        if fault == "redirect":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:9/")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path == REGISTER_PATH:
            status, answer = self.vault.register(msgspec.json.decode(body, type=Registration))
        else:
            assert self.path == HEARTBEAT_PATH
            token = self.headers["Authorization"].removeprefix("Bearer ")
            status, answer = self.vault.heartbeat(msgspec.json.decode(body, type=Heartbeat), token)
        if fault == "lose":
            self._reset()
        elif fault == "half":
            data = msgspec.json.encode(answer)
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif fault == "drip":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            with contextlib.suppress(OSError):
                while not self.vault.released.wait(0.05):
                    self.wfile.write(b" ")
                    self.wfile.flush()
        else:
            self._answer(status, answer)

    def _reset(self):
        """RST, as when a host dies."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _answer(self, status, answer):
        kind = "application/json" if status < 300 else "application/problem+json"
        self._send(status, kind, msgspec.json.encode(answer))

    def _send(self, status, kind, data):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def handle(self):
        with contextlib.suppress(OSError, ValueError):
            super().handle()

    def finish(self):
        with contextlib.suppress(OSError, ValueError):
            super().finish()
