"""From the files of a Linux guest to those that give it another name and other addresses. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from standby.recovery import fixup_interfaces, fixup_netplan, fixup_sections
from standby.recovery.fixup_interfaces import INTERFACES
from standby.recovery.fixup_netplan import NETPLAN
from standby.recovery.fixup_sections import KEYFILES, NETWORKD
from standby.recovery.fixup_wish import Card, FixUp, FixUpRefused

_NM: Final = "/etc/NetworkManager/NetworkManager.conf"
_CLOUD: Final = "/etc/cloud/cloud.cfg"
_CLOUD_OWN: Final = "/etc/cloud/cloud.cfg.d/99-standby.cfg"
_SECRET: Final = re.compile(r"(?i)passw|psk|secret|private|wep-key|token")

READ: Final = (
    "/etc/hostname",
    "/etc/hosts",
    f"{NETPLAN}/*.yaml",
    INTERFACES,
    f"{INTERFACES}.d/*",
    f"{KEYFILES}/*",
    f"{NETWORKD}/*.network",
    _NM,
    _CLOUD,
    _CLOUD_OWN,
)
"""Patterns of the files that `plan` is to be given, as far as they exist."""


class Edit(NamedTuple):
    """before: None of a file that is not there yet; it is made for its owner alone to read if `private`."""

    path: str
    before: str | None
    after: str
    private: bool

    def difference(self) -> list[str]:
        """What changes, line by line, without any secret."""
        before = (self.before or "").splitlines()
        lines = difflib.unified_diff(before, self.after.splitlines(), self.path, self.path, lineterm="", n=0)
        return [f"{line[:1]}(a secret)" if _SECRET.search(line) else line for line in lines]


def plan(files: Mapping[str, str], wish: FixUp, cards: int) -> list[Edit]:
    """What to write; nothing where all is so already. cards: how many the machine has.

    Raises FixUpRefused where a card cannot be told, or where nothing known configures the guest's network.
    """
    new = dict(files)
    if wish.hostname:
        new["/etc/hostname"] = f"{wish.hostname}\n"
        new["/etc/hosts"] = _hosts(files.get("/etc/hosts", ""), files.get("/etc/hostname", ""), wish.hostname)
    for card in wish.cards:
        new |= _addressed(new, card, sole=cards == 1 and len(wish.cards) == 1)
    if _CLOUD in files:
        # It would set name and network as its own source has them, at this boot or the next.
        lines = ["preserve_hostname: true"] if wish.hostname else []
        lines += ["network: {config: disabled}"] if wish.cards else []
        known = files.get(_CLOUD_OWN, "")
        lines = [line for line in lines if line not in known.splitlines()]
        if lines:
            new[_CLOUD_OWN] = known + "\n".join(lines) + "\n"
    return [
        Edit(path, files.get(path), text, path.startswith((NETPLAN, KEYFILES)))
        for path, text in sorted(new.items())
        if files.get(path) != text
    ]


def _addressed(files: Mapping[str, str], card: Card, *, sole: bool) -> dict[str, str]:
    """The files that give the card its addresses: wherever it is named, else where the guest would look first."""
    changed: dict[str, str] = {}
    systems = (
        fixup_netplan.edit,
        fixup_sections.keyfiles,
        fixup_sections.networkd,
        fixup_interfaces.edit,
    )
    # A card that is named goes before one that is merely the only one.
    for alone in (False, True) if sole else (False,):
        found = [edited for system in systems if (edited := system(files, card, alone)) is not None]
        if found:
            for one in found:
                changed |= one
            return changed
    if any(path.startswith(NETPLAN) for path in files):
        return fixup_netplan.add(files, card)
    if _NM in files or any(path.startswith(KEYFILES) for path in files):
        return fixup_sections.new_keyfile(card)
    if any(path.startswith(NETWORKD) for path in files):
        return fixup_sections.new_network(card)
    if any(path.startswith(INTERFACES) for path in files):
        return fixup_interfaces.add(files, card)
    raise FixUpRefused(
        "the guest has none of netplan, NetworkManager, systemd-networkd and ifupdown",
        subject=card.name,
        tried="their files were looked for in /etc; nothing was changed",
        hint="leave --set-address away, and set the address at the guest's console",
    )


def _hosts(text: str, old: str, name: str) -> str:
    """With the name on the line of 127.0.1.1, and its other names kept; a new line where there is none."""
    names = [name, name.partition(".")[0]] if "." in name else [name]
    former = {old.strip(), old.strip().partition(".")[0]}
    lines = text.splitlines()
    for index, line in enumerate(lines):
        words, hash, comment = line.partition("#")
        if words.split()[:1] == ["127.0.1.1"]:
            # The first of the old names is its full one; further names are the guest's own affair.
            others = [
                one
                for one in words.split()[1:]
                if one not in former and one.partition(".")[0] not in former and one not in names
            ]
            lines[index] = "\t".join(["127.0.1.1", " ".join([*names, *others])])
            lines[index] += f" {hash}{comment}" if hash else ""
            break
    else:
        at = next((n for n, line in enumerate(lines, 1) if line.split()[:1] == ["127.0.0.1"]), 0)
        lines.insert(at, f"127.0.1.1\t{' '.join(names)}")
    return "\n".join(lines) + "\n"
