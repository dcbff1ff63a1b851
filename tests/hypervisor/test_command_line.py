"""QEMU's command lines, as people and libvirt write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from standby.hypervisor.command_line import Socket, understood

HERE = Path("/srv/vm")


@pytest.mark.parametrize(
    ("words", "name", "uuid", "monitors", "agents", "nbd"),
    [
        (
            "qemu-system-x86_64 -name web -uuid 11-22 -qmp unix:/run/standby/web.qmp,server=on,wait=off -m 512",
            "web",
            "11-22",
            [Socket(Path("/run/standby/web.qmp"))],
            [],
            None,
        ),
        (
            "/usr/bin/kvm -name guest=db,debug-threads=on -nographic -chardev socket,path=q,,1,id=m,server,nowait"
            " -mon chardev=m,mode=control -monitor stdio",
            "db",
            "",
            [Socket(HERE / "q,1", "m")],
            [],
            None,
        ),
        (
            "qemu-system-aarch64 -chardev socket,id=standby-mon,path=s,server=on -mon standby-mon,mode=control"
            " -chardev socket,id=g,path=ga,server=on -device virtio-serial"
            " -device virtserialport,chardev=g,name=org.qemu.guest_agent.0",
            "",
            "",
            [Socket(HERE / "s", "standby-mon")],
            [Socket(HERE / "ga", "g")],
            None,
        ),
        # libvirt: the monitor is a descriptor that it keeps; devices are JSON.
        (
            "qemu-system-x86_64 -name guest=lv,debug-threads=on -chardev socket,id=charmonitor,fd=34,server=on"
            " -mon chardev=charmonitor,id=monitor,mode=control"
            " -chardev socket,id=charchannel0,path=/run/libvirt/ga,server=on"
            ' -device {"driver":"virtserialport","chardev":"charchannel0","name":"org.qemu.guest_agent.0"}',
            "lv",
            "",
            [],
            [Socket(Path("/run/libvirt/ga"), "charchannel0")],
            None,
        ),
        (
            "qemu-storage-daemon --chardev socket,path=qmp,server=on,wait=off,id=q --monitor chardev=q"
            " --nbd-server addr.type=unix,addr.path=served --daemonize",
            "",
            "",
            [Socket(HERE / "qmp", "q")],
            [],
            HERE / "served",
        ),
        (
            'qemu-storage-daemon --nbd-server {"addr":{"type":"unix","path":"/n"}} --nbd-server'
            " addr.type=inet,addr.host=0.0.0.0,addr.port=1",
            "",
            "",
            [],
            [],
            Path("/n"),
        ),
        # A client socket, a human monitor and nonsense are no control sockets.
        (
            "qemu-system-x86_64 -qmp unix:/c -chardev socket,id=h,path=/h,server=on -mon chardev=h"
            " -chardev socket,id=x -name {bad -device {bad",
            "",
            "",
            [],
            [],
            None,
        ),
    ],
)
def test_what_a_command_line_says(words, name, uuid, monitors, agents, nbd):
    said = understood(words.split(), HERE)
    assert said
    assert (said.name, said.uuid, list(said.monitors), list(said.agents), said.nbd) == (
        name,
        uuid,
        monitors,
        agents,
        nbd,
    )
    assert said.daemon is words.startswith("qemu-storage")


@pytest.mark.parametrize("words", ["", "python3 -m qemu", "qemu-img convert a b", "/usr/bin/qemu-nbd -c x"])
def test_other_programs_are_none_of_ours(words):
    assert understood(words.split(), HERE) is None


def test_the_options_of_a_real_start_are_understood():
    words = ["qemu-system-x86_64", "-name", "a,b", "-S", "-qmp"]
    assert understood(words, HERE)
