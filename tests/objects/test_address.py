from __future__ import annotations

import re
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
    "address",
    [
        "",
        "s3://bucket/prefix",
        "az://container",
        "http://x/y",
        "file://host/x",
        "file://x",
        "file:///x?y",
        "a\0b",
    ],
)
def test_other_addresses_are_named_with_what_is_supported(address: str):
    with pytest.raises(InvalidAddress, match=re.escape(repr(address)) + ".*file:///srv/replicas"):
        directory_of(address)
