"""Encrypted replicas: what they hide, what they prove, and what happens without the right key (format.md 7)."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standby.errors import Damaged, InvalidRequest
from standby.objects.directory import DirectoryStore
from standby.records import BootFile, MachineDescription, NicDescription
from standby.replica import boot, documents
from standby.replica.cipher import FILE_CHUNK, Cipher
from standby.replica.documents import DiskState, decode_head, decode_record, encode
from standby.replica.format import BLOCK, PAGE, ZERO_BLOCK_HASH, block_hash
from standby.replica.journal import Place, ReplicaLog, add_hold, drop_hold, read_head
from standby.replica.keys import DataKey, KeyFile, KeyMissing, NotEncrypted, WrongKey
from standby.replica.log import LogWriter, open_local
from standby.replica.scrub import scrub
from standby.replica.sweep import sweep
from standby.replica.writer import Draft, attach, create
from tests.replica.test_merge import Replica
from tests.support.replicas import REPLICA, FixedClock, ModelDisk, new_id

SECRET = b"the launch codes"
KERNEL = (b"a kernel of " + SECRET) * 90_000
MACHINE = MachineDescription(
    name="web",
    uuid="u",
    memory=1,
    cpus=1,
    firmware="kernel",
    disks=(),
    nics=(NicDescription(mac="52:54:00:12:34:56"),),
    boot_files=(BootFile(role="kernel", sha256=hashlib.sha256(KERNEL).hexdigest(), size=len(KERNEL)),),
    kernel_cmdline=SECRET.decode(),
)


@pytest.fixture
def key(tmp_path) -> KeyFile:
    return KeyFile.new(tmp_path / "key")


@pytest.fixture
def replica(tmp_path, key) -> Replica:
    return built(tmp_path, key)


def built(folder: Path, key: KeyFile) -> Replica:
    """Points of two disks, a base, a range, a machine with a kernel; SECRET is in all of it."""
    replica = Replica(folder, key)
    disks = [ModelDisk("vda", 8 * BLOCK + 512), ModelDisk("vdb", 3 * BLOCK)]
    for number in range(6):
        disks[0].write(number * BLOCK, SECRET * 1000 + random.Random(number).randbytes(PAGE))
        disks[1].write(number * 100, SECRET)
        replica.point(*disks)
    replica.merge({4, 7})
    sweep(replica.store, "web")
    (folder / "kernel").write_bytes(KERNEL)
    boot.put(Place(replica.store, "web", key), MACHINE.boot_files, {"kernel": folder / "kernel"})
    disks[0].write(100, SECRET)
    log = disks[0].log(replica.spool / "last.hrl", cipher=cipher_of(replica))
    states = (
        DiskState(id="vda", size=disks[0].size, logs=(replica.writer.upload(log),)),
        DiskState(id="vdb", size=disks[1].size),
    )
    record = replica.writer.commit(
        Draft(
            kind="point",
            nonce=new_id(),
            at="2026-11-24T08:00:00+00:00",
            disks=states,
            note=SECRET.decode(),
            machine=MACHINE,
        )
    )
    replica.truth[record.seq] = {disk.id: disk.bytes for disk in disks}
    return replica


def cipher_of(replica: Replica) -> Cipher:
    place = Place(replica.store, "web", replica.key)
    cipher = place.cipher(read_head(place)[0])
    assert cipher
    return cipher


def objects(replica: Replica) -> dict[str, bytes]:
    return {entry.name: replica.store.get(entry.name).data for entry in replica.store.list("web/")}


def test_every_point_reads_as_it_was_written_after_merges_too(replica):
    replica.check({4, 7, 8})
    replica.merge({8})
    sweep(replica.store, "web")
    replica.check({8})
    assert scrub(replica.store, "web", key=replica.key).findings == ()


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 5 * BLOCK), st.integers(0, 2 * PAGE), st.sampled_from([0, 1, 2])),
            max_size=4,
        ),
        min_size=1,
        max_size=4,
    ),
    st.randoms(use_true_random=False),
)
def test_any_writes_come_back(points, rng):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        replica = Replica(folder, KeyFile.new(folder / "key"))
        disk = ModelDisk("vda", 6 * BLOCK)
        for writes in points:
            for offset, length, kind in writes:
                data = rng.randbytes(length) if kind == 2 else bytes([kind]) * length
                disk.write(offset, data[: disk.size - offset])
            replica.point(disk)
        replica.check()
        replica.merge({max(replica.truth)})
        replica.check()


def test_nothing_of_what_it_protects_is_in_the_store_or_the_spool(replica):
    stored = objects(replica)
    assert any("/boot/" in name for name in stored)
    assert any("/layers/" in name for name in stored)
    plain = [
        SECRET,
        SECRET[:9],
        b"52:54:00",
        b"kernel_cmdline",
        hashlib.sha256(KERNEL).hexdigest().encode(),
        block_hash(KERNEL[:BLOCK]),
        cipher_of(replica).data_key,
        cipher_of(replica).data_key.hex().encode(),
        replica.key.path.read_bytes(),
    ]
    for name, data in stored.items():
        for word in plain:
            assert word not in data, name
            assert word.decode("latin-1") not in name
    for path in replica.spool.iterdir():
        assert SECRET not in path.read_bytes()


def test_hashes_are_keyed_and_zeros_tell_nothing(replica):
    cipher = cipher_of(replica)
    block = SECRET * (BLOCK // len(SECRET))
    assert cipher.block_hash(block) != block_hash(block)
    assert cipher.block_hash(block) != Cipher(bytes(32), REPLICA).block_hash(block)
    assert cipher.block_hash(bytes(BLOCK)) == ZERO_BLOCK_HASH


def test_a_replica_that_is_not_encrypted_is_written_as_before(tmp_path):
    store = DirectoryStore(tmp_path / "store", create=True)
    head = create(store, "web", replica=REPLICA, origin="host-a", clock=FixedClock())
    stored = json.loads(store.get("web/replica.json").data)
    assert not {"keys", "mac"} & set(stored)
    assert not head.encrypted
    writer = attach(store, "web", owner="agent", clock=FixedClock(), new_id=new_id)
    assert not {"sealed", "mac"} & set(json.loads(store.get(writer.place.point(1)).data))


def test_a_standby_that_does_not_know_encryption_refuses_it(replica, monkeypatch):
    monkeypatch.setattr(documents, "READ_FEATURES", frozenset({documents.MERGED}))
    with pytest.raises(InvalidRequest, match="features encrypted.*newer standby"):
        read_head(Place(replica.store, "web"))


# -- damage


def small_log(folder: Path) -> tuple[Path, Cipher]:
    disk = ModelDisk("vda", 4 * BLOCK)
    disk.write(0, b"a" * PAGE)
    disk.write(BLOCK + 3 * PAGE, b"b" * 2 * PAGE)
    disk.write(3 * BLOCK, bytes(BLOCK))
    cipher = Cipher(b"k" * 32, REPLICA)
    return disk.log(folder / "a.hrl", cipher=cipher).path, cipher


def read_all_of(path: Path, cipher: Cipher) -> None:
    log = open_local(path, cipher)
    log.all_rows()
    for number in range(len(log.frames)):
        log.frame(number)


def test_every_flipped_bit_of_a_log_is_found_when_it_is_read(tmp_path):
    path, cipher = small_log(tmp_path)
    stored = path.read_bytes()
    for at in range(len(stored)):
        for bit in (0, 5):
            damaged = bytearray(stored)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises((Damaged, InvalidRequest)):
                read_all_of(path, cipher)


def test_parts_are_bound_to_their_place_in_their_log(tmp_path):
    """Each part of one log in the place of another: nothing decrypts but what belongs there."""
    cipher = Cipher(b"k" * 32, REPLICA)
    logs = []
    for name in "ab":
        disk = ModelDisk("vda", 64 * BLOCK)
        disk.write(0, random.Random(1).randbytes(40 * BLOCK))
        logs.append(open_local(disk.log(tmp_path / name, cipher=cipher).path, cipher))
    one, other = logs
    assert len(one.frames) > 2
    frames = {}
    for log in logs:
        for number in range(len(log.frames)):
            entry = log.frames[number]
            raw = Path(log.subject).read_bytes()
            frames[log.subject, number] = raw[
                int(entry["offset"]) : int(entry["offset"]) + int(entry["stored"])
            ]
    assert len(set(frames.values())) == len(frames), "the same plaintext never looks the same"
    seal = cipher.log(one.header.log_id, Path(one.subject).read_bytes()[:128])
    for (subject, number), stored in frames.items():
        for kind in range(4):
            fits = (subject, number, kind) == (one.subject, 0, 0)
            assert (seal.decrypt(kind, 0, stored) is not None) is fits
    assert other.header.log_id != one.header.log_id


def test_no_nonce_of_a_log_is_used_twice(tmp_path, monkeypatch):
    used = []
    encrypt = documents.Cipher.log

    def spying(self, log_id, header):
        real = encrypt(self, log_id, header)
        inner = real.encrypt
        real.encrypt = lambda kind, number, data: (
            used.append((log_id, kind, number)) or inner(kind, number, data)
        )
        return real

    monkeypatch.setattr(Cipher, "log", spying)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        replica = Replica(folder, KeyFile.new(folder / "key"))
        disk = ModelDisk("vda", 64 * BLOCK)
        for number in range(4):
            disk.write(number * 7 * BLOCK, random.Random(number).randbytes(20 * BLOCK))
            replica.point(disk)
        replica.merge({max(replica.truth)})
    assert len(used) > 20
    assert len(set(used)) == len(used)


@pytest.mark.parametrize("kind", ["replica.json", "points/", "logs/", "layers/", "boot/"])
def test_a_flipped_byte_of_any_object_is_found_by_a_scrub(replica, tmp_path, kind):
    rng = random.Random(kind)
    name = rng.choice([one for one in objects(replica) if one.startswith(f"web/{kind}")])
    path = tmp_path / "store" / name
    path.chmod(0o600)
    stored = path.read_bytes()
    for at in {0, len(stored) - 1, *(rng.randrange(len(stored)) for _ in range(12))}:
        damaged = bytearray(stored)
        damaged[at] ^= rng.randrange(1, 256)
        path.write_bytes(damaged)
        findings = scrub(replica.store, "web", key=KeyFile(replica.key.path)).findings
        assert [one.object for one in findings if one.object.endswith(name)], f"byte {at} of {name}"
    path.write_bytes(stored)
    assert scrub(replica.store, "web", key=replica.key).findings == ()


def forged(stored: bytes, **fields) -> bytes:
    """The document with other fields and a sum that fits: what one without the key can do."""
    document = json.loads(stored) | fields
    document.pop("sum")
    body = msgspec.json.encode(document)
    return body[:-1] + b',"sum":"' + hashlib.sha256(body).hexdigest().encode() + b'"}'


@pytest.mark.parametrize(
    "fields",
    [
        {"floor": 7},
        {"layers": []},
        {"merged": []},
        {"epoch": 99},
        {"owner": "mallory"},
        {"mac": "0" * 64},
    ],
)
def test_a_head_that_was_changed_without_the_key_is_refused(replica, fields):
    replica.store.put("web/replica.json", forged(replica.store.get("web/replica.json").data, **fields))
    with pytest.raises(Damaged, match=r"replica\.json: it was changed by somebody who has no key"):
        ReplicaLog.read(replica.store, "web", key=replica.key)


@pytest.mark.parametrize("fields", [{"at": "2020-01-01T00:00:00+00:00"}, {"disks": []}, {"note": "x"}])
def test_a_record_that_was_changed_without_the_key_is_refused(replica, fields):
    name = Place(replica.store, "web").point(8)
    replica.store.put(name, forged(replica.store.get(name).data, **fields))
    with pytest.raises(Damaged, match="not written by somebody who has the key"):
        ReplicaLog.read(replica.store, "web", key=replica.key)


def test_a_record_without_a_mac_is_refused(replica):
    cipher = cipher_of(replica)
    log = ReplicaLog.read(replica.store, "web", key=replica.key)
    with pytest.raises(Damaged, match="not written by somebody who has the key"):
        decode_record(encode(log.records[-1]), "record", cipher)


def test_another_replica_in_its_place_is_told(replica, key):
    """Whoever owns the store puts a replica there that is not encrypted: a key was given, so it is refused."""
    head = decode_head(replica.store.get("web/replica.json").data, "head")
    plain = msgspec.structs.replace(head, read_features=(), keys=msgspec.UNSET, mac=msgspec.UNSET)
    replica.store.put("web/replica.json", encode(plain))
    with pytest.raises(NotEncrypted, match="somebody has replaced the replica"):
        ReplicaLog.read(replica.store, "web", key=key)


def test_boot_files_of_any_size_come_back_and_damage_is_told(tmp_path, replica):
    place = Place(replica.store, "web", replica.key)
    for size in (0, 1, FILE_CHUNK - 1, FILE_CHUNK, FILE_CHUNK + 1, 3 * FILE_CHUNK):
        content = random.Random(size).randbytes(size)
        (tmp_path / "plain").write_bytes(content)
        file = BootFile(role="initrd", sha256=hashlib.sha256(content).hexdigest(), size=size)
        boot.put(place, [file], {"initrd": tmp_path / "plain"})
        boot.fetch(place, file, tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == content
        assert boot.problem(place, file, cipher_of(replica)) == ""
    path = tmp_path / "store" / "web" / boot.name_of(file, cipher_of(replica))
    path.chmod(0o600)
    stored = path.read_bytes()
    path.write_bytes(stored[: len(stored) // 2] + b"\0" + stored[len(stored) // 2 + 1 :])
    with pytest.raises(Damaged, match="chunk 1 of it is not what was written"):
        boot.fetch(place, file, tmp_path / "again")
    assert not (tmp_path / "again").exists()


# -- without the key, or with another


def test_without_the_key_it_is_told_what_to_give(replica):
    log = ReplicaLog.read(replica.store, "web")
    assert [point.seq for point in log.points] == [4, 7, 8]
    assert (log.points[-1].machine, log.points[-1].note) == (None, "")
    with pytest.raises(KeyMissing, match=r"encrypted.*--key-file.*STANDBY_KEY_FILE"):
        log.image(8, "vda")
    with pytest.raises(KeyMissing):
        attach(replica.store, "web", owner="agent", clock=FixedClock(), new_id=new_id)
    with pytest.raises(KeyMissing):
        boot.fetch(Place(replica.store, "web"), MACHINE.boot_files[0], replica.spool / "kernel")
    with pytest.raises(KeyMissing):
        create(replica.store, "web", replica=REPLICA, origin="host-a", clock=FixedClock())


def test_with_another_key_it_is_told_as_such_and_not_as_damage(replica, tmp_path):
    other = KeyFile.new(tmp_path / "other")
    before = objects(replica)
    for attempt in (
        lambda: ReplicaLog.read(replica.store, "web", key=other),
        lambda: attach(replica.store, "web", owner="agent", clock=FixedClock(), new_id=new_id, key=other),
        lambda: create(replica.store, "web", replica=REPLICA, origin="host-a", clock=FixedClock(), key=other),
        lambda: scrub(replica.store, "web", key=other),
    ):
        with pytest.raises(WrongKey, match=f"key {other.id}.*does not open it.*key {replica.key.id}"):
            attempt()
    assert objects(replica) == before


def test_a_key_for_a_replica_that_has_none_is_refused(tmp_path, key):
    plain = Replica(tmp_path)
    plain.key = key
    with pytest.raises(NotEncrypted):
        plain.attach()
    with pytest.raises(NotEncrypted):
        create(plain.store, "web", replica=REPLICA, origin="host-a", clock=FixedClock(), key=key)


def test_the_data_key_alone_opens_it_for_a_server(replica):
    handed = DataKey(cipher_of(replica).data_key)
    assert ReplicaLog.read(replica.store, "web", key=handed).image(8, "vda").size == 8 * BLOCK + 512
    with pytest.raises(Damaged):
        ReplicaLog.read(replica.store, "web", key=DataKey(bytes(32)))


def test_scrubs_sweeps_and_holds_need_no_key_and_say_what_was_not_proved(replica, tmp_path):
    result = scrub(replica.store, "web")
    assert result.findings == ()
    assert "without the key" in result.unproved
    assert scrub(replica.store, "web", key=replica.key).unproved == ""
    place = Place(replica.store, "web")
    assert add_hold(place, "01J0000000000000000000000X", 8, "a reader without the key")
    replica.check()
    drop_hold(place, "01J0000000000000000000000X")
    replica.merge({8})
    assert sweep(replica.store, "web").layers
    replica.check({8})
    layer = next(name for name in objects(replica) if "/layers/" in name)
    (tmp_path / "store" / layer).unlink()
    assert [one.object for one in scrub(replica.store, "web").findings if one.object.endswith(layer)]


def test_a_log_that_is_not_encrypted_in_an_encrypted_replica_is_damage(tmp_path):
    disk = ModelDisk("vda", BLOCK)
    disk.write(0, b"x")
    path = disk.log(tmp_path / "a.hrl").path
    with pytest.raises(Damaged):
        open_local(path, Cipher(bytes(32), REPLICA))
    shutil.copy(path, tmp_path / "b.hrl")
    assert open_local(tmp_path / "b.hrl").header.encrypted is False


def test_a_writer_never_shows_a_log_that_it_gave_up(tmp_path):
    disk = ModelDisk("vda", BLOCK)
    writer = LogWriter(
        tmp_path / "a.hrl",
        open_local(disk.log(tmp_path / "b.hrl").path).header,
        Cipher(bytes(32), REPLICA),
    )
    writer.abandon()
    assert not (tmp_path / "a.hrl").exists()


def test_the_bytes_of_a_long_boot_file_are_those_of_format_1(monkeypatch):
    """As of its first release; the golden replica has only short ones."""
    cipher = Cipher(bytes(range(32)), REPLICA)
    monkeypatch.setattr("standby.replica.cipher.os.urandom", lambda count: bytes(count))
    plain, stored = io.BytesIO(b"kernel" * 400_000), io.BytesIO()
    cipher.encrypt_file(plain, stored)
    assert len(stored.getvalue()) == 32 + 2_400_000 + 3 * 16
    assert hashlib.sha256(stored.getvalue()).hexdigest() == (
        "3babc8cd65d48a22923b44673256f0b8c73cca38d35e17a95d5fbe75889ac5f7"
    )
