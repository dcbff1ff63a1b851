"""Replicating into an encrypted replica: what is on the host, without the store, without the key."""

from __future__ import annotations

import pytest

from standby.errors import InvalidRequest
from standby.objects.directory import DirectoryStore
from standby.replica.format import BLOCK, block_hash
from standby.replica.keys import KeyFile, KeyMissing, KeyRefused, NotEncrypted, WrongKey
from standby.replica.verify import verify_point
from standby.replication.states import State
from tests.hypervisor.processes import PAGE, Daemon
from tests.replication.rig import Rig
from tests.replication.site import now, write
from tests.replication.test_resync import fill, sent
from tests.support.faulty_store import Fault, FaultyStore, refused

pytestmark = pytest.mark.slow

SECRET = b"the launch codes" * (BLOCK // 16)
DISKS = {"raw": ("raw", "")}


@pytest.fixture
def key(tmp_path) -> KeyFile:
    return KeyFile.new(tmp_path / "key")


@pytest.fixture
def daemon(tmp_path):
    daemon = Daemon(tmp_path, DISKS)
    yield daemon
    daemon.stop()


@pytest.fixture
def rig(tmp_path, daemon, key):
    rig = Rig(
        tmp_path,
        daemon.hypervisor(),
        FaultyStore(DirectoryStore(tmp_path / "store", create=True)),
        key=key,
    )
    yield rig
    rig.close()


def again(rig, daemon, **request) -> Rig:
    """The agent, started again on the same books."""
    rig.close()
    fresh = Rig(rig.folder, daemon.hypervisor(), rig.store, key=rig.key)
    fresh.enable(**request)
    return fresh


def test_what_waits_on_the_host_is_encrypted_and_its_hashes_are_keyed(rig, daemon, tmp_path):
    rig.protect()
    rig.store.add(Fault("put_file", refused(), times=None))
    write(daemon, "raw", 3 * BLOCK, SECRET)
    rig.source.cycle()
    waiting = list(rig.spool.iterdir())
    assert waiting
    books = [path for path in (tmp_path / "agent").rglob("*") if path.is_file()]
    hashes = [path.read_bytes() for path in books if path.suffix == ".hashes"]
    assert any(any(content) for content in hashes)
    for path in (*waiting, *books):
        content = path.read_bytes()
        assert SECRET[:16] not in content, path
        assert block_hash(SECRET) not in content, path
        assert rig.key.path.read_bytes() not in content, path


def test_an_agent_that_starts_while_the_store_is_away_captures_all_the_same(rig, daemon):
    rig.protect()
    rig.store.add(Fault("get", refused(), times=None))
    rig.store.add(Fault("put_file", refused(), times=None))
    fresh = again(rig, daemon)
    write(daemon, "raw", 0, SECRET)
    fresh.source.recover()
    fresh.source.cycle()
    assert len(fresh.books.queue(fresh.id)) == 1
    rig.store.heal()
    fresh.target.attach()
    fresh.target.ship(fresh.books.queue(fresh.id)[0])
    assert fresh.images() == now(daemon)
    fresh.close()


def test_lost_books_are_found_by_keyed_hashes_and_only_differences_are_sent(rig, daemon, tmp_path):
    fill(daemon, 1, 200)
    rig.protect()
    rig.close()
    write(daemon, "raw", 0, SECRET[:PAGE])
    fresh = Rig(tmp_path, daemon.hypervisor(), rig.store, name="other", key=rig.key)
    fresh.enable(take_over=True)
    fresh.until(lambda: fresh.state is State.PROTECTED)
    assert 0 < sent(fresh.seen.records) <= BLOCK
    assert fresh.images() == now(daemon)
    log = fresh.log()
    assert verify_point(log, log.point()).findings == ()
    fresh.close()


def test_a_key_file_that_is_gone_stops_it_until_it_is_back(rig, daemon, key):
    rig.protect()
    before = len(rig.log().points)
    key.path.rename(key.path.with_suffix(".away"))
    rig.key = None
    fresh = again(rig, daemon)
    write(daemon, "raw", 0, SECRET)
    fresh.engine.retry_now()
    for _ in range(5):
        fresh.engine.step()
    trouble = fresh.books.get(fresh.id).send or fresh.books.get(fresh.id).capture
    assert (trouble.kind, trouble.retry_at) == (KeyRefused.__name__, None)
    assert str(key.path) in trouble.error
    key.path.with_suffix(".away").rename(key.path)
    fresh.engine.retry_now()
    fresh.key = key
    fresh.until(lambda: len(fresh.log().points) > before)
    fresh.drain()
    fresh.close()


@pytest.mark.parametrize("mode", ["encrypted", "plain"])
def test_the_mode_of_a_replica_that_is_there_never_changes(tmp_path, daemon, key, mode):
    rig = Rig(tmp_path, daemon.hypervisor(), key=key if mode == "encrypted" else None)
    rig.protect()
    rig.close()
    other = Rig(tmp_path, daemon.hypervisor(), rig.store, name="other", key=None if rig.key else key)
    with pytest.raises(KeyMissing if rig.key else NotEncrypted):
        other.enable(take_over=True)
    with pytest.raises((InvalidRequest, KeyMissing)):
        other.enable()
    assert other.books.relationships() == []
    if rig.key:
        other.key = KeyFile.new(tmp_path / "wrong")
        with pytest.raises(WrongKey):
            other.enable(take_over=True)
    other.close()
