"""Which agents do what for a job: its parts. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from standby.errors import Bug
from standby.link import recovery, requests, upkeep
from standby.link.messages import Order, Seen
from standby.replication.policy import Policy
from standby.vault.errors import Conflict

Work = requests.AnyRequest | recovery.AnyRecoveryOrder | upkeep.AnyUpkeepOrder


class Part(NamedTuple):
    """One agent's share of a job. work: as an `Order` carries it."""

    host: str
    work: Work


class Subject(NamedTuple):
    """What a job is about. host: that has the machine. replicating: that replicates it, "" if none does. recovery: that
    runs or would run its recovered copy. run: of that, "" if there is none. store, replica: "" if not protected.
    upkeep: the host that takes care of the replica."""

    machine: str
    host: str
    seen: Seen
    replicating: str = ""
    recovery: str = ""
    run: str = ""
    store: str = ""
    replica: str = ""
    upkeep: str = ""


Params = Mapping[str, Any]
Planner = Callable[[Subject, Params], list[Part]]


def parts(kind: str, subject: Subject, params: Params) -> list[Part]:
    """Raises Conflict where the machine is not such that this can be done."""
    planner = _PLANNERS.get(kind)
    if planner is None:
        raise Bug(f"no parts are known for a job {kind}", subject=subject.machine)
    return planner(subject, params)


def encoded(all_parts: list[Part]) -> list[Any]:
    """As the database keeps them."""
    return [{"host": one.host, "work": msgspec.to_builtins(one.work)} for one in all_parts]


def order(job: str, lease: int, title: str, part: Mapping[str, Any]) -> Order:
    """A kept part as it is given to its agent."""
    return Order(
        job=job,
        lease=lease,
        title=title,
        work=msgspec.convert(part["work"], type=Work),
    )


def answered(kept: list[Any], part: int) -> list[Any]:
    """Kept parts in which this one was told that its manual action is done."""
    found = list(kept)
    found[part] = {**found[part], "work": {**found[part]["work"], "answered": True}}
    return found


def again(kept: list[Any], part: int, result: Mapping[str, Any]) -> list[Any]:
    """Kept parts for another try: a run of a plan that stopped is taken up again."""
    work = kept[part]["work"]
    run = result.get(f"plan-{work.get('part', '')}", "") if work["type"] == recovery.RunPlan.__name__ else ""
    found = list(kept)
    found[part] = {**kept[part], "work": {**work, "run": run}} if run else kept[part]
    return found


def _planned(subject: Subject, params: Params) -> list[Part]:
    if not subject.replicating:
        raise Conflict("it is not protected", subject=subject.machine, hint="fail it over unplanned")
    seal = requests.Seal(
        machine=subject.seen.name,
        force=bool(params.get("force", False)),
        shutdown_limit=float(params.get("shutdown_limit", 120.0)),
        patience=float(params.get("patience", 600.0)),
    )
    return [
        Part(subject.replicating, seal),
        Part(_recovery_host(subject), _started(recovery.FailOver, subject, params)),
    ]


def _plan(kind: str) -> Planner:
    def planner(subject: Subject, params: Params) -> list[Part]:
        work = recovery.RunPlan(
            document=params["document"],
            kind=kind,
            source_down=bool(params.get("source_down", False)),
        )
        if kind != "planned" or subject.replicating == subject.recovery:
            return [Part(_recovery_host(subject), work)]
        return [
            Part(subject.replicating, msgspec.structs.replace(work, part="seal")),
            Part(_recovery_host(subject), msgspec.structs.replace(work, part="start")),
        ]

    return planner


def _enable(subject: Subject, params: Params) -> list[Part]:
    if subject.seen.connection is None:
        raise Conflict(
            subject.seen.problem or "its agent does not know how it is reached",
            subject=subject.machine,
            hint="see the machine's page for what its host has to give it",
        )
    work = requests.Protect(
        machine=subject.seen.name,
        connection=subject.seen.connection,
        store=params["store"],
        replica=params.get("replica") or subject.seen.name,
        policy=msgspec.convert(params["policy"], Policy),
        excluded=tuple(params.get("excluded", ())),
        spool=params.get("spool", ""),
        key_file=params.get("key_file", ""),
        take_over=bool(params.get("take_over", False)),
    )
    return [Part(subject.host, work)]


def _request(make: Callable[[str, Params], requests.AnyRequest]) -> Planner:
    def planner(subject: Subject, params: Params) -> list[Part]:
        if not subject.replicating:
            raise Conflict("it is not protected", subject=subject.machine, hint="enable its protection first")
        return [Part(subject.replicating, make(subject.seen.name, params))]

    return planner


_OfReplica = type[recovery.TestFailover] | type[recovery.FailOver] | type[recovery.Prove]


def _of_replica(kind: _OfReplica) -> Planner:
    def planner(subject: Subject, params: Params) -> list[Part]:
        host = subject.recovery or (subject.upkeep if kind is recovery.Prove else "")
        return [Part(_recovery_host(subject._replace(recovery=host)), _started(kind, subject, params))]

    return planner


def _started(
    kind: _OfReplica, subject: Subject, params: Params
) -> recovery.TestFailover | recovery.FailOver | recovery.Prove:
    if not subject.replica:
        raise Conflict("it has no replica", subject=subject.machine, hint="enable its protection first")
    more = {"source_down": bool(params.get("source_down", False))} if kind is recovery.FailOver else {}
    return kind(
        store=subject.store,
        replica=subject.replica,
        point=str(params.get("point") or "newest"),
        network=params.get("network") or "isolated",
        boot_limit=params.get("boot_limit", 300.0),
        key_file=params.get("key_file", ""),
        **more,
    )


def _of_run(make: Callable[[str, Params], recovery.AnyRecoveryOrder]) -> Planner:
    def planner(subject: Subject, params: Params) -> list[Part]:
        if not subject.run:
            raise Conflict(
                "no host has a recovered copy of it", subject=subject.machine, hint="fail it over first"
            )
        return [Part(_recovery_host(subject), make(subject.run, params))]

    return planner


def _of_store(make: Callable[[Subject, Params], upkeep.AnyUpkeepOrder]) -> Planner:
    def planner(subject: Subject, params: Params) -> list[Part]:
        if not subject.replica:
            raise Conflict("it has no replica", subject=subject.machine, hint="enable its protection first")
        return [Part(subject.upkeep, make(subject, params))]

    return planner


def _recovery_host(subject: Subject) -> str:
    if not subject.recovery:
        raise Conflict(
            "no recovery host was named", subject=subject.machine, hint="choose the host that is to run it"
        )
    return subject.recovery


_PLANNERS: Final[Mapping[str, Planner]] = {
    "enable-protection": _enable,
    "disable-protection": _request(
        lambda name, params: requests.Unprotect(machine=name, gone=bool(params.get("gone", False)))
    ),
    "pause": _request(lambda name, _: requests.Pause(machine=name)),
    "resume": _request(lambda name, _: requests.Resume(machine=name)),
    "retry": _request(lambda name, _: requests.Retry(machine=name)),
    "point": _request(lambda name, _: requests.MakePoint(machine=name)),
    "resync": _request(
        lambda name, params: requests.Resync(machine=name, disks=tuple(params.get("disks", ())))
    ),
    "cancel-resync": _request(lambda name, _: requests.CancelResync(machine=name)),
    "set-policy": _request(
        lambda name, params: requests.SetPolicy(
            machine=name, policy=msgspec.convert(params["policy"], Policy)
        )
    ),
    "leave-out-disk": _request(lambda name, params: requests.LeaveOut(machine=name, disk=params["disk"])),
    "take-in-disk": _request(lambda name, params: requests.TakeIn(machine=name, disk=params["disk"])),
    "test-failover": _of_replica(recovery.TestFailover),
    "failover": _of_replica(recovery.FailOver),
    "planned-failover": _planned,
    "prove": _of_replica(recovery.Prove),
    "test-plan": _plan("test"),
    "run-plan": _plan("unplanned"),
    "planned-plan": _plan("planned"),
    "clean-up-plan": lambda subject, _: [
        Part(_recovery_host(subject), recovery.CleanUpPlan(run=subject.run))
    ],
    "clean-up-test": _of_run(lambda run, _: recovery.CleanUpTest(run=run)),
    "change-point": _of_run(lambda run, params: recovery.ChangePoint(run=run, point=str(params["point"]))),
    "commit": _of_run(lambda run, _: recovery.Commit(run=run)),
    "cancel-failover": _of_run(lambda run, _: recovery.CancelFailover(run=run)),
    "resume-failover": _of_run(lambda run, _: recovery.ResumeFailover(run=run)),
    "hydrate": _of_run(lambda run, _: recovery.Hydrate(run=run)),
    "retention": _of_store(
        lambda subject, params: upkeep.Retain(
            store=subject.store, replica=subject.replica, keep=tuple(params["keep"])
        )
    ),
    "scrub": _of_store(
        lambda subject, params: upkeep.Scrub(
            store=subject.store,
            replica=subject.replica,
            fraction=float(params.get("fraction", 1.0)),
            seed=int(params.get("seed", 0)),
        )
    ),
    "reverse-replicate": _of_run(
        lambda run, params: recovery.Reverse(
            run=run, frequency=int(params.get("frequency", 30)), key_file=params.get("key_file", "")
        )
    ),
}
