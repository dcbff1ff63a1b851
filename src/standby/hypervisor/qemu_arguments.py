"""The QEMU command line of a machine. Pure: nothing here looks at the host."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from standby.hypervisor.accelerator import Accelerator
from standby.hypervisor.host import DiskImage, Network, StartRefused
from standby.records import DiskDescription, MachineDescription, NicDescription

AGENT_PORT: Final = "org.qemu.guest_agent.0"
_NODE_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,30}")
_DISK_DEVICES: Final = {"virtio": "virtio-blk-pci", "scsi": "scsi-hd", "sata": "ide-hd", "ide": "ide-hd"}


class RunFiles(NamedTuple):
    """The files of one start, all in its run directory."""

    directory: Path

    @property
    def record(self) -> Path:
        return self.directory / "machine.json"

    @property
    def pid(self) -> Path:
        return self.directory / "pid"

    @property
    def control(self) -> Path:
        """The QMP socket of RunningMachine itself."""
        return self.directory / "control.sock"

    @property
    def qmp(self) -> Path:
        return self.directory / "qmp.sock"

    @property
    def agent(self) -> Path:
        return self.directory / "agent.sock"

    @property
    def console(self) -> Path:
        return self.directory / "console.sock"

    @property
    def console_log(self) -> Path:
        return self.directory / "console.log"

    @property
    def log(self) -> Path:
        """What QEMU itself has to say."""
        return self.directory / "qemu.log"


def machine_name(tag: str, description: MachineDescription) -> str:
    """QEMU's name of a machine of ours; the tag in it is what proves that it is."""
    return f"standby:{tag}:{description.name}"


def arguments(
    description: MachineDescription,
    disks: Mapping[str, DiskImage],
    boot_files: Mapping[str, Path],
    files: RunFiles,
    *,
    tag: str,
    network: Network,
    accelerator: Accelerator,
    bridge: str = "",
) -> list[str]:
    """What to give qemu-system-x86_64, which then daemonizes with the processors still stopped.

    Raises StartRefused for what the description asks and we cannot give.
    """
    missing = [disk.id for disk in description.disks if disk.id not in disks]
    if missing:
        raise StartRefused(f"no image is given for disk {', '.join(missing)}", subject=description.name)
    return [
        *("-name", f"guest={_escaped(machine_name(tag, description))}"),
        *("-uuid", description.uuid),
        *_processor(description, accelerator),
        *("-m", f"size={description.memory}B"),
        *("-smp", str(description.cpus)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-vga", "std"),
        *("-S", "-daemonize", "-pidfile", str(files.pid), "-D", str(files.log), "-d", "unimp"),
        *("-chardev", _socket("control", files.control), "-mon", "chardev=control,mode=control"),
        *("-chardev", _socket("qmp", files.qmp), "-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"{_socket('console', files.console)},logfile={_escaped(str(files.console_log))}"),
        *("-serial", "chardev:console"),
        *("-device", "virtio-serial-pci", "-chardev", _socket("agent", files.agent)),
        # With an id, for QEMU tells the opening of ports that have one only (VSERPORT_CHANGE).
        *("-device", f"virtserialport,id=agent,chardev=agent,name={AGENT_PORT}"),
        *_firmware(description, boot_files),
        *_network(description, network, bridge),
        *_disks(description, disks),
    ]


def node_name(index: int, disk: DiskDescription) -> str:
    """The block node (and device) of a disk: its id where QEMU takes that as a name."""
    return disk.id if _NODE_NAME.fullmatch(disk.id) else f"disk{index}"


def backing_name(index: int) -> str:
    """The block node of what the disk's image does not hold itself."""
    return f"backing{index}"


def nbd_options(uri: str, patience: int) -> dict[str, Any]:
    """The blockdev options of an NBD URI (`nbd://host:port/export`, `nbd+unix:///export?socket=path`).

    patience: seconds in which a read waits for a server that went away.
    """
    parts = urlsplit(uri)
    server: dict[str, str]
    sockets = parse_qs(parts.query).get("socket", [])
    if parts.scheme == "nbd+unix" and sockets:
        server = {"type": "unix", "path": sockets[0]}
    elif parts.scheme == "nbd" and parts.hostname:
        server = {"type": "inet", "host": parts.hostname, "port": str(parts.port or 10809)}
    else:
        raise StartRefused(
            "it is neither nbd://host:port/export nor nbd+unix:///export?socket=path", subject=uri
        )
    return {
        "driver": "nbd",
        "server": server,
        "export": unquote(parts.path.removeprefix("/")),
        "reconnect-delay": patience,
        "read-only": True,
    }


def _processor(description: MachineDescription, accelerator: Accelerator) -> list[str]:
    # Generation 1 and BIOS guests expect IDE; a kernel of its own boots soonest on the plainer board too.
    board = "pc" if description.firmware in ("bios", "kernel") else "q35"
    if accelerator == "kvm":
        return ["-machine", f"{board},accel=kvm", "-cpu", "host"]
    return ["-machine", board, "-accel", "tcg,thread=multi", "-cpu", "max"]


def _firmware(description: MachineDescription, boot_files: Mapping[str, Path]) -> list[str]:
    match description.firmware:
        case "bios":
            return []
        case "uefi":
            raise StartRefused("UEFI firmware is not supported here yet", subject=description.name)
        case "kernel":
            missing = [file.role for file in description.boot_files if file.role not in boot_files]
            if missing or "kernel" not in boot_files:
                raise StartRefused(
                    f"it boots a kernel directly, and the {' and '.join(missing or ['kernel'])} is not given",
                    subject=description.name,
                )
            initrd = ["-initrd", str(boot_files["initrd"])] if "initrd" in boot_files else []
            return ["-kernel", str(boot_files["kernel"]), *initrd, "-append", description.kernel_cmdline]


def _network(description: MachineDescription, network: Network, bridge: str) -> list[str]:
    if network is Network.NONE or not description.nics:
        return ["-nic", "none"]
    if (network is Network.BRIDGE) is not bool(bridge):
        raise StartRefused("a bridge is named for Network.BRIDGE and for no other", subject=description.name)
    options = []
    for index, nic in enumerate(description.nics):
        kind, more = _card(description, nic, network, bridge)
        device = {"driver": nic.model, "netdev": f"net{index}", "mac": nic.mac}
        options += ["-netdev", f"{kind},id=net{index}{more}", "-device", json.dumps(device)]
    return options


def _card(
    description: MachineDescription, nic: NicDescription, network: Network, bridge: str
) -> tuple[str, str]:
    """QEMU's kind of network for a card, and its options."""
    if network is Network.MAPPED:
        target, _, bridge = nic.network.partition("=")
        found = {"isolated": Network.RESTRICTED, "user": Network.USER, "bridge": Network.BRIDGE}.get(target)
        if found is None or (found is Network.BRIDGE) is not bool(bridge):
            raise StartRefused(
                f"card {nic.mac} is to be on {nic.network!r}, which is no network of a QEMU machine",
                subject=description.name,
            )
        network = found
    return {
        Network.RESTRICTED: ("user", ",restrict=on"),
        Network.USER: ("user", ""),
        Network.BRIDGE: ("bridge", f",br={_escaped(bridge)}"),
    }[network]


def _disks(description: MachineDescription, disks: Mapping[str, DiskImage]) -> list[str]:
    options = []
    if any(disk.bus == "scsi" for disk in description.disks):
        options += ["-device", "virtio-scsi-pci"]
    for index, disk in enumerate(description.disks):
        if disk.bus not in _DISK_DEVICES:
            raise StartRefused(
                f"disk {disk.id} is on bus {disk.bus!r}, known are {', '.join(_DISK_DEVICES)}",
                subject=description.name,
            )
        name, image = node_name(index, disk), disks[disk.id]
        top, backing = name, ""
        if image.base:
            path, driver = image.base
            backing = backing_name(index)
            node = _node(backing, DiskImage(path, driver), "") | {"read-only": True, "auto-read-only": True}
            options += ["-blockdev", json.dumps(node)]
        if image.backing:
            # A node of its own: options given within would be mixed with the address in the image's header.
            backing = backing_name(index)
            node = nbd_options(image.backing, image.patience) | {"node-name": backing}
            options += ["-blockdev", json.dumps(node)]
        options += ["-blockdev", json.dumps(_node(name, image, backing))]
        if image.backing:
            top = f"fetch{index}"
            options += ["-blockdev", json.dumps({"driver": "copy-on-read", "node-name": top, "file": name})]
        device: dict[str, Any] = {"driver": _DISK_DEVICES[disk.bus], "id": name, "drive": top}
        device["serial"] = name[:20]
        if description.firmware != "kernel":
            device["bootindex"] = index
        options += ["-device", json.dumps(device)]
    return options


def _node(name: str, image: DiskImage, backing: str) -> dict[str, Any]:
    node: dict[str, Any] = {
        "driver": image.format,
        "node-name": name,
        "discard": "unmap",
        "file": {"driver": "file", "filename": str(image.path), "discard": "unmap"},
    }
    if backing:
        node["backing"] = backing
    return node


def _socket(name: str, path: Path) -> str:
    return f"socket,id={name},path={_escaped(str(path))},server=on,wait=off"


def _escaped(value: str) -> str:
    return value.replace(",", ",,")
