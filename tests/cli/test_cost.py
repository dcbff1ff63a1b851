"""What replicas cost, against what a meter counts."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from standby.objects.directory import DirectoryStore
from standby.objects.layers import Metered
from standby.replica.cost import MONTH, Prices, Requests, Stored, cost, requests
from standby.replica.documents import Merged
from standby.replica.format import BLOCK
from standby.replica.journal import ReplicaLog
from standby.replica.writer import attach, create
from tests.cli import reference
from tests.cli.conftest import standby
from tests.support.replicas import REPLICA, FixedClock, ModelDisk, commit_point, new_id

EXAMPLE = reference.DOC.with_name("prices-example.toml")
PRICES = Prices(currency="EUR", as_of="test", gib_month=2.0, write_1000=10.0, read_1000=1.0)


def test_the_cost_is_bytes_and_requests_times_prices():
    held = Stored(logs=1 << 30, layers=1 << 29, documents=1 << 28, boot=1 << 28)
    assert held.total == 2 << 30
    assert cost(held, Requests(writes=5000, reads=2000), PRICES) == (4.0, 52.0)
    assert cost(held, None, PRICES) == (4.0, 0.0)


def test_a_commit_asks_what_is_counted_for_it(store, tmp_path):
    """Of two points a minute apart the second is counted: its requests as a meter sees them."""
    metered = Metered(DirectoryStore(store))
    create(metered, "web", replica=REPLICA, origin="host", clock=FixedClock())
    writer = attach(metered, "web", owner="agent", clock=FixedClock(), new_id=new_id)
    disks = [ModelDisk("a", BLOCK), ModelDisk("b", BLOCK), ModelDisk("quiet", BLOCK)]
    commit_point(writer, disks, tmp_path)
    disks[0].write(0, os.urandom(BLOCK))
    disks[1].write(0, os.urandom(BLOCK))
    metered.reset()
    point = commit_point(writer, disks, tmp_path)
    counted = metered.traffic().requests
    log = ReplicaLog.read(metered, "web")
    later = msgspec.structs.replace(point, at="2026-11-24T08:01:00+00:00")
    asked = requests(log.head, [*log.records[:-1], later])
    minutes = MONTH / timedelta(minutes=1)
    writes = sum(counted[verb] for verb in ("put", "put_file", "put_if_absent", "swap"))
    reads = sum(counted[verb] for verb in ("get", "get_if_changed", "get_range", "list", "size"))
    assert (writes, reads) == (3, 1)
    assert asked == pytest.approx((writes * minutes, reads * minutes))


def test_too_few_points_and_merged_ones_tell_no_pace(store, disk):
    log = ReplicaLog.read(DirectoryStore(store), "web")
    assert requests(log.head, log.records) is None, "all at one instant"
    assert requests(log.head, log.records[:2]) is None
    hour = [
        msgspec.structs.replace(record, at=f"2026-11-24T{8 + number:02}:00:00+00:00")
        for number, record in enumerate(log.records)
    ]
    assert requests(log.head, hour).reads == pytest.approx(MONTH / timedelta(hours=1))
    merged = msgspec.structs.replace(
        log.head, merged=(Merged(first=0, last=hour[-1].seq, digest="", since=1),)
    )
    assert requests(merged, hour) is None


def test_the_command_tells_all_replicas_and_the_example_is_a_price_file(store, disk):
    done = standby("replica", "cost", store, "--prices", EXAMPLE, "--json")
    assert done.status == 0, done.err
    (web,) = done.json["replicas"]
    size = sum(path.stat().st_size for path in (store / "web").rglob("*") if path.is_file())
    assert web["stored"] == size == web["logs"] + web["layers"] + web["documents"] + web["boot"]
    assert web["logs"] > 3 * BLOCK
    assert web["writes"] is None
    shown = standby("replica", "cost", store, "web", "--prices", EXAMPLE)
    assert (shown.status, "too few points" in shown.out.replace("\n", " ")) == (0, True)


@pytest.mark.parametrize("text", ["", "currency = 1", "gib_month = -1", "nonsense", None])
def test_a_wrong_price_file_is_named(store, disk, tmp_path, text):
    path: Path = tmp_path / "prices.toml"
    if text is not None:
        path.write_text(EXAMPLE.read_text().replace("gib_month = 0.02", text) if text[:3] == "gib" else text)
    done = standby("replica", "cost", store, "--prices", path, columns=200)
    assert (done.status, str(path) in done.err) == (3, True)
