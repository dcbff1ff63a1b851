"""The REST API as its own description has it: schemathesis asks everything that it allows, and what it does not."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.config import SchemathesisConfig

from standby.vault.jobs import Role
from tests.vault.served import Served, filled

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("EXAMPLES", 6))

CONFIG = SchemathesisConfig.from_dict(
    # Parameters that no route knows are ignored, as everywhere on the web; tokens are test_routes' matter.
    {"generation": {"allow-extra-parameters": False, "with-security-parameters": False}}
)

load_all_checks()
# What is well-formed is refused too where it makes no sense, such as a policy that cannot be.
EXCLUDED = [CHECKS.get_one("positive_data_acceptance")]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    served = filled(
        os.environ.get("URL") or f"sqlite:///{tmp_path_factory.mktemp('openapi') / 'vault.sqlite'}"
    )
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


def told(problem: BaseException) -> str:
    inner = problem.exceptions if isinstance(problem, BaseExceptionGroup) else (problem,)
    return "\n".join(str(one) for one in inner)
