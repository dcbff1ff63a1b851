"""Addresses in netplan's files, with their comments kept. Pure."""

from __future__ import annotations

import fnmatch
import io
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from standby.recovery.fixup_wish import Card, FixUpRefused, family

NETPLAN: Final = "/etc/netplan"
OWN: Final = f"{NETPLAN}/90-standby.yaml"
_KINDS: Final = ("ethernets", "wifis", "bonds", "bridges", "vlans")
_DEFAULT: Final = {4: "0.0.0.0/0", 6: "::/0"}


class _Entry(NamedTuple):
    """A card in one file. body: the mapping in the file, changed in place."""

    path: str
    kind: str
    id: str
    body: dict[str, Any]

    @property
    def names(self) -> list[str]:
        """Interface names, perhaps patterns, that it is of; none where only the MAC address tells."""
        match = self.body.get("match") or {}
        found = [self.body.get("set-name"), match.get("name")]
        return [str(one) for one in found if one] if match else [self.id]

    @property
    def mac(self) -> str:
        return str((self.body.get("match") or {}).get("macaddress", "")).lower()

    def is_of(self, card: Card) -> bool:
        return self.mac == card.name if card.by_mac else card.name in self.names

    def may_be_of(self, card: Card) -> bool:
        if self.kind != "ethernets":
            return False
        if card.by_mac:
            return not self.mac
        return not self.names or any(fnmatch.fnmatch(card.name, one) for one in self.names)


def edit(files: Mapping[str, str], card: Card, sole: bool) -> dict[str, str] | None:
    """The files with the card's addresses; None where no entry is of it. Raises FixUpRefused."""
    parsed = {path: _load(path, text) for path, text in _own(files)}
    entries = list(_entries(parsed))
    ids = {(one.kind, one.id) for one in entries if one.is_of(card)}
    wired = {(one.kind, one.id) for one in entries if one.kind == "ethernets"}
    if not ids and sole and len(wired) == 1:
        ids = wired
    if not ids:
        return None
    for one in entries:
        if one.kind in ("bonds", "bridges") and {id for _, id in ids} & set(one.body.get("interfaces") or ()):
            raise FixUpRefused(
                f"it is part of {one.id}, which has the address",
                subject=f"{card.name} in {one.path}",
                tried="nothing was changed",
                hint=f"name {one.id} with --set-address",
            )
    mine = [one for one in entries if (one.kind, one.id) in ids]
    for one in mine:
        _strip(one.body, card)
    _put(mine[-1].body, card)
    changed = {one.path for one in mine}
    return {path: _dump(parsed[path], files[path]) for path in sorted(changed)}


def add(files: Mapping[str, str], card: Card) -> dict[str, str]:
    """A file of our own for a card that no entry can be of. Raises FixUpRefused where one might."""
    entries = list(_entries({path: _load(path, text) for path, text in _own(files)}))
    if doubtful := [one for one in entries if one.may_be_of(card)]:
        known = ", ".join(f"{one.id} ({one.mac or ' '.join(one.names)})" for one in doubtful)
        raise FixUpRefused(
            f"netplan has {known}, and does not tell whether that is this card",
            subject=card.name,
            tried="nothing was changed",
            hint="name the card with --set-address as the guest's netplan does",
        )
    id = f"standby-{card.name.replace(':', '')}" if card.by_mac else card.name
    body: dict[str, Any] = {"match": {"macaddress": card.name}} if card.by_mac else {}
    _put(body, card)
    document = _load(OWN, files.get(OWN, "network:\n  version: 2\n"))
    document["network"].setdefault("ethernets", {})[id] = body
    return {OWN: _dump(document, files.get(OWN, ""))}


def _own(files: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(path, text) for path, text in sorted(files.items()) if path.startswith(NETPLAN)]


def _load(path: str, text: str) -> Any:
    try:
        document = _yaml().load(text)
    except YAMLError as error:
        raise FixUpRefused(
            f"it is not understood: {error}",
            subject=path,
            tried="nothing was changed",
            hint="mend it at the source",
        ) from error
    if document is not None and not isinstance(document, dict):
        raise FixUpRefused("it is no netplan file", subject=path, hint="mend it at the source")
    return document if document is not None else {}


def _entries(parsed: Mapping[str, Any]) -> Iterator[_Entry]:
    for path, document in parsed.items():
        network = document.get("network")
        for kind in _KINDS:
            cards: Any = network.get(kind) if isinstance(network, dict) else None
            for id in list(cards or ()):
                if cards[id] is None:
                    cards[id] = {}
                if isinstance(cards[id], dict):
                    yield _Entry(path, kind, str(id), cards[id])


def _strip(body: dict[str, Any], card: Card) -> None:
    for version in card.families:
        body.pop(f"dhcp{version}", None)
        body.pop(f"gateway{version}", None)
    _keep(body, "addresses", lambda one: family(_address(one)) not in card.families)
    _keep(body, "routes", lambda one: not _is_default(one, card))
    if card.dns and isinstance(body.get("nameservers"), dict):
        body["nameservers"].pop("addresses", None)
        if not body["nameservers"]:
            del body["nameservers"]


def _keep(body: dict[str, Any], key: str, keep: Any) -> None:
    listed = body.get(key)
    if isinstance(listed, list):
        for index in reversed(range(len(listed))):
            if not keep(listed[index]):
                del listed[index]
        if not listed:
            del body[key]


def _address(one: Any) -> str:
    return str(next(iter(one), "")) if isinstance(one, dict) else str(one)


def _is_default(route: Any, card: Card) -> bool:
    to = str(route.get("to", "")) if isinstance(route, dict) else ""
    return to in ("default", "0/0", *_DEFAULT.values()) and family(str(route.get("via", ""))) in card.families


def _put(body: dict[str, Any], card: Card) -> None:
    for version in card.families:
        body[f"dhcp{version}"] = False
    body.setdefault("addresses", []).extend(card.addresses)
    if card.gateways:
        # `default` is not understood by the netplan of Ubuntu 20.04.
        routes = [{"to": _DEFAULT[family(one)], "via": one} for one in card.gateways]
        body.setdefault("routes", []).extend(routes)
    if card.dns:
        if not isinstance(body.get("nameservers"), dict):
            body["nameservers"] = {}
        body["nameservers"]["addresses"] = list(card.dns)


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    return yaml


def _dump(document: Any, before: str) -> str:
    yaml = _yaml()
    indented = re.search(r"^( +)[^ #-]", before, re.MULTILINE)
    yaml.indent(mapping=len(indented[1]) if indented else 2, sequence=4, offset=2)
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()
