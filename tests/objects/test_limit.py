from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.objects.directory import DirectoryStore
from standby.objects.limit import STEP, Flow, Limited, Throttle, advanced, seconds_until
from tests.objects.contract import StoreContract

RATES = st.one_of(st.none(), st.integers(1, 1 << 30))


class TestLimited(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Limited:
        return Limited(DirectoryStore(tmp_path / "store", create=True), Throttle(1 << 40))


@given(st.lists(st.tuples(st.integers(1, STEP), st.floats(0, 100), st.integers(1, 1 << 24)), max_size=40))
def test_in_no_time_more_passes_than_the_limit_gives_and_one_step(takes):
    """Whatever the idle times and the changes of the limit: bytes let go since any moment stay below the line."""
    flow, now, allowed = Flow(), 0.0, 0.0
    passed: list[tuple[float, float, int]] = []
    for count, idle, rate in takes:
        now, allowed = now + idle, allowed + idle * rate
        flow = advanced(flow, now, rate)
        position = flow.promised
        flow = flow._replace(promised=position + count)
        wait = seconds_until(flow, position, rate)
        now, allowed = now + wait, allowed + wait * rate
        flow = advanced(flow, now, rate)
        passed.append((now, allowed, count))
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            between = sum(count for _, _, count in passed[first:last])
            assert between <= (passed[last][1] - passed[first][1]) * (1 + 1e-6) + 1


@given(st.integers(0, 1 << 40), st.floats(0, 1e6), st.floats(0, 1e6), RATES)
def test_a_flow_never_runs_ahead_of_what_was_promised(promised, run_off, later, rate):
    flow = advanced(Flow(promised, min(run_off, promised), 0.0), later, rate)
    assert flow.run_off <= promised
    assert seconds_until(flow, promised, None) == 0


def test_a_second_waits_for_what_the_first_took():
    flow = Flow(promised=1000, run_off=0.0, at=0.0)
    assert seconds_until(flow, 1000, 100) == 10.0
    assert seconds_until(advanced(flow, 4.0, 100), 1000, 100) == 6.0
    assert seconds_until(advanced(flow, 4.0, 100), 1000, 600) == 1.0, "the new limit counts at once"


def test_a_higher_limit_frees_who_waits():
    bandwidth = Throttle(1)
    bandwidth.take(STEP)
    waiting = threading.Thread(target=bandwidth.take, args=(4 * STEP,))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    bandwidth.limit = None
    waiting.join(30)
    assert not waiting.is_alive()
    assert bandwidth.limit is None


@pytest.mark.slow
def test_two_stores_of_a_host_share_it(place, tmp_path):
    """Real uploads in pieces: together they take no less than the limit says."""
    rate, size = 24 << 20, 12 << 20
    bandwidth = Throttle(rate)
    source = tmp_path / "log"
    source.write_bytes(bytes(size))
    stores = [Limited(place.open(), bandwidth) for _ in range(2)]
    began = time.monotonic()
    threads = [
        threading.Thread(target=store.put_file, args=(f"log-{number}", source))
        for number, store in enumerate(stores)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = time.monotonic() - began
    assert [store.size(f"log-{number}") for number, store in enumerate(stores)] == [size, size]
    assert taken >= (2 * size - STEP) / rate


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_positive(limit):
    with pytest.raises(ValueError):
        Throttle(limit)
