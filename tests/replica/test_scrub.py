"""Scrubbing: whatever is damaged is found, named, and told with its way out."""

from __future__ import annotations

import hashlib
import random
import shutil
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standby.errors import InvalidRequest
from standby.objects.directory import DirectoryStore
from standby.records import BootFile, MachineDescription
from standby.replica.documents import DiskState
from standby.replica.format import BLOCK
from standby.replica.journal import Place, ReplicaLog, add_hold
from standby.replica.scrub import ScrubResult, Seen, scrub
from standby.replica.sweep import sweep
from standby.replica.writer import Draft
from tests.replica.test_merge import Replica
from tests.support.faulty_store import Call, Fault, FaultyStore
from tests.support.replicas import ModelDisk, new_id

KERNEL = b"a kernel" * 1000


def built(folder: Path) -> Replica:
    """Two disks, a base at 4, a range (4, 7], logs behind it, a machine with a boot file, two epochs."""
    replica = Replica(folder)
    disks = [ModelDisk("vda", 8 * BLOCK), ModelDisk("vdb", 3 * BLOCK)]
    for number in range(6):
        disks[0].write(number * BLOCK, random.Random(number).randbytes(BLOCK))
        disks[1].write(number * 100, b"x")
        replica.point(*disks)
    replica.merge({4, 7})
    sweep(replica.store, "web")
    replica.attach()
    replica.store.put(f"web/boot/{hashlib.sha256(KERNEL).hexdigest()}", KERNEL)
    kernel = BootFile(role="kernel", sha256=hashlib.sha256(KERNEL).hexdigest(), size=len(KERNEL))
    machine = MachineDescription(
        name="web", uuid="u", memory=1, cpus=1, firmware="kernel", disks=(), boot_files=(kernel,)
    )
    disks[0].write(0, random.Random(9).randbytes(BLOCK))
    log = replica.writer.upload(disks[0].log(replica.spool / "last.hrl"))
    states = (
        DiskState(id="vda", size=disks[0].size, logs=(log,)),
        DiskState(id="vdb", size=disks[1].size),
    )
    replica.writer.commit(
        Draft(kind="point", nonce=new_id(), at="2026-11-24T08:00:00+00:00", disks=states, machine=machine)
    )
    return replica


@pytest.fixture
def replica(tmp_path) -> Replica:
    return built(tmp_path)


def names(store) -> list[str]:
    return [entry.name for entry in store.list("web/")]


def found(result: ScrubResult, name: str):
    (finding,) = [one for one in result.findings if one.object.endswith(name)]
    return finding


def test_a_sound_replica_has_no_findings_and_is_read_in_full(replica):
    result = scrub(replica.store, "web")
    assert result.findings == ()
    # Record 4, 7, 8 (a fence), 9; two layers of each range, one log, one boot file.
    assert (result.records, result.logs, result.read) == (4, 5, 6)
    assert result.bytes > 6 * BLOCK
    assert scrub(replica.store, "web", seen=result.seen).findings == ()
    assert scrub(replica.store, "web", fraction=0).read == 0


def test_a_sample_is_drawn_by_its_seed(replica):
    told = {seed: scrub(replica.store, "web", fraction=0.5, seed=seed).bytes for seed in range(8)}
    assert len(set(told.values())) > 1
    assert told[3] == scrub(replica.store, "web", fraction=0.5, seed=3).bytes


def layer_of(replica, first: int) -> str:
    head = ReplicaLog.read(replica.store, "web").head
    return next(one.log.name for one in head.layers if (one.disk, one.first) == ("vda", first))


def damage(store, name: str) -> None:
    data = bytearray(store.get(name).data)
    data[len(data) // 2] ^= 1
    store.put(name, bytes(data))


def test_each_finding_names_object_points_and_the_way_out(replica):
    base, between = layer_of(replica, 0), layer_of(replica, 4)
    for name in (base, between):
        damage(replica.store, f"web/{name}")
    result = scrub(replica.store, "web")
    assert len(result.findings) == 2
    assert found(result, base).points == (4, 7, 9)
    finding = found(result, between)
    assert (finding.kind, finding.points, finding.way_out) == ("layer", (7, 9), "resync")
    assert "disk vda must be sent again" in finding.advice
    assert "SHA-256" in finding.advice


def test_a_log_that_only_old_points_need_is_told_so(tmp_path):
    replica = Replica(tmp_path)
    disk = ModelDisk("vdb", BLOCK)
    disk.write(0, b"x")
    replica.point(ModelDisk("vda", BLOCK), disk)
    replica.point(ModelDisk("vda", BLOCK))
    (name,) = [one for one in names(replica.store) if one.endswith(".hrl")]
    damage(replica.store, name)
    (finding,) = scrub(replica.store, "web").findings
    assert (finding.points, finding.way_out) == ((2,), "restore")
    assert "newer points do not need it" in finding.advice


def test_several_missing_records_are_all_told(tmp_path):
    replica = Replica(tmp_path)
    for _ in range(5):
        replica.point(ModelDisk("vda", BLOCK))
    for seq in (3, 4):
        replica.store.delete(f"web/points/{seq:020d}")
    result = scrub(replica.store, "web")
    assert [one.points for one in result.findings] == [(3,), (4,)]
    assert result.records == 4


def test_a_replica_that_is_not_there_is_no_damage(replica):
    with pytest.raises(InvalidRequest, match="no replica named mail.*standby replica list"):
        scrub(replica.store, "mail")


def test_a_merge_meanwhile_is_no_damage(replica):
    def fold_and_sweep() -> None:
        replica.merge({9})
        sweep(replica.store, "web")

    store = FaultyStore(replica.store, [Fault("list", Call(fold_and_sweep), prefix="web/points/")])
    assert scrub(store, "web").findings == ()
    assert store.unused() == []


def test_a_writer_that_takes_over_meanwhile_is_no_damage(replica):
    store = FaultyStore(replica.store, [Fault("list", Call(replica.attach), prefix="web/points/")])
    assert scrub(store, "web").findings == ()
    assert store.unused() == []


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A replica, what a scrub of it saw, and an older version of its head."""
    folder = tmp_path_factory.mktemp("sound")
    replica = built(folder)
    old_head = replica.store.get("web/replica.json").data
    add_hold(Place(replica.store, "web"), "h", 9, "somebody")
    result = scrub(replica.store, "web")
    assert result.findings == ()
    return folder / "store", result.seen, old_head


damages = (
    st.integers(0, 10**9),
    st.sampled_from(["flip", "truncate", "delete", "another's", "zeros", "grown"]),
    st.integers(0, 10**9),
)


@settings(max_examples=40, deadline=None)
@given(*damages)
def test_any_damage_to_any_object_is_found_and_named(sound, which, how, where):
    damaged_and_found(sound, which, how, where)


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(*damages)
def test_any_damage_is_found_often(sound, which, how, where):
    damaged_and_found(sound, which, how, where)


def damaged_and_found(sound, which: int, how: str, where: int) -> None:
    folder, seen, old_head = sound
    with tempfile.TemporaryDirectory() as name:
        shutil.copytree(folder, Path(name) / "store")
        store = DirectoryStore(Path(name) / "store")
        objects = names(store)
        victim = objects[which % len(objects)]
        data = store.get(victim).data
        at = where % len(data)
        if how == "delete":
            store.delete(victim)
        else:
            others = [store.get(one).data for one in objects if one != victim]
            wrong = {
                "flip": data[:at] + bytes([data[at] ^ (1 << where % 8)]) + data[at + 1 :],
                "truncate": data[:at],
                "another's": others[where % len(others)],
                "zeros": bytes(len(data)),
                "grown": data + b"\0",
            }[how]
            if victim.endswith("replica.json") and how == "another's":
                wrong = old_head
            if wrong == data:
                return
            store.put(victim, wrong)
        result = scrub(store, "web", seen=seen)
        assert victim in {one.object.removeprefix(f"{store.url}/") for one in result.findings}
        assert all(one.cause and one.advice for one in result.findings)


@pytest.mark.slow
def test_every_byte_of_every_document_counts(sound, tmp_path):
    folder, seen, _ = sound
    shutil.copytree(folder, tmp_path / "store")
    store = DirectoryStore(tmp_path / "store")
    for name in (one for one in names(store) if "/points/" in one or one.endswith(".json")):
        data = store.get(name).data
        for at in range(len(data)):
            store.put(name, data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
            result = scrub(store, "web", fraction=0, seen=seen)
            assert name in {one.object.removeprefix(f"{store.url}/") for one in result.findings}
        store.put(name, data)


def test_what_was_seen_survives_as_json(sound):
    _, seen, _ = sound
    assert msgspec.json.decode(msgspec.json.encode(seen), type=Seen) == seen
