"""Errors, by what the caller does about them.

A class answers one question: retry, stop, resynchronize, correct the request, or call a person.
Leaf classes live beside the code that raises them; they derive from exactly one class here.
"""

from __future__ import annotations

from typing import ClassVar


class StandbyError(Exception):
    """Base of every error that standby raises on purpose.

    subject: the object concerned (a disk, a log's name, a machine), as the operator knows it.
    cause:   what is wrong, in one clause.
    tried:   what was already done about it, if anything.
    hint:    what to do next, if possible a command.
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, cause: str, *, subject: str = "", tried: str = "", hint: str = "") -> None:
        self.subject = subject
        self.cause = cause
        self.tried = tried
        self.hint = hint
        super().__init__(cause)

    def __str__(self) -> str:
        text = f"{self.subject}: {self.cause}" if self.subject else self.cause
        if self.tried:
            text += f". Tried: {self.tried}"
        if self.hint:
            text += f". Next: {self.hint}"
        return text


class Bug(StandbyError):
    """An invariant of standby's own broke. The caller stops and reports; nothing was forgotten."""

    exit_status = 1


class InvalidRequest(StandbyError):
    """The request cannot be met as it was put. The caller corrects it; nothing was changed."""

    exit_status = 3


class Recoverable(StandbyError):
    """The world is in the way for now (network, space, a busy store). The caller retries later."""

    exit_status = 4


class NeedsPerson(StandbyError):
    """No retry can help (broken chain, authorization, damage). Critical, until somebody acts."""

    exit_status = 5


class Fenced(StandbyError):
    """A newer epoch owns the replica. The caller stops at once and never writes to it again."""

    exit_status = 6


class ResyncRequired(StandbyError):
    """Changes can no longer be told apart. The caller compares the disk with its replica by hashes."""

    exit_status = 7


class Damaged(NeedsPerson):
    """Stored bytes are not those that were written. The message names the object and the block."""

    exit_status = 8
