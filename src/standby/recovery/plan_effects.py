"""What a plan's run does to the world, as whoever drives it has it done.

The runner on one host (plan_run.py) takes plan_host.Here. A vault takes one of its own, which makes each of these a
job on the host of the member that it concerns.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

from standby.recovery.plan_document import Manual, Member, Probe, Script
from standby.recovery.steps import Facts


class Outcome(NamedTuple):
    """What came of a step that succeeded. text: in a few words. run: the run directory of the member's failover."""

    text: str = ""
    facts: Facts = MappingProxyType({})
    run: str = ""


class Situation(NamedTuple):
    """What a program is told. environment: what has happened so far. output: the file that keeps what it says.
    again: an earlier run of it was interrupted, and may still be at work."""

    environment: Mapping[str, str]
    output: Path
    again: bool


class Effects(Protocol):
    """Called from several threads, for another member each. Each may be called again after it was interrupted or
    failed, and goes on from there. They raise StandbyError."""

    def seal(self, member: Member) -> Outcome:
        """Shut the member down at its source, with its last write in the replica."""
        ...

    def start(self, member: Member, tag: str) -> Outcome:
        """Start the member as the failover of that tag: one, however often this is called."""
        ...

    def found(self, tag: str) -> str:
        """The run directory of the failover of that tag; "" if there is none."""
        ...

    def probe(self, member: Member, tag: str, probe: Probe, situation: Situation) -> Outcome:
        """Return once the probe succeeds. Raises ProbeFailed after its limit."""
        ...

    def script(self, script: Script, situation: Situation) -> Outcome:
        """Run the program to its end. Raises ScriptFailed."""
        ...

    def ask(self, manual: Manual) -> None:
        """Tell a person that the run waits. It is not waited for here."""
        ...

    def take_back(self, member: Member, tag: str) -> None:
        """End the member's failover of that tag, with all that its guest wrote. Nothing happens if there is none."""
        ...
