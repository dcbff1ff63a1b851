"""The networks that a failed-over machine can be put on, as people name them."""

from __future__ import annotations

from standby.errors import InvalidRequest
from standby.hypervisor.host import Network


def network_of(text: str) -> tuple[Network, str]:
    """What `isolated`, `none`, `user` or `bridge=NAME` means, and the bridge. Raises InvalidRequest."""
    kind, _, bridge = text.partition("=")
    named = {
        "isolated": Network.RESTRICTED,
        "none": Network.NONE,
        "user": Network.USER,
        "bridge": Network.BRIDGE,
    }.get(kind)
    if named is None or (named is Network.BRIDGE) is not bool(bridge):
        raise InvalidRequest(
            f"there is no network {text!r}",
            subject="network",
            hint="give isolated, none, user, or bridge=NAME with the name of a bridge of this host",
        )
    return named, bridge
