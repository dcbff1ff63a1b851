"""What stands against sealing a plan's members from this host, by its agent's books."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from standby.errors import InvalidRequest
from standby.objects.address import open_store
from standby.records import Finding
from standby.recovery.plan_document import Member, Plan
from standby.replication.books import Books
from standby.replication.relationship import Relationship
from standby.replication.seal import POSSIBLE


def unsealable(plan: Plan, folder: Path) -> list[Finding]:
    """folder: the state directory. Nothing is asked but the books."""
    try:
        with closing(Books.reading(folder)) as books:
            known = {one.machine: one for one in books.relationships()}
    except InvalidRequest as error:
        return [Finding(subject=error.subject, problem=error.cause, fix=error.hint, blocks=True)]
    return [
        Finding(subject=f"member {member.id}", problem=problem, fix=fix, blocks=True)
        for member in plan.members
        for problem, fix in _of_member(member, known.get(member.at_source))
    ]


def _of_member(member: Member, known: Relationship | None) -> Iterator[tuple[str, str]]:
    name = member.at_source
    if known is None:
        yield (
            f"no machine {name} is protected from this host",
            "`machine` in the plan is its name here; `standby vm list` tells those that are",
        )
        return
    if known.status.state not in POSSIBLE:
        yield (
            f"it cannot be shut down without loss while it is {known.status.state.value}",
            f"`standby vm show {name}` tells what it waits for",
        )
    if (known.store, known.replica) != (open_store(member.store).url, member.replica):
        yield (
            f"it is replicated to {known.replica} in {known.store}, not to {member.replica} in {member.store}",
            "name that replica in the plan",
        )
    if known.connection is None:
        yield "it is not known how the machine is reached", f"`standby vm connect {name} --qmp SOCKET`"
