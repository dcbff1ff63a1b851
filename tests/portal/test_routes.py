"""Every route of the portal, tried by an outsider, a reader, an operator and an administrator.

A route that is added without a row here fails `test_each_route_has_a_row`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from standby.vault import hosts, listing, overview, plans
from standby.vault.jobs import Role
from standby.vault.schema import Machine
from tests.portal.scene import ROOT

PLAN = 'name = "shop"\n[[groups]]\nname = "first"\n[[groups.members]]\nstore = "/x"\nreplica = "wiki"\n'

R, OP, A = Role.READER, Role.OPERATOR, Role.ADMINISTRATOR
ROLES: Final = {"reader": R, "operator": OP, "administrator": A}

TABLE: Final[dict[tuple[str, str], Role | None]] = {
    ("GET", "/static/{stamp}/{name:path}"): None,
    ("GET", "/login"): None,
    ("GET", "/login/session"): None,
    ("POST", "/login"): None,
    ("POST", "/logout"): R,
    ("GET", "/account"): R,
    ("GET", "/account/password"): R,
    ("POST", "/account/password"): R,
    ("GET", "/account/tokens/new"): R,
    ("POST", "/account/tokens"): R,
    ("GET", "/account/tokens/{token}/delete"): R,
    ("POST", "/account/tokens/{token}/delete"): R,
    ("GET", "/"): R,
    ("GET", "/machines"): R,
    ("GET", "/machines/{machine}"): R,
    ("GET", "/machines/{machine}/series"): R,
    ("GET", "/machines/{machine}/events"): R,
    ("GET", "/machines/{machine}/begin/{kind}"): OP,
    ("POST", "/machines/{machine}/begin/{kind}"): OP,
    ("GET", "/jobs"): R,
    ("GET", "/jobs/{job}"): R,
    ("GET", "/jobs/{job}/{action}"): OP,
    ("POST", "/jobs/{job}/{action}"): OP,
    ("GET", "/infrastructure"): R,
    ("GET", "/hosts/{host}"): R,
    ("GET", "/hosts/{host}/upkeep"): A,
    ("POST", "/hosts/{host}/upkeep"): A,
    ("GET", "/hosts/{host}/revoke"): A,
    ("POST", "/hosts/{host}/revoke"): A,
    ("GET", "/sites/new"): A,
    ("POST", "/sites"): A,
    ("GET", "/sites/{site}/delete"): A,
    ("POST", "/sites/{site}/delete"): A,
    ("GET", "/stores/new"): A,
    ("POST", "/stores"): A,
    ("GET", "/stores/{store}/delete"): A,
    ("POST", "/stores/{store}/delete"): A,
    ("GET", "/keys/new"): A,
    ("POST", "/keys"): A,
    ("GET", "/keys/{key}/delete"): A,
    ("POST", "/keys/{key}/delete"): A,
    ("GET", "/plans"): R,
    ("GET", "/plans/new"): A,
    ("POST", "/plans"): A,
    ("GET", "/plans/{plan}/change"): A,
    ("GET", "/plans/{plan}/run"): OP,
    ("POST", "/plans/{plan}/run"): OP,
    ("GET", "/plans/{plan}/delete"): A,
    ("POST", "/plans/{plan}/delete"): A,
    ("GET", "/plans/runs/{job}/clean-up"): OP,
    ("POST", "/plans/runs/{job}/clean-up"): OP,
    ("GET", "/policies"): R,
    ("GET", "/policies/new"): A,
    ("POST", "/policies"): A,
    ("GET", "/policies/{policy}/change"): A,
    ("POST", "/policies/{policy}/change"): A,
    ("GET", "/policies/{policy}/delete"): A,
    ("POST", "/policies/{policy}/delete"): A,
    ("GET", "/alerts"): R,
    ("POST", "/alerts/{alert}/acknowledge"): OP,
    ("GET", "/channels/new"): A,
    ("POST", "/channels"): A,
    ("GET", "/channels/{channel}/delete"): A,
    ("POST", "/channels/{channel}/delete"): A,
    ("GET", "/users"): A,
    ("GET", "/users/new"): A,
    ("POST", "/users"): A,
    ("GET", "/users/{user}/change"): A,
    ("POST", "/users/{user}/change"): A,
    ("GET", "/users/{user}/delete"): A,
    ("POST", "/users/{user}/delete"): A,
    ("GET", "/audit"): A,
}


# Fields that suffice for every form, so that nothing but the role stands against it.
FILLED: Final = {
    "name": "x",
    "role": "reader",
    "address": "/x",
    "site": "Berlin",
    "target": "https://x.example",
    "kind": "webhook",
    "days": "1",
    "password": "long enough it is",
    "resync_from": "18:30",
    "resync_until": "06:00",
    "work_from": "09:00",
    "work_until": "18:00",
    "monitoring_start": "09:00",
}


def routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    for route in iter_route_contexts(app.routes):
        path = route.path or ""
        if not path.startswith(("/api/", "/agent/", "/metrics")):
            yield from ((method, path) for method in route.methods or () if method != "HEAD")


@pytest.fixture(scope="module")
def ids(day) -> dict[str, str]:
    """What stands for each part of a path: things that are there."""
    with day.vault.session() as session:
        machine = next(one.id for one in session.query(Machine) if one.name == "wiki")
    hosts.new_key(day.vault, ROOT, "Munich", "https://vault.acme.example", "")
    return {
        "machine": machine,
        "kind": "pause",
        "job": overview.jobs(day.vault, state="failed")[0].id,
        "action": "restart",
        "host": day.agents["kvm-munich-1"].host,
        "site": listing.sites(day.vault)[0].id,
        "store": next(one.id for one in listing.stores(day.vault) if one.name.startswith("S3")),
        "key": listing.registration_keys(day.vault, ROOT)[-1].id,
        "plan": plans.keep(day.vault, ROOT, PLAN, "kvm-munich-1").id,
        "policy": listing.policies(day.vault)[0].id,
        "alert": listing.alerts(day.vault)[0].id,
        "channel": "none",
        "token": "none",
        "user": next(one.id for one in listing.users(day.vault, ROOT) if one.name == "rita"),
        "stamp": "any",
        "name:path": "portal.css",
    }


def filled(path: str, ids: dict[str, str]) -> str:
    for name, value in ids.items():
        path = path.replace(f"{{{name}}}", value)
    return path


def test_each_route_has_a_row(day):
    assert sorted(set(routes(day.app))) == sorted(TABLE)


def test_an_outsider_sees_the_log_in_only(users, ids):
    for (method, path), least in TABLE.items():
        answer = users["outsider"].client.request(
            method, filled(path, ids), data={} if method == "POST" else None
        )
        if least is not None:
            assert answer.status_code == 303, (method, path)
            assert answer.headers["location"].startswith("/login"), (method, path)
            assert len(answer.content) == 0
        else:
            assert answer.status_code in (200, 401), (method, path)


@pytest.mark.parametrize("role", ROLES)
def test_a_page_is_shown_to_whom_it_is_for(users, ids, role):
    for (method, path), least in TABLE.items():
        if method == "GET" and least is not None:
            status = users[role].get(filled(path, ids)).status_code
            expected = 200 if ROLES[role] >= least else 403
            assert status == expected, (path, status)


@pytest.mark.parametrize("role", ROLES)
def test_a_form_of_another_page_is_refused(users, ids, role):
    for (method, path), least in TABLE.items():
        if method == "POST" and least is not None:
            for csrf in ("", "guessed"):
                answer = users[role].client.post(filled(path, ids), data={"csrf": csrf})
                assert answer.status_code == 403, (path, answer.status_code)
                assert "not of this session" in answer.text


@pytest.mark.parametrize("role", ["reader", "operator"])
def test_a_change_is_refused_to_whom_it_is_not_for(users, ids, role):
    tried = 0
    for (method, path), least in TABLE.items():
        if method == "POST" and least is not None and ROLES[role] < least:
            answer = users[role].post(
                filled(path, ids),
                **FILLED,
            )
            assert answer.status_code == 403, (path, answer.status_code, answer.text[:500])
            tried += 1
    assert tried >= 15
