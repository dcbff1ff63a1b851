"""The vault's web application: routes under /api/v1 and /agent/v1."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

import standby
from standby.vault import ticks
from standby.vault.api import (
    agents,
    alerts,
    infrastructure,
    jobs,
    machines,
    metrics,
    plans,
    policies,
    problem,
    users,
)
from standby.vault.core import Vault

PREFIX: Final = "/api/v1"


def create_app(vault: Vault, *, url: str = "", authority: str = "", ticking: bool = True) -> FastAPI:
    """url, authority: what vault key files tell agents: where the vault is and the PEM that its certificate is checked
    against. ticking: do what time alone brings about, in a thread of its own."""

    @asynccontextmanager
    async def living(_app: FastAPI) -> AsyncIterator[None]:
        ticker = ticks.Ticker(vault) if ticking else None
        yield
        if ticker:
            ticker.close()

    app = FastAPI(
        title="standby vault",
        version=standby.__version__,
        lifespan=living,
        docs_url=None,
        redoc_url=None,
        openapi_url=f"{PREFIX}/openapi.json",
    )
    app.state.vault = vault
    app.state.url = url
    app.state.authority = authority
    problem.install(app)
    for router in (
        machines.router,
        plans.router,
        jobs.router,
        policies.router,
        infrastructure.router,
        alerts.router,
        users.router,
    ):
        app.include_router(router, prefix=PREFIX)
    app.include_router(agents.router)
    app.include_router(metrics.router)
    _describe(app)
    return app


def _describe(app: FastAPI) -> None:
    """OpenAPI with our own errors in the place of FastAPI's."""

    def openapi() -> dict[str, object]:
        if app.openapi_schema is None:
            described = get_openapi(title=app.title, version=app.version, routes=app.routes)
            schemas = described["components"]["schemas"]
            schemas["Problem"] = problem.Problem.model_json_schema()
            for path in described["paths"].values():
                for operation in path.values():
                    if "requestBody" in operation:
                        # A body that is no JSON at all.
                        operation["responses"] |= {str(k): v for k, v in problem.described(400).items()}
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            app.openapi_schema = described
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
