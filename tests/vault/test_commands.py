"""Commands against a real vault over HTTP, with an agent that does at once what it is asked."""

from __future__ import annotations

import io
import json
import os
import stat
import threading
from collections.abc import Iterator
from unittest import mock

import httpx
import pytest

from standby.cli import check as check_command
from standby.cli import job_watch
from standby.cli.vault_client import Client
from standby.cli.vault_login import Login
from standby.clock import SystemClock
from standby.errors import Bug, InvalidRequest, NeedsPerson, Recoverable
from standby.link.messages import Reason, WorkReport, WorkState
from standby.link.requests import MakePoint, Refused
from standby.objects.directory import DirectoryStore
from standby.replica.format import BLOCK
from standby.replica.writer import attach, create
from standby.vault import access, listing, overview
from standby.vault.jobs import Role
from tests.cli.conftest import Done, standby
from tests.cli.test_failures import narrow
from tests.support.replicas import REPLICA, ModelDisk, commit_point, new_id
from tests.vault.served import PASSWORD, Served, filled, point, seen, serving, standing

pytestmark = pytest.mark.slow


class Doing:
    """The agent of host alpha, in a thread: it reports all the time, and does what it is asked."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self.store = ""
        self.failing = False
        self.make_points = list
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        work: dict[str, WorkReport] = {}
        points = []
        while not self._stop.wait(0.03):
            more = {"store": self.store} if self.store else {}
            answer = self._served.beat(
                self._served.host.token,
                machines=(seen("web"), seen("mail"), seen("db")),
                relationships=(standing("web", **more), standing("mail")),
                points=tuple(points),
                work=tuple(work.values()),
            )
            points = []
            for job in answer.taken:
                work.pop(job, None)
            for order in answer.orders:
                if isinstance(order.work, MakePoint):
                    points += self.make_points()
                error = None
                if self.failing:
                    error = Refused(
                        kind="NeedsPerson",
                        subject="web",
                        cause="its disk is gone",
                        tried="",
                        hint="look at it",
                    )
                state = WorkState.FAILED if error else WorkState.SUCCEEDED
                work[order.job] = WorkReport(job=order.job, lease=order.lease, state=state, error=error)


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    served = filled(f"sqlite:///{tmp_path_factory.mktemp('commands') / 'vault.sqlite'}")
    yield served
    served.close()


@pytest.fixture(scope="module")
def url(served) -> Iterator[str]:
    with serving(served.app()) as url:
        yield url


@pytest.fixture
def agent(served) -> Iterator[Doing]:
    doing = Doing(served)
    yield doing
    doing.close()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """No vault is named, and looks at a job follow each other quickly."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("STANDBY_VAULT", "STANDBY_TOKEN", "STANDBY_AUTHORITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(job_watch, "EVERY", 0.05)
    monkeypatch.setattr(check_command, "EVERY", 0.05)


@pytest.fixture
def named(url, served, monkeypatch) -> None:
    monkeypatch.setenv("STANDBY_VAULT", url)
    monkeypatch.setenv("STANDBY_TOKEN", served.tokens[Role.ADMINISTRATOR])


def typed(text: str, *arguments: object) -> Done:
    with mock.patch("sys.stdin", io.StringIO(text + "\n")):
        return standby(*arguments)


def test_a_log_in_is_kept_for_its_user_alone_and_ended_by_a_log_out(url, served, tmp_path):
    done = typed(PASSWORD, "login", url, "--user", "operator")
    assert done.status == 0, done.err
    file = tmp_path / "config" / "standby" / "vault.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    kept = json.loads(file.read_text())
    assert PASSWORD not in file.read_text()
    assert standby("status").status == 0
    assert standby("logout").status == 0
    assert not file.exists()
    with pytest.raises(InvalidRequest):
        Client(Login(vault=url, token=kept["token"])).get("me")
    assert standby("status").status == 3


def test_a_wrong_password_is_told_and_nothing_is_kept(url, tmp_path):
    done = typed("wrong password", "login", url, "--user", "operator")
    assert done.status == 3
    assert "the name or the password is wrong" in done.err
    assert not (tmp_path / "config").exists()


def test_ten_wrong_passwords_over_the_api_shut_the_door_too(served):
    vault = served.vault
    with serving(served.app()) as url, httpx.Client(base_url=url, trust_env=False) as web:
        body = {"name": "nobody", "password": "wrong password"}
        statuses = [web.post("/api/v1/login", json=body).status_code for _ in range(access.ATTEMPTS + 1)]
    assert statuses[-1] == 429
    assert set(statuses[:-1]) <= {401, 429}
    entries = listing.audit(vault, served.administrator)
    assert any(one.who == "nobody" and one.outcome.startswith("refused") for one in entries)
    # The door opens again for the tests that follow.
    with vault.session() as session:
        session.query(access.Attempt).delete()


def test_a_token_is_taken_as_it_is(url, served):
    done = typed(served.tokens[Role.READER], "login", url, "--token", "--json")
    assert (done.status, done.json["role"]) == (0, "reader")
    refused = standby("site", "create", "Ghent")
    assert refused.status == 3
    assert "this is for administrators" in refused.err
    assert served.tokens[Role.READER] not in refused.err


LISTS = [
    ["status"],
    ["job", "list"],
    ["job", "kinds"],
    ["site", "list"],
    ["host", "list"],
    ["host", "show", "alpha"],
    ["host", "keys"],
    ["policy", "list"],
    ["policy", "show", "Every 5 minutes"],
    ["vm", "list"],
    ["vm", "list", "--unprotected"],
    ["vm", "show", "web"],
    ["vm", "show", "db"],
]


@pytest.mark.parametrize("words", LISTS, ids=" ".join)
def test_what_is_shown_fits_a_narrow_terminal_and_is_json_too(named, words):
    done = standby(*words)
    assert (done.status, done.err) == (0, "")
    narrow(done.out)
    assert standby(*words, "--json").json


def test_the_status_leads_with_what_is_worst(named, served):
    served.beat(
        served.host.token,
        machines=(seen("web"),),
        relationships=(
            standing("web", level="Critical", reasons=(Reason(level="Critical", text="No room."),)),
        ),
    )
    done = standby("status")
    assert done.out.startswith("1 machine critical.")
    assert "No room." in done.out


def test_sites_policies_and_keys_are_made_and_deleted(named, tmp_path):
    assert standby("site", "create", "Bremen").status == 0
    again = standby("site", "create", "Bremen")
    assert (again.status, "already" in again.err) == (3, True)
    file = tmp_path / "bremen.key"
    assert standby("host", "key", "Bremen", "--out", file).status == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert set(json.loads(file.read_text())) == {"vault", "site", "key", "expires", "authority"}
    assert standby("host", "key", "Bremen", "--out", file).status == 3
    made = next(one for one in standby("host", "keys", "--json").json if not one["used"])
    assert standby("host", "revoke", made["id"], "--key").status == 0
    assert standby("site", "delete", "Bremen").status == 0

    assert standby("policy", "create", "slow", "--frequency", "900", "--keep", "1d:30d").status == 0
    changed = standby("policy", "change", "slow", "--work", "20M", "--drill-days", "30", "--json").json
    body = changed["policy"]["body"]
    assert (body["frequency"], body["bandwidth"]["work"]) == (900, 20 << 20)
    assert (changed["policy"]["drill_days"], changed["policy"]["keep"]) == (30, ["1d:30d"])
    assert standby("policy", "change", "slow").status == 3
    assert standby("policy", "change", "slow", "--frequency", "7").status == 3
    assert standby("policy", "delete", "slow").status == 0
    assert standby("policy", "show", "slow").status == 3


def test_a_job_is_begun_and_watched_to_its_end(named, agent):
    done = standby("vm", "retry", "web", "--wait")
    assert done.status == 0, done.err
    assert "Retry now of web: succeeded" in done.out
    narrow(done.out)
    begun = standby("job", "begin", "pause", "web", "--json").json
    lines = [json.loads(line) for line in standby("job", "watch", begun["id"], "--json").out.splitlines()]
    assert lines[-1]["state"] == "succeeded"


def test_a_job_that_fails_tells_why_by_text_and_status(named, agent):
    agent.failing = True
    done = standby("vm", "retry", "web", "--wait")
    assert done.status == NeedsPerson.exit_status
    assert "its disk is gone" in done.err
    failed = standby("job", "list", "--state", "failed", "--machine", "web", "--json").json[0]["id"]
    shown = standby("job", "show", failed).out
    assert "its disk is gone" in shown
    assert f"standby job restart {failed}" in " ".join(shown.split())
    agent.failing = False
    assert standby("job", "restart", failed, "--wait").status == 0


def test_a_queued_job_is_cancelled(named, served):
    job = standby("vm", "retry", "mail", "--json").json["id"]
    assert standby("job", "cancel", job).status == 0
    done = standby("job", "watch", job)
    assert done.status == Recoverable.exit_status
    assert "was cancelled" in done.err


def test_what_cannot_be_taken_back_is_confirmed_by_the_machines_name(named, agent):
    assert typed("", "vm", "unprotect", "web").status == 3
    assert standby("vm", "unprotect", "web", "--confirm", "wbe").status == 3
    assert standby("job", "begin", "failover", "web", "--set", "host=alpha").status == 3
    assert standby("vm", "unprotect", "web", "--confirm", "web", "--wait").status == 0


def test_this_hosts_own_machines_are_meant_where_that_is_said(named, tmp_path):
    assert {one["name"] for one in standby("vm", "list", "--json").json} >= {"web", "db"}
    with mock.patch.dict(os.environ, {"XDG_STATE_HOME": str(tmp_path)}):
        for words in (["--state", tmp_path / "none"], ["--local", "--state", tmp_path / "none"]):
            assert standby("vm", "list", *words).status == 3
    refused = standby("vm", "protect", "db", "--store", "cloud", "--qmp", "/run/db.qmp")
    assert refused.status == 3
    assert "--local" in refused.err


def test_protection_is_enabled_through_the_vault(named, agent):
    done = standby("vm", "protect", "db", "--store", "cloud", "--policy", "Every 5 minutes", "--wait")
    assert done.status == 0, done.err
    assert standby("vm", "protect", "db", "--store", "cloud", "--policy", "none").status == 3


def test_a_call_whose_answer_was_lost_begins_one_job(url, served):
    """The vault did it, the answer never came: the client asks again, with the same key."""
    machine = "mail"
    before = len(overview.jobs(served.vault, kind="resync", limit=500))
    client = Client(Login(vault=url, token=served.tokens[Role.OPERATOR]), pauses=(0.0, 0.0))
    real = client._http.request
    answers = []

    def losing(*arguments, **more):
        answers.append(real(*arguments, **more))
        if len(answers) < 3:
            raise httpx.ReadError("the line broke")
        return answers[-1]

    with mock.patch.object(client._http, "request", losing):
        job = client.begin("machines", machine, "jobs", body={"kind": "resync"})
    client.close()
    assert {one.json()["id"] for one in answers} == {job["id"]}
    assert len(overview.jobs(served.vault, kind="resync", limit=500)) == before + 1


def test_what_is_not_the_vault_or_away_is_told_as_such(served):
    away = Client(Login(vault="http://127.0.0.1:9", token="x"), pauses=())
    with pytest.raises(Recoverable, match="does not answer"):
        away.get("me")
    answers = {
        404: NeedsPerson,
        500: Bug,
        503: Recoverable,
    }
    for status, kind in answers.items():
        client = Client(Login(vault="http://vault", token="x"), pauses=())
        client._http = httpx.Client(
            base_url="http://vault",
            transport=httpx.MockTransport(lambda _, status=status: httpx.Response(status, text="<html>")),
        )
        with pytest.raises(kind):
            client.get("me")


def test_a_check_proves_a_point_from_the_asking_to_the_last_block(named, agent, tmp_path):
    folder = tmp_path / "store"
    opened = DirectoryStore(folder, create=True)
    clock = SystemClock()
    create(opened, "web", replica=REPLICA, origin="alpha", clock=clock)
    writer = attach(opened, "web", owner="agent", clock=clock, new_id=new_id)
    disk = ModelDisk("vda", 4 * BLOCK)
    (tmp_path / "spool").mkdir()
    made = []

    def make():
        disk.write(0, os.urandom(BLOCK))
        record = commit_point(writer, [disk], tmp_path / "spool")
        made.append(record.seq)
        return [point("web", record.seq)]

    # The vault knows five points of it already.
    for _ in range(5):
        make()
    agent.make_points, agent.store = make, str(folder)
    assert standby("vm", "retry", "web", "--wait").status == 0
    done = standby("check", "web", "--json", "--within", "20")
    assert done.status == 0, done.err
    stages = {one["stage"]: one["result"] for one in done.json["stages"]}
    assert (len(stages), set(stages.values()), done.json["passed"]) == (4, {"passed"}, True)
    shown = standby("check", "web", "--no-store")
    assert shown.status == 0
    narrow(shown.out)
    assert "as far as can be proved from here" in " ".join(shown.out.split())


def test_a_check_without_a_new_point_fails_by_its_stage(named, agent):
    done = standby("check", "web", "--within", "0.2", "--json")
    assert done.status == NeedsPerson.exit_status
    assert [one["result"] for one in done.json["stages"]] == ["passed", "passed", "failed"]
