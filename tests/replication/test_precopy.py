"""Whether one more round is read before the cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from standby.replication.precopy import MOST_ROUNDS, SHRINK, WORTH, once_more


def test_a_round_is_read_while_it_pays():
    assert not once_more(0, 0, WORTH - 1)
    assert once_more(0, 0, WORTH)
    assert once_more(1, 100 * WORTH, 10 * WORTH)
    assert not once_more(1, 10 * WORTH, 10 * WORTH)
    assert not once_more(MOST_ROUNDS, 1 << 50, WORTH)


@given(st.lists(st.integers(0, 1 << 45), min_size=MOST_ROUNDS + 2))
def test_it_ends_whatever_the_guest_writes(dirtied):
    rounds = before = 0
    for now in dirtied:
        if not once_more(rounds, before, now):
            break
        assert rounds == 0 or now < before * SHRINK
        before, rounds = now, rounds + 1
    assert rounds <= MOST_ROUNDS
