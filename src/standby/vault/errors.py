"""What the vault refuses with. Each has an HTTP status of its own (`vault.api.problem`)."""

from __future__ import annotations

from standby.errors import InvalidRequest, Recoverable


class NotFound(InvalidRequest):
    """There is no such thing in this vault."""


class Conflict(InvalidRequest):
    """It cannot be done as things are now."""


class Forbidden(InvalidRequest):
    """This user may not do that."""


class Unauthenticated(InvalidRequest):
    """It is not known who asks."""


class TooManyAttempts(Recoverable):
    """Too many wrong passwords: log-ins are refused for a while."""
