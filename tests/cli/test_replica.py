"""`standby replica`: what a person and a script get from nothing but a store."""

from __future__ import annotations

import json
import signal
import subprocess

import msgspec
import pytest

from standby.block.nbd import NbdDisk
from standby.cli import results
from tests.cli.conftest import PROGRAM, standby
from tests.support.replicas import read_whole

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["replica", "points", "{store}", "mail"], 3, ["no replica named mail", "standby replica list"]),
        (["replica", "points", "{store}/nowhere", "web"], 5, ["no store is here", "nowhere"]),
        (
            ["replica", "verify", "{store}", "web", "--point", "99"],
            3,
            ["no recovery point 99", "2 to 4"],
        ),
        (["replica", "restore", "{store}", "web", "--disk", "x", "--to", "{store}/../x"], 3, ["vda"]),
        (["replica", "nonsense"], 2, ["nonsense"]),
        (["replica", "list", "gs://bucket"], 3, ["gs://bucket", "s3://BUCKET/PREFIX"]),
    ],
)
def test_mistakes_are_told_with_their_way_out(store, disk, arguments, status, said):
    filled = [one.format(store=store) for one in arguments]
    done = standby(*filled, columns=200)
    assert done.status == status
    assert done.out == ""
    for text in said:
        assert text in done.err
    assert "Traceback" not in done.err
    told = standby(*filled, "--json")
    assert told.status == status
    if status != 2:
        error = json.loads(told.err)
        assert error["exit_status"] == status
        assert error["cause"]


@pytest.mark.parametrize("verb", ["list", "points", "show", "verify"])
def test_a_narrow_terminal_cuts_nothing(store, disk, verb):
    arguments = [] if verb == "list" else ["web"]
    done = standby("replica", verb, store, *arguments, columns=60)
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert all(len(line) <= 60 or str(store) in line for line in lines)
    assert "…" not in done.out
    assert standby("replica", verb, store, *arguments, "--json").json


def test_points_are_listed_with_what_they_add(store, disk):
    points = standby("replica", "points", store, "web", "--json").json
    assert [point["point"] for point in points] == [2, 3, 4]
    assert [point["changed"] for point in points] == [65536] * 3


def test_a_damaged_replica_is_told_by_log_and_block(store, disk):
    log = sorted((store / "web" / "logs").rglob("*.hrl"))[1]
    data = bytearray(log.read_bytes())
    data[1000] ^= 1
    log.write_bytes(data)
    done = standby("replica", "verify", store, "web", "--json")
    assert done.status == 8
    (finding,) = done.json["findings"]
    assert finding["object"].endswith(log.name)
    assert "block 1 (byte 65536)" in finding["problem"]
    assert standby("replica", "verify", store, "web", "--point", "2").status == 0
    told = standby("replica", "verify", store, "web")
    assert f"\n{log}\n" in told.out, "a path stays whole, to be copied"
    assert "`--all` tells" in told.out
    every = standby("replica", "verify", store, "web", "--all")
    assert every.status == 8
    assert "touches points 3-4\n" in every.out
    assert "proved sound can be restored and started: 2." in " ".join(every.out.split())


def test_an_error_tells_its_subject_first_and_each_part_on_a_line_of_its_own(store, disk):
    done = standby("replica", "verify", store, "web", "--point", "99", columns=60)
    first, cause, then, *_ = done.err.splitlines()
    assert first == f"Error  web in {store}"
    assert cause == "       there is no recovery point 99"
    assert then.startswith("Next   choose one of points 2 to 4;")


def test_a_restored_file_is_the_disk_and_is_not_overwritten(store, disk, tmp_path):
    done = standby("replica", "restore", store, "web", "--to", tmp_path / "image")
    assert done.status == 0, done.err
    assert (tmp_path / "image").read_bytes() == disk.bytes
    done = standby("replica", "restore", store, "web", "--to", tmp_path / "image")
    assert done.status == 3
    assert "exists" in done.err


def test_a_served_point_is_the_disk_until_interrupted(store, disk, tmp_path):
    served = subprocess.Popen(
        [PROGRAM, "replica", "serve", store, "web", "--socket", tmp_path / "s", "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    told = json.loads(served.stdout.readline())
    assert told["socket"] == str(tmp_path / "s")
    client = NbdDisk(tmp_path / "s", "")
    assert read_whole(client.read, disk.size) == disk.bytes
    client.close()
    (tmp_path / "model").write_bytes(disk.bytes)
    compare = ["qemu-img", "compare", "-f", "raw", "-F", "raw", told["uri"], str(tmp_path / "model")]
    subprocess.run(compare, check=True, stdout=subprocess.DEVNULL)
    assert set(told) == {field.name for field in msgspec.structs.fields(results.Serving)}
    assert standby("replica", "show", store, "web", "--json").json["holds"] != []
    served.send_signal(signal.SIGINT)
    assert served.wait(20) in (0, 130)
    assert standby("replica", "show", store, "web", "--json").json["holds"] == []
