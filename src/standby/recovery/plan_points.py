"""The points of a plan whose members are to start from one instant."""

from __future__ import annotations

from functools import reduce

import msgspec

from standby.errors import InvalidRequest
from standby.objects.address import open_store
from standby.recovery.plan_document import Group, Member, Plan
from standby.replica.journal import ReplicaLog
from standby.replica.keys import remembered


class NoCommonPoint(InvalidRequest):
    """The members of a plan have no points of one instant."""


def common(plan: Plan) -> Plan:
    """The plan with each member's point of the newest instant that all of them have.

    Raises NoCommonPoint, and what reading the replicas raises.
    """
    known = {member.id: _groups(member) for member in plan.members}
    shared = reduce(lambda one, other: one & other, (set(groups) for groups in known.values()))
    if not shared:
        without = sorted(name for name, groups in known.items() if not groups)
        raise NoCommonPoint(
            f"{', '.join(without)} {'has' if len(without) == 1 else 'have'} no point in common with other machines"
            if without
            else "no instant is known of all members",
            subject=f"plan {plan.name}",
            hint="`standby vm point` with --with makes points of several machines at one instant; or leave `together`"
            " out of the plan",
        )
    # Ids are ULIDs: the greatest is the newest.
    newest = max(shared)

    def chosen(member: Member) -> Member:
        return msgspec.structs.replace(member, point=str(known[member.id][newest]))

    def group(one: Group) -> Group:
        return msgspec.structs.replace(one, members=tuple(map(chosen, one.members)))

    return msgspec.structs.replace(plan, groups=tuple(map(group, plan.groups)))


def _groups(member: Member) -> dict[str, int]:
    """The member's points of instants in common, by the instant's id."""
    log = ReplicaLog.read(open_store(member.store), member.replica, key=remembered(member.key_file))
    return {record.group: record.seq for record in log.points if record.group is not msgspec.UNSET}
