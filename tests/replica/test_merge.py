"""Merging (docs/protocol.md M1 to M4): the same bytes before and after, whatever is folded."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standby.errors import Damaged, Fenced, InvalidRequest, Recoverable
from standby.objects.base import StoreUnreachable
from standby.objects.directory import DirectoryStore
from standby.replica.documents import decode_record, encode
from standby.replica.format import BLOCK, PAGE
from standby.replica.journal import ChainBroken, Place, ReplicaLog, add_hold, drop_hold
from standby.replica.keys import Key
from standby.replica.merge import floor_only, merge
from standby.replica.merge_plan import AT_ONCE, Range
from standby.replica.sweep import sweep
from standby.replica.verify import verify_logs, verify_point
from standby.replica.writer import Draft, Writer, attach, create
from tests.support.faulty_store import Call, Fault, FaultyStore, readonly
from tests.support.replicas import REPLICA, FixedClock, ModelDisk, commit_point, new_id, read_whole

SIZE = 5 * BLOCK + 3 * PAGE + 512


def opened(store, key=None) -> dict[int, dict[str, bytes]]:
    """Every point's disks, read as a whole; each block is compared with its hash on the way."""
    log = ReplicaLog.read(store, "web", key=key)
    return {
        point.seq: {
            disk.id: read_whole(log.image(point.seq, disk.id).read, disk.size) for disk in point.disks
        }
        for point in log.points
    }


class Replica:
    """A replica `web` whose every point's content is known."""

    def __init__(self, folder: Path, key: Key | None = None) -> None:
        self.key = key
        self.store = DirectoryStore(folder / "store", create=True)
        self.spool = folder / "spool"
        self.spool.mkdir()
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.truth: dict[int, dict[str, bytes]] = {}
        create(self.store, "web", replica=REPLICA, origin="host-a", clock=FixedClock(), key=key)
        self.attach()

    def attach(self) -> None:
        self.writer = attach(
            self.store, "web", owner="agent", clock=FixedClock(), new_id=new_id, key=self.key
        )

    def point(self, *disks: ModelDisk) -> int:
        seq = commit_point(self.writer, list(disks), self.spool).seq
        self.truth[seq] = {disk.id: disk.bytes for disk in disks}
        return seq

    def merge(self, keep, **options):
        options.setdefault("thresholds", AT_ONCE)
        store = options.pop("store", self.store)
        wanted = keep if callable(keep) else lambda log: set(keep)
        options.setdefault("scratch", self.scratch)
        return merge(store, "web", wanted, key=self.key, **options)

    def check(self, stays: set[int] | None = None) -> None:
        found = opened(self.store, self.key)
        assert found == {seq: self.truth[seq] for seq in found}
        if stays is not None:
            assert set(found) == stays
        log = ReplicaLog.read(self.store, "web", key=self.key)
        assert verify_logs(log).findings == ()
        for point in log.points:
            assert verify_point(log, point).findings == ()


@pytest.fixture
def replica(tmp_path) -> Replica:
    return Replica(tmp_path)


@pytest.fixture
def ten(replica) -> Replica:
    """Points 2 to 11 of one disk, each with a block of its own and a page that all share."""
    disk = ModelDisk("vda", 12 * BLOCK)
    for number in range(10):
        disk.write(number * BLOCK, random.Random(number).randbytes(BLOCK))
        disk.write(11 * BLOCK, bytes([65 + number]) * PAGE)
        replica.point(disk)
    return replica


def objects(replica, prefix: str) -> int:
    return len(list(replica.store.list(f"web/{prefix}/")))


def test_the_floor_moves_and_every_later_point_stays_the_same(ten):
    result = ten.merge(floor_only(7))
    assert result.ranges == (Range(0, 7),)
    ten.check(stays={7, 8, 9, 10, 11})
    assert sweep(ten.store, "web").logs == 6
    ten.check(stays={7, 8, 9, 10, 11})
    assert objects(ten, "points") == objects(ten, "logs") + objects(ten, "layers") == 5
    with pytest.raises(InvalidRequest, match="no recovery point 6"):
        ReplicaLog.read(ten.store, "web").point("6")


def test_points_between_others_are_folded_and_a_writer_goes_on(ten):
    result = ten.merge({2, 6, 11})
    assert result.ranges == (Range(2, 6), Range(6, 11))
    ten.check(stays={2, 6, 11})
    sweep(ten.store, "web")
    ten.check(stays={2, 6, 11})
    assert objects(ten, "points") == 4  # the first fence too
    assert objects(ten, "logs") == 1
    disk = ModelDisk("vda", 12 * BLOCK)
    disk.content[:] = ten.truth[11]["vda"]
    disk.write(5, b"live")
    assert ten.point(disk) == 12
    ten.attach()
    disk.write(5, b"again")
    assert ten.point(disk) == 14
    ten.check(stays={2, 6, 11, 12, 14})


def test_ranges_are_folded_into_wider_ones_and_into_the_floor(ten):
    ten.merge({2, 4, 6, 8, 11})
    ten.merge({2, 6, 11})
    sweep(ten.store, "web")
    ten.check(stays={2, 6, 11})
    ten.merge({6, 11})
    sweep(ten.store, "web")
    ten.check(stays={6, 11})
    ten.merge({11})
    sweep(ten.store, "web")
    ten.check(stays={11})
    assert (objects(ten, "points"), objects(ten, "layers"), objects(ten, "logs")) == (1, 1, 0)
    assert ten.merge({11}).ranges == ()


def test_whole_frames_are_taken_over(replica):
    disk = ModelDisk("vda", 64 * BLOCK)
    disk.write(0, random.Random(1).randbytes(64 * BLOCK))
    replica.point(disk)
    disk.write(20 * BLOCK, b"one page of the second frame")
    replica.point(disk)
    result = replica.merge({3})
    # Four frames of 16 blocks: three stay, and the fourth is put together with the page.
    assert (result.copied, result.packed) == (3, 1)
    replica.check(stays={3})


def test_what_did_not_change_is_not_written_again(replica):
    disk = ModelDisk("vda", 40 * BLOCK)
    disk.write(0, b"a" * 10 * BLOCK)
    replica.point(disk)
    disk.write(0, b"b")
    replica.point(disk)
    first = replica.merge({3})
    assert (first.layers, first.taken_over) == (1, 0)
    replica.point(disk)
    replica.point(disk)
    again = replica.merge({5})
    assert (again.layers, again.taken_over) == (0, 1)
    sweep(replica.store, "web")
    replica.check(stays={5})


def test_m1_a_held_point_and_the_newest_stay(ten):
    place = Place(ten.store, "web")
    add_hold(place, "h", 4, "a reader")
    assert ten.merge(set()).ranges == (Range(0, 4), Range(4, 11))
    ten.check(stays={4, 11})
    drop_hold(place, "h")
    ten.merge(set())
    ten.check(stays={11})


def test_m3_a_hold_added_meanwhile_makes_it_plan_again(ten):
    place = Place(ten.store, "web")
    meanwhile = Call(lambda: add_hold(place, "h", 5, "a reader"))
    store = FaultyStore(ten.store, [Fault("swap", meanwhile, prefix="web/replica.json")])
    result = ten.merge({11}, store=store)
    assert (result.attempts, result.ranges) == (2, (Range(0, 5), Range(5, 11)))
    ten.check(stays={5, 11})
    # The outputs of the first attempt are gone.
    referenced = {layer.log.name for layer in ReplicaLog.read(ten.store, "web").head.layers}
    assert {e.name.removeprefix("web/") for e in ten.store.list("web/layers/")} == referenced


def test_m3_outputs_that_cannot_be_deleted_are_left_to_a_sweep(ten):
    place = Place(ten.store, "web")
    meanwhile = Call(lambda: add_hold(place, "h", 5, "a reader"))
    store = FaultyStore(
        ten.store,
        [
            Fault("swap", meanwhile, prefix="web/replica.json"),
            Fault("delete", readonly(), prefix="web/layers/", times=None),
        ],
    )
    assert ten.merge({11}, store=store).attempts == 2
    assert objects(ten, "layers") == 3
    drop_hold(place, "h")
    assert sweep(ten.store, "web").layers == 1
    ten.check(stays={5, 11})


def test_m3_readers_that_come_and_go_do_not_make_it_vain(ten):
    place = Place(ten.store, "web")
    numbers = iter(range(100))
    meanwhile = Call(lambda: add_hold(place, f"h{next(numbers)}", 11, "a reader"))
    store = FaultyStore(ten.store, [Fault("swap", meanwhile, prefix="web/replica.json", times=20)])
    assert ten.merge({11}, store=store).attempts == 1
    ten.check(stays={11})


def test_m3_a_sweep_that_began_meanwhile_makes_the_outputs_void(ten):
    meanwhile = Call(lambda: sweep(ten.store, "web"))
    store = FaultyStore(ten.store, [Fault("swap", meanwhile, prefix="web/replica.json")])
    assert ten.merge({11}, store=store).attempts == 2
    ten.check(stays={11})
    assert objects(ten, "layers") == 1


def test_sweeps_that_always_come_between_are_told(ten):
    meanwhile = Call(lambda: sweep(ten.store, "web"))
    store = FaultyStore(ten.store, [Fault("swap", meanwhile, prefix="web/replica.json", times=None)])
    with pytest.raises(Recoverable, match="came between, 5 times"):
        ten.merge({11}, store=store)
    ten.check(stays=set(range(2, 12)))
    assert objects(ten, "layers") == 0


def test_m4_what_a_reader_opened_before_stays_until_it_is_done(ten):
    place = Place(ten.store, "web")
    add_hold(place, "h", 11, "a reader")
    before = ReplicaLog.read(ten.store, "web")
    ten.merge({6, 11})
    assert sweep(ten.store, "web").waiting
    for seq in (3, 6, 11):
        assert read_whole(before.image(seq, "vda").read, 12 * BLOCK) == ten.truth[seq]["vda"]
    drop_hold(place, "h")
    swept = sweep(ten.store, "web")
    assert not swept.waiting
    assert swept.logs == 10
    ten.check(stays={6, 11})


def test_m4_a_layer_that_a_reader_opened_stays_when_a_wider_one_replaces_it(ten):
    place = Place(ten.store, "web")
    ten.merge({2, 6, 11})
    sweep(ten.store, "web")
    add_hold(place, "h", 11, "a reader")
    before = ReplicaLog.read(ten.store, "web")
    ten.merge({11})
    assert "2 replaced layers: in use by a reader" in sweep(ten.store, "web").waiting
    assert read_whole(before.image(6, "vda").read, 12 * BLOCK) == ten.truth[6]["vda"]
    drop_hold(place, "h")
    assert sweep(ten.store, "web").layers == 2
    ten.check(stays={11})


def test_m4_logs_in_use_stay_even_if_the_record_that_names_them_is_damaged(ten):
    """To the sweep they look like an older epoch's logs that nobody ever named."""
    ten.attach()
    add_hold(Place(ten.store, "web"), "h", 11, "a reader")
    before = ReplicaLog.read(ten.store, "web")
    ten.merge({2, 11})
    ten.store.put(f"web/points/{4:020d}", b"{")
    sweep(ten.store, "web")
    assert read_whole(before.image(6, "vda").read, 12 * BLOCK) == ten.truth[6]["vda"]


def test_m4_a_record_stays_while_the_store_refuses_to_delete_its_logs(ten):
    ten.merge({6, 11})
    store = FaultyStore(ten.store, [Fault("delete", readonly(), prefix="web/logs/", nth=3)])
    swept = sweep(store, "web")
    assert (swept.logs, swept.records) == (9, 8), "only the record that names it stays"
    (name,) = swept.refused
    assert swept.waiting[0].startswith(f"the store refuses to delete {name} (")
    ten.check(stays={6, 11})
    swept = sweep(ten.store, "web")
    assert (swept.logs, swept.records, swept.waiting, swept.refused) == (1, 1, (), ())


def test_r3_the_record_behind_a_range_is_the_one_that_the_head_names(ten):
    ten.merge({2, 11})
    name = f"web/points/{11:020d}"
    record = decode_record(ten.store.get(name).data, name)
    ten.store.put(name, encode(msgspec.structs.replace(record, writer="somebody else")))
    with pytest.raises(ChainBroken, match=name):
        ReplicaLog.read(ten.store, "web")
    ten.store.delete(name)
    sweep_away = [f"web/points/{seq:020d}" for seq in range(3, 11)]
    for one in sweep_away:
        ten.store.delete(one)
    with pytest.raises(ChainBroken, match=f"{name}: the head names this record and it is missing"):
        ReplicaLog.read(ten.store, "web")


def test_logs_that_another_merge_has_folded_meanwhile_are_no_damage(ten):
    other = tempfile.mkdtemp(dir=ten.scratch)

    def fold_and_sweep() -> None:
        ten.merge({2, 11}, scratch=Path(other))
        sweep(ten.store, "web")

    store = FaultyStore(ten.store, [Fault("get_range", Call(fold_and_sweep), prefix="web/logs/")])
    result = ten.merge({6, 11}, store=store)
    assert store.unused() == []
    assert (result.attempts, result.ranges) == (2, (Range(0, 11),))
    ten.check(stays={11})


def behind_a_newer_writer(ten) -> Writer:
    """The writer that was fenced by record 12, which lies between points 11 and 13; its next one is 12."""
    old = ten.writer
    ten.attach()
    disk = ModelDisk("vda", 12 * BLOCK)
    disk.content[:] = ten.truth[11]["vda"]
    disk.write(0, b"newer")
    assert ten.point(disk) == 13
    ten.point(disk)
    return old


LATE = Draft(kind="point", nonce="late", at="2026-11-24T08:00:00+00:00", disks=())


def test_w3_a_late_put_into_a_range_is_fenced_and_swept_away(ten):
    old = behind_a_newer_writer(ten)
    ten.merge({*range(2, 12), 14})
    sweep(ten.store, "web")
    with pytest.raises(Fenced, match="the head has epoch 2"):
        old.commit(LATE)
    assert f"web/points/{12:020d}" in {e.name for e in ten.store.list("web/points/")}
    ten.check(stays={*range(2, 12), 14})
    assert sweep(ten.store, "web").records == 1


def test_w2_a_record_that_goes_while_a_late_writer_reads_it_is_tried_again(ten):
    old = behind_a_newer_writer(ten)

    def fold_and_sweep() -> None:
        ten.merge({*range(2, 12), 14})
        sweep(ten.store, "web")

    old.place.store = FaultyStore(
        ten.store, [Fault("get", Call(fold_and_sweep), prefix=f"web/points/{12:020d}")]
    )
    with pytest.raises(StoreUnreachable, match="a merge took the record away"):
        old.commit(LATE)
    with pytest.raises(Fenced):
        old.commit(LATE)
    ten.check(stays={*range(2, 12), 14})


def test_a_reader_between_head_and_records_reads_again(ten):
    def fold_and_sweep() -> None:
        ten.merge({6, 11})
        sweep(ten.store, "web")

    store = FaultyStore(ten.store, [Fault("list", Call(fold_and_sweep), prefix="web/points/")])
    log = ReplicaLog.read(store, "web")
    assert [point.seq for point in log.points] == [6, 11]
    assert store.unused() == []


def test_a_writer_that_attaches_meanwhile_goes_on(ten):
    def fold_and_sweep() -> None:
        ten.merge({6, 11})
        sweep(ten.store, "web")

    store = FaultyStore(ten.store, [Fault("list", Call(fold_and_sweep), prefix="web/points/")])
    writer = attach(store, "web", owner="b", clock=FixedClock(), new_id=new_id)
    assert writer.tail.seq == 12
    ten.check(stays={6, 11})


@pytest.mark.parametrize("keep", [{11}, {2, 11}], ids=["floor", "between"])
def test_damage_is_never_folded_in(ten, keep):
    name = sorted(e.name for e in ten.store.list("web/logs/"))[4]
    data = bytearray(ten.store.get(name).data)
    data[1000] ^= 1
    ten.store.put(name, bytes(data))
    with pytest.raises(Damaged, match="nothing is merged"):
        ten.merge(keep)
    log = ReplicaLog.read(ten.store, "web")
    assert (log.head.merged, log.head.layers) == ((), ())


def test_damage_in_a_page_that_no_block_s_hash_proves_is_never_folded_in(replica):
    disk = ModelDisk("vda", 2 * BLOCK)
    disk.write(0, b"x" * 2 * BLOCK)
    replica.point(disk)
    for _ in range(2):
        disk.write(PAGE, random.Random(1).randbytes(PAGE))
        replica.point(disk)
    name = sorted(e.name for e in replica.store.list("web/logs/"))[2]
    data = bytearray(replica.store.get(name).data)
    data[1000] ^= 1
    replica.store.put(name, bytes(data))
    with pytest.raises(Damaged, match="nothing is merged"):
        replica.merge({2, 4})


def test_a_disk_that_went_and_came_back_begins_anew(replica):
    a, b = ModelDisk("vda", SIZE), ModelDisk("vdb", SIZE)
    a.write(0, b"x" * SIZE)
    b.write(0, b"y" * SIZE)
    replica.point(a, b)
    replica.point(a)
    blank = ModelDisk("vdb", SIZE)
    replica.point(a, blank)
    replica.point(a, blank)
    assert replica.merge({2, 5}).ranges == (Range(2, 5),)
    sweep(replica.store, "web")
    replica.check(stays={2, 5})
    blank.write(7, b"z")
    replica.point(a, blank)
    replica.merge({6})
    sweep(replica.store, "web")
    replica.check(stays={6})


write = st.tuples(
    st.integers(0, 1),
    st.integers(0, SIZE - 1),
    st.sampled_from([1, PAGE, 3 * PAGE + 7, BLOCK, 2 * BLOCK + PAGE]),
    st.sampled_from([b"\0", b"x", b"yz1"]),
)
step = st.one_of(
    st.lists(write, max_size=5),
    st.sampled_from(["attach", "sweep", "vdb"]),
    st.sets(st.integers(2, 25), max_size=6),
)


@settings(max_examples=20, deadline=None)
@given(st.lists(step, min_size=1, max_size=20))
def test_every_point_that_can_be_opened_reads_as_it_was(steps):
    carry_out(steps)


@pytest.mark.slow
@settings(max_examples=250, deadline=None)
@given(st.lists(step, min_size=1, max_size=20))
def test_every_point_reads_as_it_was_often(steps):
    carry_out(steps)


def carry_out(steps) -> None:
    """Writes, points, merges under any choice, sweeps, new epochs and disks that come and go, in any order."""
    with tempfile.TemporaryDirectory() as name:
        replica = Replica(Path(name))
        disks = [ModelDisk("vda", SIZE), ModelDisk("vdb", SIZE)]
        without = False
        for one in steps:
            if isinstance(one, set):
                replica.merge(one)
                found = set(opened(replica.store))
                assert {seq for seq in one if seq in replica.truth and seq in found} <= found
            elif one == "attach":
                replica.attach()
            elif one == "sweep":
                sweep(replica.store, "web")
            elif one == "vdb":
                without = not without
            else:
                for disk, offset, length, fill in one:
                    disks[disk].write(offset, (fill * length)[: min(length, SIZE - offset)])
                replica.point(*disks[: 1 if without else 2])
                if without:
                    disks[1] = ModelDisk("vdb", SIZE)
        replica.check()
        if replica.truth:
            newest = max(replica.truth)
            replica.merge({newest})
            sweep(replica.store, "web")
            replica.check(stays={newest})
