"""Reports of replication as agents make them."""

from __future__ import annotations

from standby.link.messages import DiskStanding, Interval, Reason, Standing
from standby.replication.policy import Policy

GIB = 1 << 30


def standing(machine: str, state: str = "protected", **more: object) -> Standing:
    """A machine that is well, but for what is given."""
    well = {
        "id": f"rel-{machine}",
        "machine": machine,
        "store": "s3://replicas/berlin",
        "replica": machine,
        "replica_id": f"id-{machine}",
        "state": state,
        "policy": Policy(frequency=30),
        "level": "Normal",
        "rpo": 12.0,
        "newest_at": "2026-11-24T08:59:50+00:00",
        "disks": (DiskStanding(id="vda", size=GIB),),
        "interval": Interval(since="2026-11-24T00:00:00+00:00", points=10, churn={"vda": 4096}),
    }
    return Standing(**{**well, **more})


def scanning(machine: str, state: str, done: int = 0, **more: object) -> Standing:
    disks = (DiskStanding(id="vda", size=GIB, scan="never tracked", scanned=done),)
    return standing(machine, state, disks=disks, rpo=None, newest_at="", level="Warning", **more)


def critical(machine: str, text: str) -> Standing:
    return standing(machine, level="Critical", reasons=(Reason(level="Critical", text=text),), error=text)
