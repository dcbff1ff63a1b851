"""Networks as people name them: to what a started machine's cards are connected."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from standby.errors import InvalidRequest
from standby.hypervisor.host import Network
from standby.records import Finding

_NAMED: Final = {
    "isolated": Network.RESTRICTED,
    "none": Network.NONE,
    "user": Network.USER,
    "bridge": Network.BRIDGE,
}


def network_named(text: str) -> tuple[Network, str]:
    """The network that a text means, and its bridge. Raises InvalidRequest."""
    kind, _, bridge = text.partition("=")
    named = _NAMED.get(kind)
    if named is None or (named is Network.BRIDGE) is not bool(bridge):
        raise InvalidRequest(
            f"there is no network {text!r}",
            subject="network",
            hint="give isolated, none, user, or bridge=NAME with the name of a bridge of this host",
        )
    return named, bridge


def bridge_problem(subject: str, bridge: str, networks: Path = Path("/sys/class/net")) -> list[Finding]:
    """What stands against connecting a machine to a bridge of this host."""
    if not bridge or (networks / bridge / "bridge").is_dir():
        return []
    problem = f"{bridge} is no bridge" if (networks / bridge).exists() else f"there is no bridge {bridge}"
    return [
        Finding(
            subject=subject,
            problem=f"{problem} on this host",
            fix=f"`ip link add {bridge} type bridge`, or another network",
            blocks=True,
        )
    ]
