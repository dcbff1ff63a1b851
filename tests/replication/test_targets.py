"""Several targets for one machine: one capture, and each target at its own pace."""

from __future__ import annotations

import sqlite3

import pytest
from ulid import ULID

from standby.clock import SystemClock
from standby.objects.directory import DirectoryStore
from standby.replica.format import BLOCK
from standby.replica.journal import ReplicaLog
from standby.replica.verify import verify_logs
from standby.replica.writer import attach
from standby.replication import schema
from standby.replication.books import Books
from standby.replication.decide import SourceAction
from standby.replication.followers import Followers, Stage
from standby.replication.policy import Policy
from standby.replication.states import State
from tests.hypervisor.processes import SIZE, contents
from tests.replication.site import again, due, noise, now, stop, write
from tests.support.faulty_store import Fault, FaultyStore, lost, refused

pytestmark = pytest.mark.slow


def away(store):
    for verb in ("put_file", "put_if_absent", "get_if_changed", "get", "list"):
        store.add(Fault(verb, refused(), times=None))


class Two:
    """A machine that is replicated to `first` from the start, and to `second` once that is added."""

    def __init__(self, site):
        self.daemon = site.daemon()
        self.first = FaultyStore(DirectoryStore(site.folder / "store", create=True))
        self.second = FaultyStore(DirectoryStore(site.folder / "second", create=True))
        self.rig = site.rig(self.daemon, self.first)
        self.rig.protect()
        self.count = 0

    def add(self):
        self.following = self.rig.follow(self.second)
        self.catch_up()

    @property
    def follower(self):
        (one,) = Followers(self.rig.books).of(self.rig.id)
        return one

    def catch_up(self, steps=60):
        for _ in range(steps):
            if not self.following.step() and self.follower.stage is Stage.LEVEL and not self.follower.queued:
                return
        raise AssertionError(f"{self.follower}")

    def capture(self, blocks=1):
        self.count += 1
        write(self.daemon, "raw", self.count % 8 * 6 * BLOCK, noise(blocks * BLOCK, self.count))
        write(self.daemon, "qcow", self.count % 32 * BLOCK, noise(BLOCK, self.count))
        due(self.rig)
        return self.rig.engine.source_step()

    def log(self, store):
        return ReplicaLog.read(store.inner, "vm")

    def check(self):
        """Both stores hold the machine as it is, and nothing waits any more."""
        for store in (self.first, self.second):
            log = self.log(store)
            assert verify_logs(log).findings == ()
            seq = log.point().seq
            assert {one: contents(log.image(seq, one)) for one in ("raw", "qcow")} == now(self.daemon)
        assert list(self.rig.spool.iterdir()) == []
        with self.rig.books.reading_db() as db:
            assert db.execute("SELECT COUNT(*) FROM queued").fetchone()[0] == 0


def test_a_target_that_is_added_gets_what_is_there_and_then_each_point_without_another_capture(site):
    two = Two(site)
    two.capture()
    two.rig.drain()
    read, cycles = dict(two.rig.seen.scanned_bytes), len(two.rig.seen.cycles)
    two.add()
    for _ in range(3):
        assert two.capture() is SourceAction.CYCLE
        two.rig.drain()
        two.catch_up()
    assert two.rig.seen.scanned_bytes == read, "the source is not read for it"
    assert len(two.rig.seen.cycles) == cycles + 3
    points, twins = two.log(two.first).points, two.log(two.second).points
    assert [(one.nonce, one.at) for one in twins] == [(one.nonce, one.at) for one in points[-4:]]
    two.check()


def test_one_that_is_away_holds_the_other_up_in_neither_direction(site):
    two = Two(site)
    two.add()
    for store, other in ((two.second, two.first), (two.first, two.second)):
        away(store)
        before = len(two.log(other).points)
        for _ in range(3):
            assert two.capture() is SourceAction.CYCLE
            two.rig.engine.target_step()
            while two.following.step():
                pass
        assert len(two.log(other).points) == before + 3
        store.heal()
        two.rig.engine.retry_now()
        two.rig.drain()
        two.catch_up()
        two.check()
    assert two.rig.state is State.PROTECTED
    assert [one.nonce for one in two.log(two.second).points] == [
        one.nonce for one in two.log(two.first).points[-len(two.log(two.second).points) :]
    ]


@pytest.mark.parametrize("late", ["first", "second"])
def test_what_waits_for_one_target_alone_gives_way_before_the_other_misses_a_point(site, late):
    two = Two(site)
    two.add()
    two.rig.books.set_policy(two.rig.id, Policy(frequency=1, reserve=0, backlog_percent=25))
    there = two.second if late == "first" else two.first
    away(getattr(two, late))
    made = before = len(two.log(there).points)
    two.rig.seen.scanned_bytes.clear()
    for _ in range(10):
        action = two.capture(6)
        made += action is SourceAction.CYCLE
        for _ in range(3):
            two.rig.engine.target_step()
            two.following.step()
        if action is not SourceAction.CYCLE:
            made += two.rig.engine.source_step() is SourceAction.CYCLE
            two.rig.engine.target_step()
            two.following.step()
    assert made >= before + 9
    assert two.follower.stage is Stage.BEHIND
    assert two.follower.store == getattr(two, late).url
    assert two.rig.books.get(two.rig.id).store == there.url
    assert two.rig.books.queued(two.rig.id).bytes.get("raw", 0) <= SIZE // 4 + 7 * BLOCK
    two.first.heal()
    two.second.heal()
    two.rig.engine.retry_now()
    two.rig.drain()
    two.catch_up()
    two.capture()
    two.rig.drain()
    two.catch_up()
    two.check()
    assert two.rig.seen.scanned_bytes == {}, "no disk is compared for it"


@pytest.mark.parametrize("fault", ["refused", "lost"])
def test_a_copy_that_breaks_off_goes_on_with_what_is_there(site, fault):
    two = Two(site)
    two.capture()
    two.rig.drain()
    two.following = two.rig.follow(two.second)
    two.second.add(
        Fault("put_if_absent", {"refused": refused, "lost": lost}[fault](), prefix="vm/points/", nth=2)
    )
    while two.following.step():
        pass
    assert two.follower.trouble.kind == "StoreUnreachable"
    two.rig.clock.advance(minutes=1)
    two.catch_up()
    assert two.follower.trouble is None
    two.capture()
    two.rig.drain()
    two.catch_up()
    two.check()


def test_a_damaged_log_of_one_costs_that_one_a_comparison_of_replicas_only(site):
    two = Two(site)
    two.add()
    two.capture()
    (entry,) = two.rig.books.queue(two.rig.id)
    two.rig.drain()
    path = next(two.rig.spool.iterdir())
    size = path.stat().st_size
    path.unlink()  # the first store may have it as a hard link
    path.write_bytes(bytes(size))
    assert entry.logs
    two.following.step()
    assert two.follower.stage is Stage.BEHIND
    two.catch_up()
    two.check()


def test_a_replica_that_somebody_took_over_stops_the_capture_and_names_the_store(site):
    two = Two(site)
    two.add()
    attach(two.second, "vm", owner="other", clock=SystemClock(), new_id=lambda: str(ULID()))
    two.capture()
    two.rig.drain()
    while two.following.step():
        pass
    assert (two.follower.stage, two.rig.state) == (Stage.FENCED, State.FENCED)
    assert "second" in two.follower.trouble.error


def test_a_restarted_agent_goes_on_with_both(site):
    two = Two(site)
    two.add()
    away(two.second)
    two.capture()
    two.rig.drain()
    stop(two.rig)
    two.second.heal()
    two.rig = again(site, two.rig, two.daemon)
    two.following = two.rig.follow(two.second)
    two.rig.until(lambda: two.rig.source.ready)
    two.capture()
    two.rig.drain()
    two.catch_up()
    two.check()


def test_books_of_an_older_standby_keep_their_queue(tmp_path):
    db = sqlite3.connect(tmp_path / "agent.sqlite")
    for number, step in enumerate(schema._STEPS[:-1]):
        db.executescript(f"{step}; PRAGMA user_version = {number + 1};")
    db.execute(
        "INSERT INTO relationship (id, machine, store, replica, replica_id, policy, spool, state) VALUES"
        " ('r', 'vm', '/s', 'vm', '00000000-0000-0000-0000-000000000001', '{}', '', 'protected')"
    )
    db.execute(
        'INSERT INTO entry VALUES (7, \'r\', \'point\', \'{"kind":"point","nonce":"n","at":"","disks":[]}\')'
    )
    db.execute("INSERT INTO queued VALUES (7, 'raw', 123)")
    db.commit()
    db.close()
    books = Books(tmp_path)
    queue = books.queued("r")
    assert (queue.points, dict(queue.bytes)) == (1, {"raw": 123})
    assert books.shipped("r", books.queue("r")[0], "", 1) == []
    assert books.queued("r").bytes == {}
    assert Followers(books).of("r") == []
    books.close()
