"""Errors as `application/problem+json` (RFC 9457), with standby's own members beside the standard ones."""

from __future__ import annotations

import logging
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from standby.errors import InvalidRequest, Recoverable, StandbyError
from standby.link.requests import Refused
from standby.vault.errors import Conflict, Forbidden, NotFound, TooManyAttempts, Unauthenticated

log = logging.getLogger(__name__)

MEDIA: Final = "application/problem+json"

STATUSES: Final[dict[type[StandbyError], int]] = {
    NotFound: 404,
    Conflict: 409,
    Forbidden: 403,
    Unauthenticated: 401,
    TooManyAttempts: 429,
    InvalidRequest: 422,
    Recoverable: 503,
}


class Problem(BaseModel):
    """An error: what it is about, its cause, what was already tried, and what to do next."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    kind: str = Field("", description="What the caller does about it: the class of error.")
    subject: str = ""
    cause: str = ""
    tried: str = ""
    hint: str = ""


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`."""
    titles = {
        400: "Not understood",
        401: "Not authenticated",
        403: "Not allowed",
        404: "Not found",
        409: "Conflict",
        422: "Refused",
        429: "Too many",
        503: "Not now",
    }
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": titles[status], "content": {MEDIA: {"schema": schema}}} for status in statuses
    }


def status_of(error: StandbyError) -> int:
    return next((STATUSES[one] for one in type(error).__mro__ if one in STATUSES), 500)


def answer(error: StandbyError) -> Response:
    refused = Refused.of(error)
    return _response(
        status_of(error),
        refused.cause or "refused",
        str(error),
        kind=refused.kind,
        subject=refused.subject,
        cause=refused.cause,
        tried=refused.tried,
        hint=refused.hint,
    )


def install(app: FastAPI) -> None:
    """Have every error of the app answered so."""

    def ours(_request: Request, error: Exception) -> Response:
        assert isinstance(error, StandbyError)
        if status_of(error) == 500:
            log.error("%s", error, exc_info=error)
        return answer(error)

    def invalid(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(one) for one in first["loc"])
        return _response(
            422,
            "the request is not as it should be",
            f"{where}: {first['msg']}",
            kind="InvalidRequest",
            subject=where,
        )

    def http(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind = "InvalidRequest" if error.status_code < 500 else ""
        response = _response(error.status_code, str(error.detail), str(error.detail), kind=kind)
        response.headers.update(error.headers or {})
        return response

    app.add_exception_handler(StandbyError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _response(status: int, title: str, detail: str, **members: str) -> Response:
    body = Problem(title=title, status=status, detail=detail, **members)
    response = JSONResponse(body.model_dump(), status, media_type=MEDIA)
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response
