"""Alerts and the channels in which they are told."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query, Response

from standby.errors import InvalidRequest
from standby.portal.fields import Field, FormPage, Option, refused, show
from standby.portal.visit import Form, Route, Visiting, local, to
from standby.vault import alerts, catalogue, listing
from standby.vault.catalogue import CHANNEL_KINDS
from standby.vault.jobs import Role
from standby.vault.observe import Condition
from standby.vault.usage import undelivered

router = APIRouter(include_in_schema=False, route_class=Route)

ON_PAGE: Final = 50
TITLES: Final = {
    Condition.HEALTH_CRITICAL: "Health is Critical",
    Condition.HOST_SILENT: "No heartbeat of a host",
    Condition.FAILOVER_FAILED: "A failover failed",
    Condition.RESYNC_REQUIRED: "Resynchronization is required",
    Condition.DRILL_OVERDUE: "A test failover is overdue",
}


@router.get("/alerts")
def show_alerts(
    visit: Visiting, cleared: bool = False, before: Annotated[str, Query(max_length=26)] = ""
) -> Response:
    found = listing.alerts(visit.vault, cleared=cleared, before=before, limit=ON_PAGE)
    administers = visit.may("administrator")
    return visit.page(
        "alerts.html",
        alerts=found,
        cleared=cleared,
        before=before,
        next=found[-1].id if len(found) == ON_PAGE else None,
        titles=TITLES,
        channels=listing.channels(visit.vault, visit.actor) if administers else [],
        undelivered=undelivered(visit.vault, visit.actor) if administers else {},
    )


@router.post("/alerts/{alert}/acknowledge")
def acknowledge(visit: Visiting, form: Form, alert: str) -> Response:
    alerts.acknowledge(visit.vault, visit.actor, alert)
    return to(visit, local(form["next"] or "/alerts"))


def _form() -> FormPage:
    return FormPage(
        "New channel",
        "/channels",
        "Create the channel",
        "/alerts",
        text=("Each alert is told there when it is raised and when it ends, and tried again for a day.",),
        fields=(
            Field("name", "Name", required=True, extra=(("maxlength", "100"),)),
            Field(
                "kind",
                "Kind",
                "select",
                "webhook",
                [Option(one, one) for one in CHANNEL_KINDS],
                help="a webhook is sent JSON; apprise speaks to mail, chat and paging services",
            ),
            Field(
                "target",
                "Address",
                required=True,
                help="https://… or an apprise URL; it is kept as a secret and not shown again",
                extra=(("autocomplete", "off"),),
            ),
            Field(
                "kinds",
                "Only these alerts",
                "checks",
                [],
                [Option(one.value, title) for one, title in TITLES.items()],
                "none chosen: all of them",
            ),
        ),
    )


@router.get("/channels/new")
def ask_channel(visit: Visiting) -> Response:
    visit.actor.must(Role.ADMINISTRATOR, "creating a channel")
    return show(visit, _form())


@router.post("/channels")
def create_channel(visit: Visiting, form: Form) -> Response:
    try:
        if not form["name"] or not form["target"]:
            raise InvalidRequest("a channel has a name and an address", subject="channel", hint="give both")
        catalogue.new_channel(
            visit.vault, visit.actor, form["name"], form["kind"], form["target"], form.all("kinds")
        )
    except InvalidRequest as error:
        return refused(visit, _form(), form, error)
    return to(visit, "/alerts")


@router.get("/channels/{channel}/delete")
def ask_delete(visit: Visiting, channel: str) -> Response:
    visit.actor.must(Role.ADMINISTRATOR, "deleting a channel")
    return show(
        visit,
        FormPage(
            "Delete this channel?",
            f"/channels/{channel}/delete",
            "Delete it",
            "/alerts",
            text=("No alert is told there any more.",),
            danger=True,
        ),
    )


@router.post("/channels/{channel}/delete")
def delete_channel(visit: Visiting, form: Form, channel: str) -> Response:
    catalogue.delete_channel(visit.vault, visit.actor, channel)
    return to(visit, "/alerts")
