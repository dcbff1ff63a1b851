"""What tests of several parts share: real cloud services, started when first asked for and kept for the run."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest

from tests.support.clouds import Cloud, Place, start_azurite, start_moto

# How long an example takes tells about the machine's load; what hangs is ended by pytest-timeout.
hypothesis.settings.register_profile("standby", deadline=None)
hypothesis.settings.load_profile("standby")


@pytest.fixture(scope="session")
def azurite(tmp_path_factory) -> Iterator[Cloud]:
    cloud = start_azurite(tmp_path_factory.mktemp("azurite"))
    yield cloud
    cloud.stop()


@pytest.fixture(scope="session")
def moto(tmp_path_factory) -> Iterator[Cloud]:
    cloud = start_moto(tmp_path_factory.mktemp("moto"))
    yield cloud
    cloud.stop()


@pytest.fixture(params=["azurite", "moto"])
def cloud(request) -> Cloud:
    """Each real cloud service in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def place(cloud) -> Place:
    """A new, empty place in each real cloud service."""
    return cloud.place()
