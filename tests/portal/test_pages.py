"""What pages say, and what every answer tells the browser."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from standby.portal.headers import CSP
from standby.vault import overview
from standby.vault.jobs import JobState
from tests.portal.scene import PASSWORD, USERS, Scene


def machine(day: Scene, name: str) -> str:
    found = overview.overview(day.vault, most=100).worst
    return next(one.machine.id for one in found if one.machine.name == name)


@pytest.mark.parametrize("path", ["/", "/login", "/nowhere", "/static/any/portal.css", "/machines/none"])
def test_every_answer_says_how_far_it_is_trusted(users, path):
    headers = users["reader"].get(path).headers
    assert headers["content-security-policy"] == CSP
    assert "unsafe" not in CSP
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert "strict-transport-security" not in headers


def test_with_https_cookies_and_browsers_stay_with_it(bare):
    secure = TestClient(bare.app, base_url="https://testserver", follow_redirects=False)
    answer = secure.post("/login", data={"name": "ada", "password": PASSWORD})
    cookie = answer.headers["set-cookie"].lower()
    assert "secure" in cookie
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert answer.headers["strict-transport-security"].startswith("max-age=")


def test_no_page_has_a_script_or_a_style_of_its_own(users, day):
    for path in ("/", "/machines", f"/machines/{machine(day, 'ldap')}", "/jobs", "/policies", "/audit"):
        text = users["administrator"].get(path).text
        assert "<style" not in text
        assert " style=" not in text
        assert " onclick" not in text
        assert text.count("<script") == text.count("<script defer src=")


def test_the_overview_tells_the_worst_first(users):
    text = users["reader"].get("/").text
    worst = text.partition("Oldest recovery points")[2]
    assert worst.index("ldap") < worst.index("build") < worst.index("proxy") < worst.index("files")
    assert "Health is Critical" in text
    assert "No heartbeat of a host" in text
    assert "kvm-munich-1" in text


def test_machines_are_filtered_sorted_and_paged(users):
    reader = users["reader"]
    only = reader.get("/machines?search=ERP").text
    assert "erp-db" in only
    assert "wiki" not in only
    critical = reader.get("/machines?level=3").text
    assert "ldap" in critical
    assert "erp-db" not in critical
    by_name = reader.get("/machines?sort=name").text
    assert by_name.index("backup-idx") < by_name.index("erp-db") < by_name.index("wiki")
    turned = reader.get("/machines?sort=name&descending=true").text
    assert turned.index("wiki") < turned.index("erp-db")
    assert "3 to 15 of 15" in reader.get("/machines?sort=name&offset=2").text
    assert "No machine is like that" in reader.get("/machines?search=nothing-like-it").text


def test_what_a_silent_host_said_last_is_told_as_such(users, day):
    text = users["reader"].get("/machines?search=jump").text
    assert "unknown, was Normal" in text
    page = users["reader"].get(f"/machines/{machine(day, 'jump')}").text
    assert "has been silent since" in page


def test_a_machine_tells_where_it_is_and_why(users, day):
    text = users["reader"].get(f"/machines/{machine(day, 'build')}").text
    assert 'aria-label="The machine is at: Resynchronizing"' in text
    assert "its change tracking was lost" in text
    assert "Comparing disk vda" in text
    assert "Begun" in text
    wiki = users["reader"].get(f"/machines/{machine(day, 'wiki')}").text
    assert "The machine is at: Protected, Test failover" in wiki
    assert "Recovered copies" in wiki


def test_what_a_user_may_not_do_is_not_offered(users, day):
    page = f"/machines/{machine(day, 'erp-db')}"
    assert "/begin/" not in users["reader"].get(page).text
    assert "/begin/failover" in users["operator"].get(page).text
    assert "Acknowledge" not in users["reader"].get("/alerts").text
    for path, word in (
        ("/infrastructure", "New store"),
        ("/policies", "New policy"),
        ("/alerts", "New channel"),
    ):
        assert word not in users["operator"].get(path).text
        assert word in users["administrator"].get(path).text
    assert 'href="/audit"' not in users["operator"].get("/").text


def test_a_failed_job_tells_cause_what_was_tried_and_what_is_next(users, day):
    job = overview.jobs(day.vault, state=JobState.FAILED)[0]
    text = users["operator"].get(f"/jobs/{job.id}").text
    for words in (
        "guest agent did not answer within 300 s",
        "Tried: starting it from point 80",
        "Next: look at the console",
        f"/jobs/{job.id}/restart",
    ):
        assert words in text


def test_a_running_job_tells_its_tasks_and_progress(users, day):
    job = next(one for one in overview.jobs(day.vault, state=JobState.IN_PROGRESS) if not one.observed)
    text = users["reader"].get(f"/jobs/{job.id}").text
    assert "Prerequisites check for enabling protection" in text
    assert 'value="0.3500"' in text
    assert f"/jobs/{job.id}/cancel" not in text
    assert f"/jobs/{job.id}/cancel" in users["operator"].get(f"/jobs/{job.id}").text


def test_charts_are_given_numbers(users, day):
    told = users["reader"].get(f"/machines/{machine(day, 'files')}/series?hours=336").json()
    assert len(told["at"]) == len(told["rpo"]) == len(told["churn"]) > 10
    assert max(told["queued"]) > 1 << 30
    assert told["churn"][0] is None


def test_a_page_that_did_not_change_is_not_sent_again(users):
    reader = users["reader"]
    first = reader.get("/machines", **{"X-Live": "1"})
    assert "<html" not in first.text
    again = reader.get("/machines", **{"X-Live": "1", "If-None-Match": first.headers["etag"]})
    assert again.status_code == 304
    assert reader.get("/machines", **{"X-Live": "1", "If-None-Match": '"old"'}).status_code == 200


@pytest.mark.parametrize("user", USERS)
def test_an_empty_vault_tells_the_next_step(bare, enter, user):
    visitor = enter(bare, user)
    text = visitor.get("/").text
    assert "Nothing is protected yet" in text
    assert ("/sites/new" in text) == (user == "ada")
    assert "No host has registered yet" in visitor.get("/machines").text
    assert "First create a site" in visitor.get("/infrastructure").text
    assert "No job was begun yet" in visitor.get("/jobs").text
    for path in ("/policies", "/alerts", "/account"):
        assert "None" in visitor.get(path).text or "have none" in visitor.get(path).text


def test_a_missing_page_is_one_and_the_api_stays_json(users):
    text = users["reader"].get("/machines/none")
    assert text.status_code == 404
    assert "there is no such machine" in text.text
    assert users["reader"].get("/nothing/here").headers["content-type"].startswith("text/html")
    assert users["reader"].get("/api/v1/nothing").headers["content-type"] == "application/problem+json"
    assert users["reader"].get("/static/any/%2e%2e/pages.py").status_code == 404


def test_what_people_named_is_shown_as_text(bare, enter):
    ada = enter(bare, "ada")
    ada.post("/sites", name="<script>alert(1)</script>")
    text = ada.get("/infrastructure").text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_without_the_libraries_the_portal_says_so(users, monkeypatch):
    monkeypatch.setattr("standby.portal.render.vendor_missing", lambda: ("htmx.min.js",))
    text = users["reader"].get("/").text
    assert "installed without htmx.min.js" in text
    assert "vendor/htmx" not in text
