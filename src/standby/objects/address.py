"""From what an operator writes to a store.

    /srv/replicas                          a directory
    file:///srv/replicas                   the same
    s3://BUCKET/PREFIX                     S3; ?endpoint=URL and ?region=NAME if need be
    az://CONTAINER/PREFIX                  Azure Blob Storage; ?endpoint=URL if need be

An address never holds a secret: it is shown, logged and kept. Credentials are the environment's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from standby.errors import InvalidRequest
from standby.objects.base import ObjectStore
from standby.objects.cloud import USUAL, CloudStore, Transport, connect_azure, connect_s3
from standby.objects.cloud_credentials import (
    AzureSettings,
    S3Settings,
    azure_options,
    s3_authority,
    s3_options,
)
from standby.objects.directory import DirectoryStore
from standby.objects.names import is_name
from standby.objects.patient import PatientReads

_SUPPORTED: Final = (
    "a directory (/srv/replicas or file:///srv/replicas), s3://BUCKET/PREFIX or az://CONTAINER/PREFIX"
)
_QUERY: Final = {"s3": frozenset({"endpoint", "region"}), "az": frozenset({"endpoint"})}


class InvalidAddress(InvalidRequest):
    """The text names no store that this version can open."""


def open_store(address: str, environment: Mapping[str, str] | None = None) -> ObjectStore:
    """The store at `address`. Of a cloud nothing is asked yet, and its reads are patient.

    environment: where credentials are looked for; by default this process's. Raises InvalidAddress,
    InvalidCredentials, and what DirectoryStore raises when it opens.
    """
    if not is_cloud(address):
        return DirectoryStore(directory_of(address))
    return PatientReads(cloud_store(address, os.environ if environment is None else environment))


def is_cloud(address: str) -> bool:
    """Whether `address` is meant to be in a cloud, rather than a directory."""
    return address.partition("://")[0] in _QUERY and "://" in address


def cloud_store(address: str, environment: Mapping[str, str], transport: Transport = USUAL) -> CloudStore:
    """The store at an address that `is_cloud`, without any layer around it."""
    url = urlsplit(address)
    bucket, prefix = url.netloc, url.path.strip("/")
    if "@" in bucket or ":" in bucket or not bucket:
        raise _unsupported(_shown(url), "behind :// stands a bucket's or container's name, nothing else")
    if prefix and not is_name(prefix):
        raise _unsupported(
            _shown(url), "a prefix is parts of [A-Za-z0-9._-] with single slashes between them"
        )
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    if url.fragment or not query.keys() <= _QUERY[url.scheme] or not all(query.values()):
        raise _unsupported(
            _shown(url), f"behind ? only {' and '.join(sorted(_QUERY[url.scheme]))} may stand, and no secret"
        )
    canonical = _shown(url) + ("?" + _encoded(query) if query else "")
    endpoint = query.get("endpoint", "")
    if url.scheme == "s3":
        options = s3_options(environment, endpoint=endpoint, region=query.get("region", ""))
        s3 = S3Settings(bucket, prefix, options, s3_authority(environment))
        return connect_s3(s3, canonical, transport)
    settings = AzureSettings(bucket, prefix, azure_options(environment, endpoint=endpoint))
    return connect_azure(settings, canonical, transport)


def directory_of(address: str) -> Path:
    """The directory that `address` names. Raises InvalidAddress if it names none."""
    if "://" not in address:
        if not address or "\0" in address:
            raise _unsupported(address, "this is no path")
        return Path(address).absolute()
    url = urlsplit(address)
    if url.scheme != "file":
        raise _unsupported(_shown(url), f"{url.scheme}:// is no directory")
    if url.netloc not in ("", "localhost") or not url.path.startswith("/") or url.query or url.fragment:
        raise _unsupported(_shown(url), "a file:// address is file:// and an absolute path, nothing else")
    return Path(unquote(url.path))


def _shown(url: SplitResult) -> str:
    """The address without what might be a secret."""
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path.rstrip('/') if url.scheme in _QUERY else url.path}"


def _encoded(query: Mapping[str, str]) -> str:
    return "&".join(f"{key}={quote(query[key], safe=':/')}" for key in sorted(query))


def _unsupported(address: str, cause: str) -> InvalidAddress:
    return InvalidAddress(cause, subject=repr(address), hint=f"give {_SUPPORTED}")
