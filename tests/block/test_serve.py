"""Serving by real nbdkit processes; the factories below run inside them."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from standby.block.disk import DiskFailed, DiskUnreachable
from standby.block.extent import Extent, Span
from standby.block.file import FileDisk
from standby.block.nbd import NbdDisk
from standby.block.serve import ServerFailed, attach, serve
from standby.errors import Bug, Damaged, InvalidRequest
from tests.support.disks import MemoryDisk
from tests.support.nbd_servers import wait_until

pytestmark = pytest.mark.slow

HERE = f"{__name__}:"
MIB = 1 << 20


def open_file(path, writable=False):
    return FileDisk(Path(path), writable=writable)


def open_bad(byte):
    return MemoryDisk(b"x" * MIB, bad=byte)


def open_damaged():
    raise Damaged(
        "block 7 is not what was written", subject="log 01J", tried="reading it twice", hint="scrub it"
    )


def open_mistaken():
    return {}["nothing"]


def open_never():
    time.sleep(60)


def open_and_die():
    os._exit(9)


@pytest.fixture
def socket(tmp_path):
    return tmp_path / "s.nbd"


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.write(os.urandom(3 * MIB))
        file.truncate(8 * MIB)
    return path


def read(disk, *extents):
    into = memoryview(bytearray(sum(extent.length for extent in extents)))
    disk.read_all(extents, into)
    return bytes(into)


def serve_file(image, socket, **options):
    arguments = {"path": str(image), "writable": options.get("writable", False)}
    return serve(HERE + "open_file", arguments, socket, **options)


def test_a_served_disk_reads_as_itself(image, socket):
    with serve_file(image, socket) as served:
        assert served.alive
        disk = NbdDisk(socket, "", connections=4)
        assert read(disk, Extent(0, 8 * MIB)) == image.read_bytes()
        assert list(disk.spans(Extent(0, 8 * MIB))) == [Span(0, 3 * MIB, False), Span(3 * MIB, 5 * MIB, True)]
        assert subprocess.check_output(["nbdinfo", "--size", served.uri]) == b"8388608\n"
        disk.close()
    assert not served.alive
    assert not socket.exists()


def test_a_writable_disk_is_written_zeroed_and_flushed(image, socket):
    with serve_file(image, socket, writable=True):
        disk = NbdDisk(socket, "")
        disk.write(100, memoryview(b"hello"))
        disk.zero(Extent(MIB, MIB))
        disk.flush()
        disk.close()
    content = image.read_bytes()
    assert content[100:105] == b"hello"
    assert content[MIB : 2 * MIB] == bytes(MIB)


def test_a_disk_is_served_read_only_unless_asked(image, socket):
    with serve_file(image, socket), pytest.raises(InvalidRequest, match="lets nobody write"):
        NbdDisk(socket, "").write(0, memoryview(b"x"))


def test_a_failing_read_reaches_the_client_and_the_log(socket):
    with serve(HERE + "open_bad", {"byte": 70000}, socket) as served:
        disk = NbdDisk(socket, "")
        with pytest.raises(DiskFailed, match="at offset 65536 failed"):
            read(disk, Extent(65536, 65536))
        assert read(disk, Extent(0, 10)) == b"x" * 10
        assert "byte 70000 is bad" in served.log.read_text()


def test_the_error_of_the_factory_is_raised_with_its_decision_and_text(socket):
    with pytest.raises(Damaged) as caught:
        serve(HERE + "open_damaged", {}, socket)
    assert (
        str(caught.value)
        == "log 01J: block 7 is not what was written. Tried: reading it twice. Next: scrub it"
    )
    assert not socket.exists()


def test_an_error_that_nobody_meant_is_a_bug_with_its_text(socket):
    with pytest.raises(Bug, match="KeyError: 'nothing'"):
        serve(HERE + "open_mistaken", {}, socket)


@pytest.mark.parametrize("factory", ["no.such.module:open", f"{__name__}:nothing"])
def test_a_factory_that_is_not_there_is_an_invalid_request(socket, factory):
    with pytest.raises(InvalidRequest, match="there is no such factory"):
        serve(factory, {}, socket)


def test_a_factory_that_takes_too_long_is_given_up(socket):
    with pytest.raises(ServerFailed, match=r"not ready within 1 s"):
        serve(HERE + "open_never", {}, socket, patience=1)
    assert not socket.exists()


def test_a_server_that_dies_at_its_start_is_told_from_its_log(socket):
    with pytest.raises(ServerFailed, match="nbdkit ended before it served"):
        serve(HERE + "open_and_die", {}, socket)


def test_a_socket_in_a_missing_directory_is_refused(tmp_path):
    with pytest.raises(InvalidRequest, match="its directory does not exist"):
        serve(HERE + "open_file", {}, tmp_path / "none" / "s")


def test_a_socket_in_use_is_refused_and_a_dead_one_replaced(image, socket):
    first = serve_file(image, socket)
    with pytest.raises(InvalidRequest, match="another server listens"):
        serve_file(image, socket)
    os.kill(first.pid, 9)
    wait_until(lambda: not first.alive, "the server's death")
    assert socket.exists()
    with pytest.raises(ServerFailed, match="is gone"):
        first.check()
    with serve_file(image, socket):
        assert read(NbdDisk(socket, ""), Extent(0, 1)) == image.read_bytes()[:1]
    first.stop()


def test_arguments_stay_out_of_the_command_line(image, socket):
    with serve_file(image, socket) as served:
        assert str(image) not in Path(f"/proc/{served.pid}/cmdline").read_text()


@pytest.mark.parametrize("tied", [True, False])
def test_a_server_outlives_the_thread_that_started_it(image, socket, tied):
    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve_file, image, socket, tied=tied).result()
    with served:
        assert read(NbdDisk(socket, ""), Extent(0, MIB)) == image.read_bytes()[:MIB]


PARENT = """
import sys
from pathlib import Path
from standby.block.serve import serve
image, socket, how = sys.argv[1:]
served = serve("tests.block.test_serve:open_file", {"path": image}, Path(socket), tied=how == "tied")
print(served.pid, flush=True)
sys.stdin.read()
"""


def start_parent(image, socket, how):
    command = [sys.executable, "-c", PARENT, str(image), str(socket), how]
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root)
    assert parent.stdout.readline().strip()
    return parent


def test_a_tied_server_ends_with_a_killed_parent_even_under_a_client(image, socket):
    parent = start_parent(image, socket, "tied")
    served = attach(socket)
    disk = NbdDisk(socket, "", patience=10)
    parent.kill()
    parent.communicate()
    wait_until(lambda: not served.alive, "the end of the orphan")
    with pytest.raises(DiskUnreachable):
        read(disk, Extent(0, 1))


def test_a_daemon_outlives_its_killed_parent_and_is_found_by_its_socket(image, socket):
    parent = start_parent(image, socket, "daemon")
    parent.kill()
    parent.communicate()
    disk = NbdDisk(socket, "")
    assert read(disk, Extent(0, MIB)) == image.read_bytes()[:MIB]
    disk.close()
    served = attach(socket)
    served.stop()
    assert not served.alive
    with pytest.raises(ServerFailed, match="nobody listens"):
        attach(socket)
