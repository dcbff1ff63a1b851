"""Each form, filled in as its page gives it: done, refused with a reason, and in the audit."""

from __future__ import annotations

import html
import json
import re

import pytest
from fastapi.testclient import TestClient

from standby.link.messages import VaultKey, WorkReport, WorkState
from standby.vault import catalogue, hosts, listing, machines, overview, plans
from standby.vault.jobs import JobState
from standby.vault.schema import Job
from tests.portal.scene import HOSTS, PASSWORD, ROOT, STORE, Agent, Scene, copied, seen, standing
from tests.portal.test_pages import machine


def hidden(text: str, name: str) -> str:
    return html.unescape(re.search(rf'name="{name}" value="([^"]*)"', text)[1])


def values(text: str) -> dict[str, str]:
    """Of the form's own inputs and chosen options, as a browser would send them."""
    form = text.partition("form-box")[2]
    found = dict(re.findall(r'<input id="[^"]*" name="([^"]+)" type="[^"]+" value="([^"]*)"', form))
    for name, inside in re.findall(r'<select id="[^"]*" name="([^"]+)".*?>(.*?)</select>', form, re.S):
        chosen = re.search(r'value="([^"]*)" selected', inside) or re.search(r'value="([^"]*)"', inside)
        found[name] = chosen[1] if chosen else ""
    return {name: html.unescape(value) for name, value in found.items()}


def test_from_nothing_to_a_protected_machine(bare, enter):
    ada = enter(bare, "ada")
    assert ada.post("/sites", name="Berlin").status_code == 303
    assert ada.post("/stores", name="S3", address=STORE).status_code == 303
    policy = values(ada.get("/policies/new").text)
    assert ada.post("/policies", **{**policy, "name": "Silver"}).status_code == 303
    (site,) = listing.sites(bare.vault)
    answer = ada.post("/keys", site=site.id, days="5")
    assert answer.headers["content-disposition"] == 'attachment; filename="vault-key-Berlin.json"'
    key = VaultKey(**json.loads(answer.content))
    assert key.vault == "http://testserver"
    assert key.key not in ada.get("/infrastructure").text

    agent = Agent(ada.client, bare.vault, "kvm-1", "Berlin")
    agent.beat(machines=seen("kvm-munich-1"))
    olga = enter(bare, "olga")
    (jump,) = machines.listed(bare.vault, search="jump").rows
    page = f"/machines/{jump.machine.id}"
    assert "Enable protection" in olga.get(page).text
    ask = olga.get(f"{page}/begin/enable-protection").text
    filled = {**values(ask), "once": hidden(ask, "once")}
    first = olga.post(f"{page}/begin/enable-protection", **filled)
    assert first.status_code == 303
    twice = olga.post(f"{page}/begin/enable-protection", **filled)
    assert twice.headers["location"] == first.headers["location"]
    job = olga.get(first.headers["location"]).text
    assert "It waits for the next heartbeat of kvm-1" in job

    (order,) = agent.beat(room=1).orders
    assert order.work.store == STORE
    assert order.work.policy.frequency == 30
    agent.beat(room=0, work=(WorkReport(job=order.job, lease=order.lease, state=WorkState.SUCCEEDED),))
    assert "succeeded" in olga.get(first.headers["location"]).text


@pytest.fixture(scope="module")
def with_one(new_vault, tmp_path_factory) -> Scene:
    made = copied(new_vault, tmp_path_factory.mktemp("one"))
    hosts.new_site(made.vault, ROOT, "Berlin")
    catalogue.new_store(made.vault, ROOT, "S3", STORE)
    catalogue.new_policy(made.vault, ROOT, "Silver", {"frequency": 30})
    hosts.new_key(made.vault, ROOT, "Berlin", "https://vault.acme.example", "")
    agent = made.agents["kvm-2"] = Agent(TestClient(made.app), made.vault, "kvm-2", "Berlin")
    vm = HOSTS["kvm-munich-1"][0]
    agent.beat(
        machines=seen("kvm-munich-1"),
        relationships=(standing(vm, made.vault.clock.now(), 3, newest=9),),
    )
    return made


@pytest.fixture
def one(with_one, tmp_path) -> Scene:
    """With one protected machine, `jump`, that has a point."""
    return copied(with_one, tmp_path)


def test_a_dangerous_job_is_confirmed_by_the_machines_name(one, enter):
    olga = enter(one, "olga")
    path = f"/machines/{machine(one, 'jump')}/begin/failover"
    ask = olga.get(path).text
    filled = {**values(ask), "network": "lan0"}
    for wrong in ("", "jum", "JUMP"):
        refused = olga.post(path, **{**filled, "confirm": wrong})
        assert refused.status_code == 422
        assert "not confirmed by the machine" in html.unescape(refused.text)
        assert 'value="lan0"' in refused.text
    assert not overview.jobs(one.vault, kind="failover")
    assert olga.post(path, **{**filled, "confirm": "jump", "source_down": "yes"}).status_code == 303
    (job,) = overview.jobs(one.vault, kind="failover")
    assert job.params["source_down"] is True
    assert job.params["network"] == "lan0"
    second = olga.post(path, **{**filled, "confirm": "jump"})
    assert second.status_code == 409
    assert "another job is under way" in second.text


def test_a_test_failover_from_a_chosen_point(one, enter):
    olga = enter(one, "olga")
    path = f"/machines/{machine(one, 'jump')}/begin/test-failover"
    filled = values(olga.get(f"{path}?point=newest-app").text)
    assert filled["point"] == "newest-app"
    bad = olga.post(path, **{**filled, "boot_limit": "soon"})
    assert bad.status_code == 422
    assert olga.post(path, **{**filled, "boot_limit": ""}).status_code == 303
    (job,) = overview.jobs(one.vault, kind="test-failover")
    assert job.parts[0]["work"]["boot_limit"] is None
    assert job.parts[0]["work"]["point"] == "newest-app"


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("pause", {}),
        ("scrub", {}),
        ("point", {}),
        ("retry", {}),
        ("resync", {"disks": "vda"}),
        ("set-policy", {"policy": "Silver"}),
        ("leave-out-disk", {"disk": "vda", "confirm": "jump"}),
        ("take-in-disk", {"disk": "vda"}),
        ("disable-protection", {"confirm": "jump", "gone": "yes"}),
    ],
)
def test_other_jobs_of_a_machine(one, enter, kind, more):
    olga = enter(one, "olga")
    path = f"/machines/{machine(one, 'jump')}/begin/{kind}"
    assert olga.get(path).status_code == 200
    answer = olga.post(path, **more)
    assert answer.status_code == 303, html.unescape(answer.text)
    (job,) = overview.jobs(one.vault, kind=kind)
    asked = olga.get(f"/jobs/{job.id}/cancel").text
    assert "Cancel this job?" in asked
    assert olga.post(f"/jobs/{job.id}/cancel").status_code == 303
    assert overview.job(one.vault, job.id).job.state == JobState.CANCELLED
    assert olga.post(f"/jobs/{job.id}/cancel").status_code == 409
    again = olga.post(f"/jobs/{job.id}/restart")
    assert again.headers["location"] != f"/jobs/{job.id}"


def test_policies_are_changed_and_deleted(one, enter):
    ada = enter(one, "ada")
    (policy,) = listing.policies(one.vault)
    path = f"/policies/{policy.id}"
    filled = values(ada.get(f"{path}/change").text)
    assert filled["frequency"] == "30"
    refused = ada.post(f"{path}/change", **{**filled, "retention_hours": "0", "upload_threads": "99"})
    assert refused.status_code == 422
    assert "99 upload threads" in refused.text
    assert "points kept for 0 hours" in refused.text
    changed = {
        **filled,
        "frequency": "300",
        "work": "2.5",
        "resync_start": "scheduled",
        "resync_days": ["5", "6"],
        "drill_days": "14",
        "keep": "1h:7d, 1d:30d",
        "scrub_days": "0",
    }
    assert ada.post(f"{path}/change", **changed).status_code == 303
    (policy,) = listing.policies(one.vault)
    assert (policy.drill_days, policy.scrub_days, policy.keep) == (14, 0, ["1h:7d", "1d:30d"])
    assert policy.body["bandwidth"]["work"] == 2_621_440
    assert policy.body["resync"]["hours"]["days"] == [5, 6]
    assert policy.body["resync"]["hours"]["start"].startswith("18:30")
    ada.post("/policies", **{**filled, "name": "Spare"})
    spare = next(one for one in listing.policies(one.vault) if one.name == "Spare")
    assert ada.post(f"/policies/{spare.id}/delete").status_code == 303


def test_a_plan_is_kept_run_and_its_test_cleaned_up(one, enter):
    ada, olga = enter(one, "ada"), enter(one, "olga")
    (host,) = listing.hosts(one.vault)
    document = (
        'name = "shop"\n[[groups]]\nname = "first"\n[[groups.members]]\nstore = "/x"\nreplica = "wiki"\n'
    )
    assert "None yet" in ada.get("/plans").text
    refused = ada.post("/plans", host=host.id, document=document.replace("replica", "replicas"))
    assert refused.status_code == 422
    assert "it is no plan" in refused.text
    assert ada.post("/plans", host=host.id, document=document).status_code == 303
    (plan,) = plans.listed(one.vault)
    page = olga.get("/plans").text
    assert "shop" in page
    assert f"/plans/{plan.id}/change" not in page, "operators run it, administrators write it"
    unconfirmed = olga.post(f"/plans/{plan.id}/run", kind="unplanned", confirm="")
    assert "not confirmed" in unconfirmed.text
    begun = olga.post(f"/plans/{plan.id}/run", kind="test", once="k").headers["location"]
    assert olga.post(f"/plans/{plan.id}/run", kind="test", once="k").headers["location"] == begun
    assert olga.post(f"/plans/{plan.id}/run", kind="test", once="l").status_code == 409
    job = begun.rpartition("/")[2]
    with one.vault.session() as session:
        row = session.get_one(Job, job)
        row.state, row.ended, row.result = "succeeded", row.created, {"run": "/srv/run"}
    assert f"/plans/runs/{job}/clean-up" in olga.get(begun).text
    ended = olga.post(f"/plans/runs/{job}/clean-up").headers["location"]
    assert "Clean up a recovery plan: shop" in olga.get(ended).text
    assert ada.post(f"/plans/{plan.id}/delete").status_code == 303


def test_sites_stores_keys_and_hosts_end(one, enter):
    ada = enter(one, "ada")
    (site,) = listing.sites(one.vault)
    assert ada.post(f"/sites/{site.id}/delete").status_code == 409
    (store,) = listing.stores(one.vault)
    refused = ada.post(f"/stores/{store.id}/delete")
    assert "machines replicate into it" in refused.text
    assert ada.post("/stores", name="other", address="s3://key:secret@bucket/x").status_code == 422
    assert ada.post("/keys", site=site.id, days="90").status_code == 422
    key = next(one for one in listing.registration_keys(one.vault, ROOT) if not one.used)
    assert ada.post(f"/keys/{key.id}/delete").status_code == 303
    host = one.agents["kvm-2"].host
    assert ada.post(f"/hosts/{host}/upkeep", upkeep="yes").status_code == 303
    assert " checked" in ada.get(f"/hosts/{host}/upkeep").text
    assert "cancelled" in ada.get(f"/hosts/{host}/revoke").text
    assert ada.post(f"/hosts/{host}/revoke").status_code == 303
    assert "It was revoked" in ada.get(f"/hosts/{host}").text


def test_channels_keep_their_address_to_themselves(bare, enter):
    ada = enter(bare, "ada")
    assert ada.post("/channels", name="hook", kind="webhook", target="nowhere").status_code == 422
    answer = ada.post(
        "/channels", name="hook", kind="webhook", target="https://hook.example/s3cret", kinds="host-silent"
    )
    assert answer.status_code == 303
    text = ada.get("/alerts").text
    assert "No heartbeat of a host" in text
    assert "s3cret" not in text + ada.get("/audit").text
    (channel,) = listing.channels(bare.vault, ROOT)
    assert ada.post(f"/channels/{channel.id}/delete").status_code == 303


def test_an_alert_is_acknowledged(day, users):
    alert = next(one for one in listing.alerts(day.vault) if one.kind == "health-critical")
    answer = users["operator"].post(f"/alerts/{alert.id}/acknowledge", next="/")
    assert answer.headers["location"] == "/"
    assert "olga is at it since" in users["reader"].get("/alerts").text
    elsewhere = users["operator"].post(f"/alerts/{alert.id}/acknowledge", next="//evil.example")
    assert elsewhere.headers["location"] == "/"


def test_users_and_the_audit(bare, enter):
    ada = enter(bare, "ada")
    assert ada.post("/users", name="eve", role="operator", password="short").status_code == 422
    assert ada.post("/users", name="eve", role="operator", password="a long password").status_code == 303
    eve = next(one for one in listing.users(bare.vault, ROOT) if one.name == "eve")
    assert ada.post(f"/users/{eve.id}/change", role="reader").status_code == 303
    eve = next(one for one in listing.users(bare.vault, ROOT) if one.name == "eve")
    assert (eve.role, eve.enabled) == ("reader", False)
    me = next(one for one in listing.users(bare.vault, ROOT) if one.name == "ada")
    refused = ada.post(f"/users/{me.id}/delete")
    assert "nobody else is an administrator" in refused.text
    assert ada.post(f"/users/{eve.id}/delete").status_code == 303
    text = ada.get("/audit").text
    assert "create user: eve" in text
    assert "a long password" not in text


def test_the_own_password(bare, enter):
    olga = enter(bare, "olga")
    wrong = olga.post(
        "/account/password", now="guess it", password="another one, long", again="another one, long"
    )
    assert wrong.status_code == 422
    differs = olga.post("/account/password", now=PASSWORD, password="another one, long", again="and another")
    assert "not the same" in differs.text
    done = olga.post(
        "/account/password", now=PASSWORD, password="another one, long", again="another one, long"
    )
    assert done.headers["location"] == "/login"
    assert olga.get("/").headers["location"] == "/login"


def test_an_own_token_is_shown_once(bare, enter):
    olga = enter(bare, "olga")
    assert 'value="administrator"' not in olga.get("/account/tokens/new").text
    assert olga.post("/account/tokens", name="ci", role="administrator").status_code == 403
    text = olga.post("/account/tokens", name="ci", role="operator", days="30").text
    token = re.search(r"standby_[\w-]+", text)[0]
    assert token not in olga.get("/account").text
    answer = olga.client.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"})
    assert answer.json() == {"name": "olga", "role": "operator"}
    (row,) = listing.tokens(bare.vault, ROOT._replace(user=_id(bare, "olga")))
    assert olga.post(f"/account/tokens/{row.id}/delete").status_code == 303
    answer = olga.client.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401


def test_wrong_passwords_are_refused_for_a_while(bare, enter):
    outsider = enter(bare, "")
    for _ in range(10):
        answer = outsider.client.post("/login", data={"name": "ada", "password": "guess"})
        assert answer.status_code == 401
        assert "The name or the password is wrong" in answer.text
    answer = outsider.client.post("/login", data={"name": "ada", "password": PASSWORD})
    assert answer.status_code == 429
    assert "Try again in 15 minutes" in answer.text


def test_logging_in_leads_where_one_wanted_and_nowhere_else(bare, enter):
    outsider = enter(bare, "")
    assert outsider.get("/jobs?state=failed").headers["location"] == "/login?next=/jobs%3Fstate%3Dfailed"
    for asked, led in (
        ("/jobs?state=failed", "/jobs?state=failed"),
        ("https://evil.example", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
    ):
        answer = outsider.client.post("/login", data={"name": "ada", "password": PASSWORD, "next": asked})
        assert answer.headers["location"] == led
    assert outsider.get("/login/session").json() == {"session": True}
    text = outsider.get("/account").text
    assert outsider.client.post("/logout", data={"csrf": hidden(text, "csrf")}).status_code == 303
    assert outsider.get("/login/session").json() == {"session": False}


def _id(made: Scene, name: str) -> str:
    return next(one.id for one in listing.users(made.vault, ROOT) if one.name == name)
