"""Recovery plans: what there are, their runs, and their forms."""

from __future__ import annotations

import secrets
from typing import Final

from fastapi import APIRouter, Response

from standby.errors import InvalidRequest
from standby.portal.fields import Field, FormPage, Option, refused, show
from standby.portal.visit import Form, Route, Visit, Visiting, to
from standby.recovery.plan_document import Kind, parse
from standby.vault import listing, overview, plans
from standby.vault.jobs import Role
from standby.vault.schema import PlanRow

router = APIRouter(prefix="/plans", include_in_schema=False, route_class=Route)

_EXAMPLE: Final = """name = "shop"

[[groups]]
name = "databases"

[[groups.members]]
store = "s3://replicas"
replica = "db"
probes = [{ kind = "agent" }]

[[groups]]
name = "web servers"

[[groups.members]]
store = "s3://replicas"
replica = "web"

[[groups.after]]
kind = "manual"
name = "dns"
text = "Point shop.example at the recovery site."
"""

_RUNS: Final = {
    Kind.TEST: "Test: copies start in isolation, and nothing else changes",
    Kind.UNPLANNED: "Unplanned: the sources are gone; their newest points start",
    Kind.PLANNED: "Planned: the sources are shut down and nothing is lost",
}


@router.get("")
def show_plans(visit: Visiting) -> Response:
    rows = [(row, parse(row.document, row.name)) for row in plans.listed(visit.vault)]
    names = {one.id: one.name for one in listing.hosts(visit.vault, revoked=True)}
    runs = {
        row.id: next(
            (
                job
                for kind in plans.JOBS.values()
                for job in overview.jobs(visit.vault, kind=kind, limit=50)
                if job.subject == row.name
            ),
            None,
        )
        for row, _ in rows
    }
    return visit.page("plans.html", rows=rows, hosts=names, runs=runs)


@router.get("/new")
def ask_new(visit: Visiting) -> Response:
    visit.actor.must(Role.ADMINISTRATOR, "keeping a recovery plan")
    return show(visit, _form(visit, None))


@router.post("")
def keep(visit: Visiting, form: Form) -> Response:
    try:
        plans.keep(visit.vault, visit.actor, form["document"], form["host"])
    except InvalidRequest as error:
        return refused(visit, _form(visit, None), form, error)
    return to(visit, "/plans")


@router.get("/{plan}/change")
def ask_change(visit: Visiting, plan: str) -> Response:
    visit.actor.must(Role.ADMINISTRATOR, "keeping a recovery plan")
    return show(visit, _form(visit, _row(visit, plan)))


@router.get("/{plan}/run")
def ask_run(visit: Visiting, plan: str) -> Response:
    visit.actor.must(Role.OPERATOR, "running a recovery plan")
    return show(visit, _run_form(_row(visit, plan)))


@router.post("/{plan}/run")
def run(visit: Visiting, form: Form, plan: str) -> Response:
    try:
        job = plans.begin(
            visit.vault,
            visit.actor,
            plan,
            form["kind"],
            confirm=form["confirm"],
            source_down=bool(form["source_down"]),
            once=form["once"],
        )
    except InvalidRequest as error:
        return refused(visit, _run_form(_row(visit, plan)), form, error)
    return to(visit, f"/jobs/{job.id}")


@router.get("/{plan}/delete")
def ask_delete(visit: Visiting, plan: str) -> Response:
    visit.actor.must(Role.ADMINISTRATOR, "deleting a recovery plan")
    return show(visit, _delete_form(_row(visit, plan)))


@router.post("/{plan}/delete")
def delete(visit: Visiting, form: Form, plan: str) -> Response:
    try:
        plans.delete(visit.vault, visit.actor, plan)
    except InvalidRequest as error:
        return refused(visit, _delete_form(_row(visit, plan)), form, error)
    return to(visit, "/plans")


@router.get("/runs/{job}/clean-up")
def ask_clean_up(visit: Visiting, job: str) -> Response:
    visit.actor.must(Role.OPERATOR, "cleaning up a recovery plan")
    return show(visit, _clean_up_form(job))


@router.post("/runs/{job}/clean-up")
def clean_up(visit: Visiting, form: Form, job: str) -> Response:
    try:
        begun = plans.clean_up(visit.vault, visit.actor, job)
    except InvalidRequest as error:
        return refused(visit, _clean_up_form(job), form, error)
    return to(visit, f"/jobs/{begun.id}")


def _row(visit: Visit, plan: str) -> PlanRow:
    with visit.vault.session() as session:
        return plans.find_plan(session, plan)


def _form(visit: Visit, row: PlanRow | None) -> FormPage:
    hosts = [Option(one.id, one.name) for one in listing.hosts(visit.vault)]
    return FormPage(
        f"Recovery plan {row.name}" if row else "New recovery plan",
        "/plans",
        "Keep the plan",
        "/plans",
        text=("Its scripts run on the recovery host, with the rights of the agent there.",),
        fields=(
            Field(
                "host",
                "Recovery host",
                "select",
                row.host if row else "",
                hosts,
                "it starts the machines",
                True,
            ),
            Field(
                "document",
                "The plan, as TOML",
                "textarea",
                row.document if row else _EXAMPLE,
                help="docs/plans.md tells all that it may hold",
                required=True,
            ),
        ),
        lacks=() if hosts else (("There is no host yet: register one first", "/infrastructure"),),
    )


def _run_form(row: PlanRow) -> FormPage:
    return FormPage(
        f"Run {row.name}",
        f"/plans/{row.id}/run",
        "Run the plan",
        "/plans",
        text=("The plan is checked before anything is started.",),
        fields=(
            Field(
                "kind",
                "What it does",
                "select",
                Kind.TEST.value,
                [Option(one.value, _RUNS[one]) for one in Kind],
            ),
            Field("source_down", "The source machines are off: I have made sure", "checkbox"),
            Field(
                "confirm",
                f"To confirm, type the plan’s name: {row.name}",
                help="not for a test",
                extra=(("autocomplete", "off"), ("spellcheck", "false"), ("autocapitalize", "none")),
            ),
            Field("once", "", "hidden", secrets.token_urlsafe(16)),
        ),
        danger=True,
    )


def _delete_form(row: PlanRow) -> FormPage:
    return FormPage(
        f"Delete the plan {row.name}?",
        f"/plans/{row.id}/delete",
        "Delete it",
        "/plans",
        text=("What its runs started stays as it is.",),
        danger=True,
    )


def _clean_up_form(job: str) -> FormPage:
    return FormPage(
        "Clean up this run of a plan?",
        f"/plans/runs/{job}/clean-up",
        "Clean it up",
        f"/jobs/{job}",
        text=("The machines that the run started are removed, with all that their guests wrote.",),
        danger=True,
    )
