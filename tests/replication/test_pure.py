"""The decisions of replication: tables and properties, no process and no clock."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.block.extent import Extent, Span
from standby.errors import InvalidRequest
from standby.replica.format import BLOCK, PAGE, PAGES_PER_BLOCK, ROW, ZERO_BLOCK_HASH
from standby.replication.decide import SourceAction, TargetAction, View, source_action, target_action
from standby.replication.dirty import block_extents, dirty_blocks, masks_for, together
from standby.replication.extract import whole_block_spans
from standby.replication.known import KnownBlocks
from standby.replication.policy import Policy
from standby.replication.precopy import MOST_ROUNDS, WORTH, once_more
from standby.replication.retry import wait_seconds
from standby.replication.states import TABLE, Event, State, Status, after

SIZE = 7 * BLOCK + 5 * PAGE + 512

extents = st.lists(
    st.builds(
        lambda offset, length: Extent(offset, min(length, SIZE - offset)),
        st.integers(0, SIZE - 1),
        st.integers(1, 2 * BLOCK),
    ),
    max_size=8,
)


def pages_of(some) -> set[int]:
    return {page for e in some for page in range(e.offset // PAGE, -(-e.end // PAGE))}


def pages_in(dirty) -> set[int]:
    return {
        int(block) * PAGES_PER_BLOCK + bit
        for block, mask in zip(dirty.blocks, dirty.masks, strict=True)
        for bit in range(PAGES_PER_BLOCK)
        if int(mask) >> bit & 1
    }


@given(extents, extents)
def test_dirty_blocks_are_the_pages_that_extents_touch(older, newer):
    first, second = dirty_blocks(older, SIZE), dirty_blocks(newer, SIZE)
    assert pages_in(first) == pages_of(older)
    assert first.nbytes == PAGE * len(pages_of(older))
    both = together(first, second)
    assert pages_in(both) == pages_of(older) | pages_of(newer)
    assert (np.diff(both.blocks.astype(int)) > 0).all()
    again = masks_for(both.blocks, first)
    assert {int(b): int(m) for b, m in zip(both.blocks, again, strict=True) if m} == {
        int(b): int(m) for b, m in zip(first.blocks, first.masks, strict=True)
    }


@given(extents)
def test_block_extents_are_whole_blocks_cut_at_the_end(some):
    dirty = dirty_blocks(some, SIZE)
    shown = block_extents(dirty.blocks, SIZE)
    covered = {byte // BLOCK for e in shown for byte in range(e.offset, e.end, PAGE)}
    assert covered == set(dirty.blocks.tolist())
    assert all(e.end <= SIZE and e.offset % BLOCK == 0 for e in shown)
    assert all(a.end < b.offset for a, b in itertools.pairwise(shown))


@given(st.lists(st.tuples(st.integers(1, 3 * BLOCK), st.booleans()), min_size=1, max_size=12))
def test_spans_in_whole_blocks_hide_no_data(parts):
    spans, offset = [], 0
    for length, zero in parts:
        spans.append(Span(offset, length, zero))
        offset += length
    whole = list(whole_block_spans(iter(spans), Extent(0, offset)))
    assert whole[0].offset == 0
    assert whole[-1].end == offset
    assert all(a.end == b.offset for a, b in itertools.pairwise(whole))
    assert all(span.offset % BLOCK == 0 for span in whole)
    for span in whole:
        if span.zero:
            assert all(part.zero for part in spans if part.offset < span.end and span.offset < part.end)


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 3)), max_size=60))
def test_known_hashes_are_a_dictionary_with_zeros_for_what_was_never_told(tmp_path_factory, told):
    known = KnownBlocks.empty(tmp_path_factory.mktemp("known") / "hashes", 3000)
    model = {}
    for block, kind in told:
        rows = np.zeros(1, ROW)
        rows["block"] = block
        value = ZERO_BLOCK_HASH if kind == 0 else bytes([kind]) * 16
        rows["hash"] = np.void(value)
        known.learn(rows)
        model[block] = value
    blocks = np.array(sorted({*model, 5, 1999, 2500}), np.uint32)
    found = [bytes(one) for one in known.lookup(blocks)]
    assert found == [model.get(int(block), ZERO_BLOCK_HASH) for block in blocks]
    known.close()


@pytest.mark.parametrize(
    ("failures", "minutes"), [(1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (6, 30), (7, 30), (100, 30)]
)
def test_recoverable_errors_are_retried_as_azure_site_recovery_does(failures, minutes):
    assert wait_seconds(failures) == minutes * 60


@pytest.mark.parametrize(
    ("rounds", "before", "now", "wanted"),
    [
        (0, 0, 0, False),
        (0, 0, WORTH - 1, False),
        (0, 0, WORTH, True),
        (1, 10 * WORTH, 6 * WORTH, True),
        (1, 10 * WORTH, 8 * WORTH, False),
        (MOST_ROUNDS, 1000 * WORTH, WORTH, False),
    ],
)
def test_a_round_before_the_cut_is_made_while_it_pays(rounds, before, now, wanted):
    assert once_more(rounds, before, now) is wanted


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("event", list(Event))
def test_every_event_in_every_state_leads_where_the_table_says_or_is_refused(state, event):
    before = State.PROTECTED if state is State.PAUSED else None
    status = Status(state, before)
    known = (state, event) in TABLE or (
        state is State.PAUSED and event in (Event.RESUMED, Event.TRACKING_LOST)
    )
    if not known:
        with pytest.raises(
            InvalidRequest, match=f"web: {event.value} is not possible in the state {state.value}"
        ):
            after(status, event, "web")
        return
    found = after(status, event, "web")
    assert (found.before_pause is not None) is (found.state is State.PAUSED)


def test_a_pause_ends_where_it_began_but_for_what_was_lost_meanwhile():
    for state in (State.INITIAL_REPLICATION, State.PROTECTED, State.RESYNCHRONIZING):
        paused = after(Status(state), Event.PAUSED, "web")
        assert after(paused, Event.RESUMED, "web") == Status(state)
    paused = after(after(Status(State.PROTECTED), Event.PAUSED, "web"), Event.TRACKING_LOST, "web")
    assert after(paused, Event.RESUMED, "web") == Status(State.RESYNC_REQUIRED)
    assert after(after(Status(State.DELTA), Event.PAUSED, "web"), Event.RESUMED, "web") == Status(
        State.PROTECTED
    )


views = st.builds(
    View,
    state=st.sampled_from(State),
    tracked=st.booleans(),
    attached=st.booleans(),
    unknown=st.booleans(),
    unlearned=st.booleans(),
    scanning=st.booleans(),
    resync_open=st.booleans(),
    full=st.booleans(),
    crowded=st.booleans(),
    closing=st.booleans(),
    queued=st.integers(0, 5),
    queued_scans=st.integers(0, 2),
    capture_due=st.booleans(),
    cycle_due=st.booleans(),
    ship_due=st.booleans(),
)


@given(views)
def test_nothing_is_read_without_tracking_or_hashes_and_nothing_is_shipped_unowned(view):
    source, target = source_action(view), target_action(view)
    if source in (SourceAction.SCAN, SourceAction.CYCLE):
        assert view.tracked
        assert not view.unknown
    if source is SourceAction.CYCLE:
        assert not view.scanning, "no point is made while a disk waits for its scan"
    if target is TargetAction.SHIP:
        assert view.attached
        assert view.queued
        assert not view.unknown
        assert not view.unlearned
    if view.state in (State.PAUSED, State.FENCED, State.SEALED, State.NEW):
        assert target is TargetAction.WAIT
        assert source is SourceAction.WAIT or (source is SourceAction.MAKE_ROOM and view.crowded)


@pytest.mark.parametrize("wrong", [{"frequency": 7}, {"application_consistent_hours": 13}])
def test_a_policy_names_what_it_can_be(wrong):
    with pytest.raises(InvalidRequest, match="it can be"):
        Policy(**wrong)
