"""A real guest proved: looked at from outside and within, by real probes through a real network of QEMU's."""

from __future__ import annotations

import msgspec
import pytest

from standby.demo.guest import Guest
from standby.records import NicDescription
from standby.recovery import proof_probes
from standby.recovery.failover import Request
from standby.recovery.proof import prove
from standby.replica import proofs
from tests.guest.conftest import BOOT_LIMIT, raw_guest  # noqa: F401 - a fixture
from tests.recovery.conftest import HOST, Replica, encrypted_replica
from tests.recovery.machines import assert_nothing_left
from tests.support.replicas import ModelDisk

pytestmark = pytest.mark.guest

# The demo's guest has no DHCP client: it takes the address that QEMU's would have given it.
UP = "ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0"
SERVE = "mkdir -p /run/web && echo ok >/run/web/health && busybox httpd -p 80 -h /run/web"


@encrypted_replica
def test_a_guest_is_proved_and_the_proof_kept_beside_its_point(raw_guest: Guest, replica: Replica, root):  # noqa: F811
    disks = [ModelDisk(f"disk{index}", built.size) for index, built in enumerate(raw_guest.disks)]
    for disk, built in zip(disks, raw_guest.disks, strict=True):
        data = built.path.read_bytes()
        for offset in range(0, built.size, 1 << 20):
            if any(part := data[offset : offset + (1 << 20)]):
                disk.write(offset, part)
    machine = msgspec.structs.replace(
        raw_guest.describe("web"), nics=(NicDescription(mac="52:54:00:12:34:56", network="lan"),)
    )
    seq = replica.commit_machine(machine, raw_guest.boot_files, *disks)
    request = Request(str(replica.root), "web", boot_limit=BOOT_LIMIT, key=replica.key)
    words = [f"guest:sh -c '{UP} && {SERVE}'", "tcp:80", "http:80/health", "tcp:81"]
    proof = prove(request, root, HOST, probes=[proof_probes.parse(one) for one in words], probe_limit=4.0)
    assert [one.passed for one in proof.checks] == [True, True, True, False], [
        one.text for one in proof.checks
    ]
    assert proof.verdict == "failed"
    assert [one for one in proof.reasons if one.startswith("tcp:81: ")]
    assert proof.guest["host-name"]
    assert proof.guest["kernel-release"]
    assert 0 < proof.times["first_instruction"] < proof.times["agent"] < proof.times["whole"]
    assert {"hold", "serve", "start"} <= {step.step for step in proof.steps}
    assert_nothing_left(replica, root)

    log = replica.log()
    assert proofs.read_all(log) == [proof]
    assert (proof.seq, proof.record) == (seq, log.chain[-1].digest)
    assert proofs.part(log, proof, proofs.SCREEN).startswith(b"\x89PNG")
    assert proofs.part(log, proof, proofs.CONSOLE)
    assert b"FAILED  tcp:81" in proofs.part(log, proof, proofs.PROBES)
