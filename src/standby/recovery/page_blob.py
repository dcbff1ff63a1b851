"""A page blob of Azure as a `WritableDisk`: what a managed disk is made from.

Through azure-storage-blob, as obstore has no page blobs. Its own repetition is left on: writing the same
pages again is harmless, and nobody above repeats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from azure.core import MatchConditions
from azure.core.exceptions import AzureError, HttpResponseError, ResourceExistsError
from azure.storage.blob import BlobClient

from standby.block.extent import Extent, Span, pieces
from standby.errors import InvalidRequest
from standby.objects.base import StoreUnreachable
from standby.objects.cloud_answers import Answer, of_status

if TYPE_CHECKING:
    from obstore.store import AzureConfig

SECTOR: Final = 512
MOST: Final = 4 << 20
"""Bytes that one request may write."""

UNFINISHED: Final = {"standby": "unfinished"}


class BlobTaken(InvalidRequest):
    """The blob is there already, or an export to it is unfinished."""


def blob_client(options: AzureConfig, container: str, name: str) -> BlobClient:
    """The blob's client. Raises InvalidRequest if there is no account, or neither key nor SAS."""
    account = options.get("account_name")
    credential: dict[str, str] | str | None = options.get("sas_key")
    if key := options.get("account_key"):
        credential = {"account_name": account or "", "account_key": key}
    if not account or not credential:
        raise InvalidRequest(
            "an export needs an account's name, and its key or a SAS",
            subject=f"az://{container}/{name}",
            hint="set AZURE_STORAGE_CONNECTION_STRING",
        )
    endpoint = options.get("endpoint") or f"https://{account}.blob.core.windows.net"
    return BlobClient(endpoint, container, name, credential=credential)


class PageBlob:
    """`size` bytes of the blob from its start. Thread-safe, so clones are itself.

    Every write carries an MD5, which the service compares with what came.
    """

    def __init__(self, client: BlobClient, size: int) -> None:
        self._client = client
        self._size = size

    @classmethod
    def create(cls, client: BlobClient, size: int, *, behind: int, overwrite: bool) -> PageBlob:
        """A new blob, all zeros, marked unfinished, with `behind` bytes after the disk's.

        Raises BlobTaken if there is one, unless `overwrite`.
        """
        subject = name_of(client)
        condition = None if overwrite else MatchConditions.IfMissing
        try:
            with _meaning("create", subject):
                client.create_page_blob(size + behind, metadata=UNFINISHED, match_condition=condition)
        except ResourceExistsError:
            raise BlobTaken(
                "the blob exists already, or an export to it was interrupted",
                subject=subject,
                hint="choose another name, or --overwrite to lose what is there",
            ) from None
        return cls(client, size)

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, into: memoryview) -> None:
        with _meaning("read", name_of(self._client)):
            into[:] = self._client.download_blob(offset, len(into)).readall()

    def read_all(self, extents: Sequence[Extent], into: memoryview) -> None:
        done = 0
        for extent in extents:
            self.read(extent.offset, into[done : done + extent.length])
            done += extent.length

    def spans(self, extent: Extent) -> Iterator[Span]:
        """By the service's list of pages that were written."""
        at = extent.offset
        with _meaning("list", name_of(self._client)):
            for page in self._client.list_page_ranges(offset=extent.offset, length=extent.length):
                start, end = max(page.start or 0, at), min((page.end or 0) + 1, extent.end)
                if start > at:
                    yield Span(at, start - at, True)
                if end > start:
                    yield Span(start, end - start, False)
                    at = end
        if at < extent.end:
            yield Span(at, extent.end - at, True)

    def clone(self) -> PageBlob:
        return self

    def close(self) -> None:
        """Nothing to let go of: the client is its maker's."""

    def write(self, offset: int, data: memoryview) -> None:
        """Whole sectors; the disk's last, if it is less, is filled up with zeros."""
        done = 0
        for piece in pieces([Extent(offset, len(data))], MOST):
            part = bytes(data[done : done + piece.length])
            done += piece.length
            part += bytes(-len(part) % SECTOR)
            with _meaning("write", name_of(self._client)):
                self._client.upload_page(part, piece.offset, len(part), validate_content=True)

    def zero(self, extent: Extent) -> None:
        with _meaning("zero", name_of(self._client)):
            self._client.clear_page(extent.offset, extent.length + -extent.length % SECTOR)

    def flush(self) -> None:
        """A write that was answered is durable."""

    def finish(self, footer: bytes, marks: dict[str, str]) -> None:
        """Write what lies behind the disk, and then put `marks` in place of the mark of the unfinished."""
        self.write(self._size, memoryview(footer))
        with _meaning("finish", name_of(self._client)):
            self._client.set_blob_metadata(marks)


def name_of(client: BlobClient) -> str:
    return f"az://{client.container_name}/{client.blob_name}"


@contextmanager
def _meaning(verb: str, subject: str) -> Iterator[None]:
    """Errors of the client as ours, without their cause, which can show a signed address."""
    try:
        yield
    except ResourceExistsError:
        raise
    except HttpResponseError as error:
        code = str(getattr(error, "error_code", "") or "")
        said = (error.reason or "").strip()
        raise of_status(Answer(error.status_code or 0, code, said, "", ""), verb, subject) from None
    except AzureError as error:
        raise StoreUnreachable(
            f"{verb}: {type(error).__name__} after several tries",
            subject=subject,
            hint="check the network and the endpoint, then export again with --overwrite",
        ) from None
