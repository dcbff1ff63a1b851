"""Attach and commit: docs/protocol.md T1 to T5 and W1 to W5, with faults injected at each call."""

from __future__ import annotations

import msgspec
import pytest

from standby import failpoints
from standby.errors import Bug, Fenced, InvalidRequest
from standby.objects.base import StoreUnreachable
from standby.replica.documents import Record, digest, encode
from standby.replica.format import BLOCK
from standby.replica.journal import Place, ReplicaLog, hold
from standby.replica.writer import Draft, attach, create
from tests.support.faulty_store import Call, Fault, FaultyStore, lost, refused
from tests.support.replicas import (
    REPLICA,
    FixedClock,
    ModelDisk,
    commit_point,
    new_id,
    read_whole,
)


def attach_again(store, owner="agent@host-b", **options):
    return attach(store, "web", owner=owner, clock=FixedClock(), new_id=new_id, **options)


def draft(nonce: str) -> Draft:
    return Draft(kind="point", nonce=nonce, at="2026-11-24T08:00:00+00:00", disks=())


def foreign_record(writer, nonce: str) -> Record:
    """A record at seq 2 under epoch 1, as another process with this writer's epoch would write it."""
    return Record(
        replica=REPLICA,
        seq=2,
        epoch=1,
        kind="point",
        nonce=nonce,
        parent=digest(encode(writer.tail)),
        at="2026-11-24T08:00:00+00:00",
        writer="somebody",
    )


def test_points_follow_one_another_and_open(store, writer, spool):
    disk = ModelDisk("vda", 3 * BLOCK)
    contents = {}
    for fill in (b"1", b"2", b"3"):
        disk.write(BLOCK, fill * BLOCK)
        record = commit_point(writer, [disk], spool)
        contents[record.seq] = disk.bytes
    log = ReplicaLog.read(store, "web")
    assert [(r.seq, r.kind, r.epoch) for r in log.records] == [
        (1, "fence", 1),
        (2, "point", 1),
        (3, "point", 1),
        (4, "point", 1),
    ]
    for seq, content in contents.items():
        assert read_whole(log.image(seq, "vda").read, disk.size) == content


def test_creating_twice_goes_on_and_another_replica_is_refused(store, writer):
    assert create(store, "web", replica=REPLICA, origin="host-a", clock=FixedClock()).epoch == 1
    with pytest.raises(InvalidRequest, match=r"the name web is taken by replica .* from host-a"):
        create(store, "web", replica=REPLICA.__class__(int=7), origin="x", clock=FixedClock())


@pytest.mark.parametrize("name", ["", "a/b", "..", "ä", "x" * 65])
def test_a_name_that_cannot_be_a_replica_s_is_refused(store, name):
    with pytest.raises(InvalidRequest, match="a replica's name is"):
        create(store, name, replica=REPLICA, origin="host-a", clock=FixedClock())


def test_t2_a_lower_epoch_is_fenced(store, writer):
    with pytest.raises(Fenced, match="epoch 1, this writer has 1"):
        attach_again(store, epoch=1)


def test_t4_the_older_writer_can_never_commit_again(store, writer):
    newer = attach_again(store)
    with pytest.raises(Fenced, match="another writer owns the replica: record 2 has epoch 2"):
        writer.commit(draft("a"))
    assert newer.commit(draft("b")).seq == 3


def test_t4_adopts_a_late_commit_of_the_older_writer(store, writer):
    """The older writer's record lands between the newer one's list and its fence."""
    record = foreign_record(writer, "late")
    late = Call(lambda: store.put_if_absent("web/points/" + f"{2:020d}", encode(record)))
    newer = attach_again(FaultyStore(store, [Fault("put_if_absent", late)]))
    assert newer.newest.nonce == "late"
    assert [r.kind for r in ReplicaLog.read(store, "web").records] == ["fence", "point", "fence"]


def test_w2_a_lost_answer_is_won_by_putting_the_same_again(store, writer):
    writer.place.store = FaultyStore(store, [Fault("put_if_absent", lost())])
    with pytest.raises(StoreUnreachable):
        writer.commit(draft("a"))
    assert writer.commit(draft("a")).seq == 2
    assert [r.nonce for r in ReplicaLog.read(store, "web").points] == ["a"]


def test_w2_another_draft_is_refused_while_one_is_undecided(store, writer):
    writer.place.store = FaultyStore(store, [Fault("put_if_absent", refused())])
    with pytest.raises(StoreUnreachable):
        writer.commit(draft("a"))
    with pytest.raises(Bug, match="b is offered while a is undecided"):
        writer.commit(draft("b"))


def test_w2_a_record_of_the_same_epoch_that_is_not_ours_stops_everything(store, writer):
    record = foreign_record(writer, "other")
    store.put_if_absent("web/points/" + f"{2:020d}", encode(record))
    with pytest.raises(Bug, match="written under epoch 1 by somebody"):
        writer.commit(draft("a"))


def test_w3_a_takeover_between_put_and_check_is_not_acknowledged(store, writer):
    writer.place.store = FaultyStore(store, [Fault("get_if_changed", Call(lambda: attach_again(store)))])
    with pytest.raises(Fenced, match="the head has epoch 2"):
        writer.commit(draft("a"))


def test_w3_a_hold_added_meanwhile_does_not_disturb(store, writer):
    writer.commit(draft("a"))
    with hold(Place(store, "web"), 2, "tester") as held:
        assert held
        assert writer.commit(draft("b")).seq == 3
    assert ReplicaLog.read(store, "web").head.holds == ()
    assert writer.commit(draft("c")).seq == 4


@pytest.mark.parametrize(
    "step", ["attach.head_read", "attach.head_swapped", "attach.listed", "attach.fence_put", "attach.done"]
)
def test_an_attach_stopped_anywhere_is_followed_by_another(store, writer, step):
    writer.commit(draft("a"))
    failpoints.arm(f"{step}=raise")
    try:
        with pytest.raises(failpoints.FailpointHit):
            attach_again(store)
    finally:
        failpoints.arm("")
    newer = attach_again(store)
    assert newer.newest.nonce == "a"
    newer.commit(draft("b"))
    assert [r.nonce for r in ReplicaLog.read(store, "web").points] == ["a", "b"]


def test_a_replica_that_needs_a_newer_writer_is_refused(store, writer):
    head = msgspec.structs.replace(writer.head, write_features=("objects-with-wings",))
    store.put("web/replica.json", encode(head))
    with pytest.raises(InvalidRequest, match="objects-with-wings.*newer standby"):
        attach_again(store)
