"""Templates, and the words in which sizes, times and durations are shown."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any, Final

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import standby
from standby.replication.forecast import size_of
from standby.replication.health import Level
from standby.vault.jobs import KINDS

STATIC: Final = resources.files("standby.portal") / "static"
VENDOR: Final = ("htmx.min.js", "echarts.common.min.js")
"""What scripts/setup puts beside the portal's own files."""


def page(request: Request, template: str, *, status: int = 200, **context: Any) -> Response:
    """A page, or the part of it that was asked for: what follows the vault (X-Live; with an ETag), or its form
    (HX-Request), for a dialog."""
    context |= {
        "request": request,
        "path": request.url.path,
        "vendor_missing": vendor_missing(),
        "heading": "h2" if "HX-Request" in request.headers else "h1",
    }
    text = environment().get_template(template).render(context)
    if "X-Live" in request.headers and status == 200:
        text = _part(text, "live")
        tag = f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
        if request.headers.get("If-None-Match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return HTMLResponse(text, headers={"ETag": tag})
    if "HX-Request" in request.headers:
        text = _part(text, "dialog")
    return HTMLResponse(text, status)


def _part(text: str, name: str) -> str:
    """What lies between a template's marks."""
    _, begin, rest = text.partition(f"<!--{name}-->")
    inside, end, _ = rest.partition(f"<!--/{name}-->")
    return inside if begin and end else text


@cache
def environment() -> Environment:
    found = Environment(
        loader=PackageLoader("standby.portal"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "instant": instant,
        "age": age,
        "size": lambda count: size_of(int(count)),
        "duration": duration,
        "title_of": lambda kind: KINDS[kind].title,
        "sentence": lambda text: text[:1].upper() + text[1:],
        "mark": mark,
        "every": every,
    }
    found.globals |= {"version": standby.__version__, "stamp": stamp(), "Level": Level}
    return found


@cache
def stamp() -> str:
    """Of the portal's files: another one whenever one of them is another."""
    found = hashlib.sha256()
    for folder in (STATIC, STATIC / "vendor"):
        if folder.is_dir():
            for file in sorted(folder.iterdir(), key=lambda one: one.name):
                if file.is_file():
                    found.update(file.read_bytes())
    return found.hexdigest()[:12]


@cache
def vendor_missing() -> tuple[str, ...]:
    return tuple(name for name in VENDOR if not (STATIC / "vendor" / name).is_file())


def instant(at: datetime | str | None) -> Markup:
    """In the browser's zone once its script has run; the exact UTC in the title."""
    return _time(at, "")


def age(at: datetime | str | None) -> Markup:
    """How long ago, counted on by the browser; without its script, the instant."""
    return _time(at, " data-age")


def _time(at: datetime | str | None, more: str) -> Markup:
    if not at:
        return Markup("–")
    parsed = (datetime.fromisoformat(at) if isinstance(at, str) else at).astimezone(UTC)
    told = f"{parsed:%Y-%m-%d %H:%M:%S} UTC"
    return Markup('<time datetime="{}"{} title="{}">{}</time>').format(
        f"{parsed:%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z", Markup(more), told, told
    )


def duration(seconds: float | None) -> str:
    """`850 ms`, `32 s`, `4 min 10 s`, `3 h 20 min`, `2 d 4 h`."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10 and seconds % 1 >= 0.05:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, length, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= length:
            rest = whole % length // part
            return f"{whole // length} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def every(seconds: int) -> str:
    return f"{seconds // 60} min" if seconds >= 60 and seconds % 60 == 0 else f"{seconds} s"


_MARKS: Final = {
    "normal": "good",
    "succeeded": "good",
    "warning": "warn",
    "critical": "bad",
    "failed": "bad",
    "in progress": "busy",
    "waiting for input": "warn",
    "queued": "busy",
    "information": "plain",
}


def mark(word: object) -> Markup:
    """A word as a badge: its colour is never all that tells."""
    text = str(word)
    return Markup('<span class="badge {}">{}</span>').format(_MARKS.get(text.lower(), "plain"), text)
