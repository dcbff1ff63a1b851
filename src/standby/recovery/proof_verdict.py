"""From what was seen of a started point to a verdict. Pure.

A proof says that a point *works*, so silence is never a pass: passed needs something of the guest's own doing (its
agent's answer, a probe), and nothing that speaks against it. Only what a machine that works never shows is a
failure; all else leaves it unsure, for a person who looks at the picture.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from standby.replica.proofs import Check, Verdict

CLOCK_OFF: Final = 300.0
"""Seconds by which a guest's clock may differ before it is told."""

_PANICS: Final = (
    (re.compile(r"Kernel panic - not syncing[^\r\n]{0,120}"), "the kernel panicked"),
    (re.compile(r"VFS: Unable to mount root fs[^\r\n]{0,80}"), "the root file system was not found"),
    (re.compile(r"You are in emergency mode|Entering emergency mode"), "it stopped in emergency mode"),
    (re.compile(r"grub rescue>|error: no such device[^\r\n]{0,80}"), "its boot loader found no system"),
    (re.compile(r"No bootable device|Boot failed: not a bootable disk"), "no disk is bootable"),
)
"""What a console says only when the boot has ended badly: Linux, systemd, GRUB, SeaBIOS."""


class Seen(NamedTuple):
    """What was seen. refused: why the machine could not even be started, "" if it was. running: at the end.
    agent: whether it answered within `limit` seconds; None where nobody waited for it. damage: blocks or
    servers that failed under it, a sentence each. probes: their results. console: the tail of the serial log.
    blank: whether the screen showed nothing; None where no picture was made. clock_off: seconds by which the
    guest's clock is ahead of ours."""

    refused: str = ""
    running: bool = True
    agent: bool | None = None
    limit: float = 0.0
    damage: tuple[str, ...] = ()
    probes: tuple[Check, ...] = ()
    console: str = ""
    blank: bool | None = None
    clock_off: float | None = None


class Judged(NamedTuple):
    """reasons: sentences, those that decide first; hints behind them."""

    verdict: Verdict
    reasons: tuple[str, ...]


def judge(seen: Seen) -> Judged:
    failed = _against(seen)
    if failed:
        return Judged("failed", (*failed, *_hints(seen)))
    works = ["the guest agent answered"] if seen.agent else []
    works += [f"{one.name}: {one.text}" for one in seen.probes if one.passed]
    open_ones = [f"{one.name}: {one.text}" for one in seen.probes if one.passed is None]
    if open_ones:
        return Judged("unsure", (*open_ones, *_hints(seen)))
    if not works:
        nothing = "nothing of the guest answered: it has no agent, and no probe was given"
        return Judged("unsure", (nothing, *_hints(seen)))
    return Judged("passed", (*works, *_hints(seen)))


def _against(seen: Seen) -> list[str]:
    if seen.refused:
        return [f"the machine could not be started: {seen.refused}"]
    found = list(seen.damage)
    if not seen.running:
        found.append("the machine ended")
    if seen.agent is False:
        found.append(f"the guest agent did not answer within {seen.limit:g} s")
    found += [f"{one.name}: {one.text}" for one in seen.probes if one.passed is False]
    # A line in the log of an earlier boot does not count against a guest that answers.
    if not seen.agent:
        for pattern, meaning in _PANICS:
            if match := pattern.search(seen.console):
                found.append(f"{meaning} (console: {match[0].strip()!r})")
    return found


def _hints(seen: Seen) -> list[str]:
    hints = []
    if seen.blank:
        hints.append("a hint: its screen is blank")
    if seen.clock_off is not None and abs(seen.clock_off) > CLOCK_OFF:
        way = "ahead of" if seen.clock_off > 0 else "behind"
        hints.append(f"a hint: its clock is {abs(seen.clock_off):.0f} s {way} this host's")
    return hints
