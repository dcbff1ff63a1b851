"""What a libvirt definition says of a machine; no libvirt is needed."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from standby.errors import InvalidRequest
from standby.hypervisor import libvirt_domain
from standby.records import NicDescription
from standby.replication.relationship import Connection

XML = """<domain type='kvm'><name>web</name><uuid>0b2a1f0e-6f4c-4c55-9a57-0a5d6a1b2c3d</uuid>
  <memory unit='GiB'>2</memory><vcpu placement='static' current='1'>4</vcpu>
  <os{firmware}><type arch='x86_64'>hvm</type>{boot}</os>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/i/a.qcow2'/>
      <target dev='vda' bus='virtio'/><alias name='virtio-disk0'/></disk>
    <disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/vg/b'/>
      <target dev='sda' bus='scsi'/><alias name='ua-mine'/></disk>
    <disk type='network' device='disk'><driver name='qemu' type='raw'/>
      <source protocol='nbd' name='c'><host name='h'/></source><target dev='sdb' bus='sata'/></disk>
    <disk type='file' device='cdrom'><target dev='sdc' bus='sata'/><readonly/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/i/ro'/>
      <target dev='vdb' bus='virtio'/><readonly/></disk>
    <interface type='network'><mac address='52:54:00:00:00:01'/><source network='default'/><model type='virtio'/>
    </interface>
    <interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='br0'/><model type='e1000e'/></interface>
  </devices></domain>"""


def described(firmware="", boot=""):
    xml = XML.format(firmware=firmware, boot=boot)
    return libvirt_domain.description(xml, xml, lambda target: len(target) << 20)


def test_a_definition_becomes_a_machine_that_any_hypervisor_can_rebuild():
    found = described()
    assert (found.name, found.memory, found.cpus, found.firmware) == ("web", 2 << 30, 4, "bios")
    assert [(disk.id, disk.format, disk.path, disk.bus) for disk in found.disks] == [
        ("vda", "qcow2", "/i/a.qcow2", "virtio"),
        ("sda", "raw", "/dev/vg/b", "scsi"),
        ("sdb", "raw", "", "sata"),
    ]
    assert found.nics == (
        NicDescription(mac="52:54:00:00:00:01", network="default"),
        NicDescription(mac="52:54:00:00:00:02", network="br0", model="e1000e"),
    )
    assert "<name>web</name>" in found.hypervisor_xml


def test_a_disk_is_known_by_its_target_and_not_by_qemus_name():
    assert libvirt_domain.disk_aliases(XML.format(firmware="", boot="")) == {
        "virtio-disk0": "vda",
        "ua-mine": "sda",
    }


@pytest.mark.parametrize(
    ("firmware", "boot"),
    [(" firmware='efi'", ""), ("", "<loader readonly='yes' type='pflash'>/f/OVMF.fd</loader>")],
)
def test_uefi_is_told_from_bios(firmware, boot):
    assert described(firmware, boot).firmware == "uefi"


def test_files_beside_the_disks_are_told_with_their_hashes(tmp_path):
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"a kernel")
    found = described(boot=f"<kernel>{kernel}</kernel><cmdline>quiet</cmdline>")
    assert (found.firmware, found.kernel_cmdline) == ("kernel", "quiet")
    (file,) = found.boot_files
    assert (file.role, file.sha256, file.size) == ("kernel", hashlib.sha256(b"a kernel").hexdigest(), 8)


def test_memory_in_a_unit_that_is_not_known_is_refused():
    xml = XML.format(firmware="", boot="").replace("GiB", "PiB")
    with pytest.raises(InvalidRequest, match="PiB"):
        libvirt_domain.description(xml, xml, lambda _: 0)


def test_books_from_before_libvirt_are_read():
    old = b'{"qmp": "/run/web.qmp", "agent": "", "nbd": ""}'
    assert msgspec.json.decode(old, type=Connection) == Connection(qmp="/run/web.qmp")
