"""What is encrypted and authenticated with a replica's data key, and how (docs/format.md 3.7 and 7; decision 0009).

No key meets the same nonce twice, by construction: each log, sealed document and file has a key of its own,
derived from the data key and something that is never used again (the log's id, 32 random bytes); within one,
nonces are numbers that are used once.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Callable, Iterator
from typing import IO, Final, Literal
from uuid import UUID

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from standby.errors import Damaged
from standby.replica.format import BLOCK, HASH_BYTES, ZERO_BLOCK_HASH

KEY_BYTES: Final = 32
TAG_BYTES: Final = 16
SALT_BYTES: Final = 32

FRAME_KIND: Final = 0
CHUNK_KIND: Final = 1
TABLE_KIND: Final = 2
DIRECTORY_KIND: Final = 3

Purpose = Literal["record", "file", "proof"]

FILE_CHUNK: Final = 1 << 20
"""Bytes of a file that are encrypted together (format.md 7.4)."""

ReadRange = Callable[[int, int], bytes]
"""(offset, length) -> exactly those bytes of an object."""

_NONCE: Final = struct.Struct("<IQ")


def derive(key: bytes, salt: bytes, info: bytes, length: int = KEY_BYTES) -> bytes:
    """HKDF-SHA256 (RFC 5869)."""
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=info).derive(key)


class LogCipher:
    """The cipher of one log. Thread-safe. Each (kind, number) is encrypted once: the caller's numbers never repeat."""

    def __init__(self, data_key: bytes, log_id: bytes, header: bytes) -> None:
        """header: the log's, as stored; it is authenticated with every part."""
        both = derive(data_key, log_id, b"standby hrl 1", 2 * KEY_BYTES)
        self._aead = AESGCM(both[:KEY_BYTES])
        self._root_key = both[KEY_BYTES:]
        self._header = header

    def encrypt(self, kind: int, number: int, data: bytes) -> bytes:
        return self._aead.encrypt(_NONCE.pack(kind, number), data, self._header)

    def decrypt(self, kind: int, number: int, stored: bytes) -> bytes | None:
        """None if these are not the bytes that were encrypted as this part of this log."""
        try:
            return self._aead.decrypt(_NONCE.pack(kind, number), stored, self._header)
        except InvalidTag:
            return None

    def root(self, directory: bytes, footer: bytes) -> bytes:
        """The log's root (format.md 3.6), keyed. directory: as stored; footer: without its root."""
        return blake3(self._header + directory + footer, key=self._root_key).digest()


def stored_size(size: int) -> int:
    """Of a file of `size` bytes as `Cipher.encrypt_file` makes it."""
    return SALT_BYTES + size + -(-size // FILE_CHUNK) * TAG_BYTES


class Cipher:
    """The data key of one replica at work. Thread-safe; it never shows the key."""

    def __init__(self, data_key: bytes, replica: UUID) -> None:
        self._key = data_key
        self.replica = replica
        self._hash_key = derive(data_key, replica.bytes, b"standby hash 1")
        self._mac_key = derive(data_key, replica.bytes, b"standby mac 1")
        self._name_key = derive(data_key, replica.bytes, b"standby name 1")
        self._zero = blake3(bytes(BLOCK), key=self._hash_key).digest(HASH_BYTES)

    @property
    def data_key(self) -> bytes:
        """For wrapping it, and for a server's process; never for a store."""
        return self._key

    def block_hash(self, block: bytes | memoryview) -> bytes:
        """The hash of one whole block, keyed; of zeros it is the one that all replicas have (format.md 2)."""
        found = blake3(block, key=self._hash_key).digest(HASH_BYTES)
        return ZERO_BLOCK_HASH if found == self._zero else found

    def log(self, log_id: bytes, header: bytes) -> LogCipher:
        return LogCipher(self._key, log_id, header)

    def mac(self, message: bytes) -> str:
        """Hex: proves that somebody who has the key wrote `message`."""
        return blake3(message, key=self._mac_key).hexdigest()

    def name(self, content: bytes) -> str:
        """A name, hex, that tells nothing to who has no key. content: 32 bytes, a SHA-256."""
        return blake3(content, key=self._name_key).hexdigest()

    def encrypt_file(self, plain: IO[bytes], into: IO[bytes]) -> None:
        """Salt, then chunks of FILE_CHUNK with a tag each, numbered from 0 (format.md 7.4)."""
        salt = os.urandom(SALT_BYTES)
        aead = self._once(salt, "file")
        into.write(salt)
        for number in itertools.count():
            chunk = plain.read(FILE_CHUNK)
            if not chunk:
                return
            into.write(aead.encrypt(_NONCE.pack(0, number), chunk, self.replica.bytes))

    def decrypt_file(self, stored: ReadRange, size: int, subject: str) -> Iterator[bytes]:
        """The chunks of a file of `size` bytes (before encryption). Raises Damaged."""
        aead = self._once(stored(0, SALT_BYTES), "file")
        for number, at in enumerate(range(0, size, FILE_CHUNK)):
            length = min(FILE_CHUNK, size - at) + TAG_BYTES
            chunk = stored(SALT_BYTES + number * (FILE_CHUNK + TAG_BYTES), length)
            try:
                yield aead.decrypt(_NONCE.pack(0, number), chunk, self.replica.bytes)
            except InvalidTag as error:
                raise Damaged(f"chunk {number} of it is not what was written", subject=subject) from error

    def seal(self, plain: bytes, purpose: Purpose) -> bytes:
        """Salt, ciphertext, tag: under a key of its own."""
        salt = os.urandom(SALT_BYTES)
        return salt + self._once(salt, purpose).encrypt(bytes(12), plain, self.replica.bytes)

    def unseal(self, sealed: bytes, purpose: Purpose, subject: str) -> bytes:
        """Raises Damaged."""
        salt, rest = sealed[:SALT_BYTES], sealed[SALT_BYTES:]
        try:
            return self._once(salt, purpose).decrypt(bytes(12), rest, self.replica.bytes)
        except (InvalidTag, ValueError) as error:
            raise Damaged("what is encrypted in it is not what was written", subject=subject) from error

    def _once(self, salt: bytes, purpose: Purpose) -> AESGCM:
        return AESGCM(derive(self._key, salt, f"standby {purpose} 1".encode()))
