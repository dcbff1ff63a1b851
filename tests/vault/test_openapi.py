"""The REST API as its own description has it: schemathesis asks everything that it allows, and what it does not."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.config import SchemathesisConfig

from standby.vault.jobs import Role
from tests.vault.served import Served, filled, serving

pytestmark = pytest.mark.slow

EXAMPLES = 6
"""Of each route and mode; with 25, and on PostgreSQL, it found no more (2026-11-24)."""

CONFIG = SchemathesisConfig.from_dict(
    # Parameters that no route knows are ignored, as everywhere on the web; tokens are test_routes' matter.
    {"generation": {"allow-extra-parameters": False, "with-security-parameters": False}}
)

load_all_checks()
# What is well-formed is refused too where it makes no sense, such as a policy that cannot be.
EXCLUDED = [CHECKS.get_one("positive_data_acceptance")]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    served = filled(f"sqlite:///{tmp_path_factory.mktemp('openapi') / 'vault.sqlite'}")
    yield served
    served.close()


@pytest.fixture(scope="module")
def api(served):
    return schemathesis.openapi.from_asgi("/api/v1/openapi.json", served.app(), config=CONFIG)


@pytest.mark.parametrize("mode", GenerationMode, ids=lambda one: one.name.lower())
def test_every_route_keeps_to_its_description(api, served, mode):
    """Right requests and wrong ones: documented statuses and bodies only, and never a 500."""
    headers = {"Authorization": f"Bearer {served.tokens[Role.ADMINISTRATOR]}"}
    problems = {}
    asked = 0
    for found in api.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case):
            nonlocal asked
            asked += 1
            case.call_and_validate(headers=headers, excluded_checks=EXCLUDED)

        try:
            ask()
        except Unsatisfiable:
            # It takes nothing that could be wrong.
            assert mode is GenerationMode.NEGATIVE
        except (AssertionError, BaseExceptionGroup) as problem:
            problems[operation.label] = problem
    assert not problems, "\n\n".join(f"{label}: {told(one)}" for label, one in problems.items())
    assert asked >= 100


HUGE = 10**30

WRONG = {
    "no JSON": ("/sites", b"{", {422}),
    "no text": ("/sites", b"\xff", {400}),
    "no object": ("/sites", b"[]", {422}),
    "half a character": ("/sites", b'{"name": "\\ud800"}', {422}),
    "NUL in a name": ("/sites", b'{"name": "a\\u0000b"}', {422}),
    "NUL in an address": ("/stores", b'{"name": "a", "address": "/a\\u0000b"}', {201, 422}),
    "NUL in a key": ("/registration-keys", b'{"site": "a\\u0000b"}', {404, 422}),
    "NUL in a path": ("/sites/%00", None, {404, 422}),
    "NUL in a query": ("/jobs?machine=%00", None, {200, 422}),
    "huge page": (f"/machines?offset={HUGE}", None, {422}),
    "huge point": (f"/machines/web/points?before={HUGE}", None, {422}),
    "huge days": ("/registration-keys", b'{"site": "Berlin", "days": 1e400}', {422}),
    "no number": ("/registration-keys", b'{"site": "Berlin", "days": NaN}', {422}),
    "huge drill": ("/policies", b'{"name": "p", "drill_days": %d}' % HUGE, {422}),
    "huge frequency": ("/policies", b'{"name": "p", "body": {"frequency": %d}}' % HUGE, {422}),
    "huge setting": ("/machines/web/jobs", b'{"kind": "retry", "params": {"a": %d}}' % HUGE, {202, 409, 422}),
    "deep": ("/sites", b"[" * 100_000, {400, 422}),
}


def test_what_no_database_can_keep_is_refused_and_never_breaks(database_url):
    served = filled(database_url)
    headers = {
        "Authorization": f"Bearer {served.tokens[Role.ADMINISTRATOR]}",
        "Content-Type": "application/json",
    }
    found = {}
    with serving(served.app()) as url, httpx.Client(base_url=f"{url}/api/v1", trust_env=False) as web:
        for name, (path, body, allowed) in WRONG.items():
            if body is None:
                method = "DELETE" if path.startswith("/sites/") else "GET"
                answer = web.request(method, path, headers=headers)
            else:
                answer = web.post(path, content=body, headers=headers)
            if answer.status_code not in allowed:
                found[name] = (answer.status_code, answer.text)
            elif answer.status_code >= 400:
                assert answer.headers["content-type"] == "application/problem+json", name
    served.close()
    assert not found


def told(problem: BaseException) -> str:
    inner = problem.exceptions if isinstance(problem, BaseExceptionGroup) else (problem,)
    return "\n".join(str(one) for one in inner)
