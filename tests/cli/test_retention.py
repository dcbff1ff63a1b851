"""`standby replica retain`, `merge`, `sweep` and `scrub`, as a person and a script meet them."""

from __future__ import annotations

import subprocess
import threading

import pytest

from standby.objects.directory import DirectoryStore
from standby.replica.journal import Place, ReplicaLog, add_hold, drop_hold
from tests.cli.conftest import PROGRAM, standby
from tests.cli.test_vm import protect
from tests.hypervisor.processes import FORMATS, Daemon, Writer, assert_one_instant
from tests.support.replicas import read_whole


def points(store) -> list[int]:
    return [one["point"] for one in standby("replica", "points", store, "web", "--json").json]


def test_a_dry_run_tells_each_point_and_why_and_does_nothing(store, disk):
    done = standby("replica", "retain", store, "web", "--keep", "1h:1d", "--dry-run", columns=200)
    assert done.status == 0, done.err
    assert "keep  it is the first point of the hour from 2026-11-24 08:00 (UTC), kept for 1 day" in done.out
    assert "drop  point 2 stands for the hour from 2026-11-24 08:00 (UTC)" in done.out
    assert "keep  it is the newest point" in done.out
    assert "2 points of 3 stay: one point every hour for 1 day." in done.out
    assert "Nothing was done. Now 1 range would be folded" in done.out
    assert points(store) == [2, 3, 4]
    told = standby("replica", "retain", store, "web", "--keep", "1h:1d", "--dry-run", "--json").json
    assert [one["keep"] for one in told["points"]] == [True, False, True]
    assert (told["folds"], told["merge"], told["swept"]) == ([{"first": 2, "last": 4}], None, None)


def test_what_is_dropped_is_folded_and_deleted_and_the_rest_restores(store, disk, tmp_path):
    done = standby("replica", "retain", store, "web", "--keep", "1h:1d", "--keep", "all:0h")
    assert done.status == 3
    assert "HOW-OFTEN:HOW-LONG" in done.err
    done = standby("replica", "retain", store, "web", "--keep", "1h:1d", "--scratch", tmp_path, columns=200)
    assert done.status == 0, done.err
    assert "Folded records 3-4 into 1 layer" in done.out
    assert "Deleted 2 logs, 0 layers and 1 record" in done.out
    assert points(store) == [2, 4]
    assert standby("replica", "verify", store, "web", "--all", "--logs").status == 0
    assert standby("replica", "restore", store, "web", "--to", tmp_path / "image").status == 0
    assert (tmp_path / "image").read_bytes() == disk.bytes
    again = standby("replica", "retain", store, "web", "--keep", "1h:1d", "--json")
    assert again.json["merge"]["ranges"] == []
    missing = standby("replica", "restore", store, "web", "--point", "3", "--to", tmp_path / "three")
    assert missing.status == 3
    assert "no recovery point 3" in missing.err


def test_merging_to_a_point_and_sweeping(store, disk):
    told = standby("replica", "merge", store, "web", "--to", "3", "--json").json
    assert told["ranges"] == [{"first": 0, "last": 3}]
    assert points(store) == [3, 4]
    would = standby("replica", "sweep", store, "web", "--dry-run", "--json").json
    assert (would["logs"], would["records"], would["waiting"]) == (2, 2, [])
    assert standby("replica", "sweep", store, "web", "--json").json == would
    assert "Deleted 0 logs" in standby("replica", "sweep", store, "web").out
    assert "nothing older than point 3" in standby("replica", "merge", store, "web", "--to", "3").out


@pytest.mark.slow
def test_beside_a_running_agent(store, tmp_path):
    """Retention runs again and again while a machine is written to and protected: neither is in the other's way."""
    daemon = Daemon(tmp_path, {name: FORMATS[name] for name in ("qcow", "raw")})
    over, statuses = threading.Event(), []

    def retain() -> None:
        while not over.is_set():
            command = ["replica", "retain", store, "web", "--keep", "all:3s", "--keep", "4s:1m"]
            done = subprocess.run([PROGRAM, *command], check=False, capture_output=True, text=True)
            if "no replica named" not in done.stderr:
                statuses.append((done.returncode, done.stderr))

    thread = threading.Thread(target=retain)
    try:
        with Writer(daemon, pause=0.002) as writer:
            writer.more()
            thread.start()
            events = protect(daemon, store, tmp_path / "state", 15)
    finally:
        over.set()
        thread.join(60)
        daemon.stop()
    assert not [event for event in events if event["event"] == "failed"]
    assert {status for status, _ in statuses} == {0}, statuses
    opened = DirectoryStore(store)
    log = ReplicaLog.read(opened, "web")
    assert log.head.merged
    assert len(log.points) < 15
    assert standby("replica", "verify", store, "web", "--all", "--logs").status == 0
    counts = []
    for point in log.points:
        images = {disk.id: log.image(point.seq, disk.id) for disk in point.disks}
        read = {name: bytearray(read_whole(image.read, image.size)) for name, image in images.items()}
        counts.append(assert_one_instant(writer, read))
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]


def test_what_a_reader_uses_waits_and_is_told(store, disk):
    place = Place(DirectoryStore(store), "web")
    add_hold(place, "h1", 4, "standby replica serve on b")
    standby("replica", "merge", store, "web", "--to", "newest")
    waiting = standby("replica", "sweep", store, "web", columns=200)
    assert "Waiting: 3 replaced logs: in use by standby replica serve on b" in waiting.out
    drop_hold(place, "h1")
    assert standby("replica", "sweep", store, "web", "--json").json["logs"] == 3


def test_scrub_finds_what_the_store_alone_cannot_tell(store, disk, tmp_path):
    seen = tmp_path / "seen"
    assert standby("replica", "scrub", store, "web", "--seen", seen).status == 0
    assert seen.exists()
    (store / "web" / "points" / f"{4:020d}").unlink()
    assert standby("replica", "scrub", store, "web").status == 0
    done = standby("replica", "scrub", store, "web", "--seen", seen, "--json")
    assert done.status == 8
    (finding,) = done.json["findings"]
    assert (finding["kind"], finding["points"], finding["way_out"]) == ("record", [4], "restore")
    seen.write_text("nonsense")
    assert standby("replica", "scrub", store, "web", "--seen", seen).status == 3


@pytest.mark.parametrize("columns", [60, 200])
def test_scrub_tells_damage_with_its_way_out(store, disk, columns):
    log = sorted((store / "web" / "logs").rglob("*.hrl"))[1]
    data = bytearray(log.read_bytes())
    data[1000] ^= 1
    log.write_bytes(data)
    done = standby("replica", "scrub", store, "web", columns=columns)
    assert done.status == 8
    assert "DAMAGED, 1 problem" in done.out
    assert "touches points 3-4" in done.out
    assert "Next: bring the object back" in done.out
    assert standby("replica", "show", store, "web", "--json").json["holds"] == []
    assert standby("replica", "scrub", store, "web", "--fraction", "0").status == 0


def test_scrub_tells_a_head_that_cannot_be_read(store, disk):
    head = store / "web" / "replica.json"
    head.write_bytes(head.read_bytes()[:-9])
    done = standby("replica", "scrub", store, "web", "--json")
    assert done.status == 8
    assert done.json["findings"][0]["kind"] == "head"
    assert standby("replica", "scrub", store, "mail").status == 3
