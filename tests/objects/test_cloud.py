"""The contract on real cloud services, and what only a cloud has."""

from __future__ import annotations

import subprocess
import sys

import boto3
import pytest

from standby.objects.base import StoreRefused
from standby.objects.cloud import CloudStore
from standby.objects.names import MAX_PART
from standby.objects.probe import PREFIX, probe
from tests.objects.contract import StoreContract, names
from tests.support.clouds import with_sas

pytestmark = pytest.mark.slow


class TestCloudStore(StoreContract):
    @pytest.fixture
    def store(self, place) -> CloudStore:
        return place.open()


def test_stores_in_one_bucket_and_what_else_lies_there_do_not_meet(cloud):
    place = cloud.place("a/b")
    bucket = place.address.rsplit("/", 2)[0]
    inner, outer, other = (
        place._replace(address=f"{bucket}{prefix}").open() for prefix in ("/a/b", "", "/a/bc")
    )
    inner.put("x/1", b"inner")
    other.put("x/1", b"other")
    assert names(inner) == ["x/1"]
    assert names(outer) == ["a/b/x/1", "a/bc/x/1"]
    assert inner.get("x/1").data == b"inner"
    inner.put("x" * MAX_PART, b"")
    assert names(inner, "x" * 9) == ["x" * MAX_PART]


def test_a_shared_access_signature_opens_a_container(azurite):
    place = azurite.place()
    probe(with_sas(place, "racwdl").open())
    assert names(place.open()) == []


def test_a_signature_that_cannot_delete_is_enough_to_replicate(azurite):
    place = azurite.place()
    store = with_sas(place, "racwl").open()
    probe(store)
    assert len(names(store, PREFIX)) == 4
    with pytest.raises(StoreRefused, match="delete: .*403"):
        store.delete(names(store)[0])


@pytest.mark.parametrize(
    ("permissions", "expiry"), [("rl", "2099-01-01T00:00:00Z"), ("racwdl", "2020-01-01T00:00:00Z")]
)
def test_a_signature_that_allows_too_little_or_has_ended_is_told_and_not_shown(azurite, permissions, expiry):
    store = with_sas(azurite.place(), permissions, expiry=expiry).open()
    with pytest.raises(StoreRefused, match="403") as caught:
        probe(store)
    for text in (str(caught.value), repr(caught.value), repr(store)):
        assert "sig" not in text.replace("signature", "")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


LARGE = """
import os, sys
from pathlib import Path
from standby.objects.address import open_store
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
store = open_store(sys.argv[1])
store.put("small", b"1")
before = peak()
store.put_file("log", Path(sys.argv[2]))
assert store.size("log") == 192 << 20
print((peak() - before) >> 10)
"""


def test_a_large_log_takes_little_memory(azurite, tmp_path):
    place = azurite.place()
    source = tmp_path / "log"
    with source.open("wb") as file:
        file.truncate(192 << 20)
    done = subprocess.run(
        [sys.executable, "-c", LARGE, place.address, source],
        env=place.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 64, "MiB"


def test_in_a_bucket_that_keeps_every_version_nothing_breaks(moto):
    """As object lock wants it: heads are swapped, records put, and a delete hides without destroying."""
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=moto.endpoint, **keys)
    client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    store = moto.place()._replace(address="s3://locked/standby").open()
    probe(store)
    store.put("a", b"kept")
    store.delete("a")
    assert names(store) == []
    (version,) = client.list_object_versions(Bucket="locked", Prefix="standby/a")["Versions"]
    kept = client.get_object(Bucket="locked", Key="standby/a", VersionId=version["VersionId"])
    assert kept["Body"].read() == b"kept"
