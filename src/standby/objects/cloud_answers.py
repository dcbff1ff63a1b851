"""What an error of obstore means to the caller of a store.

obstore gives a cloud's answer as text only. Taken from it are the HTTP status, the error code and the
message in the body; the rest is never shown, since it can hold a signed address.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from standby.errors import NeedsPerson, StandbyError
from standby.objects.base import (
    ObjectMissing,
    StoreBusy,
    StoreFull,
    StoreRefused,
    StoreUnreachable,
    StoreUnsuitable,
)

_STATUS: Final = re.compile(r"(?:status code|\(code): (\d{3})")
_CODE: Final = re.compile(r"<Code>(\w+)</Code>")
_MESSAGE: Final = re.compile(r"(?:<Message>|failed for key \S+: )([^<\n]{1,200}?)(?:<|\n|$| \(code)")
_KIND: Final = re.compile(r"HttpError \{\s*kind: (\w+)")
_SYSTEM: Final = re.compile(r'message: "([^"]{1,100})"')

_NO_BUCKET: Final = frozenset({"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted"})
_IMMUTABLE: Final = frozenset(
    {"BlobImmutableDueToPolicy", "BlobImmutableDueToLegalHold", "LeaseIdMissing", "BlobArchived"}
)
_DENIED: Final = frozenset(
    {
        "ExpiredToken",
        "InvalidToken",
        "TokenRefreshRequired",
        "AuthorizationHeaderMalformed",
        "InvalidAccessKeyId",
        "AuthenticationFailed",
    }
)
_FULL: Final = frozenset({"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull"})
_BUSY: Final = frozenset({"SlowDown", "ServerBusy", "TooManyRequests", "RequestLimitExceeded"})
_UNDECIDED: Final = frozenset({"ConditionalRequestConflict", "OperationAborted"})
"""409 that is no conflict with a finished write: the other writer is not done, so nothing is known."""

_METADATA_SERVICE: Final = ("169.254.169.254", "token request", "MissingAccount", "metadata/identity")
_BAD_KEY: Final = ("InvalidAccessKey", "Invalid Access Key")
_NO_CONDITIONS: Final = ("MissingEtag", "NotPartial", "NotImplemented")


class BucketMissing(NeedsPerson):
    """The bucket or container does not exist (or not under this endpoint). standby never makes one."""


class Answer(NamedTuple):
    """status: of HTTP, or 0 when there was none. code, said: from the body. kind: of a broken way."""

    status: int
    code: str
    said: str
    kind: str
    text: str

    @property
    def bucket_missing(self) -> bool:
        return self.code in _NO_BUCKET or "specified container does not exist" in self.text

    @property
    def past_end(self) -> bool:
        """The range asked for begins behind the object's end."""
        return self.status == 416 or "InvalidRangeRequest" in self.text

    @property
    def undecided(self) -> bool:
        return self.code in _UNDECIDED

    @property
    def immutable(self) -> bool:
        # Of a batch, in which Azure deletes, obstore tells the message and not the code.
        return self.code in _IMMUTABLE or "is immutable" in self.said or "a lease on the blob" in self.said


def answer(error: Exception) -> Answer:
    text = str(error)
    # The server's words stand before obstore's own account of them, which repeats them quoted.
    status, code = _STATUS.search(text), _CODE.search(text)
    said, kind = _MESSAGE.search(text), _KIND.search(text)
    system = _SYSTEM.search(text)
    return Answer(
        int(status[1]) if status else 0,
        code[1] if code else "",
        said[1].strip() if said else (system[1] if system and kind else ""),
        kind[1] if kind else "",
        text,
    )


def meaning(error: Exception, verb: str, subject: str) -> StandbyError:
    """The error to raise for `error`, met by `verb` on `subject`. Conflicts are not asked for here.

    What is not known to be final is StoreUnreachable: to try again later is never wrong.
    """
    got = answer(error)
    if any(text in got.text for text in _METADATA_SERVICE) or any(text in got.text for text in _BAD_KEY):
        return _without_credentials(got, verb, subject)
    if got.status:
        return of_status(got, verb, subject)
    if any(text in got.text for text in _NO_CONDITIONS):
        return StoreUnsuitable(
            f"{verb}: the answer lacks what every such store sends (an ETag, or a part where a part was asked for)",
            subject=subject,
            hint="check the endpoint: what answers there is no S3 or Azure Blob service",
        )
    if isinstance(error, FileNotFoundError):
        return _missing(got, subject)
    if "redirect" in got.text:
        return StoreRefused(
            f"{verb}: the bucket lies in another region than the one asked",
            subject=subject,
            hint="set AWS_REGION, or ?region= in the store's address",
        )
    if "InvalidCertificate" in got.text:
        return StoreRefused(
            f"{verb}: the server's certificate is not trusted",
            subject=subject,
            hint="check the endpoint; for an authority of your own set AWS_CA_BUNDLE or SSL_CERT_FILE",
        )
    return StoreUnreachable(
        f"{verb}: {_broken_way(got)}",
        subject=subject,
        hint="check the network and the endpoint; it is tried again",
    )


def of_status(got: Answer, verb: str, subject: str) -> StandbyError:
    said = f"{verb}: the store answered {got.status}" + (f" {got.code}" if got.code else "")
    if got.said:
        said += f" ({got.said})"
    if got.bucket_missing or got.status == 404:
        return _missing(got, subject)
    if got.immutable:
        return StoreRefused(
            said, subject=subject, hint="the object is immutable, leased or archived; nothing was changed"
        )
    if got.code == "RequestTimeTooSkewed":
        return StoreRefused(said, subject=subject, hint="set this host's clock: timedatectl")
    if got.status in (401, 403) or got.code in _DENIED:
        return StoreRefused(
            said, subject=subject, hint="check the credentials, their end, and what they may do in the bucket"
        )
    if got.status == 507 or got.code in _FULL:
        return StoreFull(said, subject=subject, hint="free space or raise the quota; it is tried again")
    if got.status in (429, 503) or got.code in _BUSY:
        return StoreBusy(said, subject=subject, hint="the store asks for less; it is tried again later")
    if got.status == 501:
        return StoreUnsuitable(said, subject=subject, hint="use a store with conditional writes")
    if got.undecided or got.status in (408, 409) or got.status >= 500:
        return StoreUnreachable(said, subject=subject, hint="it is tried again")
    return StoreRefused(said, subject=subject, hint="check the store's address and endpoint")


def _missing(got: Answer, subject: str) -> StandbyError:
    if got.bucket_missing:
        return BucketMissing(
            "its bucket or container does not exist",
            subject=subject,
            hint="check the address and the endpoint, or make the bucket with the cloud's own tools",
        )
    return ObjectMissing("no such object", subject=subject)


def _without_credentials(got: Answer, verb: str, subject: str) -> StoreRefused:
    cause = (
        "the account key is not valid base64" if any(t in got.text for t in _BAD_KEY) else "no credentials"
    )
    return StoreRefused(
        f"{verb} not sent: {cause}",
        subject=subject,
        tried=""
        if cause != "no credentials"
        else "the environment, the clouds' own files, the metadata service",
        hint="set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for Azure "
        "AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_KEY or _SAS_TOKEN",
    )


def _broken_way(got: Answer) -> str:
    if "dns error" in got.text:
        return "the host's name was not found"
    if got.kind == "Timeout":
        return "no answer in time"
    if got.kind == "Connect":
        return f"no connection: {got.said or 'refused or broken off'}"
    if got.kind in ("Interrupted", "Request"):
        return "the connection broke before the answer was whole"
    return "the answer could not be understood"
