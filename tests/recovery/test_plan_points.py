"""Which points a plan takes whose members are to start from one instant."""

from __future__ import annotations

from uuid import UUID

import msgspec
import pytest

from standby.objects.directory import DirectoryStore
from standby.recovery.plan_document import Group, Member, Plan
from standby.recovery.plan_points import NoCommonPoint, common
from standby.replica.documents import DiskState
from standby.replica.journal import ReplicaLog
from standby.replica.keys import KeyFile
from standby.replica.writer import Draft, attach, create
from tests.support.replicas import FixedClock, new_id


class Site:
    """Replicas in one store whose points are of these instants, in order; the second is encrypted."""

    def __init__(self, folder, **points: str) -> None:
        self.store = DirectoryStore(folder / "store", create=True)
        self.key = KeyFile.new(folder / "key")
        members = []
        for number, (name, groups) in enumerate(points.items(), 1):
            key = self.key if number == 2 else None
            create(self.store, name, replica=UUID(int=number), origin="host-a", clock=FixedClock(), key=key)
            writer = attach(self.store, name, owner="agent", clock=FixedClock(), new_id=new_id, key=key)
            for group in groups.split():
                draft = Draft("point", new_id(), "2026-11-24T08:00:00+00:00", (DiskState(id="d", size=1),))
                writer.commit(draft if group == "-" else draft._replace(group=group))
            file = str(folder / "key") if key else ""
            members.append(Member(store=str(folder / "store"), replica=name, key_file=file))
        self.plan = Plan(name="p", groups=tuple(Group(name=m.replica, members=(m,)) for m in members))

    def chosen(self) -> list[str]:
        return [member.point for member in common(self.plan).members]


@pytest.mark.parametrize(
    ("points", "chosen"),
    [
        # Record 1 is the fence, so points begin with 2.
        ({"a": "A B", "b": "A B"}, ["3", "3"]),
        ({"a": "A - B -", "b": "- - A B"}, ["4", "5"]),
        ({"a": "A B", "b": "A -", "c": "A B C"}, ["2", "2", "2"]),
        ({"a": "- A"}, ["3"]),
    ],
)
def test_the_newest_instant_that_all_have(tmp_path, points, chosen):
    assert Site(tmp_path, **points).chosen() == chosen


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ({"a": "A", "b": "-"}, "b has no point in common"),
        ({"a": "-", "b": "-"}, "a, b have no point in common"),
        ({"a": "A", "b": "B"}, "no instant is known of all members"),
    ],
)
def test_where_there_is_none(tmp_path, points, said):
    with pytest.raises(NoCommonPoint, match=said):
        Site(tmp_path, **points).chosen()


def test_a_record_says_it_only_where_it_is_so(tmp_path):
    site = Site(tmp_path, a="- A", b="- A")
    for name, key in (("a", None), ("b", site.key)):
        log = ReplicaLog.read(site.store, name, key=key)
        assert [point.group for point in log.points] == [msgspec.UNSET, "A"]
        stored = [site.store.get(f"{name}/points/{seq:020}").data for seq in (2, 3)]
        assert [b'"group":"A"' in data for data in stored] == [False, True]
        assert b"group" not in stored[0]
