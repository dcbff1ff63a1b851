"""The agent's requests to its vault, over HTTPS. What goes wrong is an error of ours; nothing is retried here."""

from __future__ import annotations

import ipaddress
import ssl
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from standby.errors import InvalidRequest, NeedsPerson, Recoverable, StandbyError
from standby.link.messages import (
    HEARTBEAT_PATH,
    REGISTER_PATH,
    Answer,
    Heartbeat,
    Registered,
    Registration,
)
from standby.link.requests import Refused

CONNECT_LIMIT: Final = 10.0
ANSWER_LIMIT: Final = 60.0
"""Seconds until the whole of an answer must be there, however slowly it drips."""

LONGEST: Final = 16 << 20
"""Bytes of an answer."""

_T = TypeVar("_T")


class VaultUnreachable(Recoverable):
    """The vault does not answer, or not as a vault: a network, a restart, a proxy in between."""


class VaultNotTrusted(NeedsPerson):
    """Its certificate is not signed by the authority of the key file, or is of another name or time."""


class TokenRefused(NeedsPerson):
    """The vault does not know this host's token: expired, revoked, or registered anew elsewhere."""


class VaultRefused(InvalidRequest):
    """The vault refuses what it was asked."""


class AddressInvalid(InvalidRequest):
    """The vault's address cannot be used."""


class Answered(NamedTuple):
    """skew: seconds by which the vault's clock is ahead of this host's, to a second; 0.0 if it does not say."""

    answer: Answer
    skew: float


class Problem(msgspec.Struct, frozen=True):
    """application/problem+json (RFC 9457) with what our errors have more."""

    title: str = ""
    status: int = 0
    detail: str = ""
    kind: str = ""
    subject: str = ""
    cause: str = ""
    tried: str = ""
    hint: str = ""


class VaultClient:
    """Of one vault. Used by one thread at a time."""

    def __init__(self, vault: str, authority: str, *, answer_limit: float = ANSWER_LIMIT) -> None:
        """authority: PEM that its certificate is checked against, "" for the system's authorities.

        Raises AddressInvalid.
        """
        self.vault = vault.rstrip("/")
        _check(self.vault)
        self._limit = answer_limit
        self._http = httpx.Client(
            verify=_context(authority, self.vault),
            timeout=httpx.Timeout(answer_limit, connect=CONNECT_LIMIT),
            follow_redirects=False,
        )

    def __enter__(self) -> VaultClient:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def register(self, registration: Registration) -> Registered:
        """Raises VaultRefused (the key is used, expired, unknown), VaultUnreachable, VaultNotTrusted."""
        return self._ask(REGISTER_PATH, registration, Registered)[0]

    def heartbeat(self, heartbeat: Heartbeat, token: str) -> Answered:
        """Raises TokenRefused, VaultRefused, VaultUnreachable, VaultNotTrusted."""
        return Answered(*self._ask(HEARTBEAT_PATH, heartbeat, Answer, token))

    def _ask(
        self, path: str, body: msgspec.Struct, kind: type[_T], token: str | None = None
    ) -> tuple[_T, float]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        try:
            with self._http.stream(
                "POST", f"{self.vault}{path}", content=msgspec.json.encode(body), headers=headers
            ) as response:
                data = _whole(response, time.monotonic() + self._limit)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if response.status_code >= 300:
            raise self._refusal(response.status_code, data)
        try:
            return msgspec.json.decode(data, type=kind), _skew(response.headers.get("date", ""))
        except msgspec.DecodeError as error:
            raise VaultUnreachable(
                f"it does not answer as a vault: {error}",
                subject=self.vault,
                hint="see that the address is the vault's, and that no proxy answers in its place",
            ) from error

    def _unreachable(self, error: Exception) -> StandbyError:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return VaultNotTrusted(
                    f"its certificate is not to be trusted: {cause.verify_message}",
                    subject=self.vault,
                    tried="nothing was sent to it",
                    hint="download a new key in the vault's portal and `standby agent register` with it; "
                    "a host whose clock is wrong trusts no certificate either",
                )
            cause = cause.__cause__ or cause.__context__
        return VaultUnreachable(
            f"it cannot be reached: {str(error) or type(error).__name__}",
            subject=self.vault,
            tried="once; it is tried again by itself",
            hint="see that the vault runs, and that this host's network and firewall let it out to there",
        )

    def _refusal(self, status: int, data: bytes) -> StandbyError:
        """What an answer that is no success means."""
        try:
            problem = msgspec.json.decode(data, type=Problem)
        except msgspec.DecodeError:
            problem = Problem()
        cause = problem.cause or problem.detail or problem.title or f"HTTP status {status}"
        if status == 401:
            return TokenRefused(
                f"it does not accept this host: {cause}",
                subject=self.vault,
                tried="replication goes on; it is asked again every few minutes",
                hint=problem.hint
                or "download a new key in the vault's portal and `standby agent register` with it",
            )
        if status in (408, 425, 429) or status >= 500:
            return VaultUnreachable(
                f"it cannot answer now: {cause}",
                subject=self.vault,
                tried="once; it is tried again by itself",
                hint=problem.hint or "see the vault's log",
            )
        known = Refused(
            kind=problem.kind, subject=problem.subject, cause=cause, tried=problem.tried, hint=problem.hint
        ).error()
        return VaultRefused(
            f"it refuses: {cause}",
            subject=known.subject or self.vault,
            tried=known.tried,
            hint=known.hint or "use a standby of the vault's version, and look at the vault's log",
        )


def _whole(response: httpx.Response, deadline: float) -> bytes:
    data = bytearray()
    for chunk in response.iter_bytes():
        data += chunk
        if len(data) > LONGEST:
            raise httpx.RemoteProtocolError(f"its answer is longer than {LONGEST >> 20} MiB")
        if time.monotonic() > deadline:
            raise httpx.ReadTimeout("its answer does not end")
    return bytes(data)


def _skew(date: str) -> float:
    """By the HTTP Date header, which has whole seconds."""
    try:
        told = parsedate_to_datetime(date)
    except ValueError:
        return 0.0
    if told.tzinfo is None:
        return 0.0
    return round((told - datetime.now(UTC)).total_seconds(), 1)


def _check(vault: str) -> None:
    parts = urlsplit(vault)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and parts.hostname and _loopback(parts.hostname):
        return
    raise AddressInvalid(
        "a vault is spoken to over https; http only on this very host",
        subject=vault,
        hint="give the vault a certificate, and register with a key made then",
    )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _context(authority: str, vault: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cadata=authority or None)
    except ssl.SSLError as error:
        raise AddressInvalid(
            f"the authority in its key is no certificate: {error.reason}",
            subject=vault,
            hint="download a new key in the vault's portal and `standby agent register` with it",
        ) from error
