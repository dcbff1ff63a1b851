"""Options that make a policy, and how its parts are told."""

from __future__ import annotations

import re
from datetime import time
from typing import Annotated

import msgspec
import typer

from standby.errors import InvalidRequest
from standby.replication.hours import Hours
from standby.replication.limits import Bandwidth
from standby.replication.policy import FREQUENCIES, Policy
from standby.replication.window import ResyncWindow, Start

Frequency = Annotated[
    int | None,
    typer.Option(
        "--frequency",
        metavar="SECONDS",
        help=f"Between two points: {', '.join(map(str, FREQUENCIES))} [default: 30].",
    ),
]
ApplicationConsistent = Annotated[
    int | None,
    typer.Option(
        "--application-consistent",
        metavar="HOURS",
        help="A point with the guest's file systems frozen every so many hours, 1 to 12 [default: 0, none].",
    ),
]
Backlog = Annotated[
    int | None,
    typer.Option(
        "--backlog",
        metavar="PERCENT",
        help="Of a disk's size, how much of logs may wait for the store [default: 50].",
    ),
]
Reserve = Annotated[
    str | None,
    typer.Option("--reserve", metavar="SIZE", help="What logs leave free where they lie [default: 1G]."),
]
ResyncStart = Annotated[
    Start | None,
    typer.Option("--resync", help="When disks that must be compared may be [default: automatic]."),
]
ResyncHours = Annotated[
    str | None,
    typer.Option(
        "--resync-hours", metavar="FROM-TO", help="Of `--resync scheduled`, host time [default: 18:30-06:00]."
    ),
]
Work = Annotated[
    str | None,
    typer.Option("--work", metavar="RATE", help="Bytes a second in the work hours, e.g. 20M; or none."),
]
Other = Annotated[
    str | None,
    typer.Option("--other", metavar="RATE", help="Bytes a second outside of them; or none."),
]
WorkHours = Annotated[
    str | None,
    typer.Option(
        "--work-hours", metavar="HOURS", help="E.g. `Mon-Fri 09:00-18:00`, host time [default: this]."
    ),
]
UploadThreads = Annotated[
    int | None,
    typer.Option(
        "--upload-threads", metavar="N", help="Logs of the machine sent at once, 1 to 32 [default: 4]."
    ),
]

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_SHORT = [day.lower() for day in _DAYS]


def policy_of(
    policy: Policy,
    *,
    frequency: int | None = None,
    application_consistent: int | None = None,
    backlog: int | None = None,
    reserve: str | None = None,
    resync: Start | None = None,
    resync_hours: str | None = None,
    work: str | None = None,
    other: str | None = None,
    work_hours: str | None = None,
    upload_threads: int | None = None,
) -> Policy:
    """The policy with what the options say about it. Raises PolicyRefused, InvalidRequest."""
    window = ResyncWindow(
        start=policy.resync.start if resync is None else resync,
        hours=policy.resync.hours if resync_hours is None else hours_of(resync_hours),
    )
    changes = {
        "frequency": frequency,
        "application_consistent_hours": application_consistent,
        "backlog_percent": backlog,
        "reserve": None if reserve is None else bytes_of(reserve),
        "upload_threads": upload_threads,
        "resync": window,
        "bandwidth": bandwidth_of(policy.bandwidth, work, other, work_hours),
    }
    return msgspec.structs.replace(
        policy, **{name: value for name, value in changes.items() if value is not None}
    )


def bandwidth_of(current: Bandwidth, work: str | None, other: str | None, hours: str | None) -> Bandwidth:
    return Bandwidth(
        work=current.work if work is None else _rate(work),
        other=current.other if other is None else _rate(other),
        work_hours=current.work_hours if hours is None else hours_of(hours),
    )


def rate_text(bandwidth: Bandwidth) -> str:
    if bandwidth.work == bandwidth.other:
        return _told(bandwidth.work)
    days = sorted(bandwidth.work_hours.days)
    named = f"{_DAYS[days[0]]}-{_DAYS[days[-1]]}" if days else "no day"
    return f"{_told(bandwidth.work)} ({named} {bandwidth.work_hours}), else {_told(bandwidth.other)}"


def bytes_of(text: str) -> int:
    """`20M` in bytes. Raises InvalidRequest."""
    if found := re.fullmatch(r"(\d+)([KMGT]?)i?B?", text.strip(), re.IGNORECASE):
        return int(found[1]) * _UNITS[found[2].upper()]
    raise InvalidRequest(
        f"{text!r} is no size", subject="size", hint="give a number and K, M, G or T, e.g. 20M"
    )


def hours_of(text: str) -> Hours:
    """`Mon-Fri 09:00-18:00` or `18:30-06:00`. Raises InvalidRequest."""
    found = re.fullmatch(
        r"(?:([A-Za-z]{3})(?:-([A-Za-z]{3}))? +)?(\d{1,2}:\d\d)-(\d{1,2}:\d\d)", text.strip()
    )
    try:
        if not found:
            raise ValueError(text)
        first = _SHORT.index(found[1].lower()) if found[1] else 0
        last = _SHORT.index(found[2].lower()) if found[2] else first if found[1] else 6
        days = frozenset((first + step) % 7 for step in range((last - first) % 7 + 1))
        begin, end = (time.fromisoformat(one.zfill(5)) for one in found.group(3, 4))
    except ValueError as error:
        raise InvalidRequest(
            f"{text!r} are no hours", subject="hours", hint="give e.g. `18:30-06:00` or `Mon-Fri 09:00-18:00`"
        ) from error
    return Hours(start=begin, end=end, days=days)


def _rate(text: str) -> int | None:
    return None if text.strip().lower() == "none" else bytes_of(text)


def _told(rate: int | None) -> str:
    if rate is None:
        return "no limit"
    return f"{rate / (1 << 20):.1f} MiB/s" if rate >= 1 << 20 else f"{rate / 1024:.0f} KiB/s"
