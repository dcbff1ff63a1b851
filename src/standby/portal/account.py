"""What a user does with the own account: the password, API tokens."""

from __future__ import annotations

from fastapi import APIRouter, Response

from standby.errors import InvalidRequest
from standby.portal.fields import Field, FormPage, Option, refused, show
from standby.portal.visit import Form, Route, Visit, Visiting, to
from standby.vault import access, listing
from standby.vault.access import SHORTEST, role_named
from standby.vault.api.context import address_of
from standby.vault.errors import Unauthenticated
from standby.vault.jobs import Role
from standby.vault.usage import account

router = APIRouter(prefix="/account", include_in_schema=False, route_class=Route)


@router.get("")
def show_account(visit: Visiting) -> Response:
    return visit.page(
        "account.html",
        user=account(visit.vault, visit.actor),
        tokens=listing.tokens(visit.vault, visit.actor),
    )


def _password_form() -> FormPage:
    return FormPage(
        "Change your password",
        "/account/password",
        "Change password",
        "/account",
        text=("All your sessions end, this one too: log in again with the new password.",),
        fields=(
            Field(
                "now",
                "Password now",
                "password",
                required=True,
                extra=(("autocomplete", "current-password"),),
            ),
            Field(
                "password",
                "New password",
                "password",
                required=True,
                help=f"{SHORTEST} characters at least",
                extra=(("autocomplete", "new-password"), ("minlength", str(SHORTEST))),
            ),
            Field(
                "again",
                "New password once more",
                "password",
                required=True,
                extra=(("autocomplete", "new-password"),),
            ),
        ),
    )


@router.get("/password")
def ask_password(visit: Visiting) -> Response:
    return show(visit, _password_form())


@router.post("/password")
def change_password(visit: Visiting, form: Form) -> Response:
    page = _password_form()
    try:
        if form.exact("password") != form.exact("again"):
            raise InvalidRequest(
                "the two new passwords are not the same", subject="password", hint="type it twice"
            )
        try:
            access.log_in(visit.vault, visit.actor.name, form.exact("now"), address_of(visit.request))
        except Unauthenticated as error:
            raise InvalidRequest(
                "this is not your password", subject="password now", hint="try again"
            ) from error
        access.change_user(visit.vault, visit.actor, visit.actor.user, password=form.exact("password"))
    except InvalidRequest as error:
        return refused(visit, page, form, error)
    return to(visit, "/login")


def _token_form(visit: Visit) -> FormPage:
    roles = [Option(str(one), str(one).capitalize()) for one in Role if one <= visit.actor.role]
    return FormPage(
        "New API token",
        "/account/tokens",
        "Make the token",
        "/account",
        text=("A program sends it as “Authorization: Bearer TOKEN”. It may what you may, or less.",),
        fields=(
            Field("name", "What it is for", required=True, extra=(("maxlength", "100"),)),
            Field("role", "Role", "select", str(Role.READER), roles),
            Field(
                "days",
                "Valid for days",
                "number",
                "90",
                help="empty for no end",
                extra=(("min", "1"), ("max", "3650")),
            ),
        ),
    )


@router.get("/tokens/new")
def ask_token(visit: Visiting) -> Response:
    return show(visit, _token_form(visit))


@router.post("/tokens")
def make_token(visit: Visiting, form: Form) -> Response:
    page = _token_form(visit)
    try:
        if not 1 <= len(form["name"]) <= 100:
            raise InvalidRequest("a token has a name", subject="token", hint="say what it is for")
        days = form.number("days", 0)
        if not 0 <= days <= 3650:
            raise InvalidRequest(
                "a token is valid for 1 to 3650 days", subject="days", hint="or leave it empty"
            )
        row, token = access.new_token(
            visit.vault, visit.actor, form["name"], role_named(form["role"]), days or None
        )
    except InvalidRequest as error:
        return refused(visit, page, form, error)
    return visit.page("token.html", token=token, row=row)


@router.get("/tokens/{token}/delete")
def ask_delete(visit: Visiting, token: str) -> Response:
    return show(visit, _delete_form(token))


@router.post("/tokens/{token}/delete")
def delete_token(visit: Visiting, form: Form, token: str) -> Response:
    access.delete_token(visit.vault, visit.actor, token)
    return to(visit, "/account")


def _delete_form(token: str) -> FormPage:
    return FormPage(
        "Delete this API token?",
        f"/account/tokens/{token}/delete",
        "Delete it",
        "/account",
        text=("Programs that use it are refused from then on.",),
        danger=True,
    )
