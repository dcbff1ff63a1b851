"""Why a disk is compared with its replica, and when that begins."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from standby.hypervisor.base import Lost
from standby.replication.resync import EXPLAINED, Begins, Reason, of_lost, opens
from standby.replication.window import ResyncWindow, Start

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 6, 10, 10, tzinfo=UTC)
EVENING = datetime(2026, 6, 10, 16, 30, tzinfo=UTC)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_says_why_and_what_a_person_can_do(reason):
    explained = EXPLAINED[reason]
    assert explained.why[0].islower()
    assert not explained.why.endswith(".")
    assert bool(explained.operator) is (explained.begins is not Begins.AT_ONCE)


@pytest.mark.parametrize("lost", list(Lost))
def test_every_loss_that_a_hypervisor_tells_has_its_reason(lost):
    assert of_lost(lost) in EXPLAINED


@pytest.mark.parametrize(
    ("start", "reason", "begins"),
    [
        (Start.SCHEDULED, Reason.BACKLOG, EVENING),
        (Start.AUTOMATIC, Reason.BACKLOG, NOON),
        (Start.MANUAL, Reason.BACKLOG, None),
        (Start.SCHEDULED, Reason.ASKED, NOON),
        (Start.MANUAL, Reason.ASKED, NOON),
        (Start.MANUAL, Reason.NEVER, NOON),
        (Start.MANUAL, Reason.DIVERGED, NOON),
    ],
)
def test_when_a_comparison_may_begin(start, reason, begins):
    assert opens(reason, ResyncWindow(start=start), NOON, BERLIN) == begins
