"""Whether this host can run guests on its processor, or has to emulate one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from standby.errors import InvalidRequest

Accelerator = Literal["kvm", "tcg"]
SETTING: Final = "STANDBY_ACCEL"


class UnknownAccelerator(InvalidRequest):
    """STANDBY_ACCEL holds something that is no accelerator."""


def choose(
    environment: Mapping[str, str] = os.environ,
    cpuinfo: Path = Path("/proc/cpuinfo"),
    device: Path = Path("/dev/kvm"),
) -> Accelerator:
    """What STANDBY_ACCEL says, else KVM where it really works, else TCG.

    /dev/kvm alone proves nothing: kvm_pvm offers it without the processor's help, and guests die in it.
    """
    forced = environment.get(SETTING, "")
    match forced:
        case "kvm" | "tcg":
            return forced
        case "":
            virtualizes = re.search(r"^flags\s*:.*\b(vmx|svm)\b", cpuinfo.read_text(), re.MULTILINE)
            return "kvm" if virtualizes and os.access(device, os.R_OK | os.W_OK) else "tcg"
        case _:
            raise UnknownAccelerator(f"{forced!r} is neither kvm nor tcg", subject=SETTING)
