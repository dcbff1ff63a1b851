"""One guestfish at work: commands by its standard input, what they print by its standard output."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO, Final

from standby.errors import NeedsPerson, Recoverable
from standby.hypervisor import accelerator

_DONE: Final = "standby: done"
_GRACE: Final = 20.0


class ApplianceFailed(Recoverable):
    """guestfish could not start its machine, or gave up in it; the message is its own. said: its words."""

    said = ""


class Guestfish:
    """Ends with the process that made it; a command that fails ends it, unless it begins with `-`."""

    def __init__(self, options: Sequence[str]) -> None:
        self._messages: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end()
        # Without it a killed `standby` would leave guestfish waiting in its mount for ever.
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "guestfish", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            env=_environment(),
            start_new_session=True,
            text=True,
            errors="surrogateescape",
        )

    def tell(self, *words: str) -> None:
        """Give a command and do not wait for it. Raises ApplianceFailed."""
        assert self._process.stdin
        try:
            self._process.stdin.write(" ".join([words[0], *map(_quoted, words[1:])]) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed(words[0]) from None

    def ask(self, *words: str) -> list[str]:
        """The lines that the command prints, but for empty ones. Raises ApplianceFailed."""
        self.tell(*words)
        self.tell("echo", _DONE)
        assert self._process.stdout
        lines: list[str] = []
        for line in self._process.stdout:
            if line.rstrip("\n") == _DONE:
                return [one for one in lines if one]
            lines.append(line.rstrip("\n"))
        raise self._failed(words[0])

    def terminate(self) -> None:
        """End it though it is at work."""
        if self._process.poll() is None:
            self._process.terminate()

    def end(self) -> int:
        """Let it end, and its machine with it; its exit status. Killed if it does not."""
        try:
            self._process.communicate(timeout=_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._messages.close()
        return self._process.returncode

    def _failed(self, command: str) -> ApplianceFailed:
        self._process.wait()
        self._messages.seek(0)
        said = self._messages.read().decode(errors="replace").strip()[-1500:]
        error = ApplianceFailed(
            f"it ended at `{command}`; it said: {said or 'nothing'}",
            subject="guestfish",
            hint="`libguestfs-test-tool` tells what its machine lacks; "
            "or serve the disk with `standby replica serve` and read it otherwise",
        )
        error.said = said
        return error


def needed(purpose: str, lacking: Mapping[str, str] | None = None) -> None:
    """Raises NeedsPerson naming every package that is missing. lacking: programs that are, and their packages."""
    programs = {"guestfish": "guestfish", "setpriv": "util-linux"}
    missing = {name: package for name, package in programs.items() if not shutil.which(name)}
    missing |= lacking or {}
    if missing:
        raise NeedsPerson(
            f"{', '.join(missing)} not installed: it reads the file systems",
            subject=purpose,
            hint=f"apt install --no-install-recommends {' '.join(missing.values())}",
        )


def _environment() -> dict[str, str]:
    # libvirt could not open sockets of ours, and is not needed.
    settings = {"LIBGUESTFS_BACKEND": "direct"}
    if accelerator.choose() == "tcg":
        settings["LIBGUESTFS_BACKEND_SETTINGS"] = "force_tcg"
    return {**os.environ, **settings}


def _quoted(word: str) -> str:
    """As guestfish(1), "Quoting", reads it back."""
    if "\n" in word:
        raise ApplianceFailed("a name has a line break in it", subject=repr(word))
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
