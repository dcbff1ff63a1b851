"""Who looks at a page, what a form brought, and how an error is shown to a person."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import quote

from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute

from standby.errors import InvalidRequest, StandbyError
from standby.portal import render
from standby.vault.access import visitor
from standby.vault.api.context import address_of, vault_of
from standby.vault.api.problem import status_of
from standby.vault.core import Actor, Vault
from standby.vault.errors import Forbidden, Unauthenticated
from standby.vault.jobs import Role

log = logging.getLogger(__name__)

COOKIE: Final = "standby_session"
LARGEST: Final = 1 << 20
"""Bytes of a form."""


class Visit(NamedTuple):
    """A user's request. csrf: what the forms of the page bring."""

    request: Request
    vault: Vault
    actor: Actor
    csrf: str

    def may(self, role: str) -> bool:
        """role: as it is called, for templates."""
        return self.actor.role >= Role[role.upper()]

    def page(self, template: str, *, status: int = 200, **context: Any) -> Response:
        return render.page(self.request, template, status=status, visit=self, **context)


def _visit_of(request: Request) -> Visit:
    vault = vault_of(request)
    found = visitor(vault, request.cookies.get(COOKIE, ""), address_of(request))
    return Visit(request, vault, found.actor, found.csrf)


Visiting = Annotated[Visit, Depends(_visit_of)]


class Filled:
    """A form's values. One that was not sent is "" ."""

    def __init__(self, values: Mapping[str, list[str]]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> str:
        return self._values.get(name, [""])[-1].strip()

    def exact(self, name: str) -> str:
        """As it was typed, for passwords."""
        return self._values.get(name, [""])[-1]

    def all(self, name: str) -> list[str]:
        return [one for one in self._values.get(name, []) if one]

    def number(self, name: str, otherwise: int) -> int:
        """Raises InvalidRequest."""
        text = self[name]
        try:
            return int(text) if text else otherwise
        except ValueError as error:
            raise InvalidRequest(
                f"{text!r} is no whole number", subject=name.replace("_", " "), hint="give one"
            ) from error


async def read_form(request: Request) -> Filled:
    """Raises InvalidRequest."""
    if int(request.headers.get("content-length") or LARGEST + 1) > LARGEST:
        raise InvalidRequest(
            "the form is too large, or does not tell its size", subject="form", hint="try again"
        )
    form = await request.form(max_files=0, max_fields=500)
    values: dict[str, list[str]] = {}
    for name, value in form.multi_items():
        values.setdefault(name, []).append(value if isinstance(value, str) else "")
    return Filled(values)


async def _form_of(request: Request, visit: Visiting) -> Filled:
    """Raises Forbidden unless it came from a page of this session's."""
    form = await read_form(request)
    if not hmac.compare_digest(form.exact("csrf").encode(), visit.csrf.encode()):
        raise Forbidden(
            "the form is not of this session", subject="form", hint="reload the page and fill it in again"
        )
    return form


Form = Annotated[Filled, Depends(_form_of)]


class Route(APIRoute):
    """Shows errors as pages, and sends who is not logged in to the log-in."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except Unauthenticated:
                return _to_log_in(request)
            except RequestValidationError as error:
                first = error.errors()[0]
                refused = InvalidRequest(
                    str(first["msg"]), subject=str(first["loc"][-1]), hint="see the address of the page"
                )
                return failed(request, refused)
            except StandbyError as error:
                return failed(request, error)

        return handle


def failed(request: Request, error: StandbyError) -> Response:
    status = status_of(error)
    if status == 500:
        log.error("%s", error, exc_info=error)
    visit = None
    try:
        visit = _visit_of(request)
    except StandbyError:
        log.debug("nobody is logged in")
    return render.page(request, "error.html", status=status, visit=visit, error=error, failed=status)


def to(visit: Visit, path: str) -> Response:
    """To another page, after a form was done."""
    if "HX-Request" in visit.request.headers:
        return Response(status_code=200, headers={"HX-Redirect": path})
    return RedirectResponse(path, status_code=303)


def local(path: str) -> str:
    """The path if it is one of this portal's, else its first page."""
    inside = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if inside else "/"


def _to_log_in(request: Request) -> Response:
    if "X-Live" in request.headers or "HX-Request" in request.headers:
        return Response(status_code=401, headers={"HX-Redirect": "/login"})
    there = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    asked = f"?next={quote(there)}" if request.method == "GET" and there != "/" else ""
    return RedirectResponse(f"/login{asked}", status_code=303)
