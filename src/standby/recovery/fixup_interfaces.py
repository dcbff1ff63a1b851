"""Addresses in ifupdown's /etc/network/interfaces and interfaces.d. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from standby.recovery.fixup_wish import Card, FixUpRefused

INTERFACES: Final = "/etc/network/interfaces"
_BEGINS: Final = re.compile(r"\s*(iface|auto|allow-\S+|mapping|source|source-directory|no-\S+|rename)\s")
_ADDRESSES: Final = ("address", "netmask", "broadcast", "network", "gateway")


class _Stanza(NamedTuple):
    """A stanza, or what stands before the first. words: of an `iface` line, else empty."""

    words: list[str]
    lines: list[str]

    def is_of(self, name: str, version: int | None = None) -> bool:
        kinds = {None: ("inet", "inet6"), 4: ("inet",), 6: ("inet6",)}[version]
        return self.words[1:2] == [name] and self.words[2:3] != [] and self.words[2] in kinds


def edit(files: Mapping[str, str], card: Card, sole: bool) -> dict[str, str] | None:
    """The files with the card's addresses; None where no stanza is of it."""
    parsed = {path: _stanzas(text) for path, text in sorted(files.items()) if path.startswith(INTERFACES)}
    every = [stanza for stanzas in parsed.values() for stanza in stanzas if stanza.words]
    names = {stanza.words[1] for stanza in every} - {"lo"}
    if card.by_mac:
        mine = {one.words[1] for one in every if card.name in " ".join(_options(one, "hwaddress")).lower()}
    else:
        mine = {card.name} & names
    mine = mine or (names if sole and len(names) == 1 else set())
    if len(mine) != 1:
        return None
    (name,) = mine
    for stanza in every:
        ports = _options(stanza, "bridge_ports", "bridge-ports", "bond-slaves", "slaves", "bond-master")
        if name in " ".join(ports).split() or (_options(stanza, "bond-master") and stanza.is_of(name)):
            raise FixUpRefused(
                "it is part of a bridge or bond, which has the address",
                subject=f"{name} in {INTERFACES}",
                tried="nothing was changed",
                hint="name the bridge or bond with --set-address",
            )
    changed: dict[str, str] = {}
    for version in card.families:
        at = _place(parsed, name, version)
        for path, stanzas in parsed.items():
            new = _with_addresses(stanzas, name, card.of(version), version, path == at)
            parsed[path] = new
            changed[path] = _text(new)
    return {path: text for path, text in changed.items() if text != files[path]}


def add(files: Mapping[str, str], card: Card) -> dict[str, str]:
    """A stanza for a card that has none. Raises FixUpRefused for one named by its MAC address."""
    if card.by_mac:
        names = sorted(
            {one.words[1] for text in files.values() for one in _stanzas(text) if one.words} - {"lo"}
        )
        raise FixUpRefused(
            "the guest's /etc/network/interfaces does not tell which interface that is",
            subject=card.name,
            tried="nothing was changed",
            hint=f"name the interface with --set-address; it has {', '.join(names) or 'none'}",
        )
    text = files.get(INTERFACES, "")
    stanzas = [line for version in card.families for line in _fresh(card.name, card.of(version), version)]
    gap = "\n" if text and not text.endswith("\n\n") else ""
    return {INTERFACES: f"{text}{gap}auto {card.name}\n" + "\n".join(stanzas) + "\n"}


def _place(parsed: Mapping[str, list[_Stanza]], name: str, version: int) -> str:
    """The file that has the card in this family, or else in the other."""
    for wanted in (version, None):
        for path, stanzas in parsed.items():
            if any(one.is_of(name, wanted) for one in stanzas):
                return path
    return INTERFACES


def _with_addresses(stanzas: list[_Stanza], name: str, part: Card, version: int, here: bool) -> list[_Stanza]:
    result: list[_Stanza] = []
    placed = False
    for stanza in stanzas:
        if not stanza.is_of(name, version):
            result.append(stanza)
        elif here and not placed:
            placed = True
            result.append(_static(stanza, part))
            result += _more(name, part, version, _indent(stanza))
        # A second stanza of the family has other addresses of the same card.
    if here and not placed:
        last = max((n for n, one in enumerate(result) if one.is_of(name)), default=len(result) - 1)
        result[last + 1 : last + 1] = [_Stanza([], ["", *_fresh(name, part, version)])]
    return result


def _static(stanza: _Stanza, part: Card) -> _Stanza:
    stale = (*_ADDRESSES, "dns-nameservers", "dns-nameserver") if part.dns else _ADDRESSES
    header = re.sub(r"(iface\s+\S+\s+\S+\s+)\S+", r"\g<1>static", stanza.lines[0])
    rest = [line for line in stanza.lines[1:] if line.split()[:1] == [] or line.split()[0] not in stale]
    return _Stanza([*stanza.words[:3], "static"], [header, *_body(part, _indent(stanza)), *rest])


def _body(part: Card, indent: str) -> list[str]:
    lines = [f"{indent}address {part.addresses[0]}", *(f"{indent}gateway {one}" for one in part.gateways)]
    return lines + ([f"{indent}dns-nameservers {' '.join(part.dns)}"] if part.dns else [])


def _more(name: str, part: Card, version: int, indent: str) -> list[_Stanza]:
    kind = "inet" if version == 4 else "inet6"
    return [
        _Stanza(["iface", name, kind, "static"], [f"iface {name} {kind} static", f"{indent}address {one}"])
        for one in part.addresses[1:]
    ]


def _fresh(name: str, part: Card, version: int) -> list[str]:
    kind = "inet" if version == 4 else "inet6"
    more = [line for one in _more(name, part, version, "    ") for line in one.lines]
    return [f"iface {name} {kind} static", *_body(part, "    "), *more]


def _indent(stanza: _Stanza) -> str:
    for line in stanza.lines[1:]:
        if line.strip():
            return line[: len(line) - len(line.lstrip())] or "    "
    return "    "


def _options(stanza: _Stanza, *names: str) -> list[str]:
    split = (line.split(maxsplit=1) for line in stanza.lines[1:])
    return [words[1] for words in split if len(words) == 2 and words[0] in names]


def _stanzas(text: str) -> list[_Stanza]:
    found = [_Stanza([], [])]
    for line in text.splitlines():
        if _BEGINS.match(line + " "):
            words = line.split()
            found.append(_Stanza(words if words[0] == "iface" and len(words) > 2 else [], []))
        found[-1].lines.append(line)
    return found


def _text(stanzas: list[_Stanza]) -> str:
    return "\n".join(line for one in stanzas for line in one.lines) + "\n"
