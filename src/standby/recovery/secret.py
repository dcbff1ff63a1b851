"""The data key of the replica that a recovery reads, in its run directory: its servers outlive whoever had the key.

A file of mode 0600 in a directory of mode 0700, beside the overlay of the same machine. It goes with the directory.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from standby.replica.cipher import Cipher
from standby.replica.keys import DataKey, Key

_FILE: Final = "key"


def write(run: Path, cipher: Cipher | None) -> None:
    """None where the replica is not encrypted; then there is no file."""
    if cipher is None:
        return
    handle = os.open(run / _FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(cipher.data_key)
        file.flush()
        os.fsync(handle)


def read(run: Path) -> bytes:
    """Empty where the replica is not encrypted."""
    try:
        return (run / _FILE).read_bytes()
    except FileNotFoundError:
        return b""


def key_of(run: Path) -> Key | None:
    """What opens the replica for the recovery's own steps."""
    data_key = read(run)
    return DataKey(data_key) if data_key else None
