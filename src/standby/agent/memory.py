"""How the process of an agent gives memory back. It runs for months, in threads that come and go."""

from __future__ import annotations

import ctypes
from typing import Final

_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
"""mallopt(3)."""

_ARENAS: Final = 2
_LARGE: Final = 512 << 10
"""Below what a worker reads at once (4 MiB), above what is asked for often."""


def give_back_large() -> None:
    """Let glibc return the buffers that disks are read into as soon as they are let go of.

    By itself it soon stops to map them one by one (its threshold grows with what is freed), and each of its many
    arenas, which are one or more a thread, then keeps what it ever had. Another C library is left as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_ARENA_MAX, _ARENAS)
