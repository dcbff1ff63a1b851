"""What a Linux guest is to be told before it starts elsewhere: its host name, and its cards' addresses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from standby.errors import InvalidRequest

MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_HOST: Final = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
)
_CARD: Final = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_EXAMPLE: Final = "for example ens3=192.0.2.10/24,gateway=192.0.2.1,dns=192.0.2.53"


class FixUpRefused(InvalidRequest):
    """The guest is not one that can be changed as asked. Nothing was changed."""


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """name: the interface's, or its MAC address in lower case. addresses: with prefix. A family (IPv4, IPv6) that
    has no address here stays as the guest has it."""

    name: str
    addresses: tuple[str, ...]
    gateways: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()

    @property
    def by_mac(self) -> bool:
        return bool(MAC.fullmatch(self.name))

    @property
    def families(self) -> tuple[int, ...]:
        return tuple(sorted({family(one) for one in self.addresses}))

    def of(self, wanted: int) -> Card:
        """The part of it that is of one family."""

        def chosen(texts: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(one for one in texts if family(one) == wanted)

        return Card(
            name=self.name,
            addresses=chosen(self.addresses),
            gateways=chosen(self.gateways),
            dns=chosen(self.dns),
        )


class FixUp(msgspec.Struct, frozen=True, kw_only=True):
    """hostname: "" to leave it."""

    hostname: str = ""
    cards: tuple[Card, ...] = ()

    @property
    def wanted(self) -> bool:
        return bool(self.hostname or self.cards)


def family(text: str) -> int:
    """4 or 6, of an address with or without prefix; 0 of what is none."""
    try:
        return ipaddress.ip_interface(text.strip().strip("\"'")).version
    except ValueError:
        return 0


def parse(hostname: str, cards: Sequence[str]) -> FixUp:
    """cards: `CARD=ADDRESS/PREFIX[,ADDRESS/PREFIX…][,gateway=A][,dns=A]` each. Raises InvalidRequest."""
    if hostname and not _HOST.fullmatch(hostname.lower()):
        raise InvalidRequest(
            f"{hostname!r} is no host name", subject="--set-hostname", hint="letters, digits, dashes, dots"
        )
    found = tuple(_card(text) for text in cards)
    for one in found:
        if sum(other.name == one.name for other in found) > 1:
            raise InvalidRequest(
                f"{one.name} is named twice",
                subject="--set-address",
                hint="give all of a card's addresses at once",
            )
    return FixUp(hostname=hostname, cards=found)


def _card(text: str) -> Card:
    name, _, rest = text.partition("=")
    name = name.strip()
    name = name.lower() if MAC.fullmatch(name.lower()) else name
    subject = f"--set-address {text}"
    if not (MAC.fullmatch(name) or _CARD.fullmatch(name)) or not rest:
        raise InvalidRequest("it names no card and address", subject=subject, hint=_EXAMPLE)
    found: dict[str, list[str]] = {"": [], "gateway": [], "dns": []}
    for part in rest.split(","):
        key, _, value = part.rpartition("=")
        try:
            if key not in found or (not key and "/" not in value):
                raise ValueError
            found[key].append(str(ipaddress.ip_address(value) if key else ipaddress.ip_interface(value)))
        except ValueError:
            raise InvalidRequest(f"{part!r} is not understood", subject=subject, hint=_EXAMPLE) from None
    card = Card(
        name=name,
        addresses=tuple(found[""]),
        gateways=tuple(found["gateway"]),
        dns=tuple(found["dns"]),
    )
    if not card.addresses:
        raise InvalidRequest("it has no address", subject=subject, hint=_EXAMPLE)
    for one in (*card.gateways, *card.dns):
        if family(one) not in card.families:
            raise InvalidRequest(
                f"{one} is of a family that the card gets no address of", subject=subject, hint=_EXAMPLE
            )
    for one in card.gateways:
        gateway = ipaddress.ip_address(one)
        networks = [ipaddress.ip_interface(address).network for address in card.addresses]
        if not gateway.is_link_local and not any(gateway in network for network in networks):
            raise InvalidRequest(
                f"its gateway {one} is in none of its networks", subject=subject, hint="see the prefix"
            )
    if any(len(card.of(version).gateways) > 1 for version in card.families):
        raise InvalidRequest("it has two gateways", subject=subject, hint="leave one of them away")
    return card
