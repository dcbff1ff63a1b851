"""What goes wrong, as people and scripts learn of it."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess

import pytest

from standby.cli import store as store_commands
from standby.cli.app import run
from standby.objects.directory import DirectoryStore
from standby.replica.writer import attach, create
from tests.cli.conftest import PROGRAM, standby
from tests.cli.test_docs import leaves
from tests.support.replicas import REPLICA, FixedClock, ModelDisk, commit_point, new_id


def narrow(text: str, columns: int = 60) -> None:
    """No line is longer, except one that a path or a command makes so, and nothing is cut."""
    assert "…" not in text
    for line in text.splitlines():
        assert len(line) <= columns or any(len(word) > columns - 12 for word in line.split()), line


def call(capsys, *arguments) -> tuple[int, str, str]:
    status = run([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


@pytest.mark.parametrize(
    "words", [["replica", "nonsense"], ["replica", "list"], ["vm", "list", "--frob"], []]
)
def test_a_wrong_command_line_is_2_and_names_the_help_to_read(capsys, words):
    status, out, err = call(capsys, *words)
    assert (status, out) == (2, "")
    assert "--help" in err
    status, out, err = call(capsys, *words, "--json")
    failure = json.loads(err)
    assert (status, out, failure["exit_status"]) == (2, "", 2)
    assert failure["hint"].endswith("--help")


@pytest.mark.parametrize("path", sorted(leaves()))
def test_help_is_whole_on_a_narrow_terminal(capsys, monkeypatch, path):
    monkeypatch.setenv("COLUMNS", "60")
    for words in (path.split()[1:], path.split()[1:-1]):
        status, out, _ = call(capsys, *words, "--help")
        assert status == 0
        assert "..." not in out.replace("[ARGS]...", "").replace("...]", "").replace("{PATH}...", "").replace(
            "{RUN}...", ""
        )
        assert all(len(line) <= 60 for line in out.splitlines() if not line.startswith("Usage:"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["vm", "check", "web", "--qmp", "{file}.qmp", "--state", "{file}/state"],
        ["vm", "protect", "web", "--qmp", "{file}.qmp", "--store", "{store}", "--state", "{file}/state"],
        ["failover", "test", "{store}", "web", "--state", "{file}/state"],
        ["demo", "--directory", "{file}/demo"],
    ],
)
def test_a_directory_that_cannot_be_made_is_no_bug(capsys, store, tmp_path, arguments):
    file = tmp_path / "file"
    file.touch()
    filled = [one.format(file=file, store=store) for one in arguments]
    status, _, err = call(capsys, *filled, "--json")
    failure = json.loads(err)
    assert (status, failure["exit_status"]) == (3, 3)
    assert failure["subject"].startswith(str(file))
    assert "mkdir -p" in failure["hint"]


def test_a_bug_is_1_and_its_traceback_lies_in_the_file_that_is_named(capsys, monkeypatch, tmp_path):
    def broken(_address):
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(store_commands, "directory_of", broken)
    monkeypatch.setattr("standby.cli.failure.default_state", lambda: tmp_path / "state")
    status, out, err = call(capsys, "store", "create", tmp_path / "s", "--json")
    assert (status, out) == (1, "")
    (report,) = (tmp_path / "state" / "bugs").iterdir()
    assert str(report) in json.loads(err)["hint"]
    assert "ZeroDivisionError: of all things" in report.read_text()
    assert "Traceback" not in err


def test_of_several_disks_one_must_be_named(capsys, store, tmp_path):
    opened = DirectoryStore(store)
    create(opened, "two", replica=REPLICA, origin="host-a", clock=FixedClock())
    writer = attach(opened, "two", owner="agent", clock=FixedClock(), new_id=new_id)
    disks = [ModelDisk("sda", 1 << 16), ModelDisk("sdb", 1 << 17)]
    (tmp_path / "spool").mkdir()
    for disk in disks:
        disk.write(0, disk.id.encode() * 100)
    commit_point(writer, disks, tmp_path / "spool")
    for option in ([], ["--disk", "sdc"]):
        status, _, err = call(capsys, "replica", "restore", store, "two", *option, "--to", tmp_path / "x")
        assert status == 3
        assert "--disk: sda, sdb" in err
        assert not (tmp_path / "x").exists()
    status, _, _ = call(capsys, "replica", "restore", store, "two", "--disk", "sdb", "--to", tmp_path / "x")
    assert status == 0
    assert (tmp_path / "x").read_bytes() == disks[1].bytes


def test_a_damaged_replica_is_not_restored_and_named_by_log_and_block(capsys, store, disk, tmp_path):
    log = sorted((store / "web" / "logs").rglob("*.hrl"))[1]
    data = bytearray(log.read_bytes())
    data[1000] ^= 1
    log.write_bytes(data)
    status, _, err = call(capsys, "replica", "restore", store, "web", "--to", tmp_path / "x", "--json")
    failure = json.loads(err)
    assert (status, failure["exit_status"]) == (8, 8)
    assert failure["subject"].endswith(log.name)
    assert "block 1 " in failure["cause"]
    assert "standby replica verify" in failure["hint"]
    assert list(tmp_path.glob("x*")) == [], "nothing half restored stays"


def test_one_unreadable_replica_does_not_hide_the_others(capsys, store, disk, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    other = store / "mail"
    other.mkdir()
    (other / "replica.json").write_bytes((store / "web" / "replica.json").read_bytes()[:-9])
    status, out, _ = call(capsys, "replica", "list", store)
    assert status == 8
    assert "mail cannot be read" in out
    assert any(line.startswith("web ") for line in out.splitlines())
    narrow(out)
    status, out, _ = call(capsys, "replica", "list", store, "--json")
    found = {one["replica"]: one for one in json.loads(out)}
    assert status == 8
    assert found["web"]["points"] == 3
    assert found["mail"]["problem"]


@pytest.mark.parametrize("name", ["mail", "no such thing"])
def test_messages_are_whole_on_a_narrow_terminal(capsys, monkeypatch, store, disk, name):
    monkeypatch.setenv("COLUMNS", "60")
    status, _, err = call(capsys, "replica", "points", store, name)
    assert status == 3
    narrow(err)
    assert name in " ".join(err.split())


@pytest.mark.slow
@pytest.mark.parametrize("json_wanted", [False, True])
def test_ctrl_c_is_130(tmp_path, json_wanted):
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "qmp"))
        silent.listen()
        silent.settimeout(30)
        arguments = ["vm", "check", "web", "--qmp", tmp_path / "qmp", "--state", tmp_path / "state"]
        process = subprocess.Popen(
            [PROGRAM, *arguments, *(["--json"] if json_wanted else [])],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        client, _ = silent.accept()
        with client:
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    if json_wanted:
        assert json.loads(err)["exit_status"] == 130
    else:
        assert err == "Interrupted.\n"


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error(store, disk):
    process = subprocess.Popen(
        [PROGRAM, "replica", "show", store, "web"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(30) == 141


@pytest.mark.slow
def test_colour_is_for_terminals_and_no_color_is_heeded(store, disk):
    def on_terminal(**more) -> str:
        ours, theirs = pty.openpty()
        environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS")}
        subprocess.run(
            [PROGRAM, "replica", "verify", store, "web"],
            stdout=theirs,
            stderr=subprocess.DEVNULL,
            check=True,
            env=environment | {"TERM": "xterm-256color"} | more,
        )
        os.close(theirs)
        text = os.read(ours, 1 << 16).decode()
        os.close(ours)
        return text

    assert "\x1b[32m" in on_terminal()
    assert "\x1b[32m" not in on_terminal(NO_COLOR="1")
    assert "\x1b" not in standby("replica", "verify", store, "web").out
