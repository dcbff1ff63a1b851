"""Which rounds reach back to an instant: a pure table."""

from __future__ import annotations

import pytest

from standby.hypervisor.base import Lost
from standby.hypervisor.inventory import Bitmap, machine_disks
from standby.hypervisor.rounds import Found, judge


def rounds(text):
    """`5 6*` is round 5, ended, and round 6, recording; `!` marks an inconsistent one."""
    return [
        Found(int(word.strip("*!")), Bitmap(f"standby-r-{word}", "*" in word, False, "!" in word))
        for word in text.split()
    ]


@pytest.mark.parametrize(
    ("found", "active", "lost", "base"),
    [
        ("", 0, Lost.NEVER_TRACKED, None),
        ("", 5, Lost.TRACKING_LOST, None),
        ("5*", 5, None, 5),
        ("5 6 7*", 5, None, 5),
        ("3 5 6*", 5, None, 5),
        ("4*", 5, None, 4),  # round 5 began on other disks only
        ("4 8*", 5, None, 4),
        ("6*", 5, Lost.TRACKING_LOST, None),  # began after the instant
        ("5 6", 5, Lost.TRACKING_LOST, None),  # nothing records
        ("5! 6!", 5, Lost.INCONSISTENT, None),
        ("5! 6*", 5, Lost.INCONSISTENT, None),
        ("3! 5 6*", 5, None, 5),  # what is inconsistent is forgotten anyway
        ("7!", 5, Lost.INCONSISTENT, None),
    ],
)
def test_judge(found, active, lost, base):
    assert judge(rounds(found), active) == (lost, base)


@pytest.mark.parametrize(
    ("found", "since", "verdict"),
    [
        ("5*", 5, (None, 5)),
        ("3 5 6*", 5, (None, 5)),
        ("4*", 4, (None, 4)),
        ("4*", 5, (Lost.REVERTED, None)),
        ("3 4*", 5, (Lost.REVERTED, None)),
        ("4!", 5, (Lost.REVERTED, None)),
        ("6*", 5, (Lost.TRACKING_LOST, None)),
        ("", 5, (Lost.TRACKING_LOST, None)),
    ],
)
def test_an_older_round_than_the_disk_must_have_is_of_an_older_image(found, since, verdict):
    assert judge(rounds(found), 5, since) == verdict


@pytest.mark.parametrize(
    ("qdev", "device", "identity"),
    [
        ("/machine/peripheral/data0/virtio-backend", "", "data0"),
        ("data0", "", "data0"),
        ("/machine/peripheral-anon/device[2]/virtio-backend", "virtio0", "virtio0"),
        ("/machine/peripheral-anon/device[2]", "", "node"),
        ("a b", "", "a-b-c8687a08"),
    ],
)
def test_disks_have_names_that_stay(qdev, device, identity):
    node = {"node-name": "node", "drv": "raw", "ro": False, "file": "x", "image": {"virtual-size": 512}}
    inserted = {"node-name": "node", "ro": False}
    block = {"qdev": qdev, "device": device, "removable": False, "inserted": inserted}
    disk = machine_disks([node], {"nodes": [], "edges": []}, [block])[0]
    assert disk.id == identity
