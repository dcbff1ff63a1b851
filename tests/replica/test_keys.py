"""Key files, passphrases, and changing the keys of a replica."""

from __future__ import annotations

import os
import stat

import msgspec
import pytest

from standby import failpoints
from standby.clock import SystemClock
from standby.errors import Damaged, InvalidRequest
from standby.replica import keyring
from standby.replica.documents import encode
from standby.replica.journal import Place, ReplicaLog, read_head
from standby.replica.keys import Key, KeyFile, KeyRefused, Passphrase, WrongKey
from tests.replica.test_encryption import built, objects
from tests.replica.test_merge import Replica
from tests.support.replicas import ModelDisk

CHEAP = (1 << 4, 8, 1)


@pytest.fixture
def key(tmp_path) -> KeyFile:
    return KeyFile.new(tmp_path / "key")


@pytest.fixture
def replica(tmp_path, key):
    return built(tmp_path, key)


def place(replica, key: Key | None) -> Place:
    return Place(replica.store, "web", key)


def fresh(key: KeyFile) -> KeyFile:
    """The same key in another process, which has opened nothing yet."""
    return KeyFile(key.path)


def opens(replica, key: Key) -> bool:
    try:
        return bool(ReplicaLog.read(replica.store, "web", key=key).image(8, "vda"))
    except WrongKey:
        return False


def test_a_key_file_is_32_random_bytes_for_its_owner_only(tmp_path):
    made = KeyFile.new(tmp_path / "key")
    other = KeyFile.new(tmp_path / "other")
    assert len((tmp_path / "key").read_bytes()) == 32
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert made.id == KeyFile(tmp_path / "key").id != other.id
    with pytest.raises(KeyRefused, match="there is a file already"):
        KeyFile.new(tmp_path / "key")
    assert KeyFile(tmp_path / "key").id == made.id


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o602])
def test_a_key_file_that_others_may_use_is_refused(tmp_path, mode):
    path = KeyFile.new(tmp_path / "key").path
    path.chmod(mode)
    with pytest.raises(KeyRefused, match=rf"{path}: others .*\(mode 0{mode:o}\).*chmod 600 {path}"):
        KeyFile(path)


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33, b"-----BEGIN PRIVATE KEY-----"])
def test_what_is_no_key_file_is_told(tmp_path, content):
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyRefused, match=f"no key file: it has {len(content)} bytes instead of 32"):
        KeyFile(path)
    with pytest.raises(KeyRefused, match="cannot be read: No such file"):
        KeyFile(tmp_path / "none")


def test_a_key_file_may_be_a_pipe(tmp_path):
    key = KeyFile.new(tmp_path / "key")
    reader, writer = os.pipe()
    os.write(writer, key.path.read_bytes())
    os.close(writer)
    assert KeyFile(type(key.path)(f"/proc/self/fd/{reader}")).id == key.id
    os.close(reader)


def test_messages_show_no_key(key):
    assert key.path.read_bytes().hex() not in repr(vars(key)["told"]) + repr(key) + str(key)


def test_another_key_opens_it_without_anything_written_anew(replica, key, tmp_path):
    before = objects(replica)
    new = KeyFile.new(tmp_path / "new")
    added = keyring.add_key(place(replica, key), new, SystemClock())
    assert added.id == new.id
    assert opens(replica, fresh(new))
    assert opens(replica, fresh(key))
    assert keyring.add_key(place(replica, key), new, SystemClock()) == added, "again adds nothing"
    removed = keyring.remove_key(place(replica, new), key.id)
    assert removed.id == key.id
    assert not opens(replica, fresh(key))
    assert opens(replica, fresh(new))
    after = objects(replica)
    assert {name for name in before if before[name] != after[name]} == {"web/replica.json"}
    replica.key = fresh(new)
    replica.check()
    replica.attach()


def test_a_rotation_adds_proves_and_removes(replica, key, tmp_path):
    new = KeyFile.new(tmp_path / "new")
    came, went = keyring.rotate(place(replica, key), new, SystemClock())
    assert (came.id, went.id) == (new.id, key.id)
    assert [one.id for one in keyring.list_keys(place(replica, None))] == [new.id]
    assert not opens(replica, fresh(key))
    assert opens(replica, fresh(new))
    with pytest.raises(InvalidRequest, match="the new key is the one that opens it now"):
        keyring.rotate(place(replica, new), fresh(new), SystemClock())


@pytest.mark.parametrize("name", ["keyring.added", "keyring.removed"])
def test_a_rotation_that_is_killed_leaves_a_key_that_opens_it_and_goes_on(replica, key, tmp_path, name):
    new = KeyFile.new(tmp_path / "new")
    failpoints.arm(f"{name}=raise")
    try:
        with pytest.raises(failpoints.FailpointHit):
            keyring.rotate(place(replica, key), new, SystemClock())
    finally:
        failpoints.arm("")
    assert opens(replica, fresh(new))
    if opens(replica, fresh(key)):
        keyring.rotate(place(replica, fresh(key)), new, SystemClock())
    assert [one.id for one in keyring.list_keys(place(replica, None))] == [new.id]


def test_who_replicates_goes_on_while_keys_change(replica, key, tmp_path):
    """The agent has the data key; a change of keys must not end its replication."""
    new = KeyFile.new(tmp_path / "new")
    keyring.rotate(place(replica, fresh(key)), new, SystemClock())
    disk = ModelDisk("vda", 1 << 16)
    disk.write(0, b"after the rotation")
    seq = replica.point(disk)
    assert ReplicaLog.read(replica.store, "web", key=fresh(new)).point().seq == seq
    replica.key = fresh(key)
    with pytest.raises(WrongKey):
        replica.attach()


def test_the_last_proved_key_cannot_be_removed(replica, key, tmp_path):
    with pytest.raises(InvalidRequest, match="the key that was given is the one to remove"):
        keyring.remove_key(place(replica, key), key.id)
    with pytest.raises(InvalidRequest, match=f"no key 0123456789abcdef opens it.*{key.id}"):
        keyring.remove_key(place(replica, key), "0123456789abcdef")
    with pytest.raises(WrongKey):
        keyring.remove_key(place(replica, KeyFile.new(tmp_path / "other")), key.id)
    assert opens(replica, fresh(key))


def test_a_passphrase_opens_it_too(replica, key):
    keyring.add_key(place(replica, key), Passphrase("correct horse", CHEAP), SystemClock())
    assert opens(replica, Passphrase("correct horse"))
    assert opens(replica, fresh(key))
    with pytest.raises(WrongKey, match="the passphrase does not open it"):
        ReplicaLog.read(replica.store, "web", key=Passphrase("battery staple"))
    (kept,) = [one for one in keyring.list_keys(place(replica, None)) if one.kind == "passphrase"]
    assert (kept.n, kept.r, kept.p) == CHEAP
    with pytest.raises(KeyRefused, match="empty"):
        Passphrase("")


@pytest.mark.parametrize("cost", [{"n": 1 << 40}, {"r": 1 << 20}, {"p": 1000}, {"n": 0}, {"n": 3}])
def test_a_store_cannot_make_a_reader_pay_any_price(replica, key, cost):
    keyring.add_key(place(replica, key), Passphrase("correct horse", CHEAP), SystemClock())
    head, _ = read_head(place(replica, None))
    keys = tuple(msgspec.structs.replace(one, **cost) if one.n else one for one in head.wrapped)
    replica.store.put("web/replica.json", encode(msgspec.structs.replace(head, keys=keys)))
    with pytest.raises(Damaged, match="out of bounds"):
        ReplicaLog.read(replica.store, "web", key=Passphrase("correct horse"))


def test_a_wrapped_key_that_was_changed_is_damage_and_not_a_wrong_key(replica, key):
    head, _ = read_head(place(replica, None))
    (one,) = head.wrapped
    other = "0" if one.sealed[0] != "0" else "1"
    changed = msgspec.structs.replace(one, sealed=other + one.sealed[1:])
    replica.store.put("web/replica.json", encode(msgspec.structs.replace(head, keys=(changed,))))
    with pytest.raises(Damaged, match=f"key {key.id} had sealed"):
        ReplicaLog.read(replica.store, "web", key=fresh(key))


def test_a_replica_that_is_not_encrypted_has_no_keys(tmp_path):
    plain = Replica(tmp_path)
    with pytest.raises(InvalidRequest, match="is not encrypted.*--key-file"):
        keyring.list_keys(place(plain, None))
