"""`standby replica holds` and `release`: what a killed reader leaves is seen, and ended only on purpose."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from ulid import ULID

from standby.objects.directory import DirectoryStore
from standby.replica.journal import Place, add_hold, read_head
from tests.cli.conftest import PROGRAM, standby
from tests.cli.test_vm import documented

BY = "served by process 4711 on a-host-whose-name-is-rather-long.example"


@pytest.fixture
def place(store, disk) -> Place:
    return Place(DirectoryStore(store), "web")


@pytest.fixture
def hold(place) -> str:
    """The id of a hold on point 3, two hours old."""
    hold_id = str(ULID.from_datetime(datetime.now(UTC) - timedelta(hours=2, minutes=1)))
    assert add_hold(place, hold_id, 3, BY)
    return hold_id


def held(place: Place) -> list[str]:
    return [hold.id for hold in read_head(place)[0].holds]


def test_holds_are_told_with_age_and_reader_and_ids_stay_whole(store, place, hold):
    add_hold(place, "somebody-else's", 2, "a program of theirs")
    mine, other = standby("replica", "holds", store, "web", "--json").json
    assert set(mine) == documented()["Hold"]
    assert (mine["id"], mine["point"], mine["by"]) == (hold, 3, BY)
    age = datetime.now(UTC) - datetime.fromisoformat(mine["since"])
    assert timedelta(hours=2) < age < timedelta(hours=2, minutes=10)
    assert (other["point"], other["since"]) == (2, "")
    told = standby("replica", "holds", store, "web", columns=60)
    assert told.status == 0
    assert hold in told.out
    assert "2 h ago" in told.out
    assert "unknown" in told.out
    assert all(len(line) <= 60 for line in told.out.splitlines())


def test_without_holds_that_is_said(store, disk):
    assert "Nobody holds a point of web." in standby("replica", "holds", store, "web").out
    assert standby("replica", "holds", store, "web", "--json").json == []


def test_a_hold_is_not_released_without_a_word(store, place, hold):
    for more in ([], ["--json"]):
        done = standby("replica", "release", store, "web", hold, *more, columns=200)
        assert (done.status, done.out) == (3, "")
        assert "--yes" in done.err
        assert BY in done.err
    assert held(place) == [hold]


def test_what_is_not_held_cannot_be_released(store, place, hold):
    done = standby("replica", "release", store, "web", hold[:-1], "--yes", columns=200)
    assert (done.status, done.out) == (3, "")
    assert f"standby replica holds {store} web" in done.err
    assert held(place) == [hold]


def test_one_hold_is_released_and_the_others_stay(store, place, hold):
    add_hold(place, "another", 2, "another")
    done = standby("replica", "release", store, "web", hold, "--yes", "--json")
    assert (done.status, done.json["id"], done.json["point"]) == (0, hold, 3)
    assert held(place) == ["another"]
    done = standby("replica", "release", store, "web", "another", "--yes")
    assert done.out == "Released: point 2 of web is no longer held by: another.\n"
    assert held(place) == []


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "left"), [("n", 1), ("y", 0)])
def test_on_a_terminal_it_asks(store, place, hold, answer, left):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [PROGRAM, "replica", "release", store, "web", hold],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.write(ours, f"{answer}\n".encode())
    out, err = process.communicate(timeout=30)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 0
    err = " ".join(err.split())  # the terminal's width says where lines break
    assert "process 4711" in err
    assert "2 h ago" in err
    assert "Release the hold?" in err
    assert ("Released" in out, "Nothing was changed" in err) == (not left, bool(left))
    assert len(held(place)) == left


@pytest.mark.slow
def test_the_hold_of_a_killed_server_is_found_and_released(store, place):
    served = subprocess.Popen(
        [PROGRAM, "replica", "serve", store, "web", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    server = json.loads(served.stdout.readline())["pid"]
    os.kill(server, signal.SIGKILL)
    assert served.wait(20) != 0
    (left,) = standby("replica", "holds", store, "web", "--json").json
    assert left["by"] == f"served by process {server} on {os.uname().nodename}"
    assert standby("replica", "release", store, "web", left["id"], "--yes").status == 0
    assert held(place) == []
