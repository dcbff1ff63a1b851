"""Which card goes where, and what stands against it before anything was started."""

from __future__ import annotations

import random
import re

import msgspec
import pytest

from standby.errors import InvalidRequest
from standby.hypervisor.host import Network
from standby.hypervisor.launch import QemuHost
from standby.hypervisor.qemu_arguments import RunFiles, arguments
from standby.records import DiskDescription, MachineDescription, NicDescription
from standby.recovery import live, networks
from standby.recovery.live import Request
from standby.recovery.networks import Mapped, NetworkPlan
from standby.recovery.prerequisites import NotReady
from tests.recovery.conftest import Replica
from tests.support.replicas import ModelDisk

LAN, DMZ, BACKUP = (f"52:54:00:00:00:0{number}" for number in (1, 2, 3))
MACHINE = MachineDescription(
    name="web",
    uuid="8f0ff5a4-61bd-4e9e-ae26-5c9e3c7e1f8e",
    memory=64 << 20,
    cpus=1,
    firmware="bios",
    disks=(),
    nics=(
        NicDescription(mac=LAN, network="lan"),
        NicDescription(mac=DMZ, network="dmz"),
        NicDescription(mac=BACKUP),
    ),
)


@pytest.mark.parametrize(
    ("texts", "default", "targets"),
    [
        ([], "isolated", ["isolated"] * 3),
        (["lan=bridge=br0"], "isolated", ["bridge=br0", "isolated", "isolated"]),
        (["lan=bridge=br0", "dmz=none"], "user", ["bridge=br0", "user"]),
        ([f"{BACKUP.upper()}=user", "dmz=bridge=br-dmz"], "none", ["bridge=br-dmz", "user"]),
        (["lan=user", f"{LAN}=isolated"], "none", ["isolated"]),  # the card's own address goes first
    ],
)
def test_cards_are_mapped_by_network_or_address(texts, default, targets):
    mapped = networks.apply(MACHINE, networks.parse(texts, "keep"), default)
    assert [nic.network for nic in mapped.nics] == targets
    assert {nic.mac for nic in mapped.nics} <= {LAN, DMZ, BACKUP}


def test_new_addresses_are_local_ones_and_differ():
    mapped = networks.apply(MACHINE, networks.parse([], "new"), "isolated", random.Random(1))
    addresses = {nic.mac for nic in mapped.nics}
    assert len(addresses) == 3
    assert not addresses & {LAN, DMZ, BACKUP}
    assert all(re.fullmatch(r"52:54:00(:[0-9a-f]{2}){3}", one) for one in addresses)


@pytest.mark.parametrize(
    ("texts", "mac", "message"),
    [
        (["lan"], "keep", "SOURCE=TARGET"),
        (["=user"], "keep", "SOURCE=TARGET"),
        (["lan="], "keep", "SOURCE=TARGET"),
        (["lan=moon"], "keep", "no network 'moon'"),
        (["lan=bridge"], "keep", "no network 'bridge'"),
        (["lan=user=x"], "keep", "no network"),
        (["lan=user", "lan=none"], "keep", "mapped twice"),
        ([f"{LAN}=user", f"{LAN.upper()}=none"], "keep", "mapped twice"),
        ([], "other", "no policy 'other'"),
    ],
)
def test_what_is_no_mapping_is_refused(texts, mac, message):
    with pytest.raises(InvalidRequest, match=message):
        networks.parse(texts, mac)


def test_all_that_stands_against_a_mapping_is_found_at_once(tmp_path):
    (tmp_path / "br0" / "bridge").mkdir(parents=True)
    (tmp_path / "eth0").mkdir()
    plan = networks.parse(["lan=bridge=br0", "dmz=bridge=eth0", "wan=user"], "keep")
    findings = networks.check(MACHINE, plan, "bridge=br9", tmp_path)
    assert [(one.subject, one.blocks) for one in findings] == [
        ("network wan", True),
        ("bridge br9", True),
        ("bridge eth0", True),
    ]
    assert "dmz, lan" in findings[0].fix
    assert networks.check(MACHINE, networks.parse(["lan=bridge=br0"], "keep"), "isolated", tmp_path) == []


def test_each_card_gets_a_network_of_its_own(tmp_path):
    plan = networks.parse(["lan=bridge=br0", "dmz=user"], "keep")
    mapped = networks.apply(MACHINE, plan, "isolated")
    command = arguments(
        mapped, {}, {}, RunFiles(tmp_path), tag="t", network=Network.MAPPED, accelerator="tcg"
    )
    given = [command[at + 1] for at, word in enumerate(command) if word == "-netdev"]
    assert given == ["bridge,id=net0,br=br0", "user,id=net1", "user,id=net2,restrict=on"]


@pytest.mark.slow
def test_a_failover_maps_its_cards_or_does_not_begin(tmp_path, root):
    replica = Replica(tmp_path)
    disk = ModelDisk("vda", 1 << 20)
    disk.write(0, b"x" * 4096)
    described = DiskDescription(id="vda", size=disk.size, format="raw")
    replica.commit_machine(msgspec.structs.replace(MACHINE, disks=(described,)), {}, disk)
    request = Request(str(replica.root), "web", boot_limit=None, confirmed=True)
    epoch = replica.head.epoch
    wrong = request._replace(networks=NetworkPlan(cards=(Mapped(source="wan", target="user"),)))
    with pytest.raises(NotReady, match="has no card on it"):
        live.start(wrong, root, QemuHost(accelerator="tcg"))
    assert replica.head.epoch == epoch  # not even fenced

    plan = networks.parse(["lan=user", "dmz=none"], "new")
    started = live.start(request._replace(networks=plan), root, QemuHost(accelerator="tcg"))
    found = live.machine(started.run, QemuHost(accelerator="tcg"))
    cards = found.description.nics
    assert [nic.network for nic in cards] == ["user", "isolated"]
    assert not {nic.mac for nic in cards} & {LAN, BACKUP}
    found.kill()
    again = live.resume(started.run, QemuHost(accelerator="tcg"))
    assert live.machine(again.run, QemuHost(accelerator="tcg")).description.nics == cards
