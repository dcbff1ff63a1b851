"""What agents speak to: `link.messages` as JSON bodies. Not part of the API for people."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from standby.errors import InvalidRequest
from standby.link.messages import HEARTBEAT_PATH, REGISTER_PATH, Heartbeat, Registration
from standby.vault import heartbeat, hosts
from standby.vault.api.context import address_of, vault_of
from standby.vault.errors import Unauthenticated

T = TypeVar("T", bound=msgspec.Struct)

LARGEST: Final = 16 << 20
"""Bytes of a heartbeat; one of 100 machines takes some 300 KiB."""

router = APIRouter(include_in_schema=False)


@router.post(REGISTER_PATH)
async def register(request: Request) -> Response:
    asked = _decoded(await _body(request), Registration)
    registered = await run_in_threadpool(hosts.register, vault_of(request), asked, address_of(request))
    return Response(msgspec.json.encode(registered), media_type="application/json")


@router.post(HEARTBEAT_PATH)
async def beat(request: Request) -> Response:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("no token was sent", subject="agent", hint="register the host")
    body = await _body(request)
    answer = await run_in_threadpool(
        lambda: heartbeat.take_in(vault_of(request), token, _decoded(body, Heartbeat))
    )
    return Response(msgspec.json.encode(answer), media_type="application/json")


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            raise InvalidRequest(
                f"it is larger than {LARGEST >> 20} MiB", subject="agent's message", hint="report this"
            )
    return bytes(body)


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise InvalidRequest(
            f"not understood: {error}",
            subject="agent's message",
            hint="run an agent and a vault of neighbouring versions",
        ) from error
