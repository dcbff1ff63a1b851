"""A point as a page blob of real Azurite, read back as Azure would: a fixed VHD, by QEMU."""

from __future__ import annotations

import random
import re
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.block.extent import Extent
from standby.block.vhd import fixed_footer
from standby.errors import Damaged, InvalidRequest
from standby.objects.address import InvalidAddress
from standby.objects.base import StoreRefused, StoreUnreachable
from standby.objects.cloud_answers import BucketMissing
from standby.objects.cloud_credentials import azure_options
from standby.recovery.azure_export import ALIGNMENT, export_to_azure
from standby.recovery.page_blob import UNFINISHED, BlobTaken, PageBlob, blob_client
from standby.replica.format import BLOCK, PAGE
from tests.recovery.conftest import Replica
from tests.support.clouds import Place, with_sas
from tests.support.replicas import REPLICA, ModelDisk

slow = pytest.mark.slow
RANDOM = random.Random(9)
SIZE = 131 * BLOCK + 3 * PAGE + 512


@pytest.fixture
def place(azurite) -> Place:
    return azurite.place("")


@pytest.fixture
def disk(replica: Replica) -> ModelDisk:
    """Data at both ends, a hole of eight MiB, zeros written over data."""
    disk = ModelDisk("vda", SIZE)
    disk.write(0, RANDOM.randbytes(3 * BLOCK))
    disk.write(SIZE - 5000, RANDOM.randbytes(5000))
    replica.commit(disk)
    disk.write(BLOCK, bytes(BLOCK))
    disk.write(100 * BLOCK + PAGE, b"text " * 9000)
    replica.commit(disk)
    return disk


def client_of(place: Place, name: str = "disk.vhd"):
    return blob_client(azure_options(place.environment), place.address.split("/")[2], name)


def export(replica: Replica, place: Place, **more):
    log = replica.log()
    target = f"{place.address.rstrip('/')}/disk.vhd"
    return export_to_azure(log, log.point(), "vda", target, place.environment, **more)


@slow
@pytest.mark.parametrize("sas", [False, True])
def test_a_point_is_a_fixed_vhd_in_azure(replica, disk, place, tmp_path: Path, sas):
    told: list[int] = []
    done = export(replica, with_sas(place, "rcwl") if sas else place, progress=told.append)
    assert done.size == -(-SIZE // ALIGNMENT) * ALIGNMENT
    assert sum(told) == SIZE
    with closing(client_of(place)) as client:
        properties = client.get_blob_properties()
        assert (properties.blob_type, properties.size) == ("PageBlob", done.size + 512)
        assert properties.metadata == {
            "standby_replica": "web",
            "standby_point": str(replica.log().point().seq),
            "standby_disk": "vda",
        }
        pages = list(client.list_page_ranges())
        assert sum(page.end + 1 - page.start for page in pages) <= done.written + 2 * 512
        assert done.written <= 6 * BLOCK, "only data is sent"
        path = tmp_path / "back.vhd"
        path.write_bytes(client.download_blob().readall())
    info = subprocess.run(["qemu-img", "info", "-f", "vpc", path], check=True, capture_output=True, text=True)
    assert f"({done.size} bytes)" in info.stdout
    model = tmp_path / "model"
    model.write_bytes(disk.bytes + bytes(done.size - SIZE))
    subprocess.run(["qemu-img", "compare", "-f", "vpc", "-F", "raw", path, model], check=True)


@slow
def test_what_is_there_is_kept_unless_told(replica, disk, place):
    export(replica, place)
    with pytest.raises(BlobTaken, match="--overwrite"):
        export(replica, place)
    assert export(replica, place, overwrite=True).written


@slow
def test_an_interrupted_export_is_no_vhd_and_is_marked(replica, disk, place):
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(replica, place, progress=interrupt)
    with closing(client_of(place)) as client:
        properties = client.get_blob_properties()
        assert properties.metadata == UNFINISHED
        assert client.download_blob(properties.size - 512, 512).readall() == bytes(512)
    with pytest.raises(BlobTaken, match="interrupted"):
        export(replica, place)


@slow
def test_damage_is_never_exported(replica, disk, place):
    replica.damage("vda", into=100)
    with pytest.raises(Damaged):
        export(replica, place)
    with closing(client_of(place)) as client:
        assert not client.exists() or client.get_blob_properties().metadata == UNFINISHED


@slow
def test_what_the_service_denies_is_told_without_secrets(replica, disk, place):
    denied = with_sas(place, "rl")
    with pytest.raises(StoreRefused, match=r"az://.*disk\.vhd: create: the store answered 403") as caught:
        export(replica, denied)
    assert "sig=" not in str(caught.value)
    elsewhere = place._replace(address=place.address.replace("az://", "az://missing-"))
    with pytest.raises(BucketMissing):
        export(replica, elsewhere)


@slow
def test_the_blob_is_a_disk(place):
    with closing(client_of(place)) as client:
        blob = PageBlob.create(client, 16 << 20, behind=512, overwrite=False)
        data = RANDOM.randbytes(9 << 20)
        blob.write(1 << 20, memoryview(data))
        blob.zero(Extent(2 << 20, 1 << 20))
        into = bytearray(3 << 20)
        blob.read_all([Extent(1 << 20, 3 << 20)], memoryview(into))
        assert into == data[: 1 << 20] + bytes(1 << 20) + data[2 << 20 : 3 << 20]
        spans = list(blob.spans(Extent(0, 16 << 20)))
        assert sum(span.length for span in spans) == 16 << 20
        zeros = [(span.offset >> 20, span.length >> 20) for span in spans if span.zero]
        assert zeros == [(0, 1), (2, 1), (10, 6)]


@pytest.mark.parametrize(
    "address",
    ["disk.vhd", "s3://c/disk.vhd", "az://c", "az:///disk.vhd", "az://k:S3CRET@c/d", "az://c/d?sig=S3CRET"],
)
def test_the_target_is_a_blobs_address(address):
    with pytest.raises(InvalidAddress) as caught:
        export_to_azure(None, None, "vda", address, {})
    assert "S3CRET" not in str(caught.value)


def test_an_export_wants_an_account_and_a_key():
    with pytest.raises(InvalidRequest, match="AZURE_STORAGE_CONNECTION_STRING"):
        blob_client({"account_name": "acc"}, "c", "d")


def test_a_service_that_is_not_there():
    options = azure_options(
        {"AZURE_STORAGE_ACCOUNT": "acc", "AZURE_STORAGE_KEY": "QUJD"}, endpoint="http://127.0.0.1:1/acc"
    )
    client = blob_client(options, "c", "d")
    client._config.retry_policy.total_retries = 0
    with closing(client), pytest.raises(StoreUnreachable, match="create: ServiceRequestError"):
        PageBlob.create(client, 1 << 20, behind=512, overwrite=False)


@given(st.integers(1, (8 << 40) // 512).map(lambda sectors: sectors * 512))
def test_a_footer_is_what_the_specification_says(size):
    footer = fixed_footer(size, REPLICA, 1_800_000_000)
    assert len(footer) == 512
    assert footer[:8] == b"conectix"
    assert int.from_bytes(footer[48:56], "big") == size
    without = footer[:64] + bytes(4) + footer[68:]
    assert int.from_bytes(footer[64:68], "big") == 0xFFFFFFFF - sum(without)
    cylinders, heads, sectors = int.from_bytes(footer[56:58], "big"), footer[58], footer[59]
    assert cylinders * heads * sectors * 512 <= size
    assert heads <= 16


@slow
@pytest.mark.parametrize("size", [1 << 20, 67108864, 3 << 30, 200 << 30])
def test_qemu_takes_the_size_from_the_footer(tmp_path, size):
    path = tmp_path / "disk.vhd"
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(fixed_footer(size, REPLICA, 1_800_000_000))
    info = subprocess.run(["qemu-img", "info", "-f", "vpc", path], check=True, capture_output=True, text=True)
    assert re.search(rf"virtual size: .*\({size} bytes\)", info.stdout)
