"""Points of several machines of a host at one instant."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from ulid import ULID

from standby.agent.engines import Engines
from standby.errors import InvalidRequest, Recoverable
from standby.hypervisor.meeting import Meeting
from standby.replication.relationship import Relationship


class NoCommonInstant(Recoverable):
    """Points of several machines could not be made at one instant; those that were made are each machine's own."""


def common_point(relationships: Sequence[Relationship], engines: Engines) -> str:
    """Have it made by the agent's engines; the id that the points have in common. Nothing else is done with the
    machines meanwhile. Raises NoCommonInstant, InvalidRequest, and what an engine meets that is no error of a cycle."""
    names = [one.machine for one in relationships]
    if len(set(names)) != len(names):
        raise InvalidRequest("a machine is named twice", subject=", ".join(names), hint="name each once")
    if not engines.running:
        raise InvalidRequest(
            "machines have points at one instant only while an agent replicates them",
            subject=", ".join(names),
            hint="`standby agent run`, then the same command",
        )
    meeting = Meeting(str(ULID()), names)
    with ExitStack() as stack:
        # In one order, whoever asks: two requests for the same machines must not wait for each other.
        held = [
            stack.enter_context(engines.held(one, alone=True))
            for one in sorted(relationships, key=lambda one: one.id)
        ]
        with ThreadPoolExecutor(len(held), thread_name_prefix="standby-together") as pool:
            made = list(pool.map(lambda engine: engine.common_point(meeting), held))
    if not all(made):
        raise NoCommonInstant(
            meeting.why or "a point was given up after the instant",
            subject=", ".join(names),
            tried="all were frozen no longer than a few seconds; points that were made are each machine's own",
            hint="see to the machine that is named, then the same command",
        )
    return meeting.id
