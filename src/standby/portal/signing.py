"""Logging in and out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, RedirectResponse

from standby.errors import StandbyError
from standby.portal import render
from standby.portal.visit import COOKIE, Form, Route, Visiting, local, read_form
from standby.vault.access import SESSION_LIFE, log_in, log_out, visitor
from standby.vault.api.context import address_of, vault_of
from standby.vault.api.problem import status_of
from standby.vault.errors import Unauthenticated

router = APIRouter(include_in_schema=False, route_class=Route)


def _https(request: Request) -> bool:
    return request.url.scheme == "https" or str(request.app.state.url).startswith("https://")


@router.get("/login")
def ask(request: Request, next: Annotated[str, Query(max_length=2000)] = "/") -> Response:
    return render.page(request, "login.html", visit=None, next=local(next), name="", error=None)


@router.get("/login/session")
def session(request: Request) -> Response:
    """Whether there is one. A link from elsewhere brings no cookie; the log-in page asks once more from here."""
    try:
        visitor(vault_of(request), request.cookies.get(COOKIE, ""), address_of(request))
    except Unauthenticated:
        return JSONResponse({"session": False})
    return JSONResponse({"session": True})


@router.post("/login")
async def enter(request: Request) -> Response:
    form = await read_form(request)
    try:
        entered = await run_in_threadpool(
            log_in, vault_of(request), form["name"], form.exact("password"), address_of(request)
        )
    except StandbyError as error:
        status = status_of(error)
        return render.page(
            request,
            "login.html",
            status=status,
            visit=None,
            next=local(form["next"]),
            name=form["name"],
            error=error,
        )
    answer = RedirectResponse(local(form["next"]), status_code=303)
    answer.set_cookie(
        COOKIE,
        entered.cookie,
        max_age=int(SESSION_LIFE.total_seconds()),
        httponly=True,
        secure=_https(request),
        samesite="strict",
    )
    return answer


@router.post("/logout")
def leave(visit: Visiting, form: Form) -> Response:
    log_out(visit.vault, visit.request.cookies.get(COOKIE, ""))
    answer = RedirectResponse("/login", status_code=303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer
