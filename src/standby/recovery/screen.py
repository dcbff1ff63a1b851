"""Whether a picture of a screen shows anything: a hint, no more. Reads the PNG files that QEMU writes."""

from __future__ import annotations

import struct
import zlib
from typing import Final

import numpy as np
import numpy.typing as npt

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_CHANNELS: Final = {0: 1, 2: 3, 4: 2, 6: 4}
_MOST_PIXELS: Final = 1 << 24
BLANK: Final = 0.9998
"""Share of one colour from which on a screen shows nothing: a text cursor alone is 0.006 % of 720 x 400."""

Pixels = npt.NDArray[np.uint8]


def blank(png: bytes) -> bool | None:
    """Whether nearly all of it has one colour; None for a picture that is not read here."""
    pixels = _pixels(png)
    if pixels is None:
        return None
    colours = pixels.reshape(-1, pixels.shape[2]).astype(np.uint32)
    packed = sum(colours[:, index] << (8 * index) for index in range(colours.shape[1]))
    _, counts = np.unique(packed, return_counts=True)
    return bool(counts.max() >= BLANK * counts.sum())


def _pixels(png: bytes) -> Pixels | None:
    """Rows, columns, channels of 8 bits. PNG (W3C) sections 5, 9 and 11; without palettes and interlacing."""
    try:
        if png[:8] != _SIGNATURE:
            return None
        width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", png[16:29])
        channels = _CHANNELS.get(kind)
        if channels is None or depth != 8 or interlaced or not 0 < width * height <= _MOST_PIXELS:
            return None
        data, at = bytearray(), 8
        while at < len(png):
            (length,) = struct.unpack(">I", png[at : at + 4])
            if png[at + 4 : at + 8] == b"IDAT":
                data += png[at + 8 : at + 8 + length]
            at += 12 + length
        stride = width * channels
        raw = zlib.decompressobj().decompress(bytes(data), height * (stride + 1))
        lines = np.frombuffer(raw, np.uint8).reshape(height, stride + 1)
    except (struct.error, zlib.error, ValueError):
        return None
    rows = np.zeros((height, stride), np.uint8)
    above = np.zeros(stride, np.uint8)
    for number, line in enumerate(lines):
        above = rows[number] = _unfiltered(int(line[0]), line[1:], above, channels)
    return rows.reshape(height, width, channels)


def _unfiltered(kind: int, line: Pixels, above: Pixels, step: int) -> Pixels:
    if kind == 0:
        return line
    if kind == 1:
        summed = line.reshape(-1, step).cumsum(axis=0, dtype=np.uint64)
        return (summed & 0xFF).astype(np.uint8).reshape(-1)
    if kind == 2:
        return line + above
    # Average and Paeth need the pixel before; most lines of a screen have the ones above.
    out, up = bytearray(line.tobytes()), above.tobytes()
    for at in range(len(out)):
        left = out[at - step] if at >= step else 0
        corner = up[at - step] if at >= step else 0
        guess = (left + up[at]) // 2 if kind == 3 else _paeth(left, up[at], corner)
        out[at] = (out[at] + guess) & 0xFF
    return np.frombuffer(bytes(out), np.uint8)


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    near = (abs(guess - left), abs(guess - up), abs(guess - corner))
    return (left, up, corner)[near.index(min(near))]
