"""A replica that began with copies carried by hand: protecting the machine sends only what differs."""

from __future__ import annotations

import json
import random
import shutil
import signal

import pytest

from standby import failpoints
from standby.block.nbd import NbdDisk
from standby.objects.directory import DirectoryStore
from standby.replica.format import BLOCK
from standby.replica.journal import ReplicaLog
from standby.replica.keys import KeyFile
from tests.cli.conftest import standby
from tests.cli.test_vm import start
from tests.hypervisor.processes import FORMATS, SIZE, Daemon, contents

pytestmark = pytest.mark.slow

RANDOM = random.Random(9)


@pytest.fixture
def daemon(tmp_path):
    daemon = Daemon(tmp_path, {name: FORMATS[name] for name in ("qcow", "raw", "vhdx")})
    yield daemon
    daemon.stop()


def fill(daemon, offset: int, length: int) -> dict[str, bytes]:
    """Write so many random bytes to each disk; the disks' content afterwards."""
    found = {}
    for name in daemon.formats:
        disk = NbdDisk(daemon.nbd, name)
        disk.write(offset, memoryview(RANDOM.randbytes(length)))
        disk.flush()
        content = bytearray(disk.size)
        disk.read(0, memoryview(content))
        disk.close()
        found[name] = bytes(content)
    return found


def copies(daemon, tmp_path) -> list[str]:
    """--disk options for copies of the disks as they are now."""
    words = []
    for name, (driver, _) in daemon.formats.items():
        shutil.copy(tmp_path / f"{name}.img", tmp_path / f"{name}.copy")
        words += ["--disk", f"{name}={driver}:{tmp_path / name}.copy"]
    return words


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_after_a_seed_only_what_differs_is_sent(daemon, store, tmp_path, encrypted):
    key = KeyFile.new(tmp_path / "key") if encrypted else None
    opening = ["--key-file", tmp_path / "key"] if encrypted else []
    fill(daemon, 0, SIZE // 2)
    daemon.stop()  # The images' own caches are written.
    words = copies(daemon, tmp_path)
    done = standby("replica", "seed", store, "web", *words, *opening, "--json")
    assert done.status == 0, done.err
    assert done.json["read"] == 3 * SIZE
    assert done.json["sent"] > 3 * SIZE // 2
    again = standby("replica", "seed", store, "web", *words, *opening, "--json")
    assert again.json["sent"] == 0, "it is all there"
    if encrypted:
        without = standby("replica", "seed", store, "web", *words)
        assert (without.status, "is encrypted" in without.err) == (5, True)
    opened = DirectoryStore(store)
    seeded = len(ReplicaLog.read(opened, "web", key=key).records)

    again = Daemon(tmp_path, daemon.formats)
    try:
        content = fill(again, SIZE // 4, 3 * BLOCK)
        agent = start(again, store, tmp_path / "state", "--take-over", "--json", *opening)
        try:
            while json.loads(agent.stdout.readline())["event"] != "point":
                pass
        finally:
            agent.send_signal(signal.SIGINT)
            agent.communicate(timeout=30)
    finally:
        again.stop()
    log = ReplicaLog.read(opened, "web", key=key)
    assert log.head.encrypted is encrypted
    sent = sum(one.data for record in log.records[seeded:] for disk in record.disks for one in disk.logs)
    assert 3 * 3 * BLOCK <= sent <= 3 * 4 * BLOCK
    for name, expected in content.items():
        assert contents(log.image(log.point().seq, name)) == expected
    assert log.points[0].seq > seeded, "the copies are no recovery point"

    refused = standby("replica", "seed", store, "web", *words, *opening)
    assert (refused.status, "recovery points" in refused.err) == (3, True)


def test_an_interrupted_seed_goes_on_and_keeps_what_other_runs_seeded(store, tmp_path):
    image = tmp_path / "image"
    image.write_bytes(RANDOM.randbytes(3 * BLOCK))
    assert standby("replica", "seed", store, "web", "--disk", f"c={image}").status == 0
    words = ["replica", "seed", store, "web", "--disk", f"a={image}", "--disk", f"b={image}", "--json"]
    failpoints.arm("seed.committed=raise")
    try:
        with pytest.raises(failpoints.FailpointHit):
            standby(*words)
    finally:
        failpoints.arm("")
    done = standby(*words)
    assert done.status == 0, done.err
    assert 3 * BLOCK <= done.json["sent"] < 4 * BLOCK, "the first disk is not sent again"
    log = ReplicaLog.read(DirectoryStore(store), "web")
    for disk in ("a", "b", "c"):
        assert contents(log.image(log.records[-1].seq, disk)) == image.read_bytes()


def test_what_is_no_copy_is_told(store, tmp_path):
    for wrong in ("a", "a=", f"a={tmp_path}/nothing", f"a=qcow2:{tmp_path}/nothing"):
        done = standby("replica", "seed", store, "web", "--disk", wrong)
        assert (done.status, "Traceback" in done.err) == (3, False)
    (tmp_path / "x").write_bytes(bytes(BLOCK))
    twice = [word for _ in range(2) for word in ("--disk", f"a={tmp_path}/x")]
    assert standby("replica", "seed", store, "web", *twice).status == 3
