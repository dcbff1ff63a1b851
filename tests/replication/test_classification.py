"""The table of errors: every class has a row that its decision class allows; real errors lead where it says."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import socket
from pathlib import Path

import pytest

import standby
from standby.errors import (
    Bug,
    Fenced,
    InvalidRequest,
    NeedsPerson,
    Recoverable,
    ResyncRequired,
    StandbyError,
)
from standby.hypervisor.base import Lost, TrackingLost
from standby.hypervisor.qemu import QemuHypervisor, QemuMachine
from standby.objects.directory import DirectoryStore
from standby.replication.books import Books
from standby.replication.classification import TABLE, Outcome, name_of, outcome
from tests.replication.errors_page import PAGE, page

NOT_OF_STANDBY = {"failpoints.FailpointHit", "objects.durable.LockHeld", "cli.check._NotTried"}
"""Exceptions that are no StandbyError: a test's fault, and one that never leaves its store."""

ALLOWED = {
    Recoverable: {Outcome.RETRY, Outcome.CYCLE},
    NeedsPerson: {Outcome.CRITICAL},
    ResyncRequired: {Outcome.RESYNC},
    Fenced: {Outcome.FENCED},
    InvalidRequest: {Outcome.REFUSED},
    Bug: {Outcome.BUG},
}


def classes() -> dict[str, type]:
    """Every exception class that a module of the package defines."""
    found = {}
    for module in pkgutil.walk_packages(standby.__path__, "standby."):
        if module.name.endswith((".nbdkit_plugin", ".__main__")):
            continue  # runs inside nbdkit only
        for kind in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(kind) and issubclass(kind, BaseException) and kind.__module__ == module.name:
                found[name_of(kind)] = kind
    return found


def test_every_error_class_of_the_package_has_a_row_and_every_row_a_class():
    ours = {name for name, kind in classes().items() if issubclass(kind, StandbyError)}
    assert sorted(ours - set(TABLE)) == [], "give these a row in standby/replication/classification.py"
    assert sorted(set(TABLE) - ours) == [], "these are gone"
    assert set(classes()) - ours == NOT_OF_STANDBY


@pytest.mark.parametrize("name", sorted(set(TABLE) - {"errors.StandbyError"}))
def test_a_row_says_what_the_decision_class_says(name):
    kind = classes()[name]
    [decision] = [one for one in ALLOWED if issubclass(kind, one)]
    assert TABLE[name].outcome in ALLOWED[decision]
    assert TABLE[name].when
    assert TABLE[name].person


def test_a_class_that_is_new_is_treated_as_its_parent():
    class StoreHiccup(classes()["objects.base.StoreUnreachable"]):
        pass

    assert outcome(StoreHiccup("later")) is Outcome.RETRY


def raised(act) -> BaseException:
    with pytest.raises(BaseException) as caught:
        act()
    return caught.value


def refused_connection():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        address = one.getsockname()
    socket.create_connection(address, timeout=5)


def full_device():
    with Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"x")


REAL = {
    "the network refuses": (refused_connection, Outcome.RETRY),
    "the device is full": (full_device, Outcome.RETRY),
    "memory is short": (lambda: bytes(1 << 60), Outcome.RETRY),
    "a file that must not be written": (lambda: Path("/proc/version").write_bytes(b"x"), Outcome.CRITICAL),
    "a file that nobody looked for": (lambda: Path("/nonexistent/file").read_bytes(), Outcome.BUG),
    "a mistake": (lambda: {}["x"], Outcome.BUG),
    "tracking is lost": (
        lambda: (_ for _ in ()).throw(TrackingLost("a", Lost.RESIZED, machine="m")),
        Outcome.RESYNC,
    ),
}


@pytest.mark.parametrize(("act", "wanted"), REAL.values(), ids=REAL)
def test_errors_of_the_operating_system(act, wanted):
    assert outcome(raised(act)) is wanted


def test_a_directory_that_is_no_store_needs_a_person(tmp_path):
    assert outcome(raised(lambda: DirectoryStore(tmp_path))) is Outcome.CRITICAL


def test_an_object_that_is_missing_needs_a_person(tmp_path):
    store = DirectoryStore(tmp_path / "store", create=True)
    assert outcome(raised(lambda: store.get("points/1"))) is Outcome.CRITICAL


def test_a_machine_that_is_off_is_tried_again_with_the_next_cycle(tmp_path):
    hypervisor = QemuHypervisor({"web": QemuMachine(tmp_path / "no.qmp")})
    assert outcome(raised(lambda: hypervisor.describe("web"))) is Outcome.CYCLE
    assert outcome(raised(lambda: hypervisor.describe("db"))) is Outcome.CRITICAL


def test_damaged_books_need_a_person(tmp_path):
    Books(tmp_path).close()
    (tmp_path / "agent.sqlite").write_bytes(b"no database" * 1000)
    assert outcome(raised(lambda: Books(tmp_path))) is Outcome.CRITICAL


def test_the_page_for_operators_is_the_table():
    assert PAGE.read_text() == page(), "run `python -m tests.replication.errors_page`"
