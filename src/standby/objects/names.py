"""Which names an object may have (objects/base.py), checked before any store is asked.

Besides the alphabet there are two limits, those of the narrowest store: 1024 characters in all (S3) and
255 in a part (a directory's entry).
"""

from __future__ import annotations

import re

from standby.errors import InvalidRequest

MAX_NAME = 1024
MAX_PART = 255

_NAME = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*")
_PREFIX = re.compile(r"(?:[A-Za-z0-9._-]+/)*[A-Za-z0-9._-]*")


class InvalidName(InvalidRequest):
    """The text is no object name. Nothing was asked of the store."""


def check_name(name: str) -> str:
    """`name` itself if it names an object; otherwise raises InvalidName telling what is wrong with it."""
    if not _NAME.fullmatch(name):
        raise _invalid(name, "a name is parts of [A-Za-z0-9._-] with single slashes between them")
    _check_parts(name, name.split("/"))
    return name


def is_name(text: str) -> bool:
    """Whether `text` names an object. What else lies in a shared bucket is none of ours."""
    try:
        check_name(text)
    except InvalidName:
        return False
    return True


def check_prefix(prefix: str) -> str:
    """`prefix` itself if some name can start with it: "", "a", "a/", "a/b". Otherwise InvalidName."""
    if not _PREFIX.fullmatch(prefix):
        raise _invalid(prefix, "no name can start with this")
    # Only the parts that a slash closes are complete: "a/.." is the start of "a/..b".
    _check_parts(prefix, prefix.split("/")[:-1])
    return prefix


def _check_parts(text: str, parts: list[str]) -> None:
    if len(text) > MAX_NAME:
        raise _invalid(text, f"longer than {MAX_NAME} characters")
    for part in parts:
        if part in (".", ".."):
            raise _invalid(text, f"holds the part {part!r}")
        if len(part) > MAX_PART:
            raise _invalid(text, f"holds a part longer than {MAX_PART} characters")


def _invalid(text: str, why: str) -> InvalidName:
    shown = text if len(text) <= 80 else text[:77] + "..."
    return InvalidName(f"not a valid object name: {why}", subject=repr(shown), hint="choose another name")
