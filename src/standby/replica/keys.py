"""What opens an encrypted replica: key files and passphrases, and the data key that they wrap (format.md 7).

A replica's data key is random and never changes. Its head carries it wrapped, once for every key that may open
it; so keys come and go without anything being written anew. Neither a store nor a vault ever sees either.
"""

from __future__ import annotations

import os
import stat
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final, Literal
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from standby.errors import Bug, Damaged, InvalidRequest, NeedsPerson
from standby.objects.durable import sync
from standby.replica.cipher import KEY_BYTES, SALT_BYTES, Cipher, derive

SCRYPT: Final = (1 << 17, 8, 1)
"""N, r, p: 128 MiB and about half a second (OWASP's recommendation for scrypt)."""

_MOST_SCRYPT: Final = (1 << 20, 32, 16)
"""What a reader is willing to pay: a store that was tampered with shall not take all of its memory."""

GIVE: Final = (
    "give the key with --key-file FILE, or --passphrase; STANDBY_KEY_FILE names the file for all commands"
)

WrappingKind = Literal["file", "passphrase"]


class KeyMissing(NeedsPerson):
    """The replica is encrypted and no key was given."""


class WrongKey(NeedsPerson):
    """The key that was given is none of those that open the replica. Nothing is damaged."""


class KeyRefused(NeedsPerson):
    """A key file that is none, or that others may read."""


class NotEncrypted(InvalidRequest):
    """A key was given for a replica that is not encrypted."""


class WrappedKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The data key, sealed by one key that opens it. id: of that key, hex. salt, sealed: hex. n, r, p: scrypt's."""

    id: str
    kind: WrappingKind
    created: str
    salt: str
    sealed: str
    n: int = 0
    r: int = 0
    p: int = 0


class Key(ABC):
    """Something that opens replicas. Thread-safe; never shows what it holds. `told` names it in messages."""

    told: str = "the key"
    kind: ClassVar[WrappingKind]

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: dict[tuple[UUID, tuple[WrappedKey, ...]], Cipher] = {}

    def cipher(self, replica: UUID, wrapped: Sequence[WrappedKey], subject: str) -> Cipher:
        """The replica's cipher. Raises WrongKey, and Damaged if what this key had wrapped was changed.

        A key that is taken away goes on opening what it has opened in this process: its agent has the data key anyway,
        and a change of keys must not end its replication.
        """
        known = (replica, tuple(wrapped))
        with self._lock:
            if known not in self._opened:
                try:
                    self._opened[known] = Cipher(self._open(replica, wrapped, subject), replica)
                except WrongKey:
                    before = [cipher for (one, _), cipher in self._opened.items() if one == replica]
                    if not before:
                        raise
                    return before[-1]
            return self._opened[known]

    def wrap(self, data_key: bytes, replica: UUID, created: str) -> WrappedKey:
        """The data key for a head, to be opened by this key. created: RFC 3339."""
        salt = os.urandom(SALT_BYTES)
        fresh = WrappedKey(
            id="", kind=self.kind, created=created, salt=salt.hex(), sealed="", **self._parameters()
        )
        material = self._material(fresh)
        return msgspec.structs.replace(
            fresh,
            id=key_id(material),
            sealed=_aead(material, salt).encrypt(bytes(12), data_key, replica.bytes).hex(),
        )

    def opens(self, wrapped: WrappedKey) -> bool:
        """Whether `wrapped` was made by this key."""
        return wrapped.kind == self.kind and key_id(self._material(wrapped)) == wrapped.id

    def _open(self, replica: UUID, wrapped: Sequence[WrappedKey], subject: str) -> bytes:
        for one in wrapped:
            if one.kind != self.kind:
                continue
            material = self._material(one)
            if key_id(material) != one.id:
                continue
            try:
                return _aead(material, bytes.fromhex(one.salt)).decrypt(
                    bytes(12), bytes.fromhex(one.sealed), replica.bytes
                )
            except (InvalidTag, ValueError) as error:
                raise Damaged(
                    f"the data key that key {one.id} had sealed is not what was written", subject=subject
                ) from error
        raise WrongKey(
            f"{self.told} does not open it; these do: {names_of(wrapped)}",
            subject=subject,
            tried="nothing was read or written; nothing is damaged",
            hint="give one of those keys; `standby key show FILE` tells the id of a key file",
        )

    def _parameters(self) -> dict[str, int]:
        return {}

    @abstractmethod
    def _material(self, wrapped: WrappedKey) -> bytes:
        """The secret that this key is, for one wrapping."""


class KeyFile(Key):
    """A file of 32 random bytes that only its owner may read."""

    kind = "file"

    def __init__(self, path: Path) -> None:
        """Raises KeyRefused."""
        super().__init__()
        self.path = path.absolute()
        self._secret = _read(path)
        self.id = key_id(self._secret)
        self.told = f"the key file {path} (key {self.id})"

    @classmethod
    def new(cls, path: Path) -> KeyFile:
        """Make a key and write it, durably, where no file is. Raises KeyRefused."""
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError as error:
            raise KeyRefused(
                "there is a file already: a key that is overwritten opens nothing any more",
                subject=str(path),
                hint="name another file",
            ) from error
        except OSError as error:
            raise KeyRefused(
                f"it cannot be made: {error.strerror}", subject=str(path), hint="name another file"
            ) from error
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o600)
            file.write(os.urandom(KEY_BYTES))
            file.flush()
            os.fsync(handle)
        sync(path.absolute().parent)
        return cls(path)

    def _material(self, wrapped: WrappedKey) -> bytes:
        return self._secret


class Passphrase(Key):
    """Words that a person remembers, stretched by scrypt."""

    kind = "passphrase"
    told = "the passphrase"

    def __init__(self, text: str, scrypt: tuple[int, int, int] = SCRYPT) -> None:
        """scrypt: N, r, p for what is wrapped from here on. Raises KeyRefused if it is empty."""
        super().__init__()
        if not text:
            raise KeyRefused(
                "the passphrase is empty", subject="passphrase", hint="give one of several words"
            )
        self._text = text.encode()
        self._scrypt = scrypt
        self._stretched: dict[tuple[str, int, int, int], bytes] = {}

    def _parameters(self) -> dict[str, int]:
        return dict(zip("nrp", self._scrypt, strict=True))

    def _material(self, wrapped: WrappedKey) -> bytes:
        cost = (wrapped.n, wrapped.r, wrapped.p)
        sane = wrapped.n & (wrapped.n - 1) == 0 and wrapped.n > 1
        if not sane or any(not 0 < one <= most for one, most in zip(cost, _MOST_SCRYPT, strict=True)):
            raise Damaged(
                f"its scrypt parameters are out of bounds: {cost}", subject=f"wrapped key {wrapped.id}"
            )
        known = (wrapped.salt, *cost)
        if known not in self._stretched:
            kdf = Scrypt(
                salt=bytes.fromhex(wrapped.salt), length=KEY_BYTES, n=wrapped.n, r=wrapped.r, p=wrapped.p
            )
            self._stretched[known] = kdf.derive(self._text)
        return self._stretched[known]


class DataKey(Key):
    """The data key itself, handed from one process of ours to another: it opens one replica, and wraps nothing."""

    kind = "file"
    told = "the data key that was handed over"

    def __init__(self, data_key: bytes) -> None:
        super().__init__()
        self._data_key = data_key

    def _open(self, replica: UUID, wrapped: Sequence[WrappedKey], subject: str) -> bytes:
        return self._data_key

    def _material(self, wrapped: WrappedKey) -> bytes:
        raise Bug("a data key wraps nothing", subject=f"wrapped key {wrapped.id}")


def new_data_key() -> bytes:
    return os.urandom(KEY_BYTES)


def key_id(material: bytes) -> str:
    """What tells keys apart in public, hex; it says nothing of the key."""
    return derive(material, b"", b"standby id 1", 8).hex()


def names_of(wrapped: Sequence[WrappedKey]) -> str:
    """The keys that open a replica, for people."""
    return ", ".join(f"{'key' if one.kind == 'file' else 'passphrase'} {one.id}" for one in wrapped)


def _aead(material: bytes, salt: bytes) -> AESGCM:
    return AESGCM(derive(material, salt, b"standby wrap 1"))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            secret = file.read(KEY_BYTES + 1)
    except OSError as error:
        raise KeyRefused(
            f"the key file cannot be read: {error.strerror}",
            subject=str(path),
            hint="name the file with --key-file; `standby key new FILE` makes a key for a new replica",
        ) from error
    if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
        raise KeyRefused(
            f"others than its owner may use the key file (mode {stat.S_IMODE(status.st_mode):04o})",
            subject=str(path),
            hint=f"`chmod 600 {path}`; if others may have read it, change keys with `standby key rotate`",
        )
    if len(secret) != KEY_BYTES:
        size = status.st_size if stat.S_ISREG(status.st_mode) else len(secret)
        raise KeyRefused(
            f"this is no key file: it has {size} bytes instead of {KEY_BYTES}",
            subject=str(path),
            hint="name the right file; `standby key new FILE` makes a key",
        )
    return secret


def remembered(path: str) -> Key | None:
    """The key file of that path, or None where none is remembered. Raises KeyRefused."""
    return KeyFile(Path(path)) if path else None
