"""What a host keeps of its vault: the membership (with the token, for its owner only) and how the last talk went.

Both are files of the state directory, so that they can be read, and the membership be changed, while the agent runs.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from standby import failpoints
from standby.errors import InvalidRequest, NeedsPerson, Recoverable
from standby.link.messages import Registered, VaultKey
from standby.objects.durable import sync

_MEMBERSHIP: Final = "vault.json"
_TALK: Final = "vault-talk.json"

_WRITTEN = failpoints.declare("membership.written")
_REPLACED = failpoints.declare("membership.replaced")

_T = TypeVar("_T")


class StateUnwritable(Recoverable):
    """The agent's state directory cannot be written."""


class MembershipDamaged(NeedsPerson):
    """The file that says which vault the host belongs to cannot be read."""


class KeyFileInvalid(InvalidRequest):
    """The file is no vault key."""


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """The host's place in a vault. authority: PEM, "" for the system's authorities. token: shown to nobody."""

    vault: str
    site: str
    authority: str
    host: str
    name: str
    token: str
    expires: str

    def __repr__(self) -> str:
        return f"Membership(vault={self.vault!r}, host={self.host!r})"


class Talk(msgspec.Struct, frozen=True, kw_only=True):
    """How the agent and its vault get on. answered: when the vault last answered a heartbeat, asked: when one was
    last sent (RFC 3339). problem: why the last one was not answered, with what a person can do; "" if it was.
    skew: seconds by which the vault's clock is ahead of this host's."""

    host: str
    answered: str = ""
    asked: str = ""
    problem: str = ""
    failures: int = 0
    skew: float = 0.0


def read_key(path: Path) -> VaultKey:
    """Raises KeyFileInvalid."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=VaultKey)
    except OSError as error:
        cause = f"it cannot be read: {error.strerror}"
    except msgspec.DecodeError as error:
        cause = f"this is no vault key: {error}"
    raise KeyFileInvalid(
        cause, subject=str(path), hint="download a key in the vault's portal, at Infrastructure, Keys"
    )


def membership_of(key: VaultKey, name: str, registered: Registered) -> Membership:
    return Membership(
        vault=key.vault,
        site=registered.site,
        authority=key.authority,
        host=registered.host,
        name=name,
        token=registered.token,
        expires=registered.expires,
    )


def membership(folder: Path) -> Membership | None:
    """None where the host belongs to no vault. Raises MembershipDamaged."""
    return _read(folder / _MEMBERSHIP, Membership)


def keep_membership(folder: Path, kept: Membership) -> None:
    """Durably and whole, or not at all. Raises StateUnwritable."""
    _write(folder / _MEMBERSHIP, msgspec.json.encode(kept), durable=True)


def forget_membership(folder: Path) -> None:
    """Harmless to repeat."""
    for name in (_TALK, _MEMBERSHIP):
        (folder / name).unlink(missing_ok=True)
    sync(folder)


def membership_mark(folder: Path) -> tuple[int, int] | None:
    """Changes whenever the membership does; None where there is none. Cheap."""
    try:
        found = (folder / _MEMBERSHIP).stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def talk(folder: Path) -> Talk | None:
    """None before the first, and where a power cut left half of it."""
    with contextlib.suppress(MembershipDamaged):
        return _read(folder / _TALK, Talk)
    return None


def keep_talk(folder: Path, kept: Talk) -> None:
    """Whole, but not durably: it is written with every heartbeat, and is of now. Raises StateUnwritable."""
    _write(folder / _TALK, msgspec.json.encode(kept), durable=False)


def _read(path: Path, kind: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise MembershipDamaged(
            f"it cannot be read: {error}",
            subject=str(path),
            tried="nothing was changed; replication goes on",
            hint="`standby agent leave`, then `standby agent register` with a new key",
        ) from error


def _write(path: Path, data: bytes, *, durable: bool) -> None:
    fresh = path.with_name(f"{path.name}.new")
    try:
        fresh.unlink(missing_ok=True)  # of a killed process; whatever its rights were
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
                _WRITTEN.reach()
        fresh.replace(path)
        if durable:
            sync(path.parent)
            _REPLACED.reach()
    except OSError as error:
        raise StateUnwritable(
            f"it cannot be written: {error.strerror}",
            subject=str(path),
            tried="the old one is as it was",
            hint="make room on this volume and let the agent write there",
        ) from error
