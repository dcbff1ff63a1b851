"""Users, and the audit of what they did: for administrators."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query, Response

from standby.errors import InvalidRequest
from standby.portal.fields import Field, FormPage, Option, refused, show
from standby.portal.visit import Form, Route, Visit, Visiting, to
from standby.vault import access, listing
from standby.vault.access import SHORTEST, role_named
from standby.vault.errors import NotFound
from standby.vault.jobs import Role
from standby.vault.schema import User

router = APIRouter(include_in_schema=False, route_class=Route)

ON_PAGE: Final = 100
_ROLES: Final = (
    Option(str(Role.READER), "Reader: sees everything"),
    Option(str(Role.OPERATOR), "Operator: may protect and fail over machines"),
    Option(str(Role.ADMINISTRATOR), "Administrator: sets up sites, policies, users"),
)


@router.get("/users")
def show_users(visit: Visiting) -> Response:
    return visit.page("users.html", users=listing.users(visit.vault, visit.actor))


@router.get("/audit")
def show_audit(visit: Visiting, before: Annotated[str, Query(max_length=26)] = "") -> Response:
    found = listing.audit(visit.vault, visit.actor, before=before, limit=ON_PAGE)
    return visit.page(
        "audit.html",
        entries=found,
        before=before,
        next=found[-1].id if len(found) == ON_PAGE else None,
    )


def _new_form() -> FormPage:
    return FormPage(
        "New user",
        "/users",
        "Create the user",
        "/users",
        fields=(
            Field(
                "name",
                "Name",
                required=True,
                help="letters, digits and . _ @ -",
                extra=(("autocomplete", "off"), ("maxlength", "64")),
            ),
            Field("role", "Role", "select", str(Role.READER), _ROLES),
            Field(
                "password",
                "Password",
                "password",
                required=True,
                help=f"{SHORTEST} characters at least; the user changes it under the own name",
                extra=(("autocomplete", "new-password"), ("minlength", str(SHORTEST))),
            ),
        ),
    )


@router.get("/users/new")
def ask_new(visit: Visiting) -> Response:
    visit.actor.must(Role.ADMINISTRATOR, "creating a user")
    return show(visit, _new_form())


@router.post("/users")
def create(visit: Visiting, form: Form) -> Response:
    try:
        access.new_user(
            visit.vault, visit.actor, form["name"], role_named(form["role"]), form.exact("password")
        )
    except InvalidRequest as error:
        return refused(visit, _new_form(), form, error)
    return to(visit, "/users")


def _user(visit: Visit, key: str) -> User:
    found = next((one for one in listing.users(visit.vault, visit.actor) if one.id == key), None)
    if found is None:
        raise NotFound("there is no such user", subject=key, hint="Users lists them")
    return found


def _change_form(user: User) -> FormPage:
    return FormPage(
        f"User {user.name}",
        f"/users/{user.id}/change",
        "Change the user",
        "/users",
        text=("The user’s sessions end and begin anew with the next log-in.",),
        fields=(
            Field("role", "Role", "select", user.role, _ROLES),
            Field("enabled", "May log in", "checkbox", "yes" if user.enabled else ""),
            Field(
                "password",
                "New password",
                "password",
                help="empty: stays as it is",
                extra=(("autocomplete", "new-password"),),
            ),
        ),
    )


@router.get("/users/{user}/change")
def ask_change(visit: Visiting, user: str) -> Response:
    return show(visit, _change_form(_user(visit, user)))


@router.post("/users/{user}/change")
def change(visit: Visiting, form: Form, user: str) -> Response:
    found = _user(visit, user)
    role, enabled = role_named(form["role"]), bool(form["enabled"])
    try:
        access.change_user(
            visit.vault,
            visit.actor,
            found.id,
            role=role if str(role) != found.role else None,
            enabled=enabled if enabled != found.enabled else None,
            password=form.exact("password") or None,
        )
    except InvalidRequest as error:
        return refused(visit, _change_form(found), form, error)
    return to(visit, "/users")


def _delete_form(user: User) -> FormPage:
    return FormPage(
        f"Delete user {user.name}?",
        f"/users/{user.id}/delete",
        "Delete the user",
        "/users",
        text=("The user’s sessions and API tokens end. What the audit tells of the user stays.",),
        danger=True,
    )


@router.get("/users/{user}/delete")
def ask_delete(visit: Visiting, user: str) -> Response:
    return show(visit, _delete_form(_user(visit, user)))


@router.post("/users/{user}/delete")
def delete(visit: Visiting, form: Form, user: str) -> Response:
    found = _user(visit, user)
    try:
        access.delete_user(visit.vault, visit.actor, found.id)
    except InvalidRequest as error:
        return refused(visit, _delete_form(found), form, error)
    return to(visit, "/users")
