"""Where the credentials of a cloud come from: its usual environment and files. Pure but for reading them.

What is not found here is left to obstore, which also knows the environment, web identities, roles of
containers and machines (metadata service) and Azure's client secrets. Nothing here is ever shown.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from standby.errors import InvalidRequest

if TYPE_CHECKING:
    from obstore.store import AzureConfig, S3Config

DEFAULT_REGION: Final = "us-east-1"
"""For stores that are not Amazon's, which take any. Amazon answers with the right one's name."""

_EMULATOR_ACCOUNT: Final = "devstoreaccount1"
_EMULATOR_KEY: Final = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
"""Published by Microsoft for its emulators; opens nothing else."""

_ENDPOINT: Final = re.compile(
    r"https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?(?:/[A-Za-z0-9._/-]*)?"
)
"""Strict, as some that are none make obstore panic."""


class InvalidCredentials(InvalidRequest):
    """The environment or a credentials file cannot be used as it stands. The message shows no secret."""


class S3Settings(NamedTuple):
    """authority: a certificate, in PEM, that is trusted besides the system's; or empty."""

    bucket: str
    prefix: str
    options: S3Config
    authority: bytes = b""

    def __repr__(self) -> str:
        return f"S3Settings({self.bucket!r}, {self.prefix!r})"


class AzureSettings(NamedTuple):
    container: str
    prefix: str
    options: AzureConfig

    def __repr__(self) -> str:
        return f"AzureSettings({self.container!r}, {self.prefix!r})"


def s3_options(environment: Mapping[str, str], *, endpoint: str = "", region: str = "") -> S3Config:
    """Keys, region and endpoint, as Amazon's own tools find them: environment first, then the profile's files.

    endpoint, region: of the store's address; they win. Raises InvalidCredentials for a named profile that
    is missing, or that gives its keys in a way standby does not know.
    """
    profile = environment.get("AWS_PROFILE") or environment.get("AWS_DEFAULT_PROFILE") or ""
    files = _aws_files(environment, profile)
    options: S3Config = {}
    if key := environment.get("AWS_ACCESS_KEY_ID"):
        options["access_key_id"] = key
        options["secret_access_key"] = environment.get("AWS_SECRET_ACCESS_KEY", "")
        if token := environment.get("AWS_SESSION_TOKEN"):
            options["session_token"] = token
    else:
        options |= _profile_keys(files, profile)
    region = (
        region
        or environment.get("AWS_REGION", "")
        or environment.get("AWS_DEFAULT_REGION", "")
        or files.get("region", "")
        or DEFAULT_REGION
    )
    options["region"] = region
    endpoint = (
        endpoint
        or environment.get("AWS_ENDPOINT_URL_S3", "")
        or environment.get("AWS_ENDPOINT_URL", "")
        or files.get("endpoint_url", "")
    )
    if endpoint:
        options["endpoint"] = _checked_endpoint(endpoint)
    return options


def s3_authority(environment: Mapping[str, str]) -> bytes:
    """What AWS_CA_BUNDLE names. Raises InvalidCredentials if it cannot be read."""
    path = environment.get("AWS_CA_BUNDLE")
    try:
        return Path(path).read_bytes() if path else b""
    except OSError as error:
        raise InvalidCredentials(
            f"the file {path} cannot be read: {error.strerror}",
            subject="AWS_CA_BUNDLE",
            hint="name a file of certificates in PEM, or unset it",
        ) from error


def _aws_files(environment: Mapping[str, str], profile: str) -> dict[str, str]:
    """What the credentials and the config file say of the profile; the credentials file wins."""
    home = environment.get("HOME", "/")
    name = profile or "default"
    config = Path(environment.get("AWS_CONFIG_FILE") or f"{home}/.aws/config")
    keys = Path(environment.get("AWS_SHARED_CREDENTIALS_FILE") or f"{home}/.aws/credentials")
    found = _section(config, "default" if name == "default" else f"profile {name}") | _section(keys, name)
    if profile and not found:
        raise InvalidCredentials(
            f"there is no profile {profile}",
            subject="AWS_PROFILE",
            hint="`aws configure list-profiles` lists them",
        )
    return found


def _section(path: Path, section: str) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        # Not the parser's own words: they quote the line, which may be a key.
        raise InvalidCredentials(
            f"the file cannot be read ({type(error).__name__})", subject=str(path), hint="mend the file"
        ) from None
    return dict(parser.items(section)) if parser.has_section(section) else {}


def _profile_keys(files: Mapping[str, str], profile: str) -> S3Config:
    if "aws_access_key_id" in files and "aws_secret_access_key" in files:
        keys: S3Config = {
            "access_key_id": files["aws_access_key_id"],
            "secret_access_key": files["aws_secret_access_key"],
        }
        if token := files.get("aws_session_token"):
            keys["session_token"] = token
        return keys
    other = [
        key for key in ("sso_session", "sso_start_url", "credential_process", "role_arn") if key in files
    ]
    if other:
        raise InvalidCredentials(
            f"the profile {profile or 'default'} gets its keys by {other[0]}, which standby does not know",
            subject="AWS_PROFILE",
            hint="`aws configure export-credentials --format env` turns it into variables that it knows",
        )
    if profile:
        raise InvalidCredentials(
            f"the profile {profile} has no aws_access_key_id and aws_secret_access_key", subject="AWS_PROFILE"
        )
    return {}


def azure_options(environment: Mapping[str, str], *, endpoint: str = "") -> AzureConfig:
    """Account, key or SAS, and endpoint: AZURE_STORAGE_CONNECTION_STRING, or else the single variables.

    endpoint: of the store's address; it wins. Raises InvalidCredentials for a connection string that is none.
    """
    text = environment.get("AZURE_STORAGE_CONNECTION_STRING", "")
    options: AzureConfig = _connection_string(text) if text else {}
    if not text:
        account = environment.get("AZURE_STORAGE_ACCOUNT") or environment.get("AZURE_STORAGE_ACCOUNT_NAME")
        key = environment.get("AZURE_STORAGE_KEY") or environment.get("AZURE_STORAGE_ACCOUNT_KEY")
        sas = environment.get("AZURE_STORAGE_SAS_TOKEN")
        if account:
            options["account_name"] = account
        if key:
            options["account_key"] = key
        elif sas:
            options["sas_key"] = sas.lstrip("?")
        if service := environment.get("AZURE_STORAGE_ENDPOINT"):
            options["endpoint"] = _checked_endpoint(service)
    if endpoint:
        options["endpoint"] = _checked_endpoint(endpoint)
    return options


def _connection_string(text: str) -> AzureConfig:
    fields: dict[str, str] = {}
    for field in filter(None, text.strip().split(";")):
        name, equals, value = field.partition("=")
        if not equals:
            raise _no_connection_string("a field of it has no value")
        fields[name.strip().lower()] = value
    if fields.get("usedevelopmentstorage", "").lower() == "true":
        fields = {
            "accountname": _EMULATOR_ACCOUNT,
            "accountkey": _EMULATOR_KEY,
            "blobendpoint": f"http://127.0.0.1:10000/{_EMULATOR_ACCOUNT}",
        }
    if "accountname" not in fields and "blobendpoint" not in fields:
        raise _no_connection_string("it names no account and no blob endpoint")
    options: AzureConfig = {}
    account = fields.get("accountname") or _account_of(fields["blobendpoint"])
    options["account_name"] = account
    if key := fields.get("accountkey"):
        options["account_key"] = key
    if sas := fields.get("sharedaccesssignature"):
        options["sas_key"] = sas.lstrip("?")
    if service := fields.get("blobendpoint"):
        options["endpoint"] = _checked_endpoint(service)
    elif suffix := fields.get("endpointsuffix"):
        scheme = fields.get("defaultendpointsprotocol", "https")
        options["endpoint"] = _checked_endpoint(f"{scheme}://{account}.blob.{suffix}")
    return options


def _account_of(endpoint: str) -> str:
    """`https://ACCOUNT.blob.core.windows.net`."""
    return endpoint.partition("://")[2].partition(".")[0]


def _no_connection_string(cause: str) -> InvalidCredentials:
    return InvalidCredentials(
        cause,
        subject="AZURE_STORAGE_CONNECTION_STRING",
        hint="copy it from the storage account's access keys, or from a SAS, and quote it",
    )


def _checked_endpoint(endpoint: str) -> str:
    if not _ENDPOINT.fullmatch(endpoint):
        raise InvalidCredentials(
            "an endpoint is https://HOST or http://HOST, with a port and a path if need be",
            subject="endpoint",
            hint="correct ?endpoint= of the address, or the environment's endpoint variable",
        )
    return endpoint.rstrip("/")
