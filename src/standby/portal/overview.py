"""The first page: the whole at one look."""

from __future__ import annotations

from typing import NamedTuple

from fastapi import APIRouter, Response

from standby.portal.alerts import TITLES
from standby.portal.visit import Route, Visit, Visiting
from standby.vault import overview as looking
from standby.vault.jobs import JobState
from standby.vault.overview import Overview
from standby.vault.usage import progress

router = APIRouter(include_in_schema=False, route_class=Route)


class Step(NamedTuple):
    """Of getting started. done: it is. form: whether `path` shows a form that opens over the page."""

    text: str
    done: bool
    path: str
    button: str
    role: str = "administrator"
    form: bool = True


@router.get("/")
def show_overview(visit: Visiting) -> Response:
    whole = looking.overview(visit.vault)
    recent = looking.jobs(visit.vault, limit=8)
    return visit.page(
        "overview.html",
        whole=whole,
        steps=steps(visit, whole),
        jobs=recent,
        progress=progress(visit.vault, recent),
        JobState=JobState,
        alert_titles=TITLES,
    )


def steps(visit: Visit, whole: Overview) -> list[Step]:
    """What is left until a machine is protected; none once one is."""
    protected = sum(whole.levels.values())
    if protected:
        return []
    return [
        Step(
            "Create a site: hosts that can run each other’s machines",
            whole.sites > 0,
            "/sites/new",
            "New site",
        ),
        Step("Register a host with a key", whole.hosts > 0, "/keys/new", "New registration key"),
        Step("Name a store, where replicas go", whole.stores > 0, "/stores/new", "New store"),
        Step("Create a policy: how often, for how long", whole.policies > 0, "/policies/new", "New policy"),
        Step(
            "Protect a machine: choose it and press Enable protection",
            protected > 0,
            "/machines?protected=no",
            "Choose a machine",
            "operator",
            form=False,
        ),
    ]
