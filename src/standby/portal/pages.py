"""The portal: pages over the vault's services, for people with a browser."""

from __future__ import annotations

import mimetypes
from typing import Final

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException

from standby.portal import (
    account,
    alerts,
    infrastructure,
    jobs,
    machines,
    overview,
    plans,
    policies,
    render,
    signing,
    users,
)
from standby.portal.headers import Headers
from standby.portal.visit import failed
from standby.vault.errors import NotFound

ROUTERS: Final = (
    signing.router,
    account.router,
    overview.router,
    machines.router,
    jobs.router,
    infrastructure.router,
    plans.router,
    policies.router,
    alerts.router,
    users.router,
)

_OURS: Final = ("/api/", "/agent/", "/metrics")
"""Paths that speak to programs."""

_files = APIRouter(include_in_schema=False)


def attach(app: FastAPI) -> None:
    """Add the portal to the vault's application (`vault.api.app.create_app`)."""
    for router in ROUTERS:
        app.include_router(router)
    app.include_router(_files)
    app.add_middleware(Headers, https=str(app.state.url).startswith("https://"))
    before = app.exception_handlers[HTTPException]

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 404 and not request.url.path.startswith(_OURS):
            missing = NotFound(
                "there is no such page", subject=request.url.path, hint="begin at the overview"
            )
            return failed(request, missing)
        answer: Response = before(request, error)  # type: ignore[assignment]
        return answer

    app.add_exception_handler(HTTPException, http)


@_files.get("/static/{stamp}/{name:path}")
def static(stamp: str, name: str) -> Response:
    """The portal's own files. stamp: of their contents, so that a browser may keep them for long."""
    path = render.STATIC
    for part in name.split("/"):
        if part in ("", ".", "..") or "\\" in part:
            raise HTTPException(404)
        path = path / part
    if not path.is_file():
        raise HTTPException(404)
    media = mimetypes.guess_type(name)[0] or "application/octet-stream"
    kept = "public, max-age=31536000, immutable" if stamp == render.stamp() else "no-cache"
    return Response(path.read_bytes(), media_type=media, headers={"Cache-Control": kept})
