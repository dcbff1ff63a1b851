"""Machines: the list, one in full, and the forms that begin jobs on it."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from standby.errors import InvalidRequest
from standby.portal import kinds
from standby.portal.diagram import diagrams
from standby.portal.fields import refused, show
from standby.portal.timeline import timeline
from standby.portal.visit import Form, Route, Visit, Visiting, to
from standby.replication.forecast import Sample as Amount
from standby.replication.forecast import limit_of, reached
from standby.replication.states import State
from standby.vault import listing, machines, overview
from standby.vault.errors import NotFound
from standby.vault.jobs import KINDS
from standby.vault.machines import Detail
from standby.vault.schema import Sample
from standby.vault.usage import progress

router = APIRouter(prefix="/machines", include_in_schema=False, route_class=Route)

ON_PAGE: Final = 50
POINTS: Final = 120

Sort = Literal["name", "health", "rpo", "host", "state"]
Level = Literal["", "0", "1", "2", "3"]
Protected = Literal["", "yes", "no"]


@router.get("")
def show_list(
    visit: Visiting,
    search: Annotated[str, Query(max_length=200)] = "",
    level: Level = "",
    state: Annotated[str, Query(max_length=50)] = "",
    site: Annotated[str, Query(max_length=26)] = "",
    host: Annotated[str, Query(max_length=26)] = "",
    protected: Protected = "",
    sort: Sort = "health",
    descending: bool = False,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> Response:
    found = machines.listed(
        visit.vault,
        search=search.strip(),
        level=int(level) if level else None,
        state=state,
        site=site,
        host=host,
        protected={"yes": True, "no": False}.get(protected),
        sort=sort,
        descending=descending,
        offset=offset,
        limit=ON_PAGE,
    )
    chosen: dict[str, Any] = {
        "search": search,
        "level": level,
        "state": state,
        "site": site,
        "host": host,
        "protected": protected,
        "sort": sort,
        "descending": "true" if descending else "",
        "offset": offset or "",
    }
    jobs = [row.job for row in found.rows if row.job]

    def link(**changes: object) -> str:
        kept = {name: value for name, value in {**chosen, **changes}.items() if value not in ("", None)}
        return "/machines" + (f"?{urlencode(kept)}" if kept else "")

    return visit.page(
        "machines.html",
        found=found,
        chosen=chosen,
        filtered=any(chosen[name] for name in ("search", "level", "state", "site", "host", "protected")),
        link=link,
        sites=listing.sites(visit.vault),
        hosts=listing.hosts(visit.vault),
        states=[*(one.value for one in State), machines.UNATTENDED],
        progress=progress(visit.vault, jobs),
        first=offset + 1,
        last=offset + len(found.rows),
        before=max(0, offset - ON_PAGE) if offset else None,
    )


@router.get("/{machine}")
def show_machine(visit: Visiting, machine: str, hours: Annotated[int, Query(ge=1, le=336)] = 24) -> Response:
    detail = machines.shown(visit.vault, machine)
    key = detail.machine.id
    points = machines.points(visit.vault, key, limit=POINTS)
    jobs = overview.jobs(visit.vault, machine=key, limit=10)
    return visit.page(
        "machine.html",
        detail=detail,
        unattended=machines.UNATTENDED,
        hours=hours,
        diagrams=diagrams(
            detail.relationship.state if detail.relationship else "", [run for _, run in detail.runs]
        ),
        points=points,
        timeline=timeline(points),
        jobs=jobs,
        progress=progress(visit.vault, jobs),
        events=machines.events(visit.vault, machine=key, limit=25),
        actions=[
            _action(kind)
            for kind in detail.possible
            if kinds.known(kind) and visit.actor.role >= KINDS[kind].role
        ],
        forecast=forecast(detail, machines.series(visit.vault, key, timedelta(hours=1))),
    )


@router.get("/{machine}/series")
def series(visit: Visiting, machine: str, hours: Annotated[int, Query(ge=1, le=336)] = 24) -> Response:
    """For charts: milliseconds of the epoch, seconds, bytes, bytes per second."""
    samples = machines.series(visit.vault, machine, timedelta(hours=hours))
    return JSONResponse(
        {
            "at": [int(one.at.timestamp() * 1000) for one in samples],
            "rpo": [None if one.rpo is None else round(one.rpo, 1) for one in samples],
            "latency": [round(one.latency, 2) for one in samples],
            "queued": [one.queued_bytes for one in samples],
            "churn": churn(samples),
        }
    )


@router.get("/{machine}/events")
def show_events(visit: Visiting, machine: str, before: Annotated[str, Query(max_length=26)] = "") -> Response:
    detail = machines.shown(visit.vault, machine)
    events = machines.events(visit.vault, machine=detail.machine.id, before=before, limit=100)
    return visit.page("events.html", detail=detail, events=events, more=len(events) == 100)


@router.get("/{machine}/begin/{kind}")
def ask(
    visit: Visiting,
    machine: str,
    kind: str,
    point: Annotated[str, Query(max_length=20)] = "newest",
    disk: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    return show(visit, kinds.form_page(_known(visit, kind), _given(visit, machine, point=point, disk=disk)))


@router.post("/{machine}/begin/{kind}")
def begin(visit: Visiting, form: Form, machine: str, kind: str) -> Response:
    _known(visit, kind)
    try:
        job = machines.begin(
            visit.vault,
            visit.actor,
            machine,
            kind,
            kinds.parameters(kind, form),
            confirm=form["confirm"],
            once=form["once"][:100],
        )
    except InvalidRequest as error:
        return refused(visit, kinds.form_page(kind, _given(visit, machine)), form, error)
    return to(visit, f"/jobs/{job.id}")


def _known(visit: Visit, kind: str) -> str:
    if not kinds.known(kind):
        raise NotFound("there is no such job", subject=kind, hint="see the machine’s page")
    visit.actor.must(KINDS[kind].role, KINDS[kind].title)
    return kind


def _given(visit: Visit, machine: str, **asked: str) -> kinds.Given:
    detail = machines.shown(visit.vault, machine)
    return kinds.Given(
        detail,
        listing.hosts(visit.vault),
        listing.policies(visit.vault),
        listing.stores(visit.vault),
        machines.points(visit.vault, detail.machine.id, limit=machines.MOST),
        asked,
    )


_FIRST: Final = ("enable-protection", "test-failover", "failover", "resume", "commit", "clean-up-test")


def _action(kind: str) -> dict[str, Any]:
    spec = KINDS[kind]
    return {"kind": kind, "title": spec.title, "danger": spec.dangerous, "first": kind in _FIRST}


def forecast(detail: Detail, samples: list[Sample]) -> dict[str, Any] | None:
    """The queue against its limit. samples: of the last hour, oldest first. None of a machine without protection."""
    standing = detail.standing
    if standing is None:
        return None
    limit = limit_of(sum(disk.size for disk in standing.disks), standing.policy.backlog_percent)
    amounts = [Amount(one.at, one.queued_bytes) for one in samples]
    amounts = amounts or [Amount(detail.machine.created, standing.queued_bytes)]
    return {
        "queued": standing.queued_bytes,
        "limit": limit,
        "reached": reached(amounts[-30:], limit) if limit else None,
    }


def churn(samples: list[Sample]) -> list[int | None]:
    """Bytes that the guest wrote per second, between each sample and the one before: they count within a monitoring
    interval, and begin anew with the next."""
    found: list[int | None] = [None] if samples else []
    for before, now in pairwise(samples):
        seconds = (now.at - before.at).total_seconds()
        grown = now.churn - before.churn if now.churn >= before.churn else now.churn
        found.append(int(grown / seconds) if seconds > 0 else None)
    return found
