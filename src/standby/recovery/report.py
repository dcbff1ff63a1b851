"""A drill's report: one HTML file for people who sign it, made of records alone.

It refers to nothing outside itself and runs nothing: pictures are in it, and its own policy forbids the browser any
request. Whoever has records of recoveries (a plan, a job of a vault) makes one the same way.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from standby.replica.proofs import Check

Outcome = Literal["passed", "failed", "unsure", ""]
"""A verdict; "" where none was asked for."""

_CONSOLE_LINES: Final = 40
_CURSOR: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
"""Control sequences of terminals (ECMA-48, 5.4)."""


class StepLine(NamedTuple):
    """A step, or a group of a plan. began: RFC 3339. seconds: None while it is not over. note: an error, or what
    a person did."""

    task: str
    name: str
    began: str
    seconds: float | None
    failed: bool = False
    note: str = ""


class Picture(NamedTuple):
    title: str
    png: bytes


class MachineReport(NamedTuple):
    """One machine's recovery. kind: what it was (`test failover`, `failover`, `failback`, `boot proof`). point_at,
    started: RFC 3339, "" where not known. rpo, rto: seconds; None where not known. rpo_told, rto_told: how they were
    told, a clause each. problems: sentences."""

    machine: str
    kind: str
    source: str
    host: str
    point: int
    point_at: str
    consistency: str
    started: str
    verdict: Outcome = ""
    reasons: tuple[str, ...] = ()
    rpo: float | None = None
    rpo_told: str = ""
    rto: float | None = None
    rto_told: str = ""
    guest: tuple[tuple[str, str], ...] = ()
    checks: tuple[Check, ...] = ()
    steps: tuple[StepLine, ...] = ()
    pictures: tuple[Picture, ...] = ()
    console: str = ""
    problems: tuple[str, ...] = ()


class Report(NamedTuple):
    """made: when. by: who made it. plan: the groups and steps of a plan that led the machines; none without one.
    problems: of the whole, sentences."""

    title: str
    made: datetime
    by: str
    machines: tuple[MachineReport, ...]
    plan: tuple[StepLine, ...] = ()
    problems: tuple[str, ...] = ()


class _Bar(NamedTuple):
    """Where a step lies within the whole time, in percent."""

    left: float
    width: float


def render(report: Report) -> str:
    """The HTML, whole."""
    environment = Environment(
        loader=PackageLoader("standby.recovery", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(span=span, instant=_instant, data=_data, tail=_tail, bars=_bars)
    return environment.get_template("report.html.j2").render(
        report=report,
        worst=worst([machine.verdict for machine in report.machines]),
        slowest=max((m.rto for m in report.machines if m.rto is not None), default=None),
        oldest=max((m.rpo for m in report.machines if m.rpo is not None), default=None),
        unready=sum(machine.rto is None for machine in report.machines),
        troubled=sum(bool(machine.problems) for machine in report.machines),
    )


def worst(verdicts: Sequence[Outcome]) -> Outcome:
    """The verdict of all together."""
    for one in ("failed", "unsure"):
        if one in verdicts:
            return "failed" if one == "failed" else "unsure"
    return "passed" if "passed" in verdicts else ""


def span(seconds: float | None) -> str:
    """0.4 s, 12 s, 3 min 5 s, 2 h 4 min, 3 days 4 h."""
    if seconds is None:
        return "not known"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 172_800:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} days {whole % 86_400 // 3600} h"


def _instant(text: str) -> str:
    if not text:
        return "not known"
    return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _tail(console: str) -> str:
    """The last lines, without what moves a terminal's cursor."""
    words = _CURSOR.sub("", console)
    plain = "".join(char for char in words if char in "\n\t" or char.isprintable())
    return "\n".join(plain.strip().splitlines()[-_CONSOLE_LINES:])


def _bars(steps: Sequence[StepLine]) -> list[_Bar]:
    """Of each step, in their order; a step whose times are not known has none."""
    begins = [datetime.fromisoformat(step.began).timestamp() if step.began else None for step in steps]
    known = [(at, step.seconds or 0.0) for at, step in zip(begins, steps, strict=True) if at is not None]
    if not known:
        return [_Bar(0, 0) for _ in steps]
    first = min(at for at, _ in known)
    whole = max(max(at + seconds for at, seconds in known) - first, 1e-3)
    return [
        _Bar(0, 0) if at is None else _Bar(100 * (at - first) / whole, 100 * (step.seconds or 0.0) / whole)
        for at, step in zip(begins, steps, strict=True)
    ]
