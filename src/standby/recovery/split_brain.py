"""Whether the source machine still runs, before its copy is started in earnest.

A fence stops the source's log, not the source. What is known is told; what is not known an operator must say.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from standby.errors import InvalidRequest
from standby.hypervisor.source_state import SourceState, ask
from standby.replica.documents import Record
from standby.replica.journal import ReplicaLog
from standby.replica.plan import last_state

CONFIRM: Final = "--yes-the-source-is-down"

OWNER: Final = "standby failover"
"""What the name of every failover begins with, as owner of a replica."""

CANCELLED: Final = "cancelled "
"""What stands before it once the failover was cancelled."""


class SourceRuns(InvalidRequest):
    """The machine still runs where it was: two of it would write, and one would be lost."""


class SourceUnknown(InvalidRequest):
    """Nothing tells that the source machine is down, and nobody has said so."""


def failed_over_since(records: Sequence[Record], epoch: int) -> Record | None:
    """The newest fence above `epoch` of a failover that was not cancelled."""
    fences = [record for record in records if record.kind == "fence" and record.epoch > epoch]
    ended = {
        record.writer.removeprefix(CANCELLED) for record in fences if record.writer.startswith(CANCELLED)
    }
    return next(
        (one for one in reversed(fences) if one.writer.startswith(OWNER) and one.writer not in ended), None
    )


def judge(log: ReplicaLog, machine: str, qmp: Path | None, confirmed: bool, now: datetime) -> str:
    """What is known of the source, as a sentence; it is down as far as anyone can tell.

    qmp: its control socket, where that can be reached from here. confirmed: an operator says that it is down.
    Raises SourceRuns, SourceUnknown.
    """
    newest = last_state(log.records)
    # A machine that was started behind the seal has not been shut down by it.
    since = failed_over_since(log.records, newest.epoch if newest else 0)
    if newest and newest.kind == "seal" and since is None:
        return f"It was shut down for good at {newest.at}, with its last change in the replica ({newest.writer})."
    heard = f"Its last word in the replica is {_age(newest.at, now)} old ({newest.writer})" if newest else ""
    if since:
        heard = f"It failed over {_age(since.at, now)} ago ({since.writer}), and may run there"
    if qmp is None:
        if confirmed:
            return f"{heard}. That it is down was said by the operator, it was not asked."
        raise SourceUnknown(
            f"whether it still runs at its source is not known. {heard}",
            subject=machine,
            tried="nothing was changed",
            hint=f"make sure that it is off, then repeat with {CONFIRM}; or name its control socket, if this host "
            "reaches it, with --source-qmp",
        )
    asked = ask(qmp)
    match asked.state:
        case SourceState.RUNS:
            raise SourceRuns(
                f"it still {asked.said}",
                subject=machine,
                tried="nothing was changed",
                hint="`standby failover planned` moves it without loss; or end it there first",
            )
        case SourceState.GONE | SourceState.SHUT_DOWN:
            return f"{heard}. It {asked.said}."
    if confirmed:
        return f"{heard}. It {asked.said}; that it is down was said by the operator."
    raise SourceUnknown(
        f"it {asked.said}. {heard}",
        subject=machine,
        tried="nothing was changed",
        hint=f"make sure that it is off and stays off, then repeat with {CONFIRM}",
    )


def _age(at: str, now: datetime) -> str:
    seconds = max((now - datetime.fromisoformat(at)).total_seconds(), 0)
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
