"""The link to the vault, against a stand-in: whatever the vault does, nothing is lost, forgotten or done twice."""

from __future__ import annotations

import sqlite3
import stat
import threading
import time
from pathlib import Path
from uuid import uuid4

import pytest

from standby.agent import link as link_module
from standby.agent import link_state
from standby.agent.job import Job
from standby.agent.ledger import Ledger, LedgerDamaged
from standby.agent.link import Link
from standby.agent.link_client import (
    AddressInvalid,
    TokenRefused,
    VaultClient,
    VaultNotTrusted,
    VaultRefused,
    VaultUnreachable,
)
from standby.agent.link_state import KeyFileInvalid, MembershipDamaged, Talk
from standby.agent.membership import Host
from standby.agent.orders import Orders
from standby.clock import SystemClock
from standby.errors import InvalidRequest
from standby.link.messages import Heartbeat, Registration, WorkState
from standby.link.requests import MakePoint, Pause
from standby.replication.books import Books
from standby.replication.made import MOST, Made, note
from standby.replication.policy import Policy
from standby.replication.relationship import UNKNOWN, Connection, DiskBook, Relationship
from standby.replication.states import State, Status
from tests.agent.stand_in_vault import StandInVault
from tests.cli.conftest import standby
from tests.hypervisor.processes import wait_for as wait_for_it
from tests.support.tls import tls_front

pytestmark = pytest.mark.slow

CLOCK = SystemClock()
BEAT = Heartbeat(instance="i", version="0", time="2026-11-24T00:00:00Z")


def wait_for(condition, limit=10.0):
    return wait_for_it(condition, "what the test waits for", limit)


class RecordingCarrier:
    """Notes what it is told to do; `Pause` waits until it may go on, `nosuch` is refused."""

    def __init__(self):
        self.done = []
        self.go_on = threading.Event()

    def before(self, order):
        return {"was": order.work.machine}

    def carry_out(self, job: Job):
        job.expect(["one", "two"])
        job.task("one")
        if isinstance(job.order.work, Pause):
            wait_for(lambda: self.go_on.is_set() or job.cancelled)
            job.point_of_return()
        if job.order.work.machine == "nosuch":
            raise InvalidRequest("it is not here", subject="nosuch", hint="name another")
        job.task("two")
        job.progress(0.5, "half of it")
        self.done.append((job.order.job, dict(job.facts), job.again))
        job.result["made"] = job.order.work.machine


class Member:
    """A registered agent without machines: books, link and orders that are carried out by a recorder."""

    def __init__(self, folder: Path, vault: StandInVault, front=None):
        self.folder = folder
        self.vault = vault
        self.carrier = RecordingCarrier()
        self.orders = None
        folder.mkdir(exist_ok=True)
        if link_state.membership(folder) is None:
            key = vault.key(
                url=front.endpoint if front else "", authority=front.authority.read_text() if front else ""
            )
            with VaultClient(key.vault, key.authority) as client:
                registered = client.register(Registration(key=key.key, name="h", version="0"))
            link_state.keep_membership(folder, link_state.membership_of(key, "h", registered))
        self.books = Books(folder)
        self.host = Host(self.books, CLOCK, [], None)
        self.link = Link(
            folder,
            self.books,
            CLOCK,
            self.host.heartbeat,
            self._orders,
            client=lambda url, authority: VaultClient(url, authority, answer_limit=0.5),
        )
        self.link.start()

    def _orders(self):
        self.orders = Orders(Ledger(self.folder), self.carrier, CLOCK)
        return self.orders

    @property
    def talk(self) -> Talk:
        return link_state.talk(self.folder) or Talk(host="")

    def beats(self, more=1):
        count = len(self.vault.heartbeats)
        wait_for(lambda: len(self.vault.heartbeats) >= count + more)

    def close(self):
        self.carrier.go_on.set()
        self.link.close()
        self.books.close()


@pytest.fixture
def vault():
    vault = StandInVault()
    yield vault
    vault.close()


@pytest.fixture
def quick(monkeypatch):
    for name, value in (("LOOK", 0.02), ("SOONEST", 0.02), ("BACK_OFF", 0.1), ("REFUSED", 0.1)):
        monkeypatch.setattr(link_module, name, value)


@pytest.fixture
def member(vault, tmp_path, quick):
    member = Member(tmp_path / "state", vault)
    yield member
    member.close()


def protected(books: Books, name: str) -> Relationship:
    books.add(
        Relationship(
            id=f"id-{name}",
            machine=name,
            connection=Connection(qmp="/nonexistent"),
            store="/srv/replicas",
            replica=name,
            replica_id=uuid4(),
            policy=Policy(),
            spool="",
            status=Status(State.PROTECTED),
            active=0,
            committed="",
            excluded=(),
            newest="2026-11-24T00:00:00+00:00",
            synced="",
            closing=0,
            taking_over=False,
            resync="",
            capture=None,
            send=None,
            disks=(DiskBook(id="vda", size=1 << 30, scan="", scanned=0, learned=UNKNOWN),),
        )
    )
    return books.get(f"id-{name}")


def make_points(books: Books, relationship: str, first: int, count: int):
    with books._write() as db:
        db.executemany(
            "INSERT INTO made (relationship, seq, at, consistency, stored) VALUES (?, ?, ?, 'crash', 1)",
            [(relationship, seq, f"2026-11-24T00:{seq:09d}") for seq in range(first, first + count)],
        )


def test_a_heartbeat_tells_what_the_books_say(member):
    protected(member.books, "web")
    wait_for(lambda: member.vault.heartbeats and member.vault.heartbeats[-1].relationships)
    (told,) = member.vault.heartbeats[-1].relationships
    assert (told.machine, told.state, told.replica, told.disks[0].size) == (
        "web",
        "protected",
        "web",
        1 << 30,
    )
    assert told.level in ("Normal", "Warning", "Critical")
    assert member.vault.heartbeats[-1].missing == ("machines", "runs"), "nobody has looked at them yet"
    wait_for(lambda: member.talk.answered)
    assert member.talk.problem == ""


@pytest.mark.parametrize(
    "fault", ["500", "503", "hang", "drip", "cut", "lose", "half", "html", "empty", "refuse", "redirect"]
)
def test_whatever_goes_wrong_is_told_and_made_up_for(member, fault):
    member.beats()
    make_points(member.books, "id-web", 1, 3)
    member.vault.faults.extend([fault, fault])
    wait_for(lambda: not member.vault.faults)
    wait_for(lambda: {1, 2, 3} <= {seq for _, seq in member.vault.points})
    wait_for(lambda: member.books.untold(10) == [])
    member.vault.order("job", MakePoint(machine="web"))
    wait_for(lambda: "job" in member.vault.ended)
    wait_for(lambda: member.talk.problem == "")
    assert [job for job, _, _ in member.carrier.done] == ["job"]


def test_what_is_wrong_is_told_while_it_is(member):
    member.beats()
    member.vault.down()
    wait_for(lambda: "cannot be reached" in member.talk.problem)
    assert member.talk.failures >= 1
    assert not member.link.answers
    member.vault.up()
    wait_for(lambda: member.talk.problem == "")
    assert member.link.answers


def test_points_of_a_long_absence_come_in_batches(member):
    member.beats()
    member.vault.down()
    make_points(member.books, "id-web", 1, 1200)
    member.vault.up()
    wait_for(lambda: member.books.untold(1) == [])
    sizes = [len(one.points) for one in member.vault.heartbeats if one.points]
    assert sizes == [500, 500, 200]
    assert member.vault.points == [("id-web", seq) for seq in range(1, 1201)]


def test_a_point_stays_untold_until_it_is_answered_and_the_oldest_go_at_last(tmp_path):
    books = Books(tmp_path)
    relationship = protected(books, "web")
    make_points(books, relationship.id, 1, 10)
    assert [one.seq for one in books.untold(4)] == [1, 2, 3, 4]
    books.told(books.untold(4))
    assert [one.seq for one in books.untold(2)] == [5, 6]
    make_points(books, relationship.id, 11, 20)
    with books._write() as db:
        from_far = Made(relationship.id, MOST + 1000 - MOST % 1000, "2027", "crash", 1)
        note(db, from_far)
    kept = [one.seq for one in books.untold(100)]
    assert kept[0] > from_far.seq - MOST
    books.forget_untold()
    assert books.untold(1) == []
    books.close()


def test_orders_are_done_once_however_often_they_are_given(member):
    member.vault.order("a", MakePoint(machine="web"))
    wait_for(lambda: "a" in member.vault.ended)
    ended = member.vault.ended["a"]
    assert (ended.state, ended.result) == (WorkState.SUCCEEDED, {"made": "web"})
    assert [(task.name, task.state.value) for task in ended.tasks] == [
        ("one", "succeeded"),
        ("two", "succeeded"),
    ]
    assert (ended.tasks[1].progress, ended.tasks[1].detail) == (1.0, "half of it")

    member.vault.order("b", Pause(machine="web"))
    wait_for(lambda: "b" in member.vault.reported)
    for _ in range(3):
        member.beats()
    member.vault.order("b", Pause(machine="web"), lease=4)
    wait_for(lambda: member.vault.reported["b"].lease == 4)
    member.carrier.go_on.set()
    wait_for(lambda: "b" in member.vault.ended)
    assert member.vault.ended["b"].lease == 4
    assert [job for job, _, _ in member.carrier.done] == ["a", "b"]
    wait_for(lambda: member.vault.heartbeats[-1].work == ())
    wait_for(
        lambda: sqlite3.connect(member.folder / "link.sqlite").execute("SELECT * FROM work").fetchall() == []
    )


def test_an_order_that_is_refused_says_why(member):
    member.vault.order("a", MakePoint(machine="nosuch"))
    wait_for(lambda: "a" in member.vault.ended)
    ended = member.vault.ended["a"]
    assert ended.state is WorkState.FAILED
    assert ended.error
    assert (ended.error.kind, ended.error.cause, ended.error.hint) == (
        "InvalidRequest",
        "it is not here",
        "name another",
    )
    assert [task.state.value for task in ended.tasks] == ["failed", "skipped"]


def test_an_order_is_cancelled_where_it_can_be(member):
    member.vault.order("a", Pause(machine="web"))
    wait_for(lambda: "a" in member.vault.reported)
    member.vault.cancel.add("a")
    wait_for(lambda: "a" in member.vault.ended)
    assert member.vault.ended["a"].state is WorkState.CANCELLED
    assert member.carrier.done == []


def test_a_job_that_is_no_longer_this_hosts_ends_its_reports_and_is_finished(member):
    member.vault.order("a", Pause(machine="web"))
    wait_for(lambda: "a" in member.vault.reported)
    del member.vault.orders["a"]
    member.vault.taken.add("a")
    member.beats(3)
    member.carrier.go_on.set()
    wait_for(lambda: [job for job, _, _ in member.carrier.done] == ["a"])
    wait_for(lambda: member.orders.reports() == ())
    assert Ledger(member.folder).items() == []


def test_no_more_than_there_is_room_for_is_begun(member):
    for number in range(12):
        member.vault.order(f"job-{number}", Pause(machine="web"))
    wait_for(lambda: len(member.vault.reported) == 12)
    member.beats(2)
    assert member.vault.heartbeats[-1].room == 0
    assert sum(bool(report.tasks) for report in member.orders.reports()) == 8
    member.carrier.go_on.set()
    wait_for(lambda: len(member.vault.ended) == 12)
    wait_for(lambda: member.vault.heartbeats[-1].room == 8)


def test_what_a_stopped_agent_had_begun_is_gone_on_with(vault, tmp_path, quick):
    member = Member(tmp_path / "state", vault)
    vault.order("a", Pause(machine="web"))
    wait_for(lambda: "a" in vault.reported)
    wait_for(lambda: any(report.tasks for report in member.orders.reports()))
    member.orders._stop.set()  # a stop forgets nothing; what ends from here on is not noted
    member.close()
    assert "a" not in vault.ended
    again = Member(tmp_path / "state", vault)
    again.carrier.go_on.set()
    wait_for(lambda: "a" in vault.ended)
    assert again.carrier.done == [("a", {"was": "web"}, True)]
    again.close()


def test_a_token_is_renewed_and_an_answer_with_it_may_be_lost(member):
    member.beats()
    first = link_state.membership(member.folder).token
    member.vault.faults.append("lose")
    renewed = member.vault.renew("host-1")
    wait_for(lambda: link_state.membership(member.folder).token == renewed)
    wait_for(lambda: first not in member.vault.tokens)
    member.beats(2)
    assert link_state.membership(member.folder).expires == "2099-06-01T00:00:00Z"
    assert member.talk.problem == ""


def test_a_refused_token_is_told_and_a_new_registration_is_taken_up(member):
    member.beats()
    member.vault.revoke()
    wait_for(lambda: "does not accept this host" in member.talk.problem)
    assert "standby agent register" in member.talk.problem
    member.vault.keys.add("key-1")
    registered = standby(
        *["agent", "register", member.vault.key_file(member.folder.parent)],
        *["--name", "renamed", "--state", member.folder, "--json"],
    )
    assert registered.status == 0, registered.err
    assert registered.json["host"] == "host-1", "it stays the host that it was"
    member.beats(2)
    wait_for(lambda: member.talk.problem == "")
    assert member.vault.hosts == {"host-1": "renamed"}


def test_a_host_that_leaves_is_silent_and_one_that_comes_is_heard(member):
    member.beats()
    make_points(member.books, "id-web", 1, 1)
    assert standby("agent", "leave", "--yes", "--state", member.folder).status == 0
    wait_for(lambda: not member.books.reporting)
    assert member.books.untold(1) == []
    count = len(member.vault.heartbeats)
    member.vault.keys.add("key-1")
    shown = standby("agent", "show", "--state", member.folder, columns=100)
    assert "none" in shown.out
    standby("agent", "register", member.vault.key_file(member.folder.parent), "--state", member.folder)
    wait_for(lambda: len(member.vault.heartbeats) > count)
    assert member.books.reporting


def test_show_tells_all_but_the_token(member):
    member.vault.clock_ahead = 7200
    member.beats(2)
    wait_for(lambda: member.talk.skew > 7000)
    shown = standby("agent", "show", "--state", member.folder, columns=100)
    assert "host-1" in shown.out
    assert "7200 s ahead" in shown.out or "7199 s ahead" in shown.out
    token = link_state.membership(member.folder).token
    assert token not in shown.out
    assert token not in repr(link_state.membership(member.folder))
    assert token not in standby("agent", "show", "--state", member.folder, "--json").out
    mode = stat.S_IMODE((member.folder / "vault.json").stat().st_mode)
    assert mode == 0o600
    assert stat.S_IMODE((member.folder / "link.sqlite").stat().st_mode) == 0o600


def test_a_key_is_used_once_and_what_is_no_key_is_told(vault, tmp_path):
    key = vault.key_file(tmp_path)
    assert standby("agent", "register", key, "--state", tmp_path / "a").status == 0
    again = standby("agent", "register", key, "--state", tmp_path / "b")
    assert (again.status, "used already" in again.err) == (3, True)
    (tmp_path / "no.key").write_text("{}")
    with pytest.raises(KeyFileInvalid):
        link_state.read_key(tmp_path / "no.key")
    with pytest.raises(KeyFileInvalid):
        link_state.read_key(tmp_path / "nosuch")
    vault.down()
    vault.keys.add("key-1")
    assert standby("agent", "register", key, "--state", tmp_path / "c").status == 4
    vault.up()


def test_only_the_vault_of_the_key_is_trusted(vault, tmp_path, quick):
    other = tmp_path / "other"
    other.mkdir()
    with tls_front(vault.port, tmp_path) as front, tls_front(vault.port, other) as wrong:
        member = Member(tmp_path / "state", vault, front)
        member.beats(2)
        member.close()
        for authority in (wrong.authority.read_text(), ""):
            with VaultClient(front.endpoint, authority) as client, pytest.raises(VaultNotTrusted) as told:
                client.heartbeat(BEAT, "token-1")
            assert "register" in told.value.hint
    with VaultClient(vault.url, "") as client, pytest.raises(TokenRefused):
        client.heartbeat(BEAT, "token-of-another")


@pytest.mark.parametrize("url", ["http://vault.example", "ftp://127.0.0.1", "vault", "https://"])
def test_a_vault_elsewhere_is_spoken_to_over_https_only(url):
    with pytest.raises(AddressInvalid):
        VaultClient(url, "")


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("500", VaultUnreachable),
        ("hang", VaultUnreachable),
        ("drip", VaultUnreachable),
        ("cut", VaultUnreachable),
        ("html", VaultUnreachable),
        ("refuse", VaultRefused),
        ("redirect", VaultRefused),
    ],
)
def test_what_a_vault_answers_is_told_as_what_it_is(vault, fault, kind):
    vault.faults.append(fault)
    with VaultClient(vault.url, "", answer_limit=0.3) as client, pytest.raises(kind) as told:
        client.heartbeat(BEAT, "token")
    assert told.value.subject
    assert told.value.hint


def test_a_damaged_membership_and_a_damaged_ledger_are_told_and_harm_nothing(vault, tmp_path, quick):
    folder = tmp_path / "state"
    member = Member(folder, vault)
    member.beats()
    member.close()
    (folder / "link.sqlite").write_bytes(b"not a database" * 100)
    for name in ("link.sqlite-wal", "link.sqlite-shm"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(LedgerDamaged):
        Ledger(folder)
    member = Member(folder, vault)
    wait_for(lambda: "damaged" in member.link._problem)
    (folder / "link.sqlite").unlink()
    member.beats()
    (folder / "vault-talk.json").write_text("")
    member.beats(2)
    (folder / "vault.json").write_text("{")
    with pytest.raises(MembershipDamaged):
        link_state.membership(folder)
    wait_for(lambda: "cannot be read" in member.link._problem)
    member.close()


def test_a_heartbeat_of_a_hundred_machines_costs_little(tmp_path):
    books = Books(tmp_path)
    for number in range(100):
        protected(books, f"vm{number}")
    host = Host(books, CLOCK, [], None)
    host.heartbeat()
    began = time.process_time()
    for _ in range(5):
        assert len(host.heartbeat().relationships) == 100
    assert (time.process_time() - began) / 5 < 0.1, "of the five seconds between two"
    books.close()
