"""`standby key`, and `--key-file` and `--passphrase` wherever a replica is read."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
from unittest import mock

import pytest

from standby.block.nbd import NbdDisk
from standby.objects.directory import DirectoryStore
from standby.replica.format import BLOCK
from standby.replica.keys import KeyFile
from standby.replica.writer import attach, create
from tests.cli.conftest import PROGRAM, standby
from tests.support.replicas import REPLICA, FixedClock, ModelDisk, commit_point, new_id, read_whole


@pytest.fixture
def key(tmp_path) -> KeyFile:
    return KeyFile.new(tmp_path / "key")


@pytest.fixture
def disk(store, tmp_path, key) -> ModelDisk:
    """Replica `web`, encrypted, with three points of one disk."""
    opened = DirectoryStore(store)
    create(opened, "web", replica=REPLICA, origin="host-a", clock=FixedClock(), key=key)
    writer = attach(opened, "web", owner="agent", clock=FixedClock(), new_id=new_id, key=key)
    disk = ModelDisk("vda", 20 * BLOCK)
    (tmp_path / "spool").mkdir()
    for number in range(3):
        disk.write(number * BLOCK, os.urandom(BLOCK))
        commit_point(writer, [disk], tmp_path / "spool")
    return disk


def test_a_key_is_made_and_named(tmp_path):
    made = standby("key", "new", tmp_path / "key", "--json")
    assert made.status == 0, made.err
    assert made.json == {"key": KeyFile(tmp_path / "key").id, "file": str(tmp_path / "key")}
    assert standby("key", "show", tmp_path / "key").out.strip() == made.json["key"]
    assert standby("key", "new", tmp_path / "key").status == 5


READING = [
    ("verify", ["--all", "--logs"]),
    ("restore", ["--to", "{tmp}/image"]),
    ("merge", ["--to", "newest"]),
]


@pytest.mark.parametrize(("verb", "more"), READING)
def test_what_reads_the_content_needs_the_key_and_says_so(store, disk, key, tmp_path, verb, more):
    arguments = ["replica", verb, store, "web", *(one.format(tmp=tmp_path) for one in more)]
    without = standby(*arguments, columns=200)
    assert without.status == 5
    assert "the replica is encrypted" in without.err
    assert "--key-file FILE" in without.err
    other = standby(*arguments, "--key-file", KeyFile.new(tmp_path / "other").path, columns=300)
    assert other.status == 5
    assert f"does not open it; these do: key {key.id}" in other.err
    assert "nothing is damaged" in other.err
    done = standby(*arguments, "--key-file", key.path)
    assert done.status == 0, done.err
    if verb == "restore":
        assert (tmp_path / "image").read_bytes() == disk.bytes


def test_the_environment_names_the_key_file(store, disk, key):
    with mock.patch.dict(os.environ, {"STANDBY_KEY_FILE": str(key.path)}):
        assert standby("replica", "verify", store, "web").status == 0
        assert standby("replica", "scrub", store, "web", "--json").json["unproved"] == ""
    assert "without the key" in standby("replica", "scrub", store, "web", "--json").json["unproved"]


def test_what_needs_no_key_works_without_one(store, disk, key):
    assert [one["encrypted"] for one in standby("replica", "list", store, "--json").json] == [True]
    assert [one["point"] for one in standby("replica", "points", store, "web", "--json").json] == [2, 3, 4]
    shown = standby("replica", "show", store, "web", columns=100)
    assert f"opened by key {key.id}" in shown.out
    assert standby("replica", "sweep", store, "web").status == 0
    assert standby("replica", "scrub", store, "web").status == 0
    assert [one["key"] for one in standby("key", "list", store, "web", "--json").json] == [key.id]


def test_keys_are_added_rotated_and_removed(store, disk, key, tmp_path):
    new = KeyFile.new(tmp_path / "new")
    third = KeyFile.new(tmp_path / "third")
    given = ["--key-file", key.path]
    added = standby("key", "add", store, "web", *given, "--new-key-file", new.path, "--json")
    assert added.json["key"] == new.id
    assert standby("key", "remove", store, "web", key.id, *given).status == 3
    assert standby("key", "remove", store, "web", key.id, "--key-file", new.path).status == 0
    assert standby("replica", "verify", store, "web", *given).status == 5
    done = standby("key", "rotate", store, "web", "--key-file", new.path, "--new-key-file", third.path)
    assert done.status == 0, done.err
    assert standby("replica", "verify", store, "web", "--key-file", third.path).status == 0
    assert standby("key", "add", store, "web", "--key-file", third.path).status == 3


def test_a_passphrase_is_a_line_of_standard_input_and_never_an_argument(store, disk, key):
    with mock.patch("sys.stdin", io.StringIO("correct horse\n")):
        added = standby("key", "add", store, "web", "--key-file", key.path, "--new-passphrase")
    assert added.status == 0, added.err
    with mock.patch("sys.stdin", io.StringIO("correct horse\n")):
        assert standby("replica", "verify", store, "web", "--passphrase").status == 0
    with mock.patch("sys.stdin", io.StringIO("battery staple\n")):
        wrong = standby("replica", "verify", store, "web", "--passphrase", columns=200)
    assert wrong.status == 5
    assert "the passphrase does not open it" in wrong.err


def test_a_key_file_that_all_may_read_is_refused(store, disk, key):
    key.path.chmod(0o644)
    done = standby("replica", "verify", store, "web", "--key-file", key.path, columns=300)
    assert done.status == 5
    assert f"chmod 600 {key.path}" in done.err


@pytest.mark.slow
def test_a_served_point_of_an_encrypted_replica_is_the_disk(store, disk, key, tmp_path):
    served = subprocess.Popen(
        [PROGRAM, "replica", "serve", store, "web", "--socket", tmp_path / "s", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "STANDBY_KEY_FILE": str(key.path)},
    )
    json.loads(served.stdout.readline())
    client = NbdDisk(tmp_path / "s", "")
    assert read_whole(client.read, disk.size) == disk.bytes
    client.close()
    served.send_signal(signal.SIGINT)
    assert served.wait(20) in (0, 130)
