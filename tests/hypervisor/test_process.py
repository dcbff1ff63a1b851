from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import msgspec
import pytest

from standby.hypervisor.host import NotOurs
from standby.hypervisor.process import ProcessIdentity

MARK = "standby:0123456789abcdef:"


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["/bin/sleep", "60"])
    yield child
    child.kill()
    child.wait()


@pytest.fixture
def marked() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["/bin/sh", "-c", "echo; sleep 60 & wait", MARK], stdout=subprocess.PIPE)
    child.stdout.readline()  # a new program's command line is not there before it runs
    yield child
    child.kill()
    child.wait()


def identity(child: subprocess.Popen[bytes]) -> ProcessIdentity:
    found = ProcessIdentity.of(child.pid)
    assert found is not None
    return found


def test_ours_is_ended(marked):
    ours = identity(marked)
    assert ours.alive()
    assert ours.kill(MARK, 10)
    assert not ours.alive()
    assert marked.wait() == -9
    assert ours.kill(MARK, 10)
    assert ours.wait(0)


def test_a_process_without_the_mark_is_not_touched(process):
    with pytest.raises(NotOurs, match="nothing was done to it"):
        identity(process).kill(MARK, 10)
    assert process.poll() is None


@pytest.mark.parametrize("change", [{"began": 1}, {"boot": "another boot"}])
def test_another_process_under_the_same_number_counts_as_gone(marked, change):
    former = msgspec.structs.replace(identity(marked), **change)
    assert not former.alive()
    assert former.kill(MARK, 10)
    assert marked.poll() is None


def test_a_wait_ends_at_its_limit(process):
    assert not identity(process).wait(0.01)


def test_a_zombie_is_gone():
    child = subprocess.Popen(["/bin/true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert ProcessIdentity.of(child.pid) is None
    child.wait()
