"""The contract on real cloud services, and what only a cloud has."""

from __future__ import annotations

import pytest

from standby.objects.cloud import CloudStore
from tests.objects.contract import StoreContract

pytestmark = pytest.mark.slow


class TestCloudStore(StoreContract):
    @pytest.fixture
    def store(self, place) -> CloudStore:
        return place.open()
