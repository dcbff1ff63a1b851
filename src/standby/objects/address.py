"""From what an operator writes to a store."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from standby.errors import InvalidRequest
from standby.objects.base import ObjectStore
from standby.objects.directory import DirectoryStore

_SUPPORTED = "a directory (/srv/replicas or file:///srv/replicas)"


class InvalidAddress(InvalidRequest):
    """The text names no store that this version can open."""


def open_store(address: str) -> ObjectStore:
    """The store at `address`: a path or `file://` URL of a directory made by DirectoryStore(create=True).

    Raises InvalidAddress for what is no such address, and what DirectoryStore raises when it opens.
    """
    return DirectoryStore(directory_of(address))


def directory_of(address: str) -> Path:
    """The directory that `address` names. Raises InvalidAddress if it names none."""
    if "://" not in address:
        if not address or "\0" in address:
            raise _unsupported(address, "this is no path")
        return Path(address).absolute()
    url = urlsplit(address)
    if url.scheme in ("az", "s3"):
        raise _unsupported(address, f"{url.scheme}:// stores are not supported yet")
    if url.scheme != "file":
        raise _unsupported(address, f"{url.scheme}:// is no kind of store")
    if url.netloc not in ("", "localhost") or not url.path.startswith("/") or url.query or url.fragment:
        raise _unsupported(address, "a file:// address is file:// and an absolute path, nothing else")
    return Path(unquote(url.path))


def _unsupported(address: str, cause: str) -> InvalidAddress:
    return InvalidAddress(cause, subject=repr(address), hint=f"give {_SUPPORTED}")
