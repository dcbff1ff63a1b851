"""How fast a Disk is served over NBD, by what, and with which filters. Figures: docs/decisions/0002.

    .venv/bin/python benchmarks/serving.py [ROUNDS]

Every round measures every way once, so that a busy machine slows all of them alike; the best round counts.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import zstandard

sys.path.insert(0, str(Path(__file__).parent))  # the serving process imports this file too

from standby.block.extent import Extent, Span, pieces
from standby.block.file import FileDisk
from standby.block.nbd import NbdDisk
from standby.block.serve import PLUGIN, Order, serve

SIZE = 512 << 20
BLOCK = 64 << 10
# Sequential reads take the first half, random ones the second: neither finds what the other left in a cache.
HALF = SIZE // 2
RANDOM = [
    Extent(page * 4096, 4096) for page in random.Random(1).sample(range(HALF // 4096, SIZE // 4096), 8192)
]


class CompressedDisk:
    """Stands for an Image: every read decompresses whole blocks of 64 KiB; the last block is remembered."""

    def __init__(self, blocks: list[bytes]) -> None:
        self.size = SIZE
        self._blocks = blocks
        self._decompressor = zstandard.ZstdDecompressor()
        self._last = (-1, b"")

    def read(self, offset: int, into: memoryview) -> None:
        at = 0
        for piece in pieces([Extent(offset, len(into))], BLOCK):
            number = piece.offset // BLOCK
            if self._last[0] != number:
                self._last = number, self._decompressor.decompress(self._blocks[number])
            start = piece.offset - number * BLOCK
            into[at : at + piece.length] = self._last[1][start : start + piece.length]
            at += piece.length

    def spans(self, extent: Extent) -> Iterator[Span]:
        yield Span(extent.offset, extent.length, False)

    def clone(self) -> CompressedDisk:
        return CompressedDisk(self._blocks)

    def close(self) -> None:
        pass


def open_file(path: str) -> FileDisk:
    return FileDisk(Path(path))


def open_compressed(path: str) -> CompressedDisk:
    compressor = zstandard.ZstdCompressor(level=1)
    data = Path(path).read_bytes()
    return CompressedDisk([compressor.compress(data[at : at + BLOCK]) for at in range(0, SIZE, BLOCK)])


@contextmanager
def nbdkit(socket: Path, before: Sequence[str], *after: str, order: Order | None = None) -> Iterator[None]:
    command = ["nbdkit", "-f", "-r", "-t", "8", "-U", str(socket), *before, *after]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    try:
        if order:
            process.stdin.write(msgspec.json.encode(order) + b"\n")
            process.stdin.flush()
            process.stdout.readline()
        while not socket.exists():
            time.sleep(0.01)
        yield
    finally:
        process.terminate()
        process.wait()
        socket.unlink()


def measure(socket: Path) -> tuple[float, float]:
    """Random 4 KiB reads a second (each 64 KiB block touched twice); sequential GB/s."""
    disk = NbdDisk(socket, "")
    buffer = memoryview(bytearray(len(RANDOM) * 4096))
    disk.read(HALF - len(buffer), buffer)
    start = time.perf_counter()
    disk.read_all(RANDOM, buffer)
    middle = time.perf_counter()
    for offset in range(0, HALF - len(buffer), len(buffer)):
        disk.read(offset, buffer)
    end = time.perf_counter()
    disk.close()
    return len(RANDOM) / (middle - start), (HALF - len(buffer)) / (end - middle) / 1e9


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as directory:
        socket, image = Path(directory, "s"), Path(directory, "image")
        half = random.Random(2).randbytes(SIZE // 8) * 4
        image.write_bytes(b"".join(half[at : at + 2048] + bytes(2048) for at in range(0, len(half), 2048)))
        cache = ["--filter=cache", "cache-on-read=true"]
        # Filters are named before the plugin, their parameters behind it.
        ways: dict[str, tuple[list[str], list[str], str]] = {
            "nbdkit file plugin (C; the ceiling)": ([], ["file", str(image)], ""),
            "serve(), FileDisk": ([], [], "open_file"),
            "serve(), compressed": ([], [], "open_compressed"),
            "+ cache, FileDisk": (cache[:1], cache[1:], "open_file"),
            "+ cache, compressed": (cache[:1], cache[1:], "open_compressed"),
            "+ readahead, compressed": (["--filter=readahead"], [], "open_compressed"),
        }
        best: dict[str, tuple[float, float]] = {}
        for _ in range(rounds):
            for name, (before, after, factory) in ways.items():
                if name.startswith("serve()"):
                    server = serve(f"serving:{factory}", {"path": str(image)}, socket)
                elif factory:
                    order = Order(f"serving:{factory}", {"path": str(image)}, False, False)
                    server = nbdkit(socket, before, "python", str(PLUGIN), *after, order=order)
                else:
                    server = nbdkit(socket, before, *after)
                with server:
                    figures = measure(socket)
                best[name] = tuple(map(max, best.get(name, figures), figures))
        for name, (iops, rate) in best.items():
            print(f"| {name} | {iops / 1000:.1f} k/s | {rate:.2f} GB/s |")


if __name__ == "__main__":
    main()
