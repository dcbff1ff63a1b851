"""Addresses in files of sections and keys: NetworkManager's keyfiles, systemd-networkd's .network. Pure."""

from __future__ import annotations

import fnmatch
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Final, NamedTuple

from standby.recovery.fixup_wish import Card, FixUpRefused, family

KEYFILES: Final = "/etc/NetworkManager/system-connections"
NETWORKD: Final = "/etc/systemd/network"
_NAMESPACE: Final = uuid.UUID("5f0f4f0e-64a4-5d33-9f0e-2d7c8d1f6f11")


class _Section(NamedTuple):
    """lines: with the header; those before the first header have the name ""."""

    name: str
    lines: list[str]

    def values(self, *keys: str) -> list[str]:
        found = (_pair(line) for line in self.lines)
        return [value for key, value in found if key in keys]


def keyfiles(files: Mapping[str, str], card: Card, sole: bool) -> dict[str, str] | None:
    """The keyfile of this card with its addresses; None where none is of it."""
    parsed = {path: _sections(text) for path, text in sorted(files.items()) if path.startswith(KEYFILES)}

    def keyed(path: str) -> bool:
        hardware = _values(parsed[path], ("ethernet", "802-3-ethernet"), "mac-address")
        names = _values(parsed[path], ("connection",), "interface-name")
        return card.name in ([one.lower() for one in hardware] if card.by_mac else names)

    wired = [
        path
        for path, sections in parsed.items()
        if set(_values(sections, ("connection",), "type")) & {"ethernet", "802-3-ethernet"}
    ]
    found = [path for path in parsed if keyed(path)] or (wired if sole and len(wired) == 1 else [])
    if not found:
        return None
    if any(_values(parsed[path], ("connection",), "master", "controller") for path in found):
        raise _port(card, found[0])
    # Of several profiles of a card NetworkManager takes whichever it used last, so all get the address.
    return {path: _keyfile(parsed[path], card) for path in found}


def new_keyfile(card: Card) -> dict[str, str]:
    name = f"standby-{card.name.replace(':', '')}"
    lines = ["[connection]", f"id={name}", f"uuid={uuid.uuid5(_NAMESPACE, name)}", "type=ethernet"]
    lines += ["autoconnect-priority=100"]
    lines += (
        ["", "[ethernet]", f"mac-address={card.name}"] if card.by_mac else [f"interface-name={card.name}"]
    )
    text = "\n".join(lines) + "\n"
    return {f"{KEYFILES}/{name}.nmconnection": _keyfile(_sections(text), card)}


def _keyfile(sections: list[_Section], card: Card) -> str:
    for version in card.families:
        part = card.of(version)

        def stale(key: str, value: str, part: Card = part) -> bool:
            plain = key.rstrip("0123456789")
            default = plain == "route" and value.partition(",")[0] in ("0.0.0.0/0", "::/0")
            return (
                plain in ("method", "address", "addresses", "gateway")
                or default
                or (key == "dns" and bool(part.dns))
            )

        put = ["method=manual", *(f"address{n}={one}" for n, one in enumerate(part.addresses, 1))]
        put += [f"gateway={one}" for one in part.gateways]
        put += [f"dns={';'.join(part.dns)};"] if part.dns else []
        sections = _edited(sections, f"ipv{version}", stale, put)
    return _text(sections)


def networkd(files: Mapping[str, str], card: Card, sole: bool) -> dict[str, str] | None:
    """The .network file that counts for this card, if it is of no other card too; else None."""
    parsed = {
        path: _sections(text)
        for path, text in sorted(files.items(), key=lambda item: PurePosixPath(item[0]).name)
        if path.startswith(NETWORKD) and path.endswith(".network")
    }
    if sole and len(parsed) == 1:
        (first,) = parsed
    else:
        # The first that matches counts, and no other.
        first = next((path for path in parsed if _could_match(parsed[path], card)), "")
        if not first or not _matches_only(parsed[first], card):
            return None
    if _values(parsed[first], ("Network",), "Bridge", "Bond"):
        raise _port(card, first)
    return {first: _network(parsed[first], card)}


def new_network(card: Card) -> dict[str, str]:
    key = "MACAddress" if card.by_mac else "Name"
    name = f"00-standby-{card.name.replace(':', '')}.network"
    text = f"[Match]\n{key}={card.name}\n"
    return {f"{NETWORKD}/{name}": _network(_sections(text), card)}


def _patterns(sections: list[_Section]) -> tuple[list[str], list[str]]:
    names = " ".join(_values(sections, ("Match",), "Name")).split()
    macs = " ".join(_values(sections, ("Match",), "MACAddress", "PermanentMACAddress")).lower().split()
    return names, macs


def _matches_only(sections: list[_Section], card: Card) -> bool:
    names, macs = _patterns(sections)
    return (macs if card.by_mac else names) == [card.name]


def _could_match(sections: list[_Section], card: Card) -> bool:
    names, macs = _patterns(sections)
    if card.by_mac:
        return not macs or card.name in macs
    return not names or any(fnmatch.fnmatch(card.name, one) for one in names)


def _network(sections: list[_Section], card: Card) -> str:
    families = card.families

    def replaced(section: _Section) -> bool:
        if section.name == "Address":
            return any(family(one) in families for one in section.values("Address"))
        default = all(one in ("0.0.0.0/0", "::/0") for one in section.values("Destination"))
        gateways = section.values("Gateway")
        return section.name == "Route" and default and any(family(one) in families for one in gateways)

    sections = [section for section in sections if not replaced(section)]
    dhcp = (_values(sections, ("Network",), "DHCP") or ["no"])[-1].lower()
    before = {"yes": {4, 6}, "true": {4, 6}, "both": {4, 6}, "ipv4": {4}, "v4": {4}, "ipv6": {6}, "v6": {6}}
    left = before.get(dhcp, set()) - set(families)

    def stale(key: str, value: str) -> bool:
        of_family = key in ("Address", "Gateway") and family(value) in families
        return key == "DHCP" or of_family or (key == "DNS" and bool(card.dns))

    put = [f"DHCP={f'ipv{min(left)}' if left else 'no'}"]
    put += [f"Address={one}" for one in card.addresses]
    put += [f"Gateway={one}" for one in card.gateways]
    put += [f"DNS={one}" for one in card.dns]
    return _text(_edited(sections, "Network", stale, put))


def _port(card: Card, path: str) -> FixUpRefused:
    return FixUpRefused(
        "it is part of a bridge or bond, which has the address",
        subject=f"{card.name} in {path}",
        tried="nothing was changed",
        hint="name the bridge or bond with --set-address",
    )


def _sections(text: str) -> list[_Section]:
    found = [_Section("", [])]
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("[") and stripped.endswith("]"):
            found.append(_Section(stripped[1:-1], []))
        found[-1].lines.append(line)
    return found


def _pair(line: str) -> tuple[str, str]:
    if line.lstrip().startswith(("#", ";", "[")):
        return "", ""
    key, _, value = line.partition("=")
    return key.strip(), value.strip()


def _values(sections: list[_Section], names: Sequence[str], *keys: str) -> list[str]:
    return [value for one in sections if one.name in names for value in one.values(*keys)]


def _edited(
    sections: list[_Section], name: str, stale: Callable[[str, str], bool], put: list[str]
) -> list[_Section]:
    """Sections of the name without what is stale; the first of them, or a new one, has `put` at its begin."""
    kept = [
        _Section(one.name, [line for line in one.lines if one.name != name or not stale(*_pair(line))])
        for one in sections
    ]
    for one in kept:
        if one.name == name:
            one.lines[1:1] = put
            return kept
    if kept and kept[-1].lines and kept[-1].lines[-1].strip():
        kept[-1].lines.append("")
    return [*kept, _Section(name, [f"[{name}]", *put])]


def _text(sections: list[_Section]) -> str:
    return "\n".join(line for one in sections for line in one.lines) + "\n"
