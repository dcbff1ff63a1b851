"""Proofs beside their points: kept whole, encrypted with the rest, looked at by scrubs, gone with their points only."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from standby.errors import Damaged
from standby.replica import proofs
from standby.replica.journal import ReplicaLog
from standby.replica.keys import KeyFile, KeyMissing
from standby.replica.proofs import Proof, ProofMissing
from standby.replica.scrub import scrub
from standby.replica.sweep import sweep
from tests.replica.test_merge import Replica
from tests.support.replicas import ModelDisk

PICTURE = b"\x89PNG and the rest"


@pytest.fixture(params=["plain", "encrypted"])
def replica(request, tmp_path: Path) -> Replica:
    """Points 2 to 7."""
    key = KeyFile.new(tmp_path / "key") if request.param == "encrypted" else None
    made = Replica(tmp_path, key) if key else Replica(tmp_path)
    disk = ModelDisk("vda", 4 * 65536)
    for number in range(6):
        disk.write(number * 5000, bytes([number + 1]) * 3000)
        made.point(disk)
    return made


def key_of(replica: Replica) -> KeyFile | None:
    return getattr(replica, "key", None)


def read(replica: Replica) -> ReplicaLog:
    return ReplicaLog.read(replica.store, "web", key=key_of(replica))


def prove(replica: Replica, seq: int, number: int, verdict: str = "passed") -> Proof:
    log = read(replica)
    proof = Proof(
        replica=log.head.replica, id=f"01KB0000000000000000000{number:03d}", seq=seq, record="ab" * 32, machine="web",
        at="2026-11-24T09:00:00+00:00", point_at="2026-11-24T08:00:00+00:00", consistency="crash-consistent",
        by="host-b", verdict=verdict, reasons=("the guest agent answered",),
    )  # fmt: skip
    return proofs.keep(log, proof, {"screen.png": PICTURE, "console.txt": b"login:"})


def names(replica: Replica) -> list[str]:
    return [entry.name for entry in replica.store.list("web/proofs/")]


def test_a_proof_is_read_back_as_it_was_kept(replica, tmp_path):
    older, newer = prove(replica, 5, 2), prove(replica, 3, 7, "failed")
    log = read(replica)
    assert proofs.read_all(log) == [newer, older]
    assert proofs.part(log, newer, "screen.png") == PICTURE
    assert proofs.choose(log, "newest").id == newer.id
    assert proofs.choose(log, "5").id == proofs.choose(log, older.id).id == older.id
    for wrong in ("4", "nothing"):
        with pytest.raises(ProofMissing, match=f"no proof {wrong}"):
            proofs.choose(log, wrong)
    with pytest.raises(ProofMissing, match="no part passwd"):
        proofs.part(log, newer, "passwd")
    stored = b"".join(replica.store.get(name).data for name in names(replica))
    assert (PICTURE in stored, b"login:" in stored, b"agent answered" in stored) == (
        key_of(replica) is None,
    ) * 3
    if key_of(replica):
        with pytest.raises(KeyMissing):
            proofs.read_all(ReplicaLog.read(replica.store, "web"))


def test_one_that_was_interrupted_counts_for_nothing_and_goes_with_its_point(replica):
    prove(replica, 4, 1)
    replica.store.delete(names(replica)[1])
    assert names(replica)[0].endswith("console.txt")
    assert proofs.names(read(replica).place) == []
    assert scrub(replica.store, "web", key=key_of(replica)).findings == ()


def test_a_proof_goes_with_its_point_and_never_before(replica):
    for number, seq in enumerate((2, 3, 6, 7)):
        prove(replica, seq, number)
    before = len(names(replica))
    swept = sweep(replica.store, "web")
    assert (swept.proofs, len(names(replica))) == (0, before)
    replica.merge({3, 6})
    told = sweep(replica.store, "web", dry_run=True)
    assert (told.proofs, len(names(replica))) == (3, before)
    assert sweep(replica.store, "web").proofs == 3
    assert {one.seq for one in proofs.names(read(replica).place)} == {3, 6, 7}
    assert scrub(replica.store, "web", key=key_of(replica)).findings == ()


@pytest.mark.parametrize("part", ["proof.json", "screen.png", "console.txt"])
def test_a_scrub_finds_a_changed_byte_of_a_proof(replica, tmp_path, part):
    prove(replica, 5, 1)
    name = next(one for one in names(replica) if one.endswith(part))
    path = tmp_path / "store" / name
    path.chmod(0o600)
    stored = path.read_bytes()
    for at in (0, len(stored) // 2, len(stored) - 1):
        damaged = bytearray(stored)
        damaged[at] ^= 0x01
        path.write_bytes(damaged)
        [found] = scrub(replica.store, "web", key=key_of(replica)).findings
        assert (found.kind, found.object[-len(name) :], found.points, found.way_out) == (
            "proof",
            name,
            (5,),
            "nothing",
        )
    path.unlink()
    found = scrub(replica.store, "web", key=key_of(replica)).findings
    assert [one.cause for one in found] == ([] if part == "proof.json" else ["it is gone"])


def test_a_document_that_is_of_another_proof_is_damage(replica, tmp_path):
    """What who can write the store could do, without any key: put one proof in the place of another."""
    prove(replica, 5, 1, "passed")
    prove(replica, 6, 2, "failed")
    documents = [one for one in names(replica) if one.endswith("proof.json")]
    replica.store.put(documents[1], replica.store.get(documents[0]).data)
    log = read(replica)
    with pytest.raises(Damaged, match="it is the proof"):
        proofs.read_all(log)


def test_names_of_parts_cannot_lead_out_of_a_directory(tmp_path):
    replica = Replica(tmp_path)
    disk = ModelDisk("vda", 65536)
    disk.write(0, b"x")
    replica.point(disk)
    proof = prove(replica, 2, 1)
    evil = msgspec.structs.replace(proof, parts=(msgspec.structs.replace(proof.parts[0], name="../x"),))
    folder = proofs.ProofName(2, proof.id).folder
    replica.store.put(f"web/{folder}proof.json", proofs.with_sum(msgspec.json.encode(evil)))
    with pytest.raises(Damaged):
        proofs.read_all(read(replica))
