"""Sizes, times and ages as people read them. Pure: the zone and the present are given or the host's own."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def size(count: int) -> str:
    """Bytes in binary units, three digits or so: 512 B, 1.5 KiB, 20 GiB."""
    if abs(count) < 1024:
        return f"{count} B"
    value = float(count)
    for unit in _UNITS:  # noqa: B007 - the last one is used below
        value /= 1024
        # What would round up to 1024 belongs to the next unit.
        if abs(value) < 1023.5:
            break
    text = f"{value:.1f}" if abs(value) < 99.95 else f"{value:.0f}"
    return f"{text.removesuffix('.0')} {unit}"


def duration(seconds: float) -> str:
    """0.04 s, 5.2 s, 3 min 20 s, 2 h 5 min, 4 days 3 h."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    parts = [
        (days, "day" if days == 1 else "days"),
        (hours, "h"),
        (minutes, "min"),
        (rest, "s"),
    ]
    first = next((index for index, (count, _) in enumerate(parts) if count), 3)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count) or "0 s"


def age(at: datetime, now: datetime) -> str:
    """How long ago, in one unit: 12 s ago, 3 min ago, 2 h ago, 5 days ago."""
    seconds = (now - at).total_seconds()
    if seconds < -1:
        # The clock of the writer, or ours, is wrong; an operator should see that and not "0 s ago".
        return f"{_one_unit(-seconds)} ahead"
    return f"{_one_unit(max(0.0, seconds))} ago"


def _one_unit(seconds: float) -> str:
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds // divisor)} {unit}"
    return f"{int(seconds // 86400)} days"


def instant(text: str) -> datetime:
    """A record's time (RFC 3339)."""
    return datetime.fromisoformat(text)


def local(at: datetime) -> str:
    """In the zone of this process (TZ), to the second."""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S}"


def zone(at: datetime) -> str:
    """The name of the local zone at that time."""
    return at.astimezone().tzname() or ""


def ranges(numbers: Iterable[int]) -> str:
    """3, 5-9, 12."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def counted(number: int, noun: str) -> str:
    """1 point, 2 points."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
