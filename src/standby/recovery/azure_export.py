"""A point's disk as a fixed VHD in a page blob, ready to become a managed disk of Azure."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final, NamedTuple
from urllib.parse import urlsplit
from uuid import uuid5

from standby.block.copy import copy
from standby.block.vhd import fixed_footer
from standby.errors import InvalidRequest
from standby.objects.address import InvalidAddress
from standby.objects.cloud_credentials import azure_options
from standby.objects.names import is_name
from standby.recovery.export import refuse_false_zeros
from standby.recovery.page_blob import SECTOR, PageBlob, blob_client
from standby.replica.documents import Record
from standby.replica.journal import ReplicaLog, hold

ALIGNMENT: Final = 1 << 20
"""Azure takes only whole MiB as a disk's size."""

LARGEST: Final = (8 << 40) - ALIGNMENT
"""Bytes of a disk: a page blob has at most 8 TiB, its footer included."""


class AzureExported(NamedTuple):
    """size: bytes of the disk in the blob, whole MiB. written: bytes of data sent. held: whether the point was."""

    blob: str
    size: int
    written: int
    held: bool


def export_to_azure(
    log: ReplicaLog,
    record: Record,
    disk: str,
    address: str,
    environment: Mapping[str, str],
    *,
    progress: Callable[[int], None] | None = None,
    workers: int = 4,
    overwrite: bool = False,
) -> AzureExported:
    """Write the disk as at the point to `az://CONTAINER/NAME`, as a fixed VHD of which only data is sent.

    Every block is compared with its hash on the way. The footer comes last: what an interrupted export
    leaves is no VHD, and is marked unfinished in its metadata. Raises BlobTaken, Damaged, and what the
    store raises.
    """
    container, name = _split(address)
    client = blob_client(azure_options(environment), container, name)
    with hold(log.place, record.seq, f"export on {os.uname().nodename}") as held, client:
        # Read again: before the hold a merge may have moved the floor.
        image = log.again(upto=record.seq).image(record.seq, disk)
        size = -(-image.size // ALIGNMENT) * ALIGNMENT
        if size > LARGEST:
            raise InvalidRequest(
                f"the disk has {image.size} bytes, a page blob holds at most {LARGEST}", subject=address
            )
        refuse_false_zeros(image)
        blob = PageBlob.create(client, size, behind=SECTOR, overwrite=overwrite)
        result = copy(image, blob, workers=workers, progress=progress, new=True)
        taken = datetime.fromisoformat(record.at)
        uuid = uuid5(record.replica, f"{disk}@{record.seq}")
        blob.finish(
            fixed_footer(size, uuid, int(taken.timestamp())),
            {"standby_replica": log.place.name, "standby_point": str(record.seq), "standby_disk": disk},
        )
    return AzureExported(address, size, result.written, held)


def _split(address: str) -> tuple[str, str]:
    url = urlsplit(address)
    name = url.path.strip("/")
    if url.scheme != "az" or not url.netloc or "@" in url.netloc or url.query or not is_name(name):
        raise InvalidAddress(
            "the target is az://CONTAINER/NAME.vhd and holds no secret",
            subject=f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}",
            hint="put the account and its key into AZURE_STORAGE_CONNECTION_STRING",
        )
    return url.netloc, name
