"""What tests of several parts share: real cloud services, started when first asked for and kept for the run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.clouds import Cloud, Place, start_azurite, start_moto


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
