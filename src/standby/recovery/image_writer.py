"""An image file as a `WritableDisk`, whatever its format: raw bytes directly, others through QEMU."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from standby.block.disk import WritableDisk
from standby.block.file import FileDisk
from standby.block.images import Format, ImageFailed
from standby.block.nbd import NbdDisk
from standby.errors import NeedsPerson

_DIRECT: Final = (Format.RAW, Format.VHD_FIXED)
"""Formats whose data lie in the file as they are (a fixed VHD has a footer behind them)."""
_EXPORT: Final = "image"
_CLOSING: Final = 120.0
"""Seconds that the storage daemon gets to write an image's tables and to close it."""


@contextlib.contextmanager
def opened(path: Path, format: Format, size: int, *, writable: bool) -> Iterator[WritableDisk]:
    """The disk in an image that exists. Leaving the block closes the image; ImageFailed if that fails."""
    if format in _DIRECT:
        disk = FileDisk(path, size, writable=writable)
        try:
            yield disk
        finally:
            disk.close()
    else:
        with _storage_daemon(path, format, writable) as socket:
            served = NbdDisk(socket, _EXPORT)
            try:
                yield served
            finally:
                served.close()


@contextlib.contextmanager
def _storage_daemon(path: Path, format: Format, writable: bool) -> Iterator[Path]:
    """A qemu-storage-daemon that serves the image on the socket given, and ends with the block."""
    with tempfile.TemporaryDirectory(prefix="standby-") as directory, tempfile.TemporaryFile() as messages:
        socket = Path(directory, "nbd")
        file = {"driver": "file", "filename": str(path), "discard": "unmap"}
        node = {"driver": format.driver, "node-name": _EXPORT, "file": file, "read-only": not writable}
        command = [
            # Whatever ends us, no daemon stays behind and holds the image.
            *("setpriv", "--pdeathsig", "KILL", "qemu-storage-daemon"),
            *("--blockdev", json.dumps(node)),
            *("--nbd-server", f"addr.type=unix,addr.path={socket}"),
            "--export",
            f"nbd,id={_EXPORT},node-name={_EXPORT},name={_EXPORT},writable={'on' if writable else 'off'}",
            # Last: its greeting tells that all before is done.
            *("--chardev", "stdio,id=monitor", "--monitor", "chardev=monitor"),
        ]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=messages,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise NeedsPerson(
                "qemu-storage-daemon is not installed", subject=str(path), hint="apt install qemu-system-x86"
            ) from error
        with process:
            try:
                assert process.stdout
                if not process.stdout.readline():
                    process.wait()
                    raise _failed(path, "QEMU cannot open the image", messages)
                yield socket
                _close(process, path, messages)
            finally:
                process.kill()


def _close(process: subprocess.Popen[bytes], path: Path, messages: IO[bytes]) -> None:
    """End the daemon in good order: only then is the image complete."""
    quit = b'{"execute": "qmp_capabilities"}{"execute": "quit"}\n'
    try:
        process.communicate(quit, timeout=_CLOSING)
    except subprocess.TimeoutExpired as error:
        raise _failed(path, f"QEMU did not close the image within {_CLOSING:g} s", messages) from error
    if process.returncode:
        raise _failed(path, f"QEMU ended with {process.returncode}", messages)


def _failed(path: Path, cause: str, messages: IO[bytes]) -> ImageFailed:
    messages.seek(0)
    said = messages.read().decode(errors="replace").strip()
    return ImageFailed(f"{cause}: {said}" if said else cause, subject=str(path))
