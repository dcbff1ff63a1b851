"""Reading a replica: chain, choice of points, refusals."""

from __future__ import annotations

import random
import re

import msgspec
import pytest

from standby.errors import Damaged, InvalidRequest, StandbyError
from standby.objects.layers import ReadOnly
from standby.replica.documents import decode_head, decode_record, encode
from standby.replica.format import BLOCK
from standby.replica.journal import ChainBroken, Place, ReplicaLog, hold, replica_names
from standby.replica.verify import verify_logs, verify_point
from tests.support.replicas import ModelDisk, commit_point


@pytest.fixture
def disk(writer, spool) -> ModelDisk:
    """Three points of one disk of four blocks."""
    disk = ModelDisk("vda", 4 * BLOCK)
    for number in range(3):
        disk.write(number * BLOCK, noise(number))
        commit_point(writer, [disk], spool)
    return disk


def noise(seed: int) -> bytes:
    return random.Random(seed).randbytes(BLOCK)


def flip(store, name: str, at: int) -> None:
    data = bytearray(store.get(name).data)
    data[at] ^= 4
    store.put(name, bytes(data))


def log_names(store) -> list[str]:
    return [entry.name for entry in store.list("web/logs/")]


def test_replicas_are_listed(store, disk):
    assert replica_names(store) == ["web"]


def test_an_unknown_replica_names_the_command_that_lists_them(store, disk):
    with pytest.raises(InvalidRequest, match="no replica named mail.*standby replica list"):
        ReplicaLog.read(store, "mail")


def test_points_are_chosen_by_number_or_word(store, disk):
    log = ReplicaLog.read(store, "web")
    assert [log.point(w).seq for w in ("newest", "2", "3")] == [4, 2, 3]
    with pytest.raises(InvalidRequest, match="no recovery point 9.*from 2 to 4"):
        log.point("9")
    with pytest.raises(InvalidRequest, match="application-consistent"):
        log.point("newest-application")


def test_an_unknown_disk_names_those_that_there_are(store, disk):
    with pytest.raises(InvalidRequest, match="point 4 has no disk vdz.*vda"):
        ReplicaLog.read(store, "web").image(4, "vdz")


def test_r3_a_missing_record_is_named(store, disk):
    store.delete(f"web/points/{3:020d}")
    with pytest.raises(ChainBroken, match=f"{3:020d}, is missing"):
        ReplicaLog.read(store, "web")
    assert [p.seq for p in ReplicaLog.read(store, "web", upto=2).points] == [2]


def test_r3_a_changed_record_is_noticed_by_its_successor(store, disk):
    name = f"web/points/{2:020d}"
    record = decode_record(store.get(name).data, name)
    store.put(name, encode(msgspec.structs.replace(record, writer="agent@host-z")))
    with pytest.raises(ChainBroken, match=f"{3:020d}: it does not follow"):
        ReplicaLog.read(store, "web")


@pytest.mark.parametrize(
    ("name", "decode"), [(f"web/points/{4:020d}", decode_record), ("web/replica.json", decode_head)]
)
def test_a_changed_bit_of_a_document_that_nothing_pins_is_damage(store, disk, name, decode):
    """The newest record has no successor, and the head is pinned by nothing: they carry their own sum."""
    stored = store.get(name).data
    for bit in range(8 * len(stored)):
        at = bit // 8
        with pytest.raises(StandbyError, match=name):
            decode(stored[:at] + bytes([stored[at] ^ 1 << bit % 8]) + stored[at + 1 :], name)


def test_a_record_that_is_no_json_is_damage(store, disk):
    store.put(f"web/points/{4:020d}", b"{nonsense")
    with pytest.raises(Damaged, match=f"{4:020d}: it cannot be read"):
        ReplicaLog.read(store, "web")


def test_verify_proves_every_byte(store, disk):
    log = ReplicaLog.read(store, "web")
    told = []
    proof = verify_point(log, log.point(), progress=told.append)
    assert (proof.bytes, proof.logs, proof.findings) == (disk.size, 3, ())
    assert sum(told) == disk.size
    assert verify_logs(log).findings == ()


def test_verify_names_the_block_and_the_log(store, disk):
    name = log_names(store)[1]
    flip(store, name, 200)
    log = ReplicaLog.read(store, "web")
    (finding,) = verify_point(log, log.point()).findings
    assert finding.subject.endswith(name)
    assert re.search(r"disk vda: block 1 \(byte 65536\)", finding.problem)
    (finding,) = verify_logs(log).findings
    assert finding.points == (3, 4)
    assert "not those that were written" in finding.problem


def test_verify_tells_a_log_that_is_gone(store, disk):
    name = log_names(store)[0]
    store.delete(name)
    log = ReplicaLog.read(store, "web")
    (finding,) = verify_logs(log).findings
    assert (finding.points, finding.subject.endswith(name)) == ((2, 3, 4), True)
    (finding,) = verify_point(log, log.point()).findings
    assert "gone" in finding.problem


def test_verify_tells_a_log_that_was_replaced_by_another_good_one(store, disk):
    """A store that rolls an object back: each log is whole, but it is not the one that the record names."""
    first, second, _ = log_names(store)
    store.put(second, store.get(first).data)
    log = ReplicaLog.read(store, "web")
    assert verify_logs(log).findings
    assert verify_point(log, log.point()).findings


def test_r2_a_reader_without_the_right_to_write_is_told_that_it_holds_nothing(store, disk):
    with hold(Place(ReadOnly(store), "web"), 4, "tester") as held:
        assert not held
