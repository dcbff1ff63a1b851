"""Processes that are killed at a failpoint: the caller's side of zygote.py."""

from __future__ import annotations

import json
import subprocess
import sys

KILLED, DONE = -9, 0


class Zygote:
    def __init__(self, **order) -> None:
        self._order = order
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.recovery.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def live(self, verb: str, failpoint: str = "", **more) -> int:
        """One life of a process: its exit status, KILLED if the failpoint was reached."""
        order = {**self._order, **more, "verb": verb, "failpoint": failpoint}
        self._process.stdin.write(json.dumps({key: str(value) for key, value in order.items()}) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(10)
