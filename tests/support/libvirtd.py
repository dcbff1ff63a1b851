"""Real libvirtds for the tests: a session daemon each, with all its files in one directory, and no systemd.

As root, a daemon and its machines run as libvirt's own user, who may not read what is root's: as on a host.
"""

from __future__ import annotations

import importlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from standby.errors import StandbyError
from standby.hypervisor.libvirt_connection import connect
from tests.hypervisor.processes import wait_for

USER = "libvirt-qemu"
SIZE = 4 << 20


class Libvirtd:
    """One libvirtd. `uri` reaches it; `images` is a directory that its machines may use."""

    def __init__(self):
        # Under /tmp, since a socket's path must be short, and readable for the machines' user.
        self.directory = Path(tempfile.mkdtemp(prefix="lv", dir="/tmp"))
        self.images = self.directory / "i"
        for name in ("c/libvirt", "r", "k", "s", "h", "i"):
            (self.directory / name).mkdir(parents=True)
        settings = 'security_driver = "none"\nstdio_handler = "file"\n'
        (self.directory / "c/libvirt/qemu.conf").write_text(settings)
        (self.directory / "libvirtd.conf").write_text('auth_unix_rw = "none"\n')
        self._as = []
        if os.getuid() == 0:
            user = pwd.getpwnam(USER)
            for path in (self.directory, *self.directory.rglob("*")):
                os.chown(path, user.pw_uid, user.pw_gid)
            self._as = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        self.directory.chmod(0o755)
        self.socket = self.directory / "r/libvirt/libvirt-sock"
        self.uri = f"qemu+unix:///session?socket={self.socket}"
        self.start()

    def start(self):
        self.socket.unlink(missing_ok=True)
        with (self.directory / "log").open("ab") as log:
            command = [*self._as, "libvirtd", "-f", self.directory / "libvirtd.conf"]
            self.process = subprocess.Popen(command, env=self._environment(), stderr=log, stdout=log)
        self.host = wait_for(self._connected, "libvirtd")

    def run(self, *command):
        """As the daemon's user, who reaches it at qemu:///session."""
        done = subprocess.run(
            [*self._as, *command],
            env=self._environment(),
            cwd=self.images,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _environment(self):
        homes = {"CONFIG": "c", "RUNTIME": "r", "CACHE": "k", "DATA": "s"}
        names = {"RUNTIME": "XDG_RUNTIME_DIR"}
        environment = {names.get(k, f"XDG_{k}_HOME"): str(self.directory / v) for k, v in homes.items()}
        return environment | {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.directory / "h")}

    def _connected(self):
        assert self.process.poll() is None, (self.directory / "log").read_text()
        try:
            return connect(self.uri)
        except StandbyError:
            return None

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def restart(self):
        self.kill()
        self.start()

    def close(self):
        for domain in self.host.raw.listAllDomains():
            if domain.isActive():
                domain.destroy()
        self.process.terminate()
        self.process.wait(30)
        shutil.rmtree(self.directory)

    def image(self, name, kind, size=SIZE):
        path = self.images / name
        more = ["-o", "force_size=on"] if kind == "vpc" else []
        subprocess.run(["qemu-img", "create", "-q", "-f", kind, *more, path, str(size)], check=True)
        self.own(path)
        return path

    def own(self, path):
        if self._as:
            user = pwd.getpwnam(USER)
            os.chown(path, user.pw_uid, user.pw_gid)

    def machine(self, name, disks, extra="", start=True, **more):
        """A persistent domain whose processors never start. disks: by target, (path, format)."""
        found = LibvirtMachine(self, name)
        domain = self.host.raw.defineXML(definition(name, disks, extra, **more))
        if start:
            found.start()
        assert domain.name() == name
        return found


def disk_xml(target, path, kind):
    return f"""<disk type='file' device='disk'><driver name='qemu' type='{kind}'/>
        <source file='{path}'/><target dev='{target}' bus='virtio'/></disk>"""


def definition(name, disks, extra="", boot="", memory=64):
    return f"""<domain type='qemu'><name>{name}</name><memory unit='MiB'>{memory}</memory><vcpu>1</vcpu>
      <os><type arch='x86_64' machine='pc'>hvm</type>{boot}</os><features><acpi/></features>
      <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
      {"".join(disk_xml(target, path, kind) for target, (path, kind) in disks.items())}
      {extra}<memballoon model='none'/></devices></domain>"""


class LibvirtMachine:
    def __init__(self, daemon, name):
        self.daemon = daemon
        self.name = name

    @property
    def module(self):
        return self.daemon.host.module

    @property
    def domain(self):
        return self.daemon.host.raw.lookupByName(self.name)

    def start(self):
        self.domain.createWithFlags(self.module.VIR_DOMAIN_START_PAUSED)

    def qmp(self, name, **arguments):
        options = {key.replace("_", "-"): value for key, value in arguments.items()}
        text = json.dumps({"execute": name, "arguments": options})
        answer = json.loads(importlib.import_module("libvirt_qemu").qemuMonitorCommand(self.domain, text, 0))
        assert "return" in answer, answer
        return answer["return"]

    def write(self, target, offset, length, pattern):
        """As the guest would: through the device."""
        number = ord(target[-1]) - ord("a")
        device = f"/machine/peripheral/virtio-disk{number}/virtio-backend"
        for command in (f"write -q -P {pattern} {offset} {length}", "flush"):
            self.qmp("human-monitor-command", command_line=f'qemu-io -d {device} "{command}"')

    def bitmaps(self):
        """(node, name) of all named bitmaps."""
        return sorted(
            (node["node-name"], bitmap["name"])
            for node in self.qmp("query-named-block-nodes", flat=True)
            for bitmap in node.get("dirty-bitmaps", ())
            if "name" in bitmap
        )

    def leftovers(self):
        """What of ours its QEMU holds beside bitmaps."""
        exports = [export["id"] for export in self.qmp("query-block-exports")]
        jobs = [job["id"] for job in self.qmp("query-jobs")]
        nodes = [node["node-name"] for node in self.qmp("query-named-block-nodes", flat=True)]
        return [name for name in exports + jobs + nodes if name.startswith("standby-")]


def contents_of(path, kind):
    """An image's bytes as its guest reads them, also while it is in use."""
    with tempfile.NamedTemporaryFile() as raw:
        command = ["qemu-img", "convert", "-U", "-f", kind, "-O", "raw", path, raw.name]
        subprocess.run(command, check=True)
        return bytearray(Path(raw.name).read_bytes())
