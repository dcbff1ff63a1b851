"""The protocol's rules over every interleaving within small bounds, and that leaving a rule out breaks it."""

from __future__ import annotations

from collections.abc import Iterable, Set

import pytest

from tests.protocol import commit, compact
from tests.protocol.commit import CommitModel
from tests.protocol.compact import CompactModel

SMALL_COMMIT = commit.Bounds(epochs=2, sequence=4, maintenance=1)
SMALL_COMPACT = compact.Bounds(points=3, runs=1, opens=1)


@pytest.mark.parametrize("vault", [True, False], ids=["vault", "no vault"])
def test_commit_within_small_bounds(vault: bool):
    outcome = CommitModel(SMALL_COMMIT._replace(vault=vault)).run()
    assert outcome.violation is None
    assert outcome.states > 5_000


def test_compaction_within_small_bounds():
    outcome = CompactModel(SMALL_COMPACT).run()
    assert outcome.violation is None
    assert outcome.states > 500


@pytest.mark.slow
def test_commit_exhaustively():
    outcome = CommitModel(commit.Bounds()).run()
    assert outcome.violation is None
    assert outcome.states > 400_000


@pytest.mark.slow
def test_commit_exhaustively_without_a_vault():
    outcome = CommitModel(commit.Bounds(maintenance=1, vault=False, scans=False)).run()
    assert outcome.violation is None
    assert outcome.states > 100_000


@pytest.mark.slow
def test_compaction_exhaustively():
    outcome = CompactModel(compact.Bounds(opens=1)).run()
    assert outcome.violation is None
    assert outcome.states > 400_000


COMMIT_RULES: list[tuple[set[commit.Rule], str]] = [
    ({"T3"}, "epochs go back"),
    ({"T4", "S1 tail"}, "log that is gone"),  # the fence is what makes the sweep's condition true
    ({"W3 epoch"}, "after epoch 2 had attached"),
    ({"M3 point"}, "no newer point is there"),
    ({"S1 epoch"}, "log that is gone"),
    ({"S1 tail"}, "log that is gone"),
    ({"S1 scan"}, "log that is gone"),
]
COMPACT_RULES: list[tuple[set[compact.Rule], str]] = [
    ({"R2"}, "is gone under the hold"),
    ({"M3"}, "referenced but gone"),
    ({"M4"}, "gone under the hold|cannot be opened"),
    ({"S2"}, "referenced but gone"),
    ({"S2 holds"}, "is gone under the hold"),
    ({"generation"}, "referenced but gone"),
]


def names(cases: Iterable[tuple[Set[str], str]]) -> list[str]:
    return [" and ".join(sorted(without)) for without, _ in cases]


@pytest.mark.parametrize(("without", "says"), COMMIT_RULES, ids=names(COMMIT_RULES))
def test_a_rule_of_commit_left_out_is_found(without: set[commit.Rule], says: str):
    violation = CommitModel(SMALL_COMMIT, without).run().violation
    assert violation is not None
    assert says in violation.what
    assert violation.trace[0] == "T1"


@pytest.mark.parametrize(("without", "says"), COMPACT_RULES, ids=names(COMPACT_RULES))
def test_a_rule_of_compaction_left_out_is_found(without: set[compact.Rule], says: str):
    violation = CompactModel(compact.Bounds(points=3, opens=1), without).run().violation
    assert violation is not None
    assert any(part in violation.what for part in says.split("|"))
