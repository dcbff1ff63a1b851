"""From what was seen to a verdict, by table; pictures that are blank; words that name probes."""

from __future__ import annotations

import http.server
import socket
import struct
import threading
import zlib

import numpy as np
import pytest

from standby.errors import InvalidRequest
from standby.recovery import proof_probes, screen
from standby.recovery.proof_probes import Probe, Subject
from standby.recovery.proof_verdict import Seen, judge
from standby.replica.proofs import Check

GOOD = Check(name="tcp:22", passed=True, text="answered")
BAD = Check(name="http:80/", passed=False, text="status 503 within 60 s")
OPEN = Check(name="tcp:25", passed=None, text="this host opens no way into an isolated machine")
PANIC = "[ 1.2] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n"


@pytest.mark.parametrize(
    ("seen", "verdict", "reason"),
    [
        (Seen(agent=True), "passed", "the guest agent answered"),
        (Seen(agent=True, probes=(GOOD,)), "passed", "tcp:22: answered"),
        (Seen(probes=(GOOD,)), "passed", "tcp:22: answered"),
        (Seen(agent=True, blank=True), "passed", "a hint: its screen is blank"),
        (Seen(agent=True, clock_off=-4000.0), "passed", "a hint: its clock is 4000 s behind this host's"),
        (Seen(agent=True, clock_off=20.0), "passed", "the guest agent answered"),
        (Seen(agent=True, console=PANIC), "passed", "the guest agent answered"),
        (Seen(), "unsure", "nothing of the guest answered: it has no agent, and no probe was given"),
        (Seen(blank=True), "unsure", "a hint: its screen is blank"),
        (Seen(agent=True, probes=(GOOD, OPEN)), "unsure", f"tcp:25: {OPEN.text}"),
        (Seen(agent=False, limit=90.0), "failed", "the guest agent did not answer within 90 s"),
        (Seen(agent=True, probes=(GOOD, BAD)), "failed", "http:80/: status 503 within 60 s"),
        (Seen(agent=True, running=False), "failed", "the machine ended"),
        (Seen(agent=True, damage=("disk vda, logs/1.hrl: damaged",)), "failed", "disk vda, logs/1.hrl: damaged"),
        (Seen(refused="logs/1.hrl: it is gone"), "failed", "the machine could not be started: logs/1"),
        (Seen(console="SeaBIOS\nNo bootable device.\n"), "failed", "no disk is bootable"),
        (Seen(console="error: no such device: 1234.\r\ngrub rescue>"), "failed", "its boot loader found no system"),
        (Seen(probes=(GOOD,), console="You are in emergency mode."), "failed", "it stopped in emergency mode"),
    ],
)  # fmt: skip
def test_what_was_seen_leads_to_a_verdict(seen, verdict, reason):
    judged = judge(seen)
    assert judged.verdict == verdict
    assert any(one.startswith(reason) for one in judged.reasons), judged.reasons


def png(pixels: np.ndarray, filters: list[int]) -> bytes:
    """A picture of 8-bit RGB, each line by the next of `filters` (PNG section 9)."""
    height, width, channels = pixels.shape
    raw = bytearray()
    above = np.zeros(width * channels, np.int64)
    for number in range(height):
        line = pixels[number].reshape(-1).astype(np.int64)
        left = np.concatenate([np.zeros(channels, np.int64), line[:-channels]])
        corner = np.concatenate([np.zeros(channels, np.int64), above[:-channels]])
        kind = filters[number % len(filters)]
        guess = left + above - corner
        near = np.stack([abs(guess - left), abs(guess - above), abs(guess - corner)])
        paeth = np.stack([left, above, corner])[near.argmin(axis=0), np.arange(len(line))]
        filtered = line - [0 * line, left, above, (left + above) // 2, paeth][kind]
        raw += bytes([kind]) + (filtered & 0xFF).astype(np.uint8).tobytes()
        above = line

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(raw)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("filters", [[0], [1], [2], [3], [4], [4, 1, 3, 2, 0]])
def test_a_blank_screen_is_told_from_one_with_words(filters):
    dark = np.full((200, 320, 3), 12, np.uint8)
    assert screen.blank(png(dark, filters)) is True
    cursor = dark.copy()
    cursor[190:192, 4:8] = 170
    assert screen.blank(png(cursor, filters)) is True
    words = np.random.default_rng(1).integers(0, 2, (200, 320, 1), np.uint8).repeat(3, 2) * 170
    words[20:] = 12
    assert screen.blank(png(words, filters)) is False


@pytest.mark.parametrize("broken", [b"", b"P6 1 1", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_a_picture_that_is_none_is_no_hint(broken):
    assert screen.blank(broken) is None


@pytest.mark.parametrize(
    ("text", "probe"),
    [
        ("tcp:22", Probe("tcp", "22")),
        ("http:8080/health?x=1", Probe("http", "8080/health?x=1")),
        ("http:80", Probe("http", "80")),
        ("script:/bin/true", Probe("script", "/bin/true")),
        ("guest:systemctl is-active 'a b'", Probe("guest", "systemctl is-active 'a b'")),
    ],
)
def test_probes_are_named_by_words(text, probe):
    assert proof_probes.parse(text) == probe
    assert str(probe) == text


@pytest.mark.parametrize(
    "text", ["", "tcp", "tcp:", "tcp:0", "tcp:70000", "tcp:22/x", "http:x/", "script:/nowhere", "guest:", "guest:'a"]
)  # fmt: skip
def test_words_that_name_no_probe_are_refused(text):
    with pytest.raises(InvalidRequest, match="no probe"):
        proof_probes.parse(text)


class FakeMachine:
    """Stands for a machine: its `forward` leads to this host's own port. connected: what it says of the guest."""

    agent = console = "nowhere"

    def __init__(self, connected: bool = False) -> None:
        self.answers = connected

    def connected(self, _way: int) -> bool:
        return self.answers


def test_a_port_passes_only_once_the_guest_took_the_connection():
    """The forwarder takes every connection by itself, as this listener does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert proof_probes.tcp(port, FakeMachine(), 0.7) == "no answer"
        assert proof_probes.tcp(port, FakeMachine(connected=True), 5) == ""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        closer = threading.Thread(target=lambda: listener.accept()[0].close())
        closer.start()
        assert "refused" in proof_probes.tcp(port, FakeMachine(), 5)
        closer.join()


@pytest.mark.parametrize(("path", "wrong"), [("fine", ""), ("busy", "status 503"), ("lost", "")])
def test_an_answer_by_http_passes_unless_it_is_the_servers_error(path, wrong):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response({"/fine": 200, "/busy": 503, "/lost": 404}[self.path])
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert proof_probes.http_get(server.server_port, path, 5) == wrong
        thread.join()


@pytest.mark.parametrize(
    ("body", "passed", "text"),
    [
        ('echo "$STANDBY_MACHINE $STANDBY_REPLICA $STANDBY_POINT"', True, "status 0: web - Test web 7"),
        ("echo no database >&2; exit 3", False, "status 3: no database"),
        ("sleep 60", False, "it did not end within 0.3 s"),
    ],
)
def test_a_script_tells_by_its_status(tmp_path, body, passed, text):
    script = tmp_path / "probe"
    script.write_text(f"#!/bin/sh\n{body.replace('sleep', 'exec sleep')}\n")
    script.chmod(0o700)
    probe = proof_probes.parse(f"script:{script}")
    check = proof_probes.run(
        probe, FakeMachine(), Subject("web - Test", "web", 7), 0.3 if "sleep" in body else 30
    )
    assert (check.passed, check.text) == (passed, text)
