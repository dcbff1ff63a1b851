"""Every route of the vault, and what each kind of caller gets from it. A route without a row here fails."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from standby.link.messages import Registration
from standby.vault import access, listing, overview
from standby.vault.jobs import Role
from standby.vault.schema import Machine
from tests.vault.served import Served, beat, encoded, filled, serving

PLAN = 'name = "shop"\n[[groups]]\nname = "first"\n[[groups.members]]\nstore = "s3://replicas"\nreplica = "web"\n'

NOBODY = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
"""An id of nothing."""


class Row(NamedTuple):
    """Statuses that each role gets. path: with what stands for its parameters; body: as JSON.

    The order of calls is reader, operator, administrator: what a refused caller changed would be seen.
    """

    reader: int
    operator: int
    administrator: int
    path: str = ""
    body: object = None


def all_get(status: int, path: str = "", body: object = None) -> Row:
    return Row(status, status, status, path, body)


API = {
    ("GET", "/overview"): all_get(200),
    ("GET", "/machines"): all_get(200),
    ("GET", "/machines/{machine}"): all_get(200, "/machines/web"),
    ("GET", "/machines/{machine}/points"): all_get(200, "/machines/web/points"),
    ("GET", "/machines/{machine}/series"): all_get(200, "/machines/web/series"),
    ("POST", "/machines/{machine}/jobs"): Row(403, 202, 409, "/machines/db/jobs", "enable"),
    ("GET", "/events"): all_get(200),
    ("GET", "/jobs"): all_get(200),
    ("GET", "/job-kinds"): all_get(200),
    ("GET", "/jobs/{job}"): all_get(200, "/jobs/JOB"),
    ("POST", "/jobs/{job}/{action}"): Row(403, 202, 409, "/jobs/JOB/restart"),
    ("GET", "/plans"): all_get(200),
    ("PUT", "/plans"): Row(403, 403, 200, body={"document": PLAN, "host": "alpha"}),
    ("POST", "/plans/{plan}/runs"): Row(403, 202, 409, "/plans/shop/runs", {"kind": "test"}),
    ("DELETE", "/plans/{plan}"): Row(403, 403, 404, "/plans/nothing"),
    ("POST", "/jobs/{job}/clean-up"): Row(403, 404, 404, "/jobs/JOB/clean-up"),
    ("GET", "/policies"): all_get(200),
    ("POST", "/policies"): Row(403, 403, 201, body={"name": "daily"}),
    ("PATCH", "/policies/{policy}"): Row(403, 403, 200, "/policies/Every 5 minutes", {"drill_days": 30}),
    ("DELETE", "/policies/{policy}"): Row(403, 403, 204, "/policies/Every 5 minutes"),
    ("GET", "/sites"): all_get(200),
    ("POST", "/sites"): Row(403, 403, 201, body={"name": "Ghent"}),
    ("DELETE", "/sites/{site}"): Row(403, 403, 409, "/sites/Berlin"),
    ("GET", "/hosts"): all_get(200),
    ("GET", "/hosts/{host}"): all_get(200, "/hosts/alpha"),
    ("PATCH", "/hosts/{host}"): Row(403, 403, 200, "/hosts/alpha", {"upkeep": True}),
    ("POST", "/hosts/{host}/revoke"): Row(403, 403, 404, f"/hosts/{NOBODY}/revoke"),
    ("GET", "/registration-keys"): Row(403, 403, 200),
    ("POST", "/registration-keys"): Row(403, 403, 201, body={"site": "Berlin"}),
    ("DELETE", "/registration-keys/{key}"): Row(403, 403, 404, f"/registration-keys/{NOBODY}"),
    ("GET", "/stores"): all_get(200),
    ("POST", "/stores"): Row(403, 403, 201, body={"name": "disk", "address": "/srv/replicas"}),
    ("DELETE", "/stores/{store}"): Row(403, 403, 409, "/stores/cloud"),
    ("GET", "/alerts"): all_get(200),
    ("POST", "/alerts/{alert}/acknowledge"): Row(403, 200, 200, "/alerts/ALERT/acknowledge"),
    ("GET", "/channels"): Row(403, 403, 200),
    ("POST", "/channels"): Row(
        403, 403, 201, body={"name": "chat", "kind": "webhook", "target": "https://chat.example/x"}
    ),
    ("DELETE", "/channels/{channel}"): Row(403, 403, 404, f"/channels/{NOBODY}"),
    ("GET", "/me"): all_get(200),
    ("GET", "/users"): Row(403, 403, 200),
    ("POST", "/users"): Row(
        403, 403, 201, body={"name": "eve", "role": "reader", "password": "correct horse"}
    ),
    # To make oneself an administrator is what somebody would try.
    ("PATCH", "/users/{user}"): Row(403, 403, 200, "/users/reader", {"role": "administrator"}),
    ("DELETE", "/users/{user}"): Row(403, 403, 404, f"/users/{NOBODY}"),
    ("GET", "/tokens"): all_get(200),
    ("POST", "/tokens"): Row(403, 201, 201, body={"name": "mine", "role": "operator"}),
    # Another's token is none to those who may not see it.
    ("DELETE", "/tokens/{token}"): Row(404, 404, 204, "/tokens/TOKEN"),
    ("GET", "/audit"): Row(403, 403, 200),
}
"""Below /api/v1. For an outsider, a wrong token and a host's token, all of them are 401."""

OPEN = {
    ("POST", "/api/v1/login"),
    *((method, "/api/v1/openapi.json") for method in ("GET", "HEAD")),
}
"""For people without a token: what log-in gives, test_login tells."""

AGENTS = {"/agent/v1/register", "/agent/v1/heartbeat"}
"""For hosts: what they give, the tests of hosts and heartbeats tell; here, who gets in."""

METRICS = "/metrics"


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    served = filled(f"sqlite:///{tmp_path_factory.mktemp('routes') / 'vault.sqlite'}")
    yield served
    served.close()


@pytest.fixture(scope="module")
def web(served) -> Iterator[httpx.Client]:
    with serving(served.app()) as url, httpx.Client(base_url=url, trust_env=False) as client:
        yield client


def routes(app) -> set[tuple[str, str]]:
    return {
        (method, one.path) for one in iter_route_contexts(app.routes) for method in one.methods or {"mounted"}
    }


def test_every_route_has_a_row(served):
    known = {(method, f"/api/v1{path}") for method, path in API}
    known |= OPEN | {("POST", path) for path in AGENTS} | {("GET", METRICS)}
    assert routes(served.app()) == known


def call(web: httpx.Client, served: Served, key: tuple[str, str], token: str | None) -> int:
    method, path = key
    row = API[key]
    where = row.path or path
    if "JOB" in where:
        failed = overview.jobs(served.vault, state="failed")[0].id
        where = where.replace("JOB", failed)
    if "ALERT" in where:
        where = where.replace("ALERT", listing.alerts(served.vault)[0].id)
    if "TOKEN" in where:
        made, _ = access.new_token(served.vault, served.administrator, "doomed", Role.READER, 1)
        where = where.replace("TOKEN", made.id)
    body = row.body
    if body == "enable":
        policy = listing.policies(served.vault)[0].id
        body = {"kind": "enable-protection", "params": {"store": "cloud", "policy": policy}}
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    answer = web.request(method, f"/api/v1{where}", json=body, headers=headers)
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code
    if answer.status_code == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
    return answer.status_code


@pytest.mark.parametrize("key", API, ids=" ".join)
def test_outsiders_and_hosts_get_nothing_and_each_role_what_it_may(web, served, key):
    row = API[key]
    for token in (None, "wrong", "standby_wrong", served.host.token):
        assert call(web, served, key, token) == 401, token
    given = tuple(call(web, served, key, served.tokens[role]) for role in Role)
    assert given == (row.reader, row.operator, row.administrator)


def test_hosts_get_in_with_their_own_token_only(web, served):
    hosts = served.register("beta"), served.register("epsilon")
    body = encoded(beat())
    for token in (None, "wrong", *served.tokens.values()):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        answer = web.post("/agent/v1/heartbeat", content=body, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
    for one in hosts:
        headers = {"Authorization": f"Bearer {one.token}"}
        assert web.post("/agent/v1/heartbeat", content=body, headers=headers).status_code == 200


def test_a_host_speaks_of_its_own_machines_only(web, served):
    """Another host's agent that names a machine, a relationship or a job of this one changes nothing of it."""
    other = served.register("gamma")
    with served.vault.session() as session:
        web_machine = session.query(Machine).filter_by(name="web").one()
        before = (web_machine.host, web_machine.seen, web_machine.present)
    job = overview.jobs(served.vault, machine=web_machine.id)[0]
    body = encoded(
        beat(
            points=(
                {"relationship": "rel-web", "seq": 99, "at": "2026-01-01T00:00:00Z", "consistency": "crash"},
            ),
            work=({"job": job.id, "lease": 1, "state": "failed"},),
        )
    )
    headers = {"Authorization": f"Bearer {other.token}"}
    answer = web.post("/agent/v1/heartbeat", content=body, headers=headers)
    assert answer.status_code == 200
    assert answer.json()["orders"] == []
    with served.vault.session() as session:
        machine = session.query(Machine).filter_by(name="web").one()
        assert (machine.host, machine.seen, machine.present) == before
    operator = {"Authorization": f"Bearer {served.tokens[Role.OPERATOR]}"}
    points = web.get("/api/v1/machines/web/points", headers=operator).json()["points"]
    assert 99 not in {one["seq"] for one in points}
    assert web.get(f"/api/v1/jobs/{job.id}", headers=operator).json()["state"] == job.state


def test_registration_needs_a_key_and_no_token_stands_for_one(web, served):
    for key in ("", "wrong", served.host.token, *served.tokens.values()):
        body = encoded(Registration(key=key, name="mallory", version="1"))
        headers = {"Authorization": f"Bearer {served.tokens[Role.ADMINISTRATOR]}"}
        assert web.post("/agent/v1/register", content=body, headers=headers).status_code == 401
    body = encoded(Registration(key=served.key(), name="delta", version="1"))
    assert web.post("/agent/v1/register", content=body).status_code == 200


def test_metrics_are_for_holders_of_an_api_token(web, served):
    assert web.get(METRICS).status_code == 401
    assert web.get(METRICS, headers={"Authorization": f"Bearer {served.host.token}"}).status_code == 401
    reader = {"Authorization": f"Bearer {served.tokens[Role.READER]}"}
    assert web.get(METRICS, headers=reader).status_code == 200
