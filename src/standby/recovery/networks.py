"""Which network of this host each card of a recovered machine is on. Pure but for `check`, which looks at bridges."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from standby.errors import InvalidRequest
from standby.hypervisor.host import Network
from standby.records import Finding, MachineDescription, NicDescription

MacPolicy = Literal["keep", "new"]

_BRIDGES: Final = Path("/sys/class/net")
_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_NAMED: Final = {
    "isolated": Network.RESTRICTED,
    "none": Network.NONE,
    "user": Network.USER,
    "bridge": Network.BRIDGE,
}


class Mapped(msgspec.Struct, frozen=True, kw_only=True):
    """source: the name of the card's network at the source, or the card's MAC address. target: see `network_named`."""

    source: str
    target: str


class NetworkPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Of cards that `cards` does not name, the failover's own network is what counts."""

    cards: tuple[Mapped, ...] = ()
    mac: MacPolicy = "keep"


def network_named(text: str, subject: str = "network") -> tuple[Network, str]:
    """`isolated`, `none`, `user` or `bridge=NAME`: the network, and the bridge's name. Raises InvalidRequest."""
    kind, _, bridge = text.partition("=")
    named = _NAMED.get(kind)
    if named is None or (named is Network.BRIDGE) is not bool(bridge):
        raise InvalidRequest(
            f"there is no network {text!r}",
            subject=subject,
            hint="give isolated, none, user, or bridge=NAME with the name of a bridge of this host",
        )
    return named, bridge


def bridge_problem(subject: str, bridge: str, bridges: Path = _BRIDGES) -> list[Finding]:
    """What stands against connecting a machine to a bridge of this host."""
    if not bridge or (bridges / bridge / "bridge").is_dir():
        return []
    problem = f"{bridge} is no bridge" if (bridges / bridge).exists() else f"there is no bridge {bridge}"
    return [
        Finding(
            subject=subject,
            problem=f"{problem} on this host",
            fix=f"`ip link add {bridge} type bridge`, or another network",
            blocks=True,
        )
    ]


def parse(texts: Sequence[str], mac: str) -> NetworkPlan:
    """Of `SOURCE=TARGET` each. Raises InvalidRequest for what is no mapping, and for a source named twice."""
    cards: list[Mapped] = []
    for text in texts:
        source, _, target = text.partition("=")
        source = source.strip()
        if not source or not target:
            raise InvalidRequest(
                "it is not SOURCE=TARGET",
                subject=f"--map {text}",
                hint="for example lan=bridge=br0, or 52:54:00:12:34:56=isolated",
            )
        network_named(target, f"--map {text}")
        source = source.lower() if _MAC.fullmatch(source.lower()) else source
        if any(one.source == source for one in cards):
            raise InvalidRequest(
                f"{source} is mapped twice", subject=f"--map {text}", hint="leave one of the two away"
            )
        cards.append(Mapped(source=source, target=target))
    if mac not in ("keep", "new"):
        raise InvalidRequest(f"there is no policy {mac!r}", subject="--mac", hint="give keep or new")
    return NetworkPlan(cards=tuple(cards), mac="new" if mac == "new" else "keep")


def apply(
    machine: MachineDescription, plan: NetworkPlan, default: str, rng: random.Random | None = None
) -> MachineDescription:
    """The machine as it is to be started: each card's `network` is its target here, cards of `none` are left out.

    default: the target of cards that the plan does not name.
    """
    rng = rng or random.SystemRandom()
    cards = []
    for nic in machine.nics:
        target = _target(nic, plan) or default
        if target == "none":
            continue
        mac = _new_mac(rng) if plan.mac == "new" else nic.mac
        cards.append(msgspec.structs.replace(nic, network=target, mac=mac))
    return msgspec.structs.replace(machine, nics=tuple(cards))


def check(
    machine: MachineDescription, plan: NetworkPlan, default: str, bridges: Path = _BRIDGES
) -> list[Finding]:
    """machine: as at the source. What stands against the mapping on this host; all of it. bridges: where they show."""
    known = {nic.network for nic in machine.nics} | {nic.mac.lower() for nic in machine.nics}
    findings = [
        Finding(
            subject=f"network {one.source}",
            problem=f"{machine.name} has no card on it",
            fix=f"map one of {', '.join(sorted(name for name in known if name)) or 'no network: it has no card'}",
            blocks=True,
        )
        for one in plan.cards
        if one.source not in known
    ]
    targets = {default, *(one.target for one in plan.cards)} if machine.nics else set()
    for target in sorted(targets):
        findings += bridge_problem(f"bridge {network_named(target)[1]}", network_named(target)[1], bridges)
    return findings


def _target(nic: NicDescription, plan: NetworkPlan) -> str:
    """A card's own address goes before the network that it is on."""
    wanted = {one.source: one.target for one in plan.cards}
    return wanted.get(nic.mac.lower()) or (wanted.get(nic.network, "") if nic.network else "")


def _new_mac(rng: random.Random) -> str:
    """In QEMU's own range, administered locally (52:54:00)."""
    return "52:54:00:" + ":".join(f"{rng.randrange(256):02x}" for _ in range(3))
