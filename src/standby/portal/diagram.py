"""The states of a machine's protection as a picture, with where it is. Pure: coordinates, for two widths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from standby.link.messages import RunStanding
from standby.replication.states import State


class Node(NamedTuple):
    """kind: `here`, `passed` or "" for elsewhere. x, y: of its left upper corner."""

    name: str
    label: str
    x: int
    y: int
    kind: str


class Diagram(NamedTuple):
    """arrows: of SVG's path data. told: the same in words. variant: `broad` or `narrow`."""

    variant: str
    width: int
    height: int
    nodes: Sequence[Node]
    arrows: Sequence[str]
    told: str


WIDTH: Final = 132
HEIGHT: Final = 34

_LABELS: Final = {
    "none": "Not protected",
    "initial": "Initial replication",
    "finalizing": "Finalizing",
    "protected": "Protected",
    "failed-over": "Failed over",
    "committed": "Committed",
    "paused": "Paused",
    "resynchronizing": "Resynchronizing",
    "resync-required": "Resync required",
    "fenced": "Fenced",
    "test": "Test failover",
    "sealed": "Sealed",
}

_BROAD: Final = {
    "none": (4, 30),
    "initial": (164, 30),
    "finalizing": (324, 30),
    "protected": (484, 30),
    "failed-over": (644, 30),
    "committed": (804, 30),
    "paused": (4, 104),
    "fenced": (164, 104),
    "resynchronizing": (324, 104),
    "resync-required": (484, 104),
    "test": (644, 104),
    "sealed": (804, 104),
}
_NARROW: Final = {
    "none": (4, 8),
    "initial": (4, 70),
    "finalizing": (4, 132),
    "protected": (4, 194),
    "failed-over": (4, 256),
    "committed": (4, 318),
    "paused": (180, 8),
    "fenced": (180, 70),
    "resynchronizing": (180, 132),
    "resync-required": (180, 194),
    "test": (180, 256),
    "sealed": (180, 318),
}
_BROAD_ARROWS: Final = (
    "M136 47H160",
    "M296 47H320",
    "M456 47H480",
    "M616 47H640",
    "M776 47H800",
    "M550 64V100",
    "M484 121H460",
    "M390 104V84H510V68",
    "M596 64V84H690V100",
    "M870 30V12H550V26",
)
_NARROW_ARROWS: Final = (
    "M70 42V66",
    "M70 104V128",
    "M70 166V190",
    "M70 228V252",
    "M70 290V314",
    "M136 216H176",
    "M246 194V170",
    "M180 149H158V204H140",
    "M120 228V242H210V252",
)

_OF_STATE: Final = {
    State.NEW: "initial",
    State.INITIAL_REPLICATION: "initial",
    State.FINALIZING: "finalizing",
    State.PROTECTED: "protected",
    State.DELTA: "protected",
    State.RESYNC_REQUIRED: "resync-required",
    State.RESYNCHRONIZING: "resynchronizing",
    State.PAUSED: "paused",
    State.FENCED: "fenced",
    State.SEALED: "sealed",
}


def here(state: str, runs: Sequence[RunStanding]) -> set[str]:
    """The nodes where a machine is: of its replication, and of each of its recovered copies. state: "" if it is
    not protected."""
    found = {_OF_STATE[State(state)]} if state in set(State) else {"none"}
    for run in runs:
        if run.kind == "test":
            found.add("test")
        else:
            found.add("committed" if run.phase == "committed" else "failed-over")
    return found


def diagrams(state: str, runs: Sequence[RunStanding]) -> list[Diagram]:
    """For a broad window and for a narrow one."""
    at = here(state, runs)
    told = "The machine is at: " + ", ".join(label for name, label in _LABELS.items() if name in at)
    return [
        Diagram(variant, width, height, _nodes(places, at), arrows, told)
        for variant, width, height, places, arrows in (
            ("broad", 940, 144, _BROAD, _BROAD_ARROWS),
            ("narrow", 316, 360, _NARROW, _NARROW_ARROWS),
        )
    ]


def _nodes(places: dict[str, tuple[int, int]], at: set[str]) -> list[Node]:
    return [Node(name, _LABELS[name], x, y, "here" if name in at else "") for name, (x, y) in places.items()]
