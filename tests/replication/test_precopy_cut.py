"""With pre-copy little is read under the cut, and the point is the snapshot of that instant, whatever is written."""

from __future__ import annotations

import pytest

from standby.hypervisor.tracking import QemuTracking
from standby.replication import precopy, source
from tests.hypervisor.processes import Writer, assert_one_instant, contents

pytestmark = pytest.mark.slow

WORTH = 256 << 10


@pytest.fixture
def snapshots(monkeypatch):
    """What each cut showed while it was open, after it was read."""
    taken, opened = [], []
    cut = QemuTracking.cut

    class Looking:
        def reach(self):
            taken.append({name: contents(one.disk) for name, one in opened[-1].disks.items()})

    def noted(self, *arguments):
        opened.append(cut(self, *arguments))
        return opened[-1]

    monkeypatch.setattr(QemuTracking, "cut", noted)
    monkeypatch.setattr(source, "_CUT_READ", Looking())
    return taken


@pytest.mark.parametrize("held", [16, 2], ids=["held", "partly held"])
@pytest.mark.parametrize("rounds", [precopy.MOST_ROUNDS, 0], ids=["pre-copy", "none"])
def test_what_is_read_under_the_cut_and_that_it_is_exact(site, monkeypatch, snapshots, rounds, held):
    monkeypatch.setattr(precopy, "WORTH", WORTH)
    monkeypatch.setattr(precopy, "MOST_ROUNDS", rounds)
    monkeypatch.setattr(source, "HELD_UNITS", held)
    daemon = site.daemon()
    rig = site.rig(daemon)
    rig.protect()
    snapshots.clear()
    with Writer(daemon) as writer:
        for _ in range(3):
            writer._pause = 0.0
            writer.more(900)
            writer._pause = 0.005
            writer.more(1)
            report, record = rig.point()
            images = rig.images(record.seq)
            assert images == snapshots[-1]
            assert_one_instant(writer, images)
            dirtied = report.changed
            assert dirtied >= 500 * 4096
            if rounds:
                assert report.under_cut < dirtied / 4
            else:
                assert report.under_cut == dirtied
