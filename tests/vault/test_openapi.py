"""The REST API as its own description has it: schemathesis asks everything that it allows, and what it does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings

from standby.vault.jobs import Role
from tests.vault.served import Served, filled

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    served = filled(tmp_path_factory.mktemp("openapi"))
    yield served
    served.close()


@pytest.fixture(scope="module")
def api(served):
    return schemathesis.openapi.from_asgi("/api/v1/openapi.json", served.app())


schema = schemathesis.pytest.from_fixture("api")


@schema.parametrize()
@settings(
    max_examples=15,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_route_keeps_to_its_description(case, served):
    token = served.tokens[Role.ADMINISTRATOR]
    case.call_and_validate(headers={"Authorization": f"Bearer {token}"})
