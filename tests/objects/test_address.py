from __future__ import annotations

from pathlib import Path

import pytest

from standby.objects.address import InvalidAddress, directory_of, open_store
from standby.objects.directory import DirectoryStore
from standby.objects.marker import NotAStore


def test_a_path_and_a_file_url_open_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    DirectoryStore(tmp_path / "my store", create=True).put("a", b"1")
    monkeypatch.chdir(tmp_path)
    url = (tmp_path / "my store").as_uri()
    for address in (str(tmp_path / "my store"), "my store", url, url.replace("file://", "file://localhost")):
        store = open_store(address)
        assert store.get("a").data == b"1"
        assert store.url == str(tmp_path / "my store")


def test_where_no_store_is_none_is_made(tmp_path: Path):
    with pytest.raises(NotAStore):
        open_store(str(tmp_path))


@pytest.mark.parametrize(
    "address", ["", "gs://bucket/prefix", "http://x/y", "file://host/x", "file://x", "file:///x?y", "a\0b"]
)
def test_other_addresses_are_named_with_what_is_supported(address: str):
    with pytest.raises(InvalidAddress, match=r"file:///srv/replicas.*s3://BUCKET/PREFIX") as caught:
        directory_of(address)
    assert caught.value.subject == repr(address.partition("?")[0])


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a/b.c/", "s3://bucket/a/b.c"),
        ("az://container/p", "az://container/p"),
        (
            "s3://bucket/p?region=eu-1&endpoint=https://minio.example:9000/",
            "s3://bucket/p?endpoint=https://minio.example:9000/&region=eu-1",
        ),
        ("az://container?endpoint=http%3A%2F%2Fh%3A1%2Facc", "az://container?endpoint=http://h:1/acc"),
    ],
)
def test_an_address_of_a_cloud_is_kept_so_that_it_opens_again(address: str, shown: str):
    environment = {"AZURE_STORAGE_ACCOUNT": "acc", "AZURE_STORAGE_KEY": "QUJD"}
    store = open_store(address, environment)
    assert store.url == shown
    assert open_store(store.url, environment).url == shown


@pytest.mark.parametrize(
    "address",
    [
        "s3://",
        "s3:///prefix",
        "s3://key:S3CRET@bucket/p",
        "s3://bucket:80/p",
        "s3://bucket/a//b",
        "s3://bucket/../x",
        "s3://bucket/p?token=S3CRET",
        "az://container/p?sv=1&sig=S3CRET",
        "az://container/p?region=x",
        "az://container/p?endpoint=",
        "az://container/p#S3CRET",
    ],
)
def test_no_address_of_a_cloud_holds_anything_else_and_no_secret_is_repeated(address: str):
    with pytest.raises(InvalidAddress) as caught:
        open_store(address, {"AZURE_STORAGE_ACCOUNT": "acc"})
    assert "S3CRET" not in str(caught.value)
