"""What the replica has, by local hashes: against a dictionary, and against files that are not ours to trust."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.replica.format import HASH_BYTES, ROW
from standby.replica.pack import ZERO_HASH_ITEM
from standby.replication.books import BooksUnwritable
from standby.replication.known import KnownBlocks, KnownLost

BLOCKS = 40
ZERO = bytes(ZERO_HASH_ITEM)
hashes = st.one_of(st.just(ZERO), st.integers(1, 5).map(lambda n: bytes([n]) * HASH_BYTES))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("learn"), st.dictionaries(st.integers(0, BLOCKS - 1), hashes, max_size=12)),
        st.tuples(st.just("fill"), st.tuples(st.integers(0, BLOCKS - 8), st.lists(hashes, max_size=8))),
        st.tuples(st.just("mark"), st.integers(0, 1 << 60)),
        st.tuples(st.just("open again"), st.none()),
        st.tuples(st.just("forget"), st.none()),
    )
)


def as_hashes(values):
    return np.frombuffer(b"".join(values), f"V{HASH_BYTES}")


def rows_of(table):
    rows = np.zeros(len(table), ROW)
    rows["block"] = sorted(table)
    rows["hash"] = as_hashes([table[block] for block in sorted(table)])
    return rows


@given(steps, st.sets(st.integers(0, BLOCKS - 1)))
def test_like_a_dictionary(tmp_path_factory, steps, asked):
    path = tmp_path_factory.mktemp("known") / "disk.hashes"
    known, model, mark = KnownBlocks.empty(path, BLOCKS), {}, 0
    for step, value in steps:
        if step == "learn":
            known.learn(rows_of(value))
            model |= value
        elif step == "fill":
            # Filling begins on an empty table, so it only ever adds: zeros are what is there already.
            first, values = value
            known.close()
            known, model, mark = KnownBlocks.empty(path, BLOCKS), {}, 0
            known.fill(first, as_hashes(values))
            model = dict(enumerate(values, first))
        elif step == "mark":
            known.set_mark(value)
            mark = value
        else:
            known.close()
            if step == "forget":
                known, model, mark = KnownBlocks.empty(path, BLOCKS), {}, 0
            else:
                known = KnownBlocks(path, BLOCKS)
    blocks = np.array(sorted(asked), np.uint32)
    assert [bytes(item) for item in known.lookup(blocks)] == [model.get(int(b), ZERO) for b in blocks]
    assert known.mark == mark
    known.close()


@pytest.mark.parametrize("length", [0, 1, HASH_BYTES, BLOCKS * HASH_BYTES, (BLOCKS + 2) * HASH_BYTES])
def test_a_file_of_another_length_is_not_used(tmp_path, length):
    path = tmp_path / "disk.hashes"
    KnownBlocks.empty(path, BLOCKS).close()
    os.truncate(path, length)
    with pytest.raises(KnownLost, match=r"disk\.hashes: .*another length.*Tried.*Next: nothing to do"):
        KnownBlocks(path, BLOCKS)


def test_a_missing_or_foreign_file_is_not_used(tmp_path):
    path = tmp_path / "disk.hashes"
    with pytest.raises(KnownLost, match="missing"):
        KnownBlocks(path, BLOCKS)
    assert not path.exists(), "looking must not make an empty table"
    path.write_bytes(bytes((BLOCKS + 1) * HASH_BYTES))
    with pytest.raises(KnownLost, match="another one"):
        KnownBlocks(path, BLOCKS)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BooksUnwritable, match=r"known hashes cannot be written.*Next: make room"):
        KnownBlocks.empty(tmp_path / "file" / "disk.hashes", BLOCKS)
