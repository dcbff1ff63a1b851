"""Policies: what there are, and their form."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import time
from typing import Any, Final

import msgspec
from fastapi import APIRouter, Response

from standby.errors import InvalidRequest
from standby.portal.fields import Field, FormPage, Option, refused, show
from standby.portal.render import every
from standby.portal.visit import Filled, Form, Route, Visiting, to
from standby.replication.policy import FREQUENCIES, Policy
from standby.replication.window import Start
from standby.vault import catalogue, listing
from standby.vault.jobs import Role
from standby.vault.usage import usage

router = APIRouter(prefix="/policies", include_in_schema=False, route_class=Route)

DRILL_DAYS: Final = 90
SCRUB_DAYS: Final = 7
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MIB: Final = 1 << 20


@router.get("")
def show_policies(visit: Visiting) -> Response:
    rows = [(row, msgspec.convert(row.body, Policy)) for row in listing.policies(visit.vault)]
    return visit.page("policies.html", rows=rows, used=usage(visit.vault).policies)


@router.get("/new")
def ask_new(visit: Visiting) -> Response:
    visit.actor.must(Role.ADMINISTRATOR, "creating a policy")
    return show(visit, _form(None, "", Policy(), DRILL_DAYS, (), SCRUB_DAYS))


@router.post("")
def create(visit: Visiting, form: Form) -> Response:
    try:
        if not 1 <= len(form["name"]) <= 100:
            raise InvalidRequest("a policy has a name", subject="policy", hint="give one")
        catalogue.new_policy(
            visit.vault, visit.actor, form["name"], body_of(form), _drill_days(form), **_care(form)
        )
    except InvalidRequest as error:
        return refused(visit, _form(None, "", Policy(), DRILL_DAYS, (), SCRUB_DAYS), form, error)
    return to(visit, "/policies")


@router.get("/{policy}/change")
def ask_change(visit: Visiting, policy: str) -> Response:
    visit.actor.must(Role.ADMINISTRATOR, "changing a policy")
    return show(visit, _of(visit, policy))


@router.post("/{policy}/change")
def change(visit: Visiting, form: Form, policy: str) -> Response:
    try:
        catalogue.change_policy(
            visit.vault, visit.actor, policy, body_of(form), _drill_days(form), **_care(form)
        )
    except InvalidRequest as error:
        return refused(visit, _of(visit, policy), form, error)
    return to(visit, "/policies")


@router.get("/{policy}/delete")
def ask_delete(visit: Visiting, policy: str) -> Response:
    visit.actor.must(Role.ADMINISTRATOR, "deleting a policy")
    return show(visit, _delete_form(policy))


@router.post("/{policy}/delete")
def delete(visit: Visiting, form: Form, policy: str) -> Response:
    try:
        catalogue.delete_policy(visit.vault, visit.actor, policy)
    except InvalidRequest as error:
        return refused(visit, _delete_form(policy), form, error)
    return to(visit, "/policies")


def _delete_form(policy: str) -> FormPage:
    return FormPage(
        "Delete this policy?",
        f"/policies/{policy}/delete",
        "Delete it",
        "/policies",
        text=("Only a policy that no machine is protected under can be deleted.",),
        danger=True,
    )


def _of(visit: Visiting, policy: str) -> FormPage:
    with visit.vault.session() as session:
        row = catalogue.find_policy(session, policy)
    return _form(
        row.id, row.name, msgspec.convert(row.body, Policy), row.drill_days, row.keep, row.scrub_days
    )


def _form(
    key: str | None, name: str, policy: Policy, drill_days: int, keep: Sequence[str], scrub_days: int
) -> FormPage:
    resync, bandwidth, monitoring = policy.resync, policy.bandwidth, policy.monitoring
    days = [Option(str(number), day) for number, day in enumerate(_DAYS)]
    resync_group, rate_group, more = "Resynchronization", "Bandwidth of each machine", "Limits and monitoring"
    fields = [
        Field(
            "frequency",
            "A point every",
            "select",
            str(policy.frequency),
            [Option(str(one), every(one)) for one in FREQUENCIES],
        ),
        _number("retention_hours", "Hours for which every point is kept", policy.retention_hours, 1),
        Field(
            "keep",
            "And after that",
            value=", ".join(keep),
            help="1h:7d, 1d:30d keeps one an hour for a week, one a day for a month; empty: none",
        ),
        _number(
            "application_consistent_hours",
            "Hours between application-consistent points",
            policy.application_consistent_hours,
            0,
            help="0: never; 12 at most",
        ),
        _number(
            "drill_days",
            "Days between test failovers",
            drill_days,
            0,
            help="an alert tells of one that is overdue; 0: never",
        ),
        _number(
            "scrub_days",
            "Days between scrubs",
            scrub_days,
            0,
            help="each looks through the replica for damage; 0: never",
        ),
        Field(
            "resync_start",
            "Begins",
            "select",
            resync.start.value,
            [
                Option(Start.AUTOMATIC.value, "at once"),
                Option(Start.SCHEDULED.value, "in the hours below, by the host’s clock"),
                Option(Start.MANUAL.value, "when an operator starts it"),
            ],
            group=resync_group,
        ),
        _time("resync_from", "From", resync.hours.start, resync_group),
        _time("resync_until", "Until", resync.hours.end, resync_group),
        Field(
            "resync_days",
            "On",
            "checks",
            [str(one) for one in sorted(resync.hours.days)],
            days,
            group=resync_group,
        ),
        _rate("work", "In work hours, MiB/s", bandwidth.work, rate_group),
        _rate("other", "Outside of them, MiB/s", bandwidth.other, rate_group),
        _time("work_from", "Work hours from", bandwidth.work_hours.start, rate_group),
        _time("work_until", "until", bandwidth.work_hours.end, rate_group),
        Field(
            "work_days",
            "On",
            "checks",
            [str(one) for one in sorted(bandwidth.work_hours.days)],
            days,
            group=rate_group,
        ),
        _number("upload_threads", "Upload threads", policy.upload_threads, 1, group=rate_group),
        _number(
            "backlog_percent",
            "Queue of a disk, % of its size at most",
            policy.backlog_percent,
            1,
            group=more,
        ),
        _number("reserve", "MiB that logs leave free where they lie", policy.reserve // _MIB, 0, group=more),
        _number("monitoring_hours", "Monitoring interval, hours", monitoring.hours, 1, group=more),
        _time("monitoring_start", "One begins at", monitoring.start, more),
    ]
    if key is None:
        fields.insert(0, Field("name", "Name", required=True, extra=(("maxlength", "100"),)))
    return FormPage(
        f"Policy {name}" if key else "New policy",
        f"/policies/{key}/change" if key else "/policies",
        "Change the policy" if key else "Create the policy",
        "/policies",
        text=("It takes effect on its machines by a job each.",) if key else (),
        fields=fields,
    )


def _number(name: str, label: str, value: int, least: int, *, help: str = "", group: str = "") -> Field:
    extra = (("min", str(least)),)
    return Field(name, label, "number", str(value), help=help, required=True, group=group, extra=extra)


def _time(name: str, label: str, value: time, group: str) -> Field:
    return Field(name, label, "time", f"{value:%H:%M}", required=True, group=group)


def _rate(name: str, label: str, value: int | None, group: str) -> Field:
    shown = "" if value is None else f"{value / _MIB:g}"
    extra = (("min", "0"), ("step", "any"))
    return Field(name, label, "number", shown, help="empty: no limit", group=group, extra=extra)


def body_of(form: Filled) -> dict[str, Any]:
    """A policy as `vault.catalogue` takes it. Raises InvalidRequest."""
    defaults = Policy()

    def days(name: str) -> list[int]:
        return sorted(int(one) for one in form.all(name) if one.isdigit())

    return {
        "frequency": form.number("frequency", defaults.frequency),
        "retention_hours": form.number("retention_hours", defaults.retention_hours),
        "application_consistent_hours": form.number("application_consistent_hours", 0),
        "backlog_percent": form.number("backlog_percent", defaults.backlog_percent),
        "reserve": form.number("reserve", defaults.reserve // _MIB) * _MIB,
        "upload_threads": form.number("upload_threads", defaults.upload_threads),
        "resync": {
            "start": form["resync_start"] or Start.AUTOMATIC.value,
            "hours": {
                "start": _wall(form["resync_from"]),
                "end": _wall(form["resync_until"]),
                "days": days("resync_days"),
            },
        },
        "bandwidth": {
            "work": _bytes(form["work"]),
            "other": _bytes(form["other"]),
            "work_hours": {
                "start": _wall(form["work_from"]),
                "end": _wall(form["work_until"]),
                "days": days("work_days"),
            },
        },
        "monitoring": {
            "hours": form.number("monitoring_hours", defaults.monitoring.hours),
            "start": _wall(form["monitoring_start"]),
        },
    }


def _wall(text: str) -> str:
    return f"{text}:00" if len(text) == 5 else text


def _bytes(text: str) -> int | None:
    if not text:
        return None
    try:
        return int(float(text) * _MIB)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(
            f"{text!r} is no rate", subject="bandwidth", hint="give MiB/s, or nothing"
        ) from error


def _care(form: Filled) -> dict[str, Any]:
    """Of the replica in its store."""
    days = form.number("scrub_days", SCRUB_DAYS)
    if not 0 <= days <= 3650:
        raise InvalidRequest("a scrub is due every 1 to 3650 days, or never (0)", subject="scrub days")
    return {"keep": [one.strip() for one in form["keep"].split(",") if one.strip()], "scrub_days": days}


def _drill_days(form: Filled) -> int:
    days = form.number("drill_days", DRILL_DAYS)
    if not 0 <= days <= 3650:
        raise InvalidRequest(
            "a test failover is due every 1 to 3650 days, or never (0)", subject="drill days"
        )
    return days
