"""What a QEMU or qemu-storage-daemon process says of itself on its command line. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Final, NamedTuple

from standby.hypervisor.qemu_arguments import AGENT_PORT

STORAGE_DAEMON: Final = "qemu-storage-daemon"
_MACHINE: Final = ("qemu-system-", "qemu-kvm", "kvm")

_SWITCHES: Final = frozenset(
    {"daemonize", "nodefaults", "no-user-config", "S", "enable-kvm", "nographic", "snapshot"}
)
"""Options without a value that are met often. Others do no harm: a value that begins with `-` is none."""


class Socket(NamedTuple):
    """A UNIX socket that the process listens on. id: of its character device, "" without."""

    path: Path
    id: str = ""


class CommandLine(NamedTuple):
    """name, uuid: "" where not given. monitors: QMP sockets. agents: of the guest agent's port. nbd: of its server."""

    name: str
    uuid: str
    daemon: bool
    monitors: tuple[Socket, ...] = ()
    agents: tuple[Socket, ...] = ()
    nbd: Path | None = None


def understood(arguments: Sequence[str], folder: Path) -> CommandLine | None:
    """None if it is no QEMU. folder: the process's own, which relative paths are of."""
    program = PurePath(arguments[0]).name if arguments else ""
    daemon = program == STORAGE_DAEMON
    if not daemon and not program.startswith(_MACHINE):
        return None
    options = list(_options(arguments[1:]))
    sockets = {
        one.id: one for _, value in _of(options, "chardev") if (one := _chardev(value, folder)) is not None
    }
    return CommandLine(
        name=next((_name(value) for _, value in _of(options, "name")), ""),
        uuid=next((value for _, value in _of(options, "uuid")), ""),
        daemon=daemon,
        monitors=(*_named_monitors(options, sockets, daemon), *_plain_monitors(options, folder)),
        agents=tuple(
            sockets[port["chardev"]]
            for _, value in _of(options, "device")
            if (port := _pairs(value, "driver")).get("name") == AGENT_PORT and port.get("chardev") in sockets
        ),
        nbd=next((path for _, value in _of(options, "nbd-server") if (path := _nbd(value, folder))), None),
    )


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options with their values; one or two dashes are the same to QEMU."""
    at = 0
    while at < len(arguments):
        given, at = arguments[at], at + 1
        if not given.startswith("-"):
            continue
        name = given.removeprefix("-").removeprefix("-")
        if "=" in name and given.startswith("--"):
            name, _, value = name.partition("=")
            yield name, value
        elif name not in _SWITCHES and at < len(arguments) and not arguments[at].startswith("-"):
            yield name, arguments[at]
            at += 1
        else:
            yield name, ""


def _of(options: Sequence[tuple[str, str]], *names: str) -> list[tuple[str, str]]:
    return [one for one in options if one[0] in names and one[1]]


def _pairs(value: str, first: str) -> Mapping[str, str]:
    """A value in QEMU's short form (`a,b=c`; the first may lack its key) or as JSON, nested keys with dots."""
    if value.startswith("{"):
        try:
            return dict(_flat(json.loads(value), ""))
        except ValueError:
            return {}
    parts = value.replace(",,", "\0").split(",")
    pairs = {}
    for number, part in enumerate(parts):
        key, equals, content = part.partition("=")
        if not equals and number == 0:
            key, content = first, part
        pairs[key] = content.replace("\0", ",")
    return pairs


def _flat(value: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, str(value)


def _name(value: str) -> str:
    return _pairs(value, "guest").get("guest", "")


def _chardev(value: str, folder: Path) -> Socket | None:
    pairs = _pairs(value, "backend")
    if pairs.get("backend") != "socket" or not pairs.get("path") or not _serves(pairs):
        return None
    return Socket(folder / pairs["path"], pairs.get("id", ""))


def _serves(pairs: Mapping[str, str]) -> bool:
    return pairs.get("server", "off") in ("on", "", "yes", "true")


def _named_monitors(
    options: Sequence[tuple[str, str]], sockets: Mapping[str, Socket], daemon: bool
) -> Iterator[Socket]:
    for name, value in _of(options, "mon", "monitor"):
        pairs = _pairs(value, "chardev")
        control = pairs.get("mode", "control" if daemon or name == "monitor" else "readline") == "control"
        if control and (found := sockets.get(pairs.get("chardev", ""))):
            yield found


def _plain_monitors(options: Sequence[tuple[str, str]], folder: Path) -> Iterator[Socket]:
    """`-qmp unix:PATH,server=on`, or the id of a character device is not looked for: it is a `-mon` then."""
    for _, value in _of(options, "qmp", "qmp-pretty"):
        if value.startswith("unix:") and _serves(pairs := _pairs(value.removeprefix("unix:"), "path")):
            yield Socket(folder / pairs["path"])


def _nbd(value: str, folder: Path) -> Path | None:
    path = _pairs(value, "addr.type").get("addr.path", "")
    return folder / path if path else None
