"""The waits between tries."""

from __future__ import annotations

from standby.replication.retry import wait_seconds


def test_waits_grow_and_then_stay():
    assert [wait_seconds(n) // 60 for n in range(1, 9)] == [1, 2, 4, 8, 10, 30, 30, 30]
    assert wait_seconds(10_000) == 30 * 60
