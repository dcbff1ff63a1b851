from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from standby.hypervisor.host import DiskImage, Network, StartRefused
from standby.hypervisor.qemu_arguments import RunFiles, arguments, nbd_options
from standby.records import BootFile, DiskDescription, MachineDescription, NicDescription

RUN = RunFiles(Path("/run/m"))
MACHINE = MachineDescription(
    name="db, main",
    uuid="6a7c7a52-4d3a-4c0e-9d53-000000000001",
    memory=1 << 30,
    cpus=2,
    firmware="bios",
    disks=(
        DiskDescription(id="system", size=1 << 30, format="vhdx"),
        DiskDescription(id="0-data", size=1 << 30, format="raw", bus="scsi"),
    ),
    nics=(NicDescription(mac="52:54:00:00:00:01"),),
)
IMAGES = {
    "system": DiskImage(Path("/d/a.qcow2"), "qcow2", "nbd+unix:///sys%20tem?socket=/s/nbd.sock"),
    "0-data": DiskImage(Path("/d/b.raw"), "raw"),
}


def built(
    machine=MACHINE, images=IMAGES, boot_files=None, network=Network.NONE, accelerator="tcg", bridge=""
):
    return arguments(
        machine,
        images,
        boot_files or {},
        RUN,
        tag="TAG",
        network=network,
        accelerator=accelerator,
        bridge=bridge,
    )


def values(line: list[str], option: str) -> list[str]:
    return [value for name, value in itertools.pairwise(line) if name == option]


def nodes(line: list[str]) -> dict[str, dict]:
    return {node["node-name"]: node for node in map(json.loads, values(line, "-blockdev"))}


def test_the_tag_is_in_the_name_and_commas_are_escaped():
    assert values(built(), "-name") == ["guest=standby:TAG:db,, main"]


def test_an_overlay_reads_through_and_keeps_what_it_read():
    found = nodes(built())
    assert found["system"]["driver"] == "qcow2"
    assert found["system"]["backing"] == "backing0"
    assert found["backing0"] == nbd_options(IMAGES["system"].backing, 60) | {"node-name": "backing0"}
    assert found["fetch0"] == {"driver": "copy-on-read", "node-name": "fetch0", "file": "system"}


def test_disks_hang_on_their_bus_in_order_under_names_that_qemu_takes():
    devices = [json.loads(value) for value in values(built(), "-device") if value.startswith("{")]
    assert [(d["driver"], d["id"], d["drive"], d["bootindex"]) for d in devices] == [
        ("virtio-blk-pci", "system", "fetch0", 0),
        ("scsi-hd", "disk1", "disk1", 1),
    ]
    assert "virtio-scsi-pci" in values(built(), "-device")


def test_no_network_unless_asked_and_then_a_closed_one():
    assert values(built(), "-nic") == ["none"]
    assert values(built(), "-netdev") == []
    restricted = built(network=Network.RESTRICTED)
    assert values(restricted, "-netdev") == ["user,id=net0,restrict=on"]
    assert '"mac": "52:54:00:00:00:01"' in " ".join(restricted)
    assert "-nic" not in restricted
    assert values(built(network=Network.USER), "-netdev") == ["user,id=net0"]
    assert values(built(network=Network.BRIDGE, bridge="br0"), "-netdev") == ["bridge,id=net0,br=br0"]
    for network, bridge in ((Network.BRIDGE, ""), (Network.USER, "br0")):
        with pytest.raises(StartRefused, match="a bridge"):
            built(network=network, bridge=bridge)


def test_kvm_and_emulation():
    assert values(built(accelerator="kvm"), "-machine") == ["pc,accel=kvm"]
    assert values(built(), "-accel") == ["tcg,thread=multi"]


def test_it_starts_stopped_in_the_background():
    assert {"-S", "-daemonize"} <= set(built())


def test_a_kernel_of_its_own_is_loaded_directly():
    machine = MachineDescription(
        name="k",
        uuid=MACHINE.uuid,
        memory=1 << 30,
        cpus=1,
        firmware="kernel",
        disks=(),
        boot_files=(BootFile(role="kernel", sha256="", size=1), BootFile(role="initrd", sha256="", size=1)),
        kernel_cmdline="console=ttyS0",
    )
    line = built(machine, boot_files={"kernel": Path("/k"), "initrd": Path("/i")})
    assert (values(line, "-kernel"), values(line, "-initrd")) == (["/k"], ["/i"])
    assert values(line, "-append") == ["console=ttyS0"]
    with pytest.raises(StartRefused, match="the initrd is not given"):
        built(machine, boot_files={"kernel": Path("/k")})


def test_a_disk_without_an_image_is_refused():
    with pytest.raises(StartRefused, match="no image is given for disk 0-data"):
        built(images={"system": IMAGES["system"]})


def test_uefi_and_unknown_buses_are_refused():
    described = {name: getattr(MACHINE, name) for name in MACHINE.__struct_fields__}
    with pytest.raises(StartRefused, match="UEFI"):
        built(MachineDescription(**described | {"firmware": "uefi"}))
    floppy = (DiskDescription(id="system", size=1, format="raw", bus="fdc"),)
    with pytest.raises(StartRefused, match="bus 'fdc'"):
        built(MachineDescription(**described | {"disks": floppy}))


@pytest.mark.parametrize(
    ("uri", "server", "export"),
    [
        ("nbd+unix:///?socket=/a%20b", {"type": "unix", "path": "/a b"}, ""),
        ("nbd://store:1234/x/y", {"type": "inet", "host": "store", "port": "1234"}, "x/y"),
        ("nbd://[::1]/x", {"type": "inet", "host": "::1", "port": "10809"}, "x"),
    ],
)
def test_nbd_addresses(uri, server, export):
    options = nbd_options(uri, 60)
    assert (options["server"], options["export"], options["read-only"]) == (server, export, True)


@pytest.mark.parametrize("uri", ["https://x/", "nbd+unix:///x", "/a/file"])
def test_other_addresses_are_refused(uri):
    with pytest.raises(StartRefused, match="neither nbd://"):
        nbd_options(uri, 60)
