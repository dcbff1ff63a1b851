"""The golden encrypted replica read by nothing but docs/format.md and two libraries: the page is complete, and true."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import struct
from pathlib import Path

import pytest
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

GOLDEN = Path(__file__).parent / "golden" / "v1-encrypted"
WEB = GOLDEN / "store" / "web"


def hkdf(key: bytes, salt: bytes, info: str, length: int = 32) -> bytes:
    """RFC 5869, written out."""
    pseudorandom = hmac.digest(salt or bytes(32), key, "sha256")
    out, block, number = b"", b"", 1
    while len(out) < length:
        block = hmac.digest(pseudorandom, block + info.encode() + bytes([number]), "sha256")
        out, number = out + block, number + 1
    return out[:length]


def unsealed(data_key: bytes, sealed: bytes, purpose: str, replica: bytes) -> bytes:
    key = hkdf(data_key, sealed[:32], f"standby {purpose} 1")
    return AESGCM(key).decrypt(bytes(12), sealed[32:], replica)


def without(stored: bytes, member: str) -> bytes:
    """The document as it would be without its last member."""
    tail = f',"{member}":"'.encode()
    assert stored[-64 - 2 - len(tail) : -66] == tail
    return stored[: -64 - 2 - len(tail)] + b"}"


@pytest.fixture(scope="module")
def head() -> dict:
    return json.loads((WEB / "replica.json").read_bytes())


@pytest.fixture(scope="module")
def replica(head) -> bytes:
    return bytes.fromhex(head["replica"].replace("-", ""))


def opened(wrapped: dict, secret: bytes, replica: bytes) -> bytes:
    assert hkdf(secret, b"", "standby id 1", 8).hex() == wrapped["id"]
    key = hkdf(secret, bytes.fromhex(wrapped["salt"]), "standby wrap 1")
    return AESGCM(key).decrypt(bytes(12), bytes.fromhex(wrapped["sealed"]), replica)


@pytest.fixture(scope="module")
def data_key(head, replica) -> bytes:
    by_file, by_words = head["keys"]
    assert (by_file["kind"], by_words["kind"]) == ("file", "passphrase")
    found = opened(by_file, (GOLDEN / "key").read_bytes(), replica)
    cost = {name: by_words[name] for name in "nrp"}
    stretched = hashlib.scrypt(b"golden", salt=bytes.fromhex(by_words["salt"]), dklen=32, **cost)
    assert opened(by_words, stretched, replica) == found
    return found


def mac(data_key: bytes, replica: bytes, message: bytes) -> str:
    return blake3(message, key=hkdf(data_key, replica, "standby mac 1")).hexdigest()


def test_the_head(head, replica, data_key):
    assert head["read_features"] == ["encrypted"]
    stored = (WEB / "replica.json").read_bytes()
    body = without(without(stored, "sum"), "mac")
    covered = body.replace(f'"changes":{head["changes"]}'.encode(), b'"changes":0')
    assert (head["holds"], head["sweeps"]) == ([], 0)
    assert head["mac"] == mac(data_key, replica, covered)


def test_the_records(replica, data_key):
    parent = "0" * 64
    described = 0
    for path in sorted((WEB / "points").iterdir()):
        stored = path.read_bytes()
        record = json.loads(stored)
        assert record["parent"] == parent
        parent = hashlib.sha256(stored).hexdigest()
        assert record["sum"] == hashlib.sha256(without(stored, "sum")).hexdigest()
        assert record["mac"] == mac(data_key, replica, without(without(stored, "sum"), "mac"))
        assert (record["note"], record["machine"]) == ("", None)
        if "sealed" in record:
            shown = json.loads(unsealed(data_key, base64.b64decode(record["sealed"]), "record", replica))
            assert shown["machine"]["name"] == "golden"
            described += 1
    assert described == 6


def test_the_kernel(replica, data_key):
    content = b"golden kernel" * 1000
    name = blake3(hashlib.sha256(content).digest(), key=hkdf(data_key, replica, "standby name 1")).hexdigest()
    stored = (WEB / "boot" / name).read_bytes()
    assert unsealed(data_key, stored, "file", replica) == content, "one chunk, number 0"


def test_a_log(replica, data_key):
    path = sorted((WEB / "logs" / f"{1:020d}").iterdir())[0]
    log = path.read_bytes()
    header = log[:128]
    assert header[10:12] == b"\x01\x00"
    assert header[16:32] == replica
    both = hkdf(data_key, header[32:48], "standby hrl 1", 64)
    aes = AESGCM(both[:32])

    def plain(kind: int, number: int, offset: int, stored: int) -> bytes:
        return aes.decrypt(struct.pack("<IQ", kind, number), log[offset : offset + stored], header)

    footer = log[-64:]
    assert footer[:8] == b"\x89HRLEND\n"
    at, length, chunks, rows = struct.unpack("<QIIQ", footer[8:32])
    assert footer[32:] == blake3(header + log[at : at + length] + footer[:32], key=both[32:]).digest()
    directory = plain(3, 0, at, length)
    assert len(directory) == 40 * (1 + chunks)
    sections = list(struct.iter_unpack("<QIIII16s", directory))
    for offset, stored, *_, digest in sections:
        assert digest == blake3(log[offset : offset + stored]).digest(16)
    unpack = zstandard.ZstdDecompressor().decompress
    frames = list(struct.iter_unpack("<QIHH", unpack(plain(2, 0, *sections[0][:2]))))
    index = list(struct.iter_unpack("<IHHIHH16s", unpack(plain(1, 0, *sections[1][:2]))))
    assert len(index) == rows
    hash_key = hkdf(data_key, replica, "standby hash 1")
    proved = 0
    for _block, present, zero, frame, position, _, digest in index:
        if present == 0xFFFF and not zero:
            offset, stored, pages, _ = frames[frame]
            content = unpack(plain(0, frame, offset, stored))
            assert len(content) == pages * 4096
            block = content[position * 4096 : (position + 16) * 4096]
            assert digest == blake3(block, key=hash_key).digest(16)
            proved += 1
    assert proved
