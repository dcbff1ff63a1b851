"""Calls of a vault's REST API. Its refusals are raised as the errors that they were in the vault."""

from __future__ import annotations

import ssl
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote

import httpx

from standby.cli.vault_login import Login, needed
from standby.errors import Bug, InvalidRequest, NeedsPerson, Recoverable, StandbyError
from standby.link.requests import Refused

PREFIX: Final = "/api/v1"
LIMIT: Final = 30.0
"""Seconds for one answer."""

AGAIN: Final = (0.5, 1.0, 2.0)
"""Seconds before a call that may be repeated is."""

_AWAY: Final = frozenset({502, 503, 504})

Document = Any
"""What the API answered, as JSON gives it."""


class Client:
    """login.token "" for calls that need none. Closed by `connected`."""

    def __init__(self, login: Login, *, pauses: tuple[float, ...] = AGAIN) -> None:
        """Raises InvalidRequest where the authority is no certificate."""
        self.vault: Final = login.vault
        self._pauses = pauses
        try:
            trusted = ssl.create_default_context(cadata=login.authority or None)
        except ssl.SSLError as error:
            raise InvalidRequest(
                f"its authority is no certificate: {error}",
                subject=login.vault,
                hint="log in with the vault's authority.pem (`standby login URL --authority FILE`)",
            ) from error
        headers = {"Authorization": f"Bearer {login.token}"} if login.token else {}
        self._http = httpx.Client(
            base_url=login.vault + PREFIX, headers=headers, verify=trusted, timeout=LIMIT, trust_env=False
        )

    def close(self) -> None:
        self._http.close()

    def get(self, *path: str, **query: Any) -> Document:
        asked = {name: value for name, value in query.items() if value not in (None, "")}
        return self._call("GET", path, query=asked, repeat=True)

    def pages(self, path: str, rows: str, most: int, *, turn: str, **query: Any) -> Iterator[Document]:
        """The rows of a list, page by page, up to `most`. turn: the parameter that asks for the next page."""
        told = 0
        while told < most:
            page = self.get(path, **query, limit=min(most - told, 500))
            yield from page[rows]
            told += len(page[rows])
            if page["next"] is None:
                return
            query[turn] = page["next"]

    def post(self, *path: str, body: Mapping[str, Any] | None = None) -> Document:
        return self._call("POST", path, body=body)

    def begin(self, *path: str, body: Mapping[str, Any] | None = None) -> Document:
        """A call that begins a job: it is repeated where its answer was lost, and begins one job all the same."""
        return self._call("POST", path, body=body, once=str(uuid.uuid4()), repeat=True)

    def patch(self, *path: str, body: Mapping[str, Any]) -> Document:
        return self._call("PATCH", path, body=body)

    def delete(self, *path: str) -> None:
        self._call("DELETE", path)

    def _call(
        self,
        method: str,
        path: tuple[str, ...],
        *,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        once: str = "",
        repeat: bool = False,
    ) -> Document:
        where = "/" + "/".join(quote(part, safe="") for part in path)
        headers = {"Idempotency-Key": once} if once else {}
        pauses = list(self._pauses) if repeat else []
        tries = 1 + len(pauses)
        while True:
            try:
                answer = self._http.request(method, where, params=query, json=body, headers=headers)
            except httpx.TransportError as error:
                if pauses and not _untrusted(error):
                    time.sleep(pauses.pop(0))
                    continue
                raise self._unreached(error, tries) from error
            if answer.status_code in _AWAY and pauses:
                time.sleep(pauses.pop(0))
                continue
            if answer.is_success:
                return answer.json() if answer.content else None
            raise self._refused(answer)

    def _unreached(self, error: httpx.TransportError, tries: int) -> StandbyError:
        if _untrusted(error):
            return InvalidRequest(
                f"its certificate is not trusted: {error}",
                subject=self.vault,
                hint="get authority.pem from the vault's folder by a safe way, then "
                f"`standby login {self.vault} --authority authority.pem`",
            )
        return Recoverable(
            f"the vault does not answer: {error or type(error).__name__}",
            subject=self.vault,
            tried=f"{tries} times" if tries > 1 else "once; it may have been done all the same",
            hint="see that the URL is right and that the vault runs (`standby vault run`); machines are replicated "
            "meanwhile all the same",
        )

    def _refused(self, answer: httpx.Response) -> StandbyError:
        problem: dict[str, Any] = {}
        if answer.headers.get("content-type", "").startswith("application/problem+json"):
            problem = answer.json()
        if answer.status_code == 401 and problem.get("subject") == "API":
            return InvalidRequest(
                problem["cause"],
                subject=self.vault,
                hint=f"`standby login {self.vault}`",
            )
        if problem.get("kind"):
            return Refused(
                kind=problem["kind"],
                subject=problem.get("subject") or self.vault,
                cause=problem.get("cause") or problem.get("detail", ""),
                tried=problem.get("tried", ""),
                hint=problem.get("hint", ""),
            ).error()
        kind: type[StandbyError] = InvalidRequest
        if answer.status_code >= 500:
            kind = Recoverable if answer.status_code in _AWAY else Bug
        elif not problem:
            # Whatever answered, it was no vault.
            kind = NeedsPerson
        return kind(
            f"it answered {answer.status_code} {problem.get('detail') or answer.reason_phrase}",
            subject=f"{self.vault}{answer.request.url.path}",
            hint="see that this URL is the vault's, and what its log says",
        )


@contextmanager
def connected(login: Login | None = None) -> Iterator[Client]:
    """A client of the vault that is named. Raises InvalidRequest if none is."""
    client = Client(login or needed())
    try:
        yield client
    finally:
        client.close()


def _untrusted(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        cause = cause.__cause__ or cause.__context__
    return "CERTIFICATE_VERIFY_FAILED" in str(error)
