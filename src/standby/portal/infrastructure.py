"""Sites, hosts, the keys with which hosts register, and stores."""

from __future__ import annotations

import re
from typing import Final

import msgspec
from fastapi import APIRouter, Response

from standby.errors import InvalidRequest
from standby.portal.fields import Field, FormPage, options, refused, show
from standby.portal.visit import Form, Route, Visit, Visiting, to
from standby.vault import catalogue, hosts, listing, machines
from standby.vault.heartbeat import SKEW
from standby.vault.hosts import KEY_DAYS, TOKEN_LIFE
from standby.vault.jobs import Role
from standby.vault.schema import Host
from standby.vault.usage import usage

router = APIRouter(include_in_schema=False, route_class=Route)

MOST_DAYS: Final = 30
HERE: Final = "/infrastructure"


@router.get("/infrastructure")
def show_infrastructure(visit: Visiting) -> Response:
    now = visit.vault.clock.now()
    known = listing.hosts(visit.vault, revoked=True)
    return visit.page(
        "infrastructure.html",
        sites=listing.sites(visit.vault),
        hosts=[one for one in known if not one.revoked],
        revoked=[one for one in known if one.revoked],
        wrong={one.id: wrong(one) for one in known},
        keys=[
            (one, "used" if one.used else "expired" if one.expires <= now else "open")
            for one in listing.registration_keys(visit.vault, visit.actor)
        ]
        if visit.may("administrator")
        else [],
        names={one.id: one.name for one in known},
        stores=listing.stores(visit.vault),
        usage=usage(visit.vault),
    )


@router.get("/hosts/{host}")
def show_host(visit: Visiting, host: str) -> Response:
    with visit.vault.session() as session:
        found = hosts.find_host(session, host)
        site = hosts.find_site(session, found.site)
    return visit.page(
        "host.html",
        host=found,
        site=site,
        wrong=wrong(found),
        rows=machines.listed(visit.vault, host=found.id, sort="health", limit=machines.MOST).rows,
        events=machines.events(visit.vault, host=found.id, limit=50),
    )


def wrong(host: Host) -> list[str]:
    """What stands against a host."""
    found = []
    if host.revoked:
        return ["It was revoked: its agent is refused"]
    if host.beat is None:
        found.append("Its agent has not reported yet: see that it runs there")
    elif host.silent:
        found.append(
            "Its agent is silent: see whether the host, its network and the agent are up."
            " Its machines may be replicated all the same, for that needs no vault"
        )
    if abs(host.skew) > SKEW:
        found.append(f"Its clock is {host.skew:+.0f} s from the vault’s: points carry the host’s own time")
    return found


def _name_form(what: str, path: str, help: str, *more: Field) -> FormPage:
    return FormPage(
        f"New {what}",
        path,
        f"Create the {what}",
        HERE,
        fields=(Field("name", "Name", required=True, help=help, extra=(("maxlength", "100"),)), *more),
    )


def _checked(name: str, what: str) -> str:
    if not 1 <= len(name) <= 100 or not name.isprintable():
        raise InvalidRequest(f"a {what} has a name of 1 to 100 characters", subject=what, hint="give one")
    return name


def _site_form() -> FormPage:
    return _name_form("site", "/sites", "hosts of one site can run each other’s machines")


@router.get("/sites/new")
def ask_site(visit: Visiting) -> Response:
    visit.actor.must(Role.ADMINISTRATOR, "creating a site")
    return show(visit, _site_form())


@router.post("/sites")
def create_site(visit: Visiting, form: Form) -> Response:
    try:
        hosts.new_site(visit.vault, visit.actor, _checked(form["name"], "site"))
    except InvalidRequest as error:
        return refused(visit, _site_form(), form, error)
    return to(visit, HERE)


def _store_form() -> FormPage:
    address = Field(
        "address",
        "Address",
        required=True,
        help="s3://BUCKET/PREFIX, az://CONTAINER/PREFIX, or a directory that every host has under this path",
    )
    return _name_form("store", "/stores", "replicas go there; credentials are each agent’s own", address)


@router.get("/stores/new")
def ask_store(visit: Visiting) -> Response:
    visit.actor.must(Role.ADMINISTRATOR, "naming a store")
    return show(visit, _store_form())


@router.post("/stores")
def create_store(visit: Visiting, form: Form) -> Response:
    try:
        if not form["address"]:
            raise InvalidRequest("a store has an address", subject="store", hint="give one")
        catalogue.new_store(visit.vault, visit.actor, _checked(form["name"], "store"), form["address"])
    except InvalidRequest as error:
        return refused(visit, _store_form(), form, error)
    return to(visit, HERE)


def _key_form(visit: Visit) -> FormPage:
    sites = listing.sites(visit.vault)
    return FormPage(
        "New registration key",
        "/keys",
        "Download the vault key file",
        HERE,
        text=(
            "It lets one host register, once. Bring the file to the host and run there:"
            " standby agent register FILE",
            f"Afterwards the host proves itself by a token that renews itself; it ends {TOKEN_LIFE.days} days after"
            " the host was last heard of.",
        ),
        fields=(
            Field("site", "Site of the host", "select", options=options(sites), required=True),
            Field(
                "days",
                "Valid for days",
                "number",
                str(KEY_DAYS),
                required=True,
                extra=(("min", "1"), ("max", str(MOST_DAYS))),
            ),
        ),
        plain=True,
        lacks=() if sites else (("There is no site yet: create one first", HERE),),
    )


@router.get("/keys/new")
def ask_key(visit: Visiting) -> Response:
    visit.actor.must(Role.ADMINISTRATOR, "making a registration key")
    return show(visit, _key_form(visit))


@router.post("/keys")
def create_key(visit: Visiting, form: Form) -> Response:
    """The file itself; what it holds is not kept here."""
    state = visit.request.app.state
    try:
        days = form.number("days", KEY_DAYS)
        if not 1 <= days <= MOST_DAYS:
            raise InvalidRequest(
                f"a key is valid for 1 to {MOST_DAYS} days", subject="days", hint="choose such a number"
            )
        url = state.url or str(visit.request.base_url).rstrip("/")
        key = hosts.new_key(visit.vault, visit.actor, form["site"], url, state.authority, days=days)
    except InvalidRequest as error:
        return refused(visit, _key_form(visit), form, error)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", key.site).strip(".-") or "site"
    return Response(
        msgspec.json.format(msgspec.json.encode(key)),
        media_type="application/json",
        headers={"Content-Disposition": f'attachment; filename="vault-key-{name}.json"'},
    )


_DELETIONS: Final = {
    "sites": ("Delete this site?", "Only a site that no host was ever in can be deleted."),
    "stores": (
        "Delete this store’s name?",
        "The vault forgets it; what is in the store stays there.",
    ),
    "keys": ("Delete this registration key?", "No host can register with it any more."),
    "hosts": (
        "Revoke this host?",
        "Its agent is refused from now on, and its jobs are cancelled. Its machines go on being replicated, unseen,"
        " until its agent is stopped. To undo it, register the host with a new key.",
    ),
}


def _delete_form(what: str, key: str, verb: str) -> FormPage:
    title, text = _DELETIONS[what]
    return FormPage(
        title,
        f"/{what}/{key}/{verb}",
        f"{verb.capitalize()} it",
        f"/hosts/{key}" if what == "hosts" else HERE,
        text=(text,),
        danger=True,
    )


def _asking(visit: Visit, what: str, key: str, verb: str = "delete") -> Response:
    visit.actor.must(Role.ADMINISTRATOR, _DELETIONS[what][0].rstrip("?"))
    return show(visit, _delete_form(what, key, verb))


@router.get("/sites/{site}/delete")
def ask_delete_site(visit: Visiting, site: str) -> Response:
    return _asking(visit, "sites", site)


@router.post("/sites/{site}/delete")
def delete_site(visit: Visiting, form: Form, site: str) -> Response:
    try:
        hosts.delete_site(visit.vault, visit.actor, site)
    except InvalidRequest as error:
        return refused(visit, _delete_form("sites", site, "delete"), form, error)
    return to(visit, HERE)


@router.get("/stores/{store}/delete")
def ask_delete_store(visit: Visiting, store: str) -> Response:
    return _asking(visit, "stores", store)


@router.post("/stores/{store}/delete")
def delete_store(visit: Visiting, form: Form, store: str) -> Response:
    try:
        catalogue.delete_store(visit.vault, visit.actor, store)
    except InvalidRequest as error:
        return refused(visit, _delete_form("stores", store, "delete"), form, error)
    return to(visit, HERE)


@router.get("/keys/{key}/delete")
def ask_delete_key(visit: Visiting, key: str) -> Response:
    return _asking(visit, "keys", key)


@router.post("/keys/{key}/delete")
def delete_key(visit: Visiting, form: Form, key: str) -> Response:
    hosts.delete_key(visit.vault, visit.actor, key)
    return to(visit, HERE)


@router.get("/hosts/{host}/revoke")
def ask_revoke(visit: Visiting, host: str) -> Response:
    return _asking(visit, "hosts", host, "revoke")


@router.post("/hosts/{host}/revoke")
def revoke_host(visit: Visiting, form: Form, host: str) -> Response:
    hosts.revoke(visit.vault, visit.actor, host)
    return to(visit, HERE)


def _upkeep_form(host: Host) -> FormPage:
    return FormPage(
        f"Upkeep by {host.name}",
        f"/hosts/{host.id}/upkeep",
        "Change it",
        f"/hosts/{host.id}",
        text=(
            "Retention and scrubs work on a site’s replicas in their stores. They are done by the hosts that take care"
            " of them, or by the one that replicates where none does.",
        ),
        fields=(
            Field("upkeep", "It takes care of its site’s replicas", "checkbox", "yes" if host.upkeep else ""),
        ),
    )


@router.get("/hosts/{host}/upkeep")
def ask_upkeep(visit: Visiting, host: str) -> Response:
    visit.actor.must(Role.ADMINISTRATOR, "changing a host")
    with visit.vault.session() as session:
        found = hosts.find_host(session, host)
    return show(visit, _upkeep_form(found))


@router.post("/hosts/{host}/upkeep")
def change_upkeep(visit: Visiting, form: Form, host: str) -> Response:
    changed = hosts.set_upkeep(visit.vault, visit.actor, host, bool(form["upkeep"]))
    return to(visit, f"/hosts/{changed.id}")
