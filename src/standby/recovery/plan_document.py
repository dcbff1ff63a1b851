"""A recovery plan as a document: which machines start in which order, what is waited for, what people and
scripts do in between. docs/plans.md has the format for those who write one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from standby.errors import InvalidRequest
from standby.records import Finding
from standby.recovery.networks import network_named

LARGEST: Final = 100
"""Members of one plan, as many as Azure Site Recovery takes."""

PARALLEL: Final = 8
_NAME: Final = re.compile(r"[A-Za-z0-9._ -]{1,64}")


class Kind(StrEnum):
    """What a run does. TEST: test failovers, isolated. PLANNED: members are shut down and sealed first."""

    TEST = "test"
    UNPLANNED = "unplanned"
    PLANNED = "planned"


ALL: Final = tuple(Kind)
IN_EARNEST: Final = (Kind.UNPLANNED, Kind.PLANNED)


class PlanRefused(InvalidRequest):
    """The plan cannot be run as it is written; `findings` lists all that stands against it."""

    def __init__(self, plan: str, findings: tuple[Finding, ...]) -> None:
        self.findings = findings
        super().__init__(
            "; ".join(f"{one.subject}: {one.problem} ({one.fix})" for one in findings if one.blocks),
            subject=f"plan {plan}",
            tried="nothing was changed",
            hint="correct these; `standby plan check` looks again",
        )


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all that a plan consists of: a misspelt key is refused, not ignored."""


class _Probe(_Part, frozen=True, kw_only=True, tag_field="kind"):
    """limit: seconds until it is given up; it is tried again and again in them."""

    limit: float = 300.0


class Agent(_Probe, frozen=True, kw_only=True, tag="agent"):
    """The guest agent answers."""

    kinds: tuple[Kind, ...] = ALL


class Guest(_Probe, frozen=True, kw_only=True, tag="guest"):
    """A command in the guest, by its agent, ends with status 0. Works in an isolated network too."""

    argv: tuple[str, ...]
    kinds: tuple[Kind, ...] = ALL


class Tcp(_Probe, frozen=True, kw_only=True, tag="tcp"):
    """A TCP port takes a connection."""

    host: str
    port: int
    kinds: tuple[Kind, ...] = IN_EARNEST


class Http(_Probe, frozen=True, kw_only=True, tag="http"):
    """A URL answers with the status."""

    url: str
    status: int = 200
    kinds: tuple[Kind, ...] = IN_EARNEST


class Command(_Probe, frozen=True, kw_only=True, tag="script"):
    """A program on this host ends with status 0."""

    argv: tuple[str, ...]
    kinds: tuple[Kind, ...] = ALL


Probe = Agent | Guest | Tcp | Http | Command


class Script(_Part, frozen=True, kw_only=True, tag_field="kind", tag="script"):
    """A program on this host. limit: seconds, after which it is ended and has failed."""

    name: str
    argv: tuple[str, ...]
    limit: float = 300.0
    kinds: tuple[Kind, ...] = ALL


class Manual(_Part, frozen=True, kw_only=True, tag_field="kind", tag="manual"):
    """Something that a person does; the run waits until that is said to be done."""

    name: str
    text: str
    kinds: tuple[Kind, ...] = ALL


Action = Script | Manual


class Member(_Part, frozen=True, kw_only=True):
    """A machine. store, replica, point: as `standby failover` takes them. network: for runs in earnest.

    agent: whether the guest has one; then its answer is waited for, `boot_limit` seconds. machine: its name in the
    books of its source's agent ("" for the replica's), for shutting it down, in `shutdown_limit` seconds; force:
    it is stopped if it does not shut down. source_qmp: asked whether it runs, where this host reaches it.
    """

    store: str
    replica: str
    name: str = ""
    point: str = "newest"
    network: str = "isolated"
    agent: bool = True
    boot_limit: float = 300.0
    key_file: str = ""
    source_qmp: str = ""
    machine: str = ""
    shutdown_limit: float = 120.0
    force: bool = False
    probes: tuple[Probe, ...] = ()

    @property
    def id(self) -> str:
        return self.name or self.replica

    @property
    def at_source(self) -> str:
        return self.machine or self.replica


class Group(_Part, frozen=True, kw_only=True):
    """Members that start side by side. go_on: what fails in it does not stop the groups behind it."""

    name: str
    members: tuple[Member, ...] = ()
    before: tuple[Action, ...] = ()
    after: tuple[Action, ...] = ()
    go_on: bool = False


class Plan(_Part, frozen=True, kw_only=True):
    """parallel: members at work at once. shutdown: names of members, first to be shut down first, each inner list
    side by side; empty for the groups in reverse. together: all start from points of one instant, the newest that all
    have; each member's own `point` is not asked then."""

    name: str
    groups: tuple[Group, ...]
    parallel: int = PARALLEL
    shutdown: tuple[tuple[str, ...], ...] = ()
    together: bool = False

    @property
    def members(self) -> tuple[Member, ...]:
        return tuple(member for group in self.groups for member in group.members)

    def member(self, name: str) -> Member:
        return next(member for member in self.members if member.id == name)

    @property
    def shutdown_order(self) -> tuple[tuple[str, ...], ...]:
        if self.shutdown:
            return self.shutdown
        return tuple(
            tuple(one.id for one in group.members) for group in reversed(self.groups) if group.members
        )


def read(path: Path) -> Plan:
    """The plan in a .toml or .json file. Relative paths in it are taken from its directory.

    Raises InvalidRequest for a file that is none, with the place of what is wrong. `problems` tells the rest.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidRequest(
            f"it cannot be read: {error.strerror}", subject=str(path), hint="name the plan's file"
        ) from error
    plan = parse(data, str(path), json=path.suffix == ".json")
    return _placed(plan, path.absolute().parent)


def parse(data: bytes | str, subject: str, *, json: bool = False) -> Plan:
    """TOML, or JSON; paths as they are written. Raises InvalidRequest."""
    try:
        plan: Plan = (msgspec.json.decode if json else msgspec.toml.decode)(data, type=Plan)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"it is no plan: {error}", subject=subject, hint="docs/plans.md has the format, with an example"
        ) from error
    return plan


def problems(plan: Plan) -> list[Finding]:
    """What is wrong with a plan by itself. Pure."""
    return [
        Finding(subject=subject, problem=problem, fix=fix, blocks=True)
        for subject, problem, fix in (*_of_names(plan), *_of_values(plan), *_of_shutdown(plan))
    ]


_T = TypeVar("_T")
_Told = Iterator[tuple[str, str, str]]


def _of_names(plan: Plan) -> _Told:
    members = plan.members
    if not members:
        yield f"plan {plan.name}", "it has no members", "name at least one machine in a group"
    if len(members) > LARGEST:
        yield f"plan {plan.name}", f"it has {len(members)} members, {LARGEST} are the most", "make two plans"
    named = [("plan", plan.name), *(("group", one.name) for one in plan.groups)]
    named += [("member", one.id) for one in members]
    for what, name in named:
        if not _NAME.fullmatch(name):
            yield f"{what} {name!r}", "this is no name", "use 1 to 64 letters, digits, spaces, dots, dashes"
    for what, names in (
        ("group", [one.name for one in plan.groups]),
        ("member", [one.id for one in members]),
    ):
        for name in _twice(names):
            yield f"{what} {name}", "it is in the plan twice", "give each a `name` of its own"
    for store, replica in _twice((one.store, one.replica) for one in members):
        yield f"replica {replica} in {store}", "two members start from it", "leave one of them out"
    for group in plan.groups:
        for name in _twice(action.name for action in (*group.before, *group.after)):
            yield f"group {group.name}", f"it has two actions {name}", "give each a `name` of its own"


def _of_values(plan: Plan) -> _Told:
    if not 1 <= plan.parallel <= LARGEST:
        yield f"plan {plan.name}", f"parallel is {plan.parallel}", f"choose 1 to {LARGEST}"
    for group in plan.groups:
        for action in (*group.before, *group.after):
            if isinstance(action, Script):
                yield from _of_command(f"script {action.name}", action.argv, action.limit)
            elif not action.text:
                yield f"manual action {action.name}", "it has no text", "say what is to be done"
    for member in plan.members:
        try:
            network_named(member.network)
        except InvalidRequest as error:
            yield f"member {member.id}", error.cause, error.hint
        for limit in (member.boot_limit, member.shutdown_limit):
            if limit <= 0:
                yield f"member {member.id}", f"a limit is {limit:g} s", "give it some seconds"
        for number, probe in enumerate(member.probes, 1):
            yield from _of_probe(f"probe {number} of {member.id}", member, probe)


def _of_probe(subject: str, member: Member, probe: Probe) -> _Told:
    if isinstance(probe, Agent | Guest) and not member.agent:
        yield subject, "it asks the guest's agent, and the member has none", "leave it out, or `agent = true`"
    match probe:
        case Tcp() if not 0 < probe.port < 65536:
            yield subject, f"there is no port {probe.port}", "choose 1 to 65535"
        case Http() if not probe.url.startswith(("http://", "https://")):
            yield subject, f"{probe.url!r} is no address", "it begins with http:// or https://"
        case Guest() | Command():
            yield from _of_command(subject, probe.argv, probe.limit)
        case _ if probe.limit <= 0:
            yield subject, f"its limit is {probe.limit:g} s", "give it some seconds"


def _of_command(subject: str, argv: tuple[str, ...], limit: float) -> _Told:
    if not argv or not argv[0]:
        yield subject, "it names no program", "`argv` is the program and its arguments"
    if limit <= 0:
        yield subject, f"its limit is {limit:g} s", "give it some seconds"


def _of_shutdown(plan: Plan) -> _Told:
    if not plan.shutdown:
        return
    order = [name for wave in plan.shutdown for name in wave]
    names = [member.id for member in plan.members]
    for name in _twice(order):
        yield "shutdown", f"{name} is in it twice", "name each member once"
    for name in sorted(set(order) - set(names)):
        yield "shutdown", f"there is no member {name}", f"members are {', '.join(names)}"
    for name in sorted(set(names) - set(order)):
        yield "shutdown", f"{name} is not in it", "name every member, or leave the whole order out"


def _twice(values: Iterable[_T]) -> list[_T]:
    return [value for value, count in Counter(values).items() if count > 1]


def _placed(plan: Plan, folder: Path) -> Plan:
    def at(text: str) -> str:
        return str(folder / text) if text else ""

    def command(argv: tuple[str, ...]) -> tuple[str, ...]:
        # As a shell has it: only what has a slash is a path, all else is looked for in PATH.
        return (at(argv[0]), *argv[1:]) if argv and "/" in argv[0] else argv

    def action(one: Action) -> Action:
        return msgspec.structs.replace(one, argv=command(one.argv)) if isinstance(one, Script) else one

    def probe(one: Probe) -> Probe:
        return msgspec.structs.replace(one, argv=command(one.argv)) if isinstance(one, Command) else one

    def member(one: Member) -> Member:
        return msgspec.structs.replace(
            one,
            store=one.store if "://" in one.store else at(one.store),
            key_file=at(one.key_file),
            source_qmp=at(one.source_qmp),
            probes=tuple(map(probe, one.probes)),
        )

    groups = tuple(
        msgspec.structs.replace(
            group,
            members=tuple(map(member, group.members)),
            before=tuple(map(action, group.before)),
            after=tuple(map(action, group.after)),
        )
        for group in plan.groups
    )
    return msgspec.structs.replace(plan, groups=groups)
