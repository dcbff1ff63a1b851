"""Which vault commands speak to, and as whom: what `standby login` kept, or the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from standby.errors import InvalidRequest, NeedsPerson

VAULT: Final = "STANDBY_VAULT"
TOKEN: Final = "STANDBY_TOKEN"
AUTHORITY: Final = "STANDBY_AUTHORITY"

Local = Annotated[
    bool,
    typer.Option("--local", help="Of this host's own agent, although a vault is named (`standby login`)."),
]


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """vault: its URL. authority: PEM that its certificate is checked against, "" for the system's authorities.
    token_id: of a token that `standby login` made, "" of one that was given. user: whose it is."""

    vault: str
    token: str
    authority: str = ""
    token_id: str = ""
    user: str = ""


def login_file() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "standby" / "vault.json"


def current() -> Login | None:
    """None if no vault is named. The environment goes before what was kept. Raises InvalidRequest, NeedsPerson."""
    kept = _kept()
    vault = os.environ.get(VAULT, "")
    if not vault:
        return kept
    vault = url_of(vault)
    same = kept if kept and kept.vault == vault else None
    token = os.environ.get(TOKEN, "") or (same.token if same else "")
    if not token:
        raise InvalidRequest(
            f"{VAULT} names this vault, and there is no token for it",
            subject=vault,
            hint=f"`standby login {vault}`, or put an API token into {TOKEN}",
        )
    authority = os.environ.get(AUTHORITY, "")
    return Login(
        vault=vault,
        token=token,
        authority=authority_of(Path(authority)) if authority else same.authority if same else "",
    )


def needed() -> Login:
    """Raises InvalidRequest if no vault is named."""
    found = current()
    if found is None:
        raise InvalidRequest(
            "this command speaks to a vault, and none is named",
            subject="vault",
            hint=f"`standby login URL`; or set {VAULT} and {TOKEN}",
        )
    return found


def asked(state: Path | None, local: bool) -> bool:
    """Whether `standby vm` is about a vault's machines: one is named, and nothing says that this host's are meant."""
    return state is None and not local and current() is not None


def keep(login: Login) -> Path:
    """For its user's eyes only."""
    file = login_file()
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = file.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        # Never readable by others, not even for a moment.
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(msgspec.json.encode(login))
        temporary.replace(file)
    except OSError as error:
        raise InvalidRequest(
            f"the log-in cannot be kept: {error.strerror}",
            subject=str(file),
            hint=f"make its directory writable, or use {VAULT} and {TOKEN}",
        ) from error
    return file


def forget() -> None:
    login_file().unlink(missing_ok=True)


def url_of(text: str) -> str:
    """Without a slash at its end. Raises InvalidRequest."""
    if not text.startswith(("https://", "http://")):
        raise InvalidRequest(
            "this is no URL of a vault", subject=text, hint="give such as https://vault.example:8443"
        )
    return text.rstrip("/")


def authority_of(file: Path) -> str:
    """Raises InvalidRequest."""
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"it cannot be read: {error}", subject=str(file), hint="give the vault's authority.pem"
        ) from error
    if "BEGIN CERTIFICATE" not in text:
        raise InvalidRequest(
            "this holds no certificate in PEM", subject=str(file), hint="give the vault's authority.pem"
        )
    return text


def _kept() -> Login | None:
    file = login_file()
    try:
        return msgspec.json.decode(file.read_bytes(), type=Login)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise NeedsPerson(
            f"the log-in that was kept cannot be read: {error}",
            subject=str(file),
            hint="`standby login URL` writes a new one",
        ) from error
